/* test_timer.c: the wheel against a slow oracle: an array that is searched. */
#include "timer.h"

#include <stdlib.h>

#include "test.h"

enum { TIMERS = 64, STEPS = 20000 };

struct probe {
    struct timer timer; /* first */
    bool armed;         /* the oracle's: */
    int64_t at_ms;
    unsigned fired, expected;
};

static struct probe probes[TIMERS];
static struct timers *timers;
static int64_t fired_last_ms;
static bool ordered;
static uint64_t rng;

static uint64_t next(void)
{
    uint64_t z = rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void note(struct timer *timer)
{
    struct probe *probe = (struct probe *)timer;
    probe->fired++;
    ordered &= timer->at_ms >= fired_last_ms;
    fired_last_ms = timer->at_ms;
}

/* From a millisecond to centuries, mostly near. */
static int64_t some_delay(void)
{
    return (int64_t)(next() >> (20 + next() % 44));
}

static void step(int64_t *now_ms)
{
    struct probe *probe = &probes[next() % TIMERS];
    switch (next() % 4) {
    case 0:
    case 1:
        probe->armed = true;
        probe->at_ms = *now_ms + 1 + some_delay() % (INT64_C(1) << 44);
        timer_arm(timers, &probe->timer, probe->at_ms);
        return;
    case 2:
        probe->armed = false;
        timer_cancel(timers, &probe->timer);
        return;
    }
    *now_ms += some_delay() % (INT64_C(1) << (next() % 40));
    for (size_t i = 0; i < TIMERS; i++) {
        if (probes[i].armed && probes[i].at_ms <= *now_ms) {
            probes[i].armed = false;
            probes[i].expected++;
        }
    }
    fired_last_ms = 0;
    timers_run(timers, *now_ms);
}

static int64_t earliest(void)
{
    int64_t at_ms = INT64_MAX;
    for (size_t i = 0; i < TIMERS; i++)
        if (probes[i].armed && probes[i].at_ms < at_ms)
            at_ms = probes[i].at_ms;
    return at_ms;
}

static void agrees_with_oracle(void)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        int64_t now_ms = (int64_t)(seed * 1234567);
        memset(probes, 0, sizeof(probes));
        for (size_t i = 0; i < TIMERS; i++)
            probes[i].timer.fn = note;
        rng = seed;
        ordered = true;
        REQUIRE_INT(timers_new(now_ms, &timers), 0);
        for (unsigned i = 0; i < STEPS; i++) {
            step(&now_ms);
            bool same = true;
            for (size_t k = 0; k < TIMERS; k++)
                same &= probes[k].fired == probes[k].expected;
            int64_t next_ms = timers_next_ms(timers), want_ms = earliest();
            bool bounded = next_ms <= want_ms && (want_ms == INT64_MAX) == (next_ms == INT64_MAX);
            if (!CHECK(same) || !CHECK(bounded) || !CHECK(next_ms > now_ms)) {
                printf("# seed %" PRIu64 " step %u\n", seed, i);
                timers_free(timers);
                return;
            }
        }
        CHECK(ordered);
        timers_free(timers);
    }
}

static struct timer other;
static unsigned fired;

static void arm_again(struct timer *timer)
{
    fired++;
    timer_arm(timers, timer, timer->at_ms); /* its time has come: for the next run */
}

static void cancel_other(struct timer *timer)
{
    (void)timer;
    fired++;
    timer_cancel(timers, &other);
}

static void count(struct timer *timer)
{
    (void)timer;
    fired++;
}

static void a_fired_timer_may_arm_itself_for_now(void)
{
    struct timer timer = {.fn = arm_again};
    REQUIRE_INT(timers_new(100, &timers), 0);
    fired = 0;
    timer_arm(timers, &timer, 50); /* in the past */
    CHECK_INT(timers_next_ms(timers), 100);
    timers_run(timers, 100);
    CHECK_INT(fired, 1);
    timers_run(timers, 100);
    CHECK_INT(fired, 2);
    timer_cancel(timers, &timer);
    timer_cancel(timers, &timer);
    CHECK_INT(timers_next_ms(timers), INT64_MAX);
    timers_free(timers);
}

static void a_fired_timer_may_cancel_one_that_is_due(void)
{
    struct timer timer = {.fn = cancel_other};
    other = (struct timer){.fn = count};
    REQUIRE_INT(timers_new(0, &timers), 0);
    fired = 0;
    timer_arm(timers, &timer, 10);
    timer_arm(timers, &other, 11);
    timers_run(timers, 20);
    CHECK_INT(fired, 1);
    CHECK(other.prev == NULL);
    timers_free(timers);
}

static void the_farthest_time_has_a_slot(void)
{
    struct timer timer = {.fn = count};
    REQUIRE_INT(timers_new(0, &timers), 0);
    fired = 0;
    timer_arm(timers, &timer, INT64_MAX);
    timers_run(timers, INT64_MAX - 1);
    CHECK_INT(fired, 0);
    timers_run(timers, INT64_MAX);
    CHECK_INT(fired, 1);
    timers_run(timers, 5); /* a clock that went back fires nothing */
    timers_free(timers);
}

TEST_MAIN(TEST(agrees_with_oracle), TEST(a_fired_timer_may_arm_itself_for_now),
          TEST(a_fired_timer_may_cancel_one_that_is_due), TEST(the_farthest_time_has_a_slot))
