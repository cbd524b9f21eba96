/* test_worker.c: what a worker stands on: the mailbox's order between threads, the table of sets,
 * and listeners when the kernel has no descriptor left. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "mailbox.h"
#include "site.h"
#include "sys.h"
#include "test.h"

enum { WRITERS = 3, MESSAGES = 2000 };

static struct mailbox mailbox;

static void *write_messages(void *arg)
{
    uintptr_t writer = (uintptr_t)arg;
    for (uint64_t i = 1; i <= MESSAGES; i++) {
        struct message *message = message_new(MESSAGE_DRAIN);
        if (message == NULL)
            return NULL;
        message->sequence = i;
        message->set = (uint32_t)writer;
        mailbox_put_take(&mailbox, message);
    }
    return arg;
}

/* Every message arrives once, those of one writer in their order; the eventfd tells of each. */
static void mailbox_keeps_order(void)
{
    pthread_t threads[WRITERS];
    uint64_t last[WRITERS + 1] = {0};
    REQUIRE_INT(mailbox_init(&mailbox), 0);
    for (uintptr_t w = 0; w < WRITERS; w++)
        REQUIRE_INT(pthread_create(&threads[w], NULL, write_messages, (void *)(w + 1)), 0);
    unsigned got = 0;
    while (got < WRITERS * MESSAGES) {
        struct pollfd ready = {.fd = mailbox.fd, .events = POLLIN};
        if (!CHECK_INT(poll(&ready, 1, SITE_WAIT_MS), 1))
            break;
        mailbox_clear(&mailbox);
        struct message *message = mailbox_take(&mailbox);
        while (message != NULL) {
            struct message *next = message->next;
            CHECK_INT(message->sequence, last[message->set] + 1);
            last[message->set] = message->sequence;
            message_free(message);
            message = next;
            got++;
        }
    }
    for (int w = 0; w < WRITERS; w++)
        pthread_join(threads[w], NULL);
    CHECK(mailbox_take(&mailbox) == NULL);
    mailbox_fini(&mailbox);
}

static void mailbox_frees_what_nobody_took(void)
{
    REQUIRE_INT(mailbox_init(&mailbox), 0);
    dp_snapshot *snap;
    char detail[64];
    uint32_t alive = snapshot_alive();
    REQUIRE_INT(dp_snapshot_new(1, "a.test", &snap), 0);
    REQUIRE_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), 0);
    struct message *message = message_new(MESSAGE_SNAPSHOT);
    REQUIRE(message != NULL);
    message->snapshot = snap; /* its reference */
    REQUIRE_INT(sets_new(snap, &message->sets), 0);
    mailbox_put_take(&mailbox, message);
    mailbox_fini(&mailbox);
    CHECK_INT(snapshot_alive(), alive);
}

static dp_endpoints *new_set(void)
{
    const dp_set_policy policy = {0};
    dp_endpoints *set = NULL;
    CHECK_INT(dp_endpoints_new(&policy, &set), 0);
    CHECK_INT(endpoints_seal(set), 0);
    return set;
}

static void sets_by_id(void)
{
    enum { SETS = 100 };
    dp_snapshot *snap;
    char detail[64];
    struct sets *sets;
    REQUIRE_INT(dp_snapshot_new(1, "a.test", &snap), 0);
    for (uint32_t i = 0; i < SETS; i++)
        REQUIRE_INT(dp_snapshot_add_set_take(snap, i * 1024, new_set()), 0);
    REQUIRE_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), 0);
    REQUIRE_INT(sets_new(snap, &sets), 0);
    for (uint32_t i = 0; i < SETS; i++) {
        uint32_t id;
        struct dp_endpoints *set = snapshot_set_at(snap, i, &id);
        CHECK(sets_get(sets, id) == set);
    }
    CHECK(sets_get(sets, 1) == NULL);
    struct dp_endpoints *other = new_set();
    struct dp_endpoints *given = other, *earlier = sets_get(sets, 1024);
    CHECK_INT(sets_swap(sets, 1, &given), -ENOENT);
    CHECK_INT(sets_swap(sets, 1024, &given), 0);
    CHECK(sets_get(sets, 1024) == other && given == earlier);
    dp_endpoints_free(given); /* the table's reference on it; the snapshot has another */
    sets_free(sets);
    dp_snapshot_free(snap);
}

/* The kernel has no descriptor for a while: the listener rests, then goes on, nobody is lost. */
static atomic_int refusals;

static int accept_refused(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    if (atomic_fetch_sub(&refusals, 1) > 0)
        return -EMFILE;
    return sys_real.accept4(fd, addr, len, flags);
}

static void accept_survives_a_full_table(void)
{
    static struct site site;
    static struct sys_table table;
    uint16_t port;
    table = sys_real;
    table.accept4 = accept_refused;
    atomic_store(&refusals, 3);
    sys = &table;
    site_init(&site, "a.test", 1);
    int service = site_listen(&port);
    site_add_plain(&site.outbound, port);
    site_start(&site);
    int client = site_connect(&site, "127.0.1.1");
    int accepted = site_accept(service);
    CHECK(accepted >= 0 && site_echo(client, accepted));
    CHECK_INT(site_stat(&site, STAT_ACCEPT_ERRORS), 3);
    close(client);
    close(accepted);
    close(service);
    site_fini(&site);
    sys = &sys_real;
}

static int no_close_range(unsigned first, unsigned last, unsigned flags)
{
    (void)first, (void)last, (void)flags;
    return -ENOSYS;
}

/* A worker serves with its own descriptors, and keeps nobody else's open. */
static void serves_and_lets_go(void)
{
    static struct site site;
    uint16_t port;
    int pipe[2];
    char byte;
    REQUIRE_INT(pipe2(pipe, O_NONBLOCK | O_CLOEXEC), 0);
    site_init(&site, "a.test", 1);
    int service = site_listen(&port);
    site_add_plain(&site.outbound, port);
    site_start(&site);
    int client = site_connect(&site, "127.0.1.1");
    int accepted = site_accept(service);
    CHECK(accepted >= 0 && site_echo(client, accepted));
    close(pipe[1]);
    CHECK_INT(read(pipe[0], &byte, 1), 0);
    close(pipe[0]);
    close(client);
    close(accepted);
    close(service);
    site_fini(&site);
}

/* Where the kernel gives no table of its own, the process's serves as well. */
static void serves_with_a_shared_table(void)
{
    static struct sys_table table;
    table = sys_real;
    table.close_range = no_close_range;
    sys = &table;
    serves_and_lets_go();
    sys = &sys_real;
}

TEST_MAIN(TEST(mailbox_keeps_order), TEST(mailbox_frees_what_nobody_took), TEST(sets_by_id),
          TEST(accept_survives_a_full_table), TEST(serves_and_lets_go),
          TEST(serves_with_a_shared_table))
