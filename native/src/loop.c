/* loop.c: epoll, a timer wheel and a work list. Knows no connections; closes only its own
 * descriptor. */
#include "loop.h"

#include <limits.h>
#include <stdlib.h>

#include "clock.h"
#include "sys.h"

enum { BATCH = 256 };

struct work { /* sources in the order they were queued */
    struct loop_source *first, **last;
};

struct loop {
    int epoll_fd;
    struct timers *timers;             /* owned */
    struct work now, next;             /* now: what may run in this turn, with what it left over */
    uint32_t queued;                   /* in both */
    uint32_t busy;                     /* sources of this turn */
    int64_t now_ms;                    /* when it began to run them */
    struct epoll_event ready[BATCH];   /* of this turn; data.ptr is NULL once removed */
    int ready_at, ready_count;
};

static void work_init(struct work *work)
{
    work->first = NULL;
    work->last = &work->first;
}

int loop_new(struct loop **ret)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL)
        return -ENOMEM;
    work_init(&loop->now);
    work_init(&loop->next);
    loop->now_ms = clock_ms();
    int r = loop->epoll_fd = sys->epoll_create();
    if (r < 0)
        goto err_free;
    r = timers_new(loop->now_ms, &loop->timers);
    if (r < 0)
        goto err_close;
    *ret = loop;
    return 0;

err_close:
    sys->close(loop->epoll_fd);
err_free:
    free(loop);
    return r;
}

void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    timers_free(loop->timers);
    sys->close(loop->epoll_fd);
    free(loop);
}

int loop_fd(const struct loop *loop)
{
    return loop->epoll_fd;
}

struct timers *loop_timers(struct loop *loop)
{
    return loop->timers;
}

int loop_add(struct loop *loop, struct loop_source *source, bool level_read)
{
    struct epoll_event event = {
        .events = level_read ? EPOLLIN
                             : EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data.ptr = source,
    };
    return sys->epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event);
}

static void unqueue(struct loop *loop, struct loop_source *source)
{
    if (!source->queued)
        return;
    *source->prev = source->next;
    if (source->next != NULL)
        source->next->prev = source->prev;
    else
        (loop->next.last == &source->next ? &loop->next : &loop->now)->last = source->prev;
    source->queued = false;
    loop->queued--;
    source->next = NULL;
    source->prev = NULL;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
    struct epoll_event unused = {0};
    sys->epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, &unused);
    for (int i = loop->ready_at; i < loop->ready_count; i++)
        if (loop->ready[i].data.ptr == source)
            loop->ready[i].data.ptr = NULL;
    unqueue(loop, source);
}

void loop_requeue(struct loop *loop, struct loop_source *source)
{
    if (source->queued)
        return;
    source->queued = true;
    loop->queued++;
    source->next = NULL;
    source->prev = loop->next.last;
    *loop->next.last = source;
    loop->next.last = &source->next;
}

static unsigned events_of(uint32_t epoll_events)
{
    unsigned events = 0;
    if (epoll_events & EPOLLIN)
        events |= LOOP_READ;
    if (epoll_events & EPOLLOUT)
        events |= LOOP_WRITE;
    if (epoll_events & (EPOLLRDHUP | EPOLLPRI)) /* a read stops short at urgent data too */
        events |= LOOP_HANGUP | LOOP_READ;
    if (epoll_events & (EPOLLHUP | EPOLLERR)) /* the next read or write says which error */
        events |= LOOP_HANGUP | LOOP_READ | LOOP_WRITE;
    return events;
}

static int wait_ms(const struct loop *loop, int wait_ms_max)
{
    if (loop->queued > 0)
        return 0;
    int64_t at_ms = timers_next_ms(loop->timers);
    if (at_ms == INT64_MAX)
        return wait_ms_max;
    int64_t left_ms = at_ms - clock_ms();
    if (left_ms <= 0)
        return 0;
    if (left_ms > INT_MAX)
        left_ms = INT_MAX;
    return wait_ms_max >= 0 && wait_ms_max < left_ms ? wait_ms_max : (int)left_ms;
}

int64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ms;
}

uint32_t loop_busy(const struct loop *loop)
{
    return loop->busy;
}

/* What is queued from here on is for the next turn. How many of the others are for this one. */
static uint32_t take_work(struct loop *loop)
{
    if (loop->next.first != NULL) {
        *loop->now.last = loop->next.first;
        loop->next.first->prev = loop->now.last;
        loop->now.last = loop->next.last;
        work_init(&loop->next);
    }
    return loop->queued < BATCH ? loop->queued : BATCH;
}

int loop_turn(struct loop *loop, int wait_ms_max)
{
    int n = sys->epoll_wait(loop->epoll_fd, loop->ready, BATCH, wait_ms(loop, wait_ms_max));
    if (n == -EINTR)
        n = 0;
    if (n < 0)
        return n;
    loop->now_ms = clock_ms();
    uint32_t work = take_work(loop);
    loop->ready_at = 0;
    loop->ready_count = n;
    loop->busy = work + (uint32_t)n;
    /* What waited goes first: it may wait for a share of something, and fresh events that come in
     * every turn would take it all. */
    for (struct loop_source *source; work > 0 && (source = loop->now.first) != NULL; work--) {
        unqueue(loop, source);
        source->fn(source, 0);
    }
    while (loop->ready_at < n) {
        struct epoll_event *event = &loop->ready[loop->ready_at++];
        struct loop_source *source = event->data.ptr;
        if (source != NULL)
            source->fn(source, events_of(event->events));
    }
    loop->ready_at = loop->ready_count = 0;
    timers_run(loop->timers, loop->now_ms); /* due since: the next wait is none */
    return n;
}
