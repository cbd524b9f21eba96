/* test_record.c: bytes through plain and OpenSSL records: over a socket that takes and gives as
 * little as it may, half-closed, cut, reset and tampered with. SEED=n replays a run. */
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "record_key.h"
#include "sys.h"
#include "test.h"
#include "tls_pair.h"

/* The unkind socket: EAGAIN at any time, short counts, and one flipped bit on demand. */
static struct sys_table unkind;
static uint64_t random_state;
static int64_t flip_after = -1; /* so many bytes; none if negative */

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % limit;
}

static ssize_t unkind_recv(int fd, void *buf, size_t len, int flags)
{
    if (random_below(3) == 0)
        return -EAGAIN;
    if (random_below(2) == 0)
        len = 1 + random_below((uint32_t)len);
    ssize_t n = sys_real.recv(fd, buf, len, flags);
    if (n > flip_after && flip_after >= 0)
        ((uint8_t *)buf)[flip_after] ^= 1;
    if (n > 0 && flip_after >= 0)
        flip_after -= n;
    return n;
}

static ssize_t unkind_send(int fd, const void *buf, size_t len, int flags)
{
    CHECK(flags & MSG_NOSIGNAL);
    if (random_below(3) == 0)
        return -EAGAIN;
    if (random_below(2) == 0)
        len = 1 + random_below((uint32_t)len);
    return sys_real.send(fd, buf, len, flags);
}

static void be_unkind(void)
{
    const char *seed = getenv("SEED");
    random_state = seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    printf("# SEED=%" PRIu64 "\n", random_state);
    unkind = sys_real;
    unkind.recv = unkind_recv;
    unkind.send = unkind_send;
    sys = &unkind;
}

static void be_kind(void)
{
    sys = &sys_real;
}

static ssize_t rec_read(struct record *rec, void *buf, size_t len)
{
    return rec->ops->read(rec, buf, len);
}

static ssize_t rec_write(struct record *rec, const void *buf, size_t len)
{
    return rec->ops->write(rec, buf, len);
}

/* The bytes of a stream are a function of their place, so that loss and doubling show. */
static uint8_t byte_at(size_t place)
{
    return (uint8_t)(place ^ place >> 8 ^ place >> 16);
}

/* Offers everything that is left, each time from another address. False on failure. */
static bool pump_out(struct record *rec, size_t *sent, size_t total)
{
    size_t len = total - *sent;
    if (len > 50000)
        len = 50000;
    if (len == 0)
        return true;
    uint8_t *moving = malloc(len);
    for (size_t i = 0; i < len; i++)
        moving[i] = byte_at(*sent + i);
    ssize_t n = rec_write(rec, moving, len);
    free(moving);
    if (n > 0)
        *sent += (size_t)n;
    return n > 0 || n == -EAGAIN;
}

static bool pump_in(struct record *rec, size_t *got)
{
    uint8_t buf[20000];
    ssize_t n = rec_read(rec, buf, 1 + random_below(sizeof(buf)));
    for (ssize_t i = 0; i < n; i++)
        if (buf[i] != byte_at(*got + (size_t)i))
            return false;
    if (n > 0)
        *got += (size_t)n;
    return n > 0 || n == -EAGAIN;
}

static void exchange(struct record *a, struct record *b)
{
    enum { TOTAL = 1 << 20, TURNS_MAX = 1 << 20 };
    size_t sent_a = 0, sent_b = 0, got_a = 0, got_b = 0;
    bool good = true;
    for (int i = 0; i < TURNS_MAX && good && (got_a < TOTAL || got_b < TOTAL); i++)
        good = pump_out(a, &sent_a, TOTAL) && pump_in(b, &got_b) && pump_out(b, &sent_b, TOTAL) &&
               pump_in(a, &got_a);
    CHECK(good);
    CHECK_INT(got_a, TOTAL);
    CHECK_INT(got_b, TOTAL);
}

enum { TRIES_MAX = 1000 };

static int finish_at_last(struct record *rec)
{
    int r = -EAGAIN;
    for (int i = 0; i < TRIES_MAX && r == -EAGAIN; i++)
        r = rec->ops->finish(rec);
    return r;
}

static ssize_t read_at_last(struct record *rec, void *buf, size_t len)
{
    ssize_t n = -EAGAIN;
    for (int i = 0; i < TRIES_MAX && n == -EAGAIN; i++)
        n = rec_read(rec, buf, len);
    return n;
}

