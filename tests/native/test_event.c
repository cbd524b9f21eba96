/* test_event.c: records through the ring: whole, in order, dropped when full, and a reader that is
 * always woken. */
#include "event.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "test.h"

static int new_event_fd(void)
{
    return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void a_record_carries_its_texts(void)
{
    struct event_ring *ring;
    int fd = new_event_fd();
    uint8_t buf[EVENT_SIZE_MAX];
    REQUIRE_INT(event_ring_new(EVENT_RING_MIN, fd, &ring), 0);
    dp_event head = {.kind = DP_EVENT_REFUSED, .reason = DP_REASON_DENIED};
    struct event_text text = {.src_id = "spiffe://a/x", .detail = "rule 1"};
    CHECK(event_ring_put(ring, &head, &text));
    uint64_t rings;
    CHECK_INT(read(fd, &rings, sizeof(rings)), sizeof(rings));
    size_t len = event_ring_read(ring, buf, sizeof(buf));
    dp_event got;
    memcpy(&got, buf, sizeof(got));
    CHECK_INT(got.size, len);
    CHECK_INT(len % 8, 0);
    CHECK_INT(got.kind, DP_EVENT_REFUSED);
    CHECK_INT(got.src_id_len, 12);
    CHECK_INT(got.dst_id_len, 0);
    CHECK_INT(got.detail_len, 6);
    CHECK(memcmp(buf + sizeof(got), "spiffe://a/xrule 1", 18) == 0);
    CHECK_INT(event_ring_read(ring, buf, sizeof(buf)), 0);
    event_ring_free(ring);
    close(fd);
}

static void too_long_texts_are_cut(void)
{
    struct event_ring *ring;
    int fd = new_event_fd();
    uint8_t buf[EVENT_SIZE_MAX];
    char text[2000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    REQUIRE_INT(event_ring_new(EVENT_RING_MIN, fd, &ring), 0);
    dp_event head = {.kind = DP_EVENT_OPEN};
    CHECK(event_ring_put(ring, &head, &(struct event_text){text, text, text, text, text}));
    size_t len = event_ring_read(ring, buf, sizeof(buf));
    dp_event got;
    memcpy(&got, buf, sizeof(got));
    CHECK_INT(got.size, len);
    CHECK_INT(got.src_id_len, DP_ID_MAX);
    CHECK_INT(got.service_len, DP_NAME_MAX);
    CHECK_INT(got.detail_len, DP_DETAIL_MAX);
    event_ring_free(ring);
    close(fd);
}

static void a_full_ring_drops_and_recovers(void)
{
    struct event_ring *ring;
    int fd = new_event_fd();
    uint8_t buf[EVENT_SIZE_MAX];
    unsigned put = 0;
    REQUIRE_INT(event_ring_new(EVENT_RING_MIN, fd, &ring), 0);
    dp_event head = {.kind = DP_EVENT_OPEN};
    while (put < 1000 && event_ring_put(ring, &head, &(struct event_text){.detail = "x"}))
        put++;
    CHECK_INT(put, EVENT_RING_MIN / (sizeof(dp_event) + 8));
    CHECK(event_ring_read(ring, buf, sizeof(buf)) > 0);
    CHECK(event_ring_put(ring, &head, &(struct event_text){.detail = "x"}));
    event_ring_free(ring);
    close(fd);
}

static void refuses_a_size_that_is_no_power_of_two(void)
{
    struct event_ring *ring = NULL;
    CHECK_INT(event_ring_new(EVENT_RING_MIN + 8, -1, &ring), -EINVAL);
    CHECK_INT(event_ring_new(EVENT_RING_MIN / 2, -1, &ring), -EINVAL);
    CHECK(ring == NULL);
    event_ring_free(NULL);
}

enum { EVENTS = 50000 };

struct stream_of_events {
    struct event_ring *ring;
    unsigned dropped;
};

static void *write_events(void *arg)
{
    struct stream_of_events *stream = arg;
    static const char filler[] = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";
    for (unsigned i = 0; i < EVENTS; i++) {
        dp_event head = {.kind = DP_EVENT_UPDATE, .time_ns = i};
        struct event_text text = {.detail = filler + i % sizeof(filler)};
        if (!event_ring_put(stream->ring, &head, &text))
            stream->dropped++;
    }
    dp_event last = {.kind = DP_EVENT_CLOSE};
    while (!event_ring_put(stream->ring, &last, &(struct event_text){0}))
        ;
    return NULL;
}

/* The reader sleeps whenever the ring is empty: a wake-up lost would end it at the deadline. */
static void a_sleeping_reader_is_always_woken(void)
{
    struct stream_of_events stream = {0};
    int fd = new_event_fd();
    pthread_t writer;
    uint8_t buf[4 * EVENT_SIZE_MAX];
    unsigned got = 0;
    uint64_t time_next = 0;
    bool closed = false, ordered = true;
    REQUIRE_INT(event_ring_new(EVENT_RING_MIN, fd, &stream.ring), 0);
    REQUIRE(pthread_create(&writer, NULL, write_events, &stream) == 0);
    while (!closed) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        REQUIRE_INT(poll(&ready, 1, 20000), 1);
        uint64_t rings;
        CHECK_INT(read(fd, &rings, sizeof(rings)), sizeof(rings));
        for (size_t len; (len = event_ring_read(stream.ring, buf, sizeof(buf))) > 0;) {
            for (size_t at = 0; at < len;) {
                dp_event event;
                memcpy(&event, buf + at, sizeof(event));
                closed |= event.kind == DP_EVENT_CLOSE;
                if (!closed) {
                    ordered &= event.time_ns >= time_next;
                    time_next = event.time_ns + 1;
                    got++;
                }
                at += event.size;
            }
        }
    }
    CHECK(pthread_join(writer, NULL) == 0);
    CHECK(ordered);
    CHECK_INT(got + stream.dropped, EVENTS);
    event_ring_free(stream.ring);
    close(fd);
}

TEST_MAIN(TEST(a_record_carries_its_texts), TEST(too_long_texts_are_cut),
          TEST(a_full_ring_drops_and_recovers), TEST(refuses_a_size_that_is_no_power_of_two),
          TEST(a_sleeping_reader_is_always_woken))
