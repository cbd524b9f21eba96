/* loop.h: an edge-triggered epoll loop of one thread, with timers and work for the next turn.
 * The whole interface; loop.c knows no connections. */
#ifndef SLUICE_LOOP_H
#define SLUICE_LOOP_H

#include "base.h"
#include "timer.h"

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 /* RDHUP, HUP, ERR or PRI */ };

struct loop;
struct loop_source;
typedef void loop_fn(struct loop_source *source, unsigned events); /* events 0 = re-queued work */

struct loop_source {             /* embedded in whoever owns the descriptor */
    loop_fn *fn;
    int fd;
    bool queued;                 /* on the work list of this turn or the next */
    struct loop_source *next, **prev; /* loop's */
};

DP_MUST_CHECK int loop_new(struct loop **ret);
void loop_free(struct loop *loop);
/* Edge-triggered for read, write and hang-up, once and for all; level for listeners. */
DP_MUST_CHECK int loop_add(struct loop *loop, struct loop_source *source, bool level_read);
/* Also from the work list and from what is still to be run this turn. Before the descriptor is
 * closed; a source that was not added is only taken off the work list. */
void loop_remove(struct loop *loop, struct loop_source *source);
void loop_requeue(struct loop *loop, struct loop_source *source); /* fn(source, 0) next turn */
int loop_fd(const struct loop *loop); /* its epoll's */
struct timers *loop_timers(struct loop *loop);
/* When this turn's readiness was known: one reading of the clock for all that runs in it. */
int64_t loop_now_ms(const struct loop *loop);
/* How many sources run in this turn. */
uint32_t loop_busy(const struct loop *loop);
/* One turn: wait until readiness, a timer or work (wait_ms_max bounds it; negative = no bound),
 * then run it: work, readiness, timers. Of work and of readiness only so much that the other is
 * not kept waiting; the rest is for the next turn. Returns how many were ready, or -errno. */
DP_MUST_CHECK int loop_turn(struct loop *loop, int wait_ms_max);

#endif
