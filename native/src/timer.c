/* timer.c: eleven wheels of 64 slots, one for each six bits of the time, so that every 64-bit
 * time has a slot. A timer sits on the wheel of the highest six bits in which its time differs
 * from now, in the slot of its own bits there; so slots ahead of now are in order, the lowest
 * wheel in use comes first, and a slot is dealt out to lower wheels when now reaches it. */
#include "timer.h"

#include <stdlib.h>

enum { BITS = 6, SLOTS = 1 << BITS, WHEELS = 11 };

struct timers {
    uint64_t now;                        /* every earlier time was run */
    struct timer *due;                   /* armed for a time that has come; fires at next run */
    uint32_t wheels_used;                /* a bit a wheel */
    uint64_t slots_used[WHEELS];         /* a bit a slot */
    struct timer *slots[WHEELS][SLOTS];
};

int timers_new(int64_t now_ms, struct timers **ret)
{
    if (now_ms < 0)
        return -EINVAL;
    struct timers *timers = calloc(1, sizeof(*timers));
    if (timers == NULL)
        return -ENOMEM;
    timers->now = (uint64_t)now_ms;
    *ret = timers;
    return 0;
}

void timers_free(struct timers *timers)
{
    free(timers);
}

static void link_first(struct timer **head, struct timer *timer)
{
    timer->next = *head;
    timer->prev = head;
    if (timer->next != NULL)
        timer->next->prev = &timer->next;
    *head = timer;
}

static void unlink_one(struct timer *timer)
{
    *timer->prev = timer->next;
    if (timer->next != NULL)
        timer->next->prev = timer->prev;
    timer->next = NULL;
    timer->prev = NULL;
}

static bool is_due(const struct timers *timers, const struct timer *timer)
{
    return timer->at_ms <= 0 || (uint64_t)timer->at_ms <= timers->now;
}

static unsigned wheel_of(const struct timers *timers, const struct timer *timer)
{
    uint64_t differing = (uint64_t)timer->at_ms ^ timers->now; /* not zero: it is ahead */
    return (unsigned)(63 - __builtin_clzll(differing)) / BITS;
}

static unsigned slot_of(const struct timer *timer, unsigned wheel)
{
    return (unsigned)((uint64_t)timer->at_ms >> (wheel * BITS)) % SLOTS;
}

static void insert(struct timers *timers, struct timer *timer)
{
    if (is_due(timers, timer)) {
        link_first(&timers->due, timer);
        return;
    }
    unsigned wheel = wheel_of(timers, timer);
    unsigned slot = slot_of(timer, wheel);
    link_first(&timers->slots[wheel][slot], timer);
    timers->slots_used[wheel] |= UINT64_C(1) << slot;
    timers->wheels_used |= 1u << wheel;
}

static void slot_emptied(struct timers *timers, unsigned wheel, unsigned slot)
{
    timers->slots_used[wheel] &= ~(UINT64_C(1) << slot);
    if (timers->slots_used[wheel] == 0)
        timers->wheels_used &= ~(1u << wheel);
}

void timer_cancel(struct timers *timers, struct timer *timer)
{
    if (timer->prev == NULL)
        return;
    unlink_one(timer);
    if (is_due(timers, timer))
        return;
    unsigned wheel = wheel_of(timers, timer);
    unsigned slot = slot_of(timer, wheel);
    if (timers->slots[wheel][slot] == NULL)
        slot_emptied(timers, wheel, slot);
}

void timer_arm(struct timers *timers, struct timer *timer, int64_t at_ms)
{
    timer_cancel(timers, timer);
    timer->at_ms = at_ms;
    insert(timers, timer);
}

/* The first time at which a slot is to be dealt out; false = no timer ahead. */
static bool next_slot(const struct timers *timers, unsigned *ret_wheel, unsigned *ret_slot,
                      uint64_t *ret_at)
{
    if (timers->wheels_used == 0)
        return false;
    unsigned wheel = (unsigned)__builtin_ctz(timers->wheels_used);
    unsigned slot = (unsigned)__builtin_ctzll(timers->slots_used[wheel]);
    unsigned shift = wheel * BITS;
    uint64_t above = shift + BITS >= 64 ? 0 : timers->now >> (shift + BITS) << (shift + BITS);
    *ret_wheel = wheel;
    *ret_slot = slot;
    *ret_at = above | (uint64_t)slot << shift;
    return true;
}

int64_t timers_next_ms(const struct timers *timers)
{
    unsigned wheel, slot;
    uint64_t at;
    if (timers->due != NULL)
        return (int64_t)timers->now;
    return next_slot(timers, &wheel, &slot, &at) ? (int64_t)at : INT64_MAX;
}

void timers_run(struct timers *timers, int64_t now_ms)
{
    /* First gather all that is due, in order of time; then fire. What a timer's fn arms for a
     * time that has come waits for the next run, so that a run ends. */
    struct timer *firing = timers->due;
    struct timer **last = &firing;
    timers->due = NULL;
    if (firing != NULL)
        firing->prev = &firing;
    while (*last != NULL)
        last = &(*last)->next;
    unsigned wheel, slot;
    uint64_t at;
    while (next_slot(timers, &wheel, &slot, &at) && at <= INT64_MAX && (int64_t)at <= now_ms) {
        timers->now = at;
        struct timer *list = timers->slots[wheel][slot];
        timers->slots[wheel][slot] = NULL;
        slot_emptied(timers, wheel, slot);
        for (struct timer *timer; (timer = list) != NULL;) {
            list = timer->next;
            if ((uint64_t)timer->at_ms > at) {
                insert(timers, timer);
                continue;
            }
            timer->next = NULL;
            timer->prev = last;
            *last = timer;
            last = &timer->next;
        }
    }
    if (now_ms > 0 && (uint64_t)now_ms > timers->now)
        timers->now = (uint64_t)now_ms;
    for (struct timer *timer; (timer = firing) != NULL;) {
        unlink_one(timer);
        timer->fn(timer);
    }
}