static void exchange_and_finish(struct record *a, struct record *b)
{
    uint8_t buf[8];
    exchange(a, b);
    CHECK_INT(finish_at_last(a), 0);
    CHECK_INT(read_at_last(b, buf, sizeof(buf)), 0);
    size_t sent = 0, got = 0; /* half-closed: the other direction goes on */
    while (sent < 100000 && CHECK(pump_out(b, &sent, 100000)))
        while (got < sent && CHECK(pump_in(a, &got))) {}
    CHECK_INT(finish_at_last(b), 0);
    CHECK_INT(read_at_last(a, buf, sizeof(buf)), 0);
}

static void plain_through_an_unkind_socket(void)
{
    int fds[2];
    struct record a, b;
    be_unkind();
    socket_pair(fds);
    record_plain_init(&a, fds[0]);
    record_plain_init(&b, fds[1]);
    exchange_and_finish(&a, &b);
    close(fds[0]);
    close(fds[1]);
    be_kind();
}

static void tls_through_an_unkind_socket(void)
{
    struct sites sites;
    be_unkind();
    sites_init(&sites);
    for (int i = 0; i < 6; i++) { /* full and resumed; either end finishes first */
        struct pair pair;
        pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
        int client = 0, server = 0;
        for (int turn = 0; turn < 10000 && (client == 0 || server == 0); turn++) {
            if (client == 0)
                client = tls_handshake(pair.client, sites.snap_a);
            if (server == 0)
                server = tls_handshake(pair.server, sites.snap_b);
        }
        REQUIRE_INT(client, 1);
        REQUIRE_INT(server, 1);
        struct record *a = tls_record(pair.client), *b = tls_record(pair.server);
        if (i % 2 == 0)
            exchange_and_finish(a, b);
        else
            exchange_and_finish(b, a);
        CHECK_INT(pair_is_resumed(&pair), i > 0);
        pair_close(&pair);
    }
    sites_fini(&sites);
    be_kind();
}

/* Kind sockets from here on. */
struct ends {
    struct sites sites;
    struct pair pair;
    struct record *client, *server;
};

static bool ends_init(struct ends *ends)
{
    sites_init(&ends->sites);
    if (!CHECK(pair_connect(&ends->pair, &ends->sites, ends->sites.web, PAYMENTS_SNI,
                            PAYMENTS_ID)))
        return false;
    ends->client = tls_record(ends->pair.client);
    ends->server = tls_record(ends->pair.server);
    return true;
}

static void ends_fini(struct ends *ends)
{
    pair_close(&ends->pair);
    sites_fini(&ends->sites);
}

static void bytes_and_an_end_in_one_read(void)
{
    struct ends ends;
    char buf[64];
    REQUIRE(ends_init(&ends));
    CHECK_INT(rec_write(ends.client, "last", 4), 4);
    CHECK_INT(ends.client->ops->finish(ends.client), 0);
    CHECK_INT(ends.client->ops->finish(ends.client), 0); /* once is enough */
    CHECK_INT(rec_write(ends.client, "x", 1), -EPIPE);
    /* A short read: no event of the socket will tell of the end. */
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), 4);
    CHECK(ends.server->ops->pending(ends.server));
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), 0);
    CHECK(!ends.server->ops->pending(ends.server));
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), 0);
    CHECK_INT(rec_write(ends.server, "still", 5), 5);
    CHECK_INT(rec_read(ends.client, buf, sizeof(buf)), 5);
    ends_fini(&ends);
}

static void pending_tells_what_no_event_will(void)
{
    struct ends ends;
    char buf[8];
    REQUIRE(ends_init(&ends));
    CHECK_INT(rec_write(ends.client, "0123456789", 10), 10);
    CHECK_INT(rec_write(ends.client, "abcd", 4), 4);
    CHECK(!ends.server->ops->pending(ends.server)); /* still in the socket: it is readable */
    CHECK_INT(rec_read(ends.server, buf, 8), 8);
    CHECK(ends.server->ops->pending(ends.server));
    CHECK_INT(rec_read(ends.server, buf, 8), 6); /* the rest of one record and the next */
    CHECK(!ends.server->ops->pending(ends.server));
    CHECK_INT(rec_read(ends.server, buf, 8), -EAGAIN);

    /* The first half of a record is nothing to read yet. */
    int fds[2];
    uint8_t wire[256];
    socket_pair(fds);
    int server_fd = ends.server->fd, client_fd = ends.client->fd;
    ends.client->fd = fds[0];
    CHECK_INT(rec_write(ends.client, "record", 6), 6);
    ssize_t n = recv(fds[1], wire, sizeof(wire), 0);
    REQUIRE(n > 10);
    REQUIRE_INT(send(client_fd, wire, 10, 0), 10);
    CHECK_INT(rec_read(ends.server, buf, 8), -EAGAIN);
    CHECK(!ends.server->ops->pending(ends.server));
    REQUIRE_INT(send(client_fd, wire + 10, (size_t)n - 10, 0), n - 10);
    CHECK_INT(rec_read(ends.server, buf, 8), 6);
    CHECK(memcmp(buf, "record", 6) == 0);
    CHECK_INT(ends.server->fd, server_fd);
    close(fds[0]);
    close(fds[1]);
    ends_fini(&ends);
}

