/* test_loop.c: readiness, timers and work of one turn, and sources that go while it runs. */
#include "loop.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "sys.h"
#include "test.h"

struct probe {
    struct loop_source source; /* first */
    unsigned calls, events;
    struct loop *loop;
    struct probe *victim;      /* removed when called */
    bool again;                /* queued again when called */
};

static void note(struct loop_source *source, unsigned events)
{
    struct probe *probe = (struct probe *)source;
    probe->calls++;
    probe->events = events;
    if (probe->victim != NULL)
        loop_remove(probe->loop, &probe->victim->source);
    if (probe->again)
        loop_requeue(probe->loop, source);
}

static struct probe make_probe(struct loop *loop, int fd)
{
    return (struct probe){.source = {.fn = note, .fd = fd}, .loop = loop};
}

static void edges_of_a_socket(void)
{
    struct loop *loop;
    int fds[2];
    char byte;
    REQUIRE_INT(loop_new(&loop), 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    struct probe probe = make_probe(loop, fds[0]);
    REQUIRE_INT(loop_add(loop, &probe.source, false), 0);
    CHECK_INT(loop_turn(loop, 1000), 1);
    CHECK_INT(probe.events, LOOP_WRITE);
    CHECK_INT(loop_turn(loop, 0), 0); /* edge: told once */
    CHECK_INT(write(fds[1], "ab", 2), 2);
    CHECK_INT(loop_turn(loop, 1000), 1);
    CHECK(probe.events & LOOP_READ);
    CHECK_INT(read(fds[0], &byte, 1), 1);
    CHECK_INT(loop_turn(loop, 0), 0);
    CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
    CHECK_INT(loop_turn(loop, 1000), 1);
    CHECK(probe.events & LOOP_HANGUP && probe.events & LOOP_READ);
    loop_remove(loop, &probe.source);
    close(fds[1]);
    CHECK_INT(loop_turn(loop, 0), 0);
    close(fds[0]);
    loop_free(loop);
}

static void a_level_source_is_told_until_it_is_read(void)
{
    struct loop *loop;
    REQUIRE_INT(loop_new(&loop), 0);
    struct probe probe = make_probe(loop, eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
    REQUIRE_INT(loop_add(loop, &probe.source, true), 0);
    CHECK_INT(loop_turn(loop, 1000), 1);
    CHECK_INT(loop_turn(loop, 1000), 1);
    CHECK_INT(probe.calls, 2);
    CHECK_INT(probe.events, LOOP_READ);
    loop_remove(loop, &probe.source);
    close(probe.source.fd);
    loop_free(loop);
}

static void a_source_removed_in_its_turn_is_not_called(void)
{
    struct loop *loop;
    struct probe probes[2];
    REQUIRE_INT(loop_new(&loop), 0);
    for (int i = 0; i < 2; i++) {
        probes[i] = make_probe(loop, eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
        REQUIRE_INT(loop_add(loop, &probes[i].source, true), 0);
    }
    probes[0].victim = &probes[1];
    probes[1].victim = &probes[0];
    CHECK_INT(loop_turn(loop, 1000), 2);
    CHECK_INT(probes[0].calls + probes[1].calls, 1);
    for (int i = 0; i < 2; i++)
        close(probes[i].source.fd);
    loop_free(loop);
}

static void work_runs_next_turn_in_order(void)
{
    struct loop *loop;
    struct probe probes[3];
    REQUIRE_INT(loop_new(&loop), 0);
    for (int i = 0; i < 3; i++) {
        probes[i] = make_probe(loop, -1);
        loop_requeue(loop, &probes[i].source);
        loop_requeue(loop, &probes[i].source); /* twice is once */
    }
    probes[0].again = true;
    probes[0].victim = &probes[1];
    CHECK_INT(loop_turn(loop, -1), 0); /* work: does not wait */
    CHECK_INT(probes[0].calls, 1);
    CHECK_INT(probes[1].calls, 0);
    CHECK_INT(probes[2].calls, 1);
    CHECK_INT(probes[0].events, 0);
    probes[0].again = false;
    probes[0].victim = NULL;
    CHECK_INT(loop_turn(loop, -1), 0);
    CHECK_INT(probes[0].calls, 2);
    loop_requeue(loop, &probes[1].source);
    loop_requeue(loop, &probes[2].source);
    loop_remove(loop, &probes[2].source); /* the last: the next goes to the right place */
    loop_requeue(loop, &probes[0].source);
    CHECK_INT(loop_turn(loop, -1), 0);
    CHECK_INT(probes[0].calls, 3);
    CHECK_INT(probes[1].calls, 1);
    CHECK_INT(probes[2].calls, 1);
    loop_free(loop);
}

static unsigned shares; /* of this turn */

static void take_share(struct loop_source *source, unsigned events)
{
    struct probe *probe = (struct probe *)source;
    (void)events;
    if (shares == 0) {
        loop_requeue(probe->loop, source);
        return;
    }
    shares--;
    probe->calls++;
}

static void what_waits_for_a_share_comes_before_fresh_events(void)
{
    struct loop *loop;
    struct probe waiting, fresh;
    REQUIRE_INT(loop_new(&loop), 0);
    waiting = make_probe(loop, -1);
    fresh = make_probe(loop, eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
    waiting.source.fn = fresh.source.fn = take_share;
    REQUIRE_INT(loop_add(loop, &fresh.source, true), 0); /* ready in every turn */
    loop_requeue(loop, &waiting.source);
    shares = 1;
    CHECK_INT(loop_turn(loop, 0), 1);
    CHECK_INT(waiting.calls, 1);
    CHECK_INT(fresh.calls, 0);
    shares = 1;
    CHECK_INT(loop_turn(loop, 0), 1);
    CHECK_INT(fresh.calls, 1);
    loop_remove(loop, &fresh.source);
    close(fresh.source.fd);
    loop_free(loop);
}

static void removed_by_work_it_is_not_called(void)
{
    struct loop *loop;
    REQUIRE_INT(loop_new(&loop), 0);
    struct probe worker = make_probe(loop, -1);
    struct probe ready = make_probe(loop, eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
    REQUIRE_INT(loop_add(loop, &ready.source, true), 0);
    worker.victim = &ready;
    loop_requeue(loop, &worker.source);
    CHECK_INT(loop_turn(loop, 0), 1);
    CHECK_INT(worker.calls, 1);
    CHECK_INT(ready.calls, 0);
    close(ready.source.fd);
    loop_free(loop);
}

/* More of them than run in a turn: all have their turn, in order, before the first has another. */
static void much_work_is_spread_over_turns(void)
{
    enum { MANY = 1000, TURNS = 8 };
    static struct probe probes[MANY];
    struct loop *loop;
    REQUIRE_INT(loop_new(&loop), 0);
    for (int i = 0; i < MANY; i++) {
        probes[i] = make_probe(loop, -1);
        probes[i].again = true;
        loop_requeue(loop, &probes[i].source);
    }
    unsigned done = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        CHECK_INT(loop_turn(loop, -1), 0);
        CHECK(loop_busy(loop) > 0 && loop_busy(loop) < MANY);
        done += loop_busy(loop);
        for (unsigned i = 0; i < MANY; i++)
            CHECK_INT(probes[i].calls, done / MANY + (i < done % MANY));
    }
    CHECK(done > MANY);
    probes[1].victim = &probes[0]; /* whichever list it is on */
    for (int i = 0; i < MANY; i++)
        probes[i].again = false;
    unsigned last = probes[0].calls + 1;
    for (int turn = 0; turn < TURNS; turn++)
        CHECK_INT(loop_turn(loop, 0), 0);
    CHECK(probes[0].calls <= last);
    CHECK_INT(loop_turn(loop, 0), 0);
    CHECK_INT(loop_busy(loop), 0);
    for (int i = 0; i < MANY; i++)
        CHECK(!probes[i].source.queued);
    loop_free(loop);
}

static unsigned fired;

static void fire(struct timer *timer)
{
    (void)timer;
    fired++;
}

static void a_timer_ends_the_wait(void)
{
    struct loop *loop;
    struct timer timer = {.fn = fire};
    REQUIRE_INT(loop_new(&loop), 0);
    fired = 0;
    int64_t start_ms = clock_ms();
    timer_arm(loop_timers(loop), &timer, start_ms + 5);
    while (fired == 0 && clock_ms() - start_ms < 10000)
        REQUIRE_INT(loop_turn(loop, -1), 0);
    CHECK_INT(fired, 1);
    CHECK(clock_ms() - start_ms >= 5);
    loop_free(loop);
}

struct late {
    struct loop_source source;   /* work that takes a second */
    struct loop *loop;
    int64_t before_ms, after_ms;
};

static void take_a_second(struct loop_source *source, unsigned events)
{
    struct late *late = (struct late *)((char *)source - offsetof(struct late, source));
    (void)events;
    late->before_ms = loop_now_ms(late->loop);
    clock_test_advance(UINT64_C(1000000000));
    late->after_ms = loop_now_ms(late->loop);
}

/* One time for a turn; a timer that came due in it does not wait for anything in the next. */
static void the_time_of_a_turn_is_one(void)
{
    struct timer timer = {.fn = fire};
    struct late late = {.source = {.fn = take_a_second, .fd = -1}};
    clock_test_set(UINT64_C(5000000000), 0);
    REQUIRE_INT(loop_new(&late.loop), 0);
    CHECK_INT(loop_now_ms(late.loop), 5000);
    fired = 0;
    timer_arm(loop_timers(late.loop), &timer, 5500);
    clock_test_advance(1000000);
    loop_requeue(late.loop, &late.source);
    CHECK_INT(loop_turn(late.loop, -1), 0);
    CHECK_INT(late.before_ms, 5001);
    CHECK_INT(late.after_ms, 5001);
    CHECK_INT(fired, 0);
    CHECK_INT(loop_turn(late.loop, -1), 0);
    CHECK_INT(fired, 1);
    CHECK_INT(loop_now_ms(late.loop), 6001);
    loop_free(late.loop);
    clock_test_reset();
}

static int failing_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    (void)epoll_fd, (void)events, (void)count, (void)timeout_ms;
    return -EBADF;
}

static int interrupted_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    (void)epoll_fd, (void)events, (void)count, (void)timeout_ms;
    return -EINTR;
}

static void an_error_of_the_kernel_comes_out(void)
{
    struct loop *loop;
    struct sys_table table = sys_real;
    REQUIRE_INT(loop_new(&loop), 0);
    sys = &table;
    table.epoll_wait = interrupted_wait;
    CHECK_INT(loop_turn(loop, 0), 0);
    table.epoll_wait = failing_wait;
    CHECK_INT(loop_turn(loop, 0), -EBADF);
    sys = &sys_real;
    loop_free(loop);
}

TEST_MAIN(TEST(edges_of_a_socket), TEST(a_level_source_is_told_until_it_is_read),
          TEST(a_source_removed_in_its_turn_is_not_called), TEST(work_runs_next_turn_in_order),
          TEST(what_waits_for_a_share_comes_before_fresh_events),
          TEST(removed_by_work_it_is_not_called), TEST(much_work_is_spread_over_turns),
          TEST(a_timer_ends_the_wait), TEST(the_time_of_a_turn_is_one),
          TEST(an_error_of_the_kernel_comes_out))
