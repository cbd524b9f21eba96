/* ejection.c: a pool of timers, one for each endpoint that is aside. */
#include "ejection.h"

#include <stdio.h>

#include "clock.h"

struct ejection {
    struct timer timer;
    struct stream_env *env;      /* borrowed from the worker */
    dp_event event;              /* RETURNED, but for its time */
    char service[DP_NAME_MAX + 1], endpoint[DP_NAME_MAX + 1];
};

size_t ejection_size(void)
{
    return sizeof(struct ejection);
}

static void post(struct stream_env *env, const dp_event *event, const char *service,
                 const char *endpoint)
{
    const struct event_text text = {.service = service, .endpoint = endpoint};
    if (!event_ring_put(env->events, event, &text))
        stats_add(env->stats, STAT_EVENTS_DROPPED, 1);
}

static void on_return(struct timer *timer)
{
    struct ejection *ejection = (struct ejection *)timer; /* its first member */
    struct stream_env *env = ejection->env;
    ejection->event.time_ns = clock_real_ns();
    post(env, &ejection->event, ejection->service, ejection->endpoint);
    pool_put(env->ejections, ejection);
}

void ejection_announce(const struct stream *s, uint32_t for_ms)
{
    struct stream_env *env = s->env;
    dp_event event = {.kind = DP_EVENT_EJECTED, .worker = env->worker, .flow = s->flow,
                      .time_ns = clock_real_ns(), .peer_port = s->endpoint->port,
                      .duration_ns = (uint64_t)for_ms * 1000000};
    memcpy(event.peer_addr, s->endpoint->addr, sizeof(event.peer_addr));
    stats_add(env->stats, STAT_EJECTIONS, 1);
    post(env, &event, s->service, s->endpoint->name);

    struct ejection *ejection = pool_get(env->ejections);
    if (ejection == NULL) {
        stats_add(env->stats, STAT_EVENTS_DROPPED, 1);
        return;
    }
    ejection->timer.fn = on_return;
    ejection->env = env;
    ejection->event = event;
    ejection->event.kind = DP_EVENT_RETURNED;
    snprintf(ejection->service, sizeof(ejection->service), "%s", s->service);
    snprintf(ejection->endpoint, sizeof(ejection->endpoint), "%s", s->endpoint->name);
    timer_arm(env->timers, &ejection->timer, clock_ms() + for_ms);
}

void ejection_cancel_all(struct stream_env *env)
{
    for (uint32_t i = 0; i < pool_count(env->ejections); i++) {
        struct ejection *ejection = pool_at(env->ejections, i);
        if (ejection == NULL)
            continue;
        timer_cancel(env->timers, &ejection->timer);
        pool_put(env->ejections, ejection);
    }
}
