/* timer.h: a hierarchical timer wheel with millisecond ticks. Arm, move and cancel are O(1) and
 * allocate nothing. One thread. */
#ifndef SLUICE_TIMER_H
#define SLUICE_TIMER_H

#include "base.h"

struct timers;
struct timer;
typedef void timer_fn(struct timer *timer);

struct timer {                   /* embedded; zero-initialized is "not armed" */
    timer_fn *fn;
    int64_t at_ms;               /* monotonic */
    struct timer *next, **prev;  /* wheel's */
};

DP_MUST_CHECK int timers_new(int64_t now_ms, struct timers **ret);
void timers_free(struct timers *timers);
void timer_arm(struct timers *timers, struct timer *timer, int64_t at_ms); /* again = move */
void timer_cancel(struct timers *timers, struct timer *timer);             /* not armed: no-op */
int64_t timers_next_ms(const struct timers *timers); /* lower bound; INT64_MAX = none */
void timers_run(struct timers *timers, int64_t now_ms); /* fires what is due; fn may arm, cancel */

#endif
