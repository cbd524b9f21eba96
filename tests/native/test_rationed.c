/* test_rationed.c: handshakes have a budget a turn of the loop, so bytes of streams that are there
 * already pass while a flood of handshakes waits. A worker's turns are let go one by one: what
 * comes to pass within how many of them is counted, not timed. */
#define _GNU_SOURCE
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

#include "site.h"
#include "sys.h"
#include "test.h"

enum {
    FLOOD = 30,                  /* a site takes no more strangers from one address */
    BUDGET = 2, TURNS_MAX = 20, RELAY_TURNS = 2,
};

static struct site a, b; /* large, and their engines point into them */
static sem_t begins, ended;
static atomic_bool is_stepped;
static atomic_int stepped_fd;    /* a's epoll descriptor */
static unsigned turns;           /* that were let go */

static int stepped_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    if (epoll_fd == atomic_load(&stepped_fd) && atomic_load(&is_stepped)) {
        sem_post(&ended);
        sem_wait(&begins);
    }
    return sys_real.epoll_wait(epoll_fd, events, count, timeout_ms);
}

static int noted_epoll_create(void)
{
    int fd = sys_real.epoll_create();
    atomic_store(&stepped_fd, fd); /* the last one stays */
    return fd;
}

static bool turn_ended(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SITE_WAIT_MS / 1000;
    return sem_clockwait(&ended, CLOCK_MONOTONIC, &until) == 0;
}

static bool turn(void)
{
    turns++;
    sem_post(&begins);
    return turn_ended();
}

static void bytes_pass_beside_a_flood_of_handshakes(void)
{
    static const struct sys_table *before;
    struct sys_table table = sys_real;
    uint16_t port;
    int clients[FLOOD];
    before = sys;
    table.epoll_wait = stepped_epoll_wait;
    table.epoll_create = noted_epoll_create;
    sys = &table;
    sem_init(&begins, 0, 0);
    sem_init(&ended, 0, 0);
    turns = 0;

    site_init_pair(&a, &b);
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    a.config.handshakes_per_turn = BUDGET;
    site_start_pair(&a, &b);
    int client = site_connect(&a, "127.0.1.1"), accepted = site_accept(service);
    CHECK(client >= 0 && accepted >= 0 && site_echo(client, accepted));
    uint64_t done_before = site_stat(&a, STAT_HANDSHAKES_CLIENT);

    atomic_store(&is_stepped, true);
    for (int i = 0; i < FLOOD; i++)
        CHECK((clients[i] = site_connect(&a, "127.0.1.1")) >= 0);
    CHECK(turn_ended()); /* the one that the first of them began */
    while (site_stat(&a, STAT_HANDSHAKES_DEFERRED) == 0 && turns < TURNS_MAX)
        CHECK(turn());
    CHECK(site_stat(&a, STAT_HANDSHAKES_DEFERRED) > 0);

    char bytes[4];
    CHECK(site_send(client, "ping", 4));
    for (int i = 0; i < RELAY_TURNS; i++)
        CHECK(turn());
    CHECK(site_receive(accepted, bytes, 4) && memcmp(bytes, "ping", 4) == 0);
    uint64_t bytes_down = site_stat(&b, STAT_BYTES_DOWN);
    CHECK(site_send(accepted, "pong", 4) && site_wait_stat(&b, STAT_BYTES_DOWN, bytes_down + 4));
    for (int i = 0; i < RELAY_TURNS; i++)
        CHECK(turn());
    CHECK(site_receive(client, bytes, 4) && memcmp(bytes, "pong", 4) == 0);
    uint64_t done = site_stat(&a, STAT_HANDSHAKES_CLIENT) - done_before;
    CHECK(done < FLOOD && done <= BUDGET * (turns + 1));

    atomic_store(&is_stepped, false);
    sem_post(&begins);
    for (int i = 0; i < FLOOD; i++) { /* none was lost */
        int fd = site_accept(service);
        CHECK(fd >= 0);
        close(fd);
    }
    CHECK_INT(site_stat(&a, STAT_HANDSHAKES_CLIENT) - done_before, FLOOD);
    for (int i = 0; i < FLOOD; i++)
        close(clients[i]);
    close(client);
    close(accepted);
    close(service);
    site_fini(&a);
    site_fini(&b);
    sys = before;
    sem_destroy(&begins);
    sem_destroy(&ended);
}

SITE_TEST_MAIN(TEST(bytes_pass_beside_a_flood_of_handshakes))
