/* test_yield.c: a worker that moves bulk beside a few bytes offers its processor to others now and
 * then; a few bytes alone are no reason. By a clock that stands still unless it is moved. */
#define _GNU_SOURCE
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "site.h"
#include "sys.h"
#include "test.h"

enum { CHUNK = 32 * 1024, FEW = 4 * 1024, BULK = 1024 * 1024, SECOND_NS = 1000 * 1000 * 1000 };

static struct site site; /* large, and its engine points into it */
static sem_t yielded;

static void noted_yield(void)
{
    sem_post(&yielded);
}

static bool wait_for_yield(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SITE_WAIT_MS / 1000;
    return sem_clockwait(&yielded, CLOCK_MONOTONIC, &until) == 0;
}

static bool has_yielded(void)
{
    return sem_trywait(&yielded) == 0;
}

static bool move(int from, int to, size_t chunk)
{
    static char bytes[CHUNK];
    for (size_t done = 0; done < BULK; done += chunk)
        if (!site_send(from, bytes, chunk) || !site_receive(to, bytes, chunk))
            return false;
    return true;
}

static void bulk_beside_a_few_bytes_gives_way(void)
{
    const struct sys_table *before = sys;
    struct sys_table table = sys_real;
    struct timespec now;
    uint16_t port;
    table.yield = noted_yield;
    sys = &table;
    sem_init(&yielded, 0, 0);
    clock_gettime(CLOCK_REALTIME, &now);
    clock_test_set(SECOND_NS, (uint64_t)now.tv_sec * SECOND_NS);

    site_init(&site, "a.test", 1);
    int service = site_listen(&port);
    site_add_plain(&site.outbound, port);
    site_start(&site);
    int client = site_connect(&site, "127.0.1.1"), accepted = site_accept(service);
    CHECK(client >= 0 && accepted >= 0 && site_echo(client, accepted));
    CHECK(move(client, accepted, FEW)); /* as much, but never much at once */
    CHECK(!has_yielded());

    CHECK(move(client, accepted, CHUNK));
    CHECK(wait_for_yield());
    CHECK(move(accepted, client, CHUNK)); /* in no time */
    CHECK(!has_yielded());
    clock_test_advance(SECOND_NS / 1000);
    CHECK(move(client, accepted, CHUNK));
    CHECK(wait_for_yield());
    CHECK(site_echo(client, accepted));
    CHECK(!has_yielded());

    close(client);
    close(accepted);
    close(service);
    site_fini(&site);
    clock_test_reset();
    sys = before;
    sem_destroy(&yielded);
}

SITE_TEST_MAIN(TEST(bulk_beside_a_few_bytes_gives_way))