static void a_fin_alone_is_no_end(void)
{
    struct ends ends;
    char buf[64];
    REQUIRE(ends_init(&ends));
    CHECK_INT(rec_write(ends.client, "cut", 3), 3);
    shutdown(ends.pair.client_fd, SHUT_WR);
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), 3);
    if (pair_server_layer == DP_RECORD_OPENSSL) /* it has read the FIN; ours is left to the event */
        CHECK(ends.server->ops->pending(ends.server));
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), -ENODATA);
    CHECK(!ends.server->ops->pending(ends.server));
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), -ENODATA);
    ends_fini(&ends);
}

static void a_fin_inside_a_record_is_no_end(void)
{
    struct ends ends;
    char buf[64];
    REQUIRE(ends_init(&ends));
    REQUIRE_INT(send(ends.pair.client_fd, "\x17\x03\x03\x00\x20half", 9, 0), 9);
    close(ends.pair.client_fd);
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), -ENODATA);
    ends.pair.client_fd = dup(ends.pair.server_fd);
    ends_fini(&ends);
}

static void a_reset_is_a_reset(void)
{
    struct ends ends;
    char buf[64];
    REQUIRE(ends_init(&ends));
    CHECK_INT(rec_write(ends.server, "unread", 6), 6);
    close(ends.pair.client_fd); /* with bytes unread, a local socket resets */
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), -ECONNRESET);
    CHECK_INT(rec_write(ends.server, "x", 1), -EPIPE);
    ends.pair.client_fd = dup(ends.pair.server_fd);
    ends_fini(&ends);
}

static void a_changed_bit_is_seen(void)
{
    struct ends ends;
    char buf[64];
    REQUIRE(ends_init(&ends));
    CHECK_INT(rec_write(ends.client, "pay 1", 5), 5);
    be_unkind();
    unkind.send = sys_real.send; /* an alert is sent once or not at all */
    flip_after = RECORD_HEADER; /* a longer length would be waited for */
    CHECK_INT(read_at_last(ends.server, buf, sizeof(buf)), -EBADMSG);
    be_kind();
    CHECK_INT(tls_reason(ends.pair.server), DP_REASON_HANDSHAKE);
    CHECK(strncmp(tls_detail(ends.pair.server), "TLS failed while reading: ", 26) == 0);
    CHECK_INT(rec_read(ends.server, buf, sizeof(buf)), -EBADMSG);
    /* The peer reads our alert. */
    CHECK_INT(rec_read(ends.client, buf, sizeof(buf)), -EBADMSG);
    CHECK(strncmp(tls_detail(ends.pair.client), "peer refused us: ", 17) == 0);
    ends_fini(&ends);
}

static void plain_ends(void)
{
    int fds[2];
    char buf[8];
    struct record a, b;
    socket_pair(fds);
    record_plain_init(&a, fds[0]);
    record_plain_init(&b, fds[1]);
    CHECK_INT(a.ops->layer, DP_RECORD_PLAIN);
    CHECK_INT(rec_read(&a, buf, sizeof(buf)), -EAGAIN);
    CHECK(!a.ops->pending(&a));
    CHECK_INT(rec_write(&a, "unread", 6), 6);
    close(fds[1]);
    CHECK_INT(rec_read(&a, buf, sizeof(buf)), -ECONNRESET);
    CHECK_INT(rec_write(&a, "x", 1), -EPIPE);
    close(fds[0]);
}

TLS_TEST_MAIN(TEST(plain_through_an_unkind_socket), TEST(tls_through_an_unkind_socket),
          TEST(bytes_and_an_end_in_one_read), TEST(pending_tells_what_no_event_will),
          TEST(a_fin_alone_is_no_end), TEST(a_fin_inside_a_record_is_no_end),
          TEST(a_reset_is_a_reset), TEST(a_changed_bit_is_seen), TEST(plain_ends))
