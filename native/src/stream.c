/* stream.c: a stream's life: the table of what follows what, its legs, its end and its events.
 * What a state does is in stream_down.c, stream_up.c, stream_relay.c and stream_route.c. */
#define _GNU_SOURCE
#include "stream.h"

#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "address.h"
#include "clock.h"
#include "sys.h"

typedef enum outcome step_fn(struct stream *s);

/* A step for each thing that can happen in a state; NULL = it means nothing there. */
static const struct { step_fn *enter, *down, *up, *timeout; } steps[STREAM_STATE_COUNT] = {
    [STREAM_NEW] = {.enter = down_new},
    [STREAM_HANDSHAKE] = {.enter = down_handshake_enter, .down = down_handshake,
                          .timeout = down_handshake_timeout},
    [STREAM_HEADER] = {.enter = down_header_enter, .down = down_header,
                       .timeout = down_header_timeout},
    [STREAM_CONNECT] = {.enter = up_connect_enter, .down = down_watch, .up = up_connect,
                        .timeout = up_connect_timeout},
    [STREAM_UP_HANDSHAKE] = {.enter = up_handshake_enter, .down = down_watch, .up = up_handshake,
                             .timeout = up_handshake_timeout},
    [STREAM_REPLY] = {.enter = up_reply_enter, .down = up_reply_down, .up = up_reply,
                      .timeout = up_reply_timeout},
    [STREAM_RELAY] = {.enter = relay_enter, .down = relay_down, .up = relay_up,
                      .timeout = relay_timeout},
    [STREAM_REFUSE] = {.enter = down_refuse_enter, .down = down_refuse,
                       .timeout = down_refuse_timeout},
};

/* What follows. STREAM_NEW, 0, stands for "cannot happen": no state leads back to it. */
static const uint8_t next_state[STREAM_STATE_COUNT][OUTCOME_COUNT] = {
    [STREAM_NEW] = {[OUTCOME_PLAIN] = STREAM_CONNECT, [OUTCOME_DONE] = STREAM_HANDSHAKE,
                    [OUTCOME_REFUSED] = STREAM_REFUSE, [OUTCOME_END] = STREAM_CLOSED},
    [STREAM_HANDSHAKE] = {[OUTCOME_DONE] = STREAM_HEADER, [OUTCOME_REFUSED] = STREAM_REFUSE,
                          [OUTCOME_END] = STREAM_CLOSED},
    [STREAM_HEADER] = {[OUTCOME_DONE] = STREAM_CONNECT, [OUTCOME_REFUSED] = STREAM_REFUSE,
                       [OUTCOME_END] = STREAM_CLOSED},
    [STREAM_CONNECT] = {[OUTCOME_PLAIN] = STREAM_RELAY, [OUTCOME_DONE] = STREAM_UP_HANDSHAKE,
                        [OUTCOME_RETRY] = STREAM_CONNECT, [OUTCOME_REFUSED] = STREAM_REFUSE,
                        [OUTCOME_END] = STREAM_CLOSED},
    [STREAM_UP_HANDSHAKE] = {[OUTCOME_DONE] = STREAM_REPLY, [OUTCOME_RETRY] = STREAM_CONNECT,
                             [OUTCOME_REFUSED] = STREAM_REFUSE, [OUTCOME_END] = STREAM_CLOSED},
    [STREAM_REPLY] = {[OUTCOME_DONE] = STREAM_RELAY, [OUTCOME_RETRY] = STREAM_CONNECT,
                      [OUTCOME_REFUSED] = STREAM_REFUSE, [OUTCOME_END] = STREAM_CLOSED},
    [STREAM_RELAY] = {[OUTCOME_END] = STREAM_CLOSED},
    [STREAM_REFUSE] = {[OUTCOME_END] = STREAM_CLOSED},
};

enum stream_state stream_next(enum stream_state state, enum outcome outcome)
{
    uint8_t next = next_state[state][outcome];
    return next == STREAM_NEW ? STREAM_STATE_COUNT : (enum stream_state)next;
}

static void end(struct stream *s, bool reset);

/* Takes a step and then whatever it leads to, until something has to be waited for. */
static void run(struct stream *s, step_fn *step)
{
    if (step == NULL)
        return;
    enum outcome outcome = step(s);
    while (outcome != OUTCOME_WAIT) {
        enum stream_state next = stream_next(s->state, outcome);
        assert(next != STREAM_STATE_COUNT);
        timer_cancel(s->env->timers, &s->phase);
        if (next == STREAM_CLOSED) {
            /* A clean end is only ever shown where both ends came to it. Who was refused over
             * TLS has a reply or an alert, which a reset could overtake. */
            bool told = s->state == STREAM_REFUSE && s->down.tls != NULL;
            end(s, s->reason != DP_REASON_NONE && !told);
            return;
        }
        s->state = next;
        outcome = steps[next].enter(s);
    }
}

static void on_leg(struct loop_source *source, unsigned events)
{
    struct leg *leg = (struct leg *)((char *)source - offsetof(struct leg, source));
    struct stream *s = leg->stream;
    if (s->state == STREAM_CLOSED)
        return;
    if (events & LOOP_HANGUP)
        leg->hangup = true;
    run(s, leg == &s->down ? steps[s->state].down : steps[s->state].up);
}

static void on_phase(struct timer *timer)
{
    struct stream *s = (struct stream *)((char *)timer - offsetof(struct stream, phase));
    run(s, steps[s->state].timeout);
}

static void on_duration(struct timer *timer)
{
    struct stream *s = (struct stream *)((char *)timer - offsetof(struct stream, duration));
    stream_kill(s, DP_REASON_DURATION, "the service's longest connection duration is over");
}

void stream_arm(struct stream *s, uint32_t timeout_ms)
{
    if (timeout_ms == 0)
        timer_cancel(s->env->timers, &s->phase);
    else
        timer_arm(s->env->timers, &s->phase, clock_ms() + timeout_ms);
}

enum outcome stream_refuse(struct stream *s, uint16_t reason, const char *format, ...)
{
    if (s->detail == NULL)
        s->detail = pool_get(s->env->details);
    assert(s->detail != NULL); /* as many as streams */
    va_list args;
    va_start(args, format);
    vsnprintf(s->detail, DP_DETAIL_MAX + 1, format, args);
    va_end(args);
    s->reason = reason;
    return OUTCOME_REFUSED;
}

int stream_set_name(char **name, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return -ENOMEM;
    free(*name);
    *name = copy;
    return 0;
}

enum outcome stream_fail(struct stream *s, const struct leg *leg, int error)
{
    bool told = error == -EBADMSG && leg->tls != NULL && tls_reason(leg->tls) != DP_REASON_NONE;
    if (told) {
        (void)stream_refuse(s, tls_reason(leg->tls), "%s", tls_detail(leg->tls));
        return OUTCOME_END;
    }
    switch (error) {
    case -ENODATA:
        (void)stream_refuse(s, DP_REASON_TRUNCATED, "the connection ended without close_notify");
        break;
    case -EBADMSG:
        (void)stream_refuse(s, DP_REASON_HANDSHAKE, "TLS failed after its handshake");
        break;
    default:
        (void)stream_refuse(s, DP_REASON_RESET, "%s", strerrordesc_np(-error));
    }
    return OUTCOME_END;
}

int leg_open_take(struct stream *s, struct leg *leg, int fd)
{
    leg->stream = s;
    leg->hangup = false;
    leg->source = (struct loop_source){.fn = on_leg, .fd = fd};
    int r = loop_add(s->env->loop, &leg->source, false);
    if (r < 0) {
        sys->close(fd);
        return r;
    }
    record_plain_init(&leg->plain, fd);
    leg->open = true;
    return 0;
}

void leg_close(struct stream *s, struct leg *leg, bool reset)
{
    leg_settle_records(s, leg);
    if (leg->tls != NULL) {
        stats_add(s->env->stats, STAT_KTLS_KEY_UPDATES, tls_met_key_update(leg->tls));
        tls_free(leg->tls);
    }
    leg->tls = NULL;
    leg->record = NULL;
    if (!leg->open)
        return;
    leg->open = false;
    loop_remove(s->env->loop, &leg->source);
    if (reset) {
        const struct linger now = {.l_onoff = 1, .l_linger = 0};
        (void)sys->setsockopt(leg->source.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    sys->close(leg->source.fd);
}

int leg_error(const struct leg *leg)
{
    if (!leg->hangup)
        return 0;
    int error = 0;
    socklen_t len = sizeof(error);
    int r = sys->getsockopt(leg->source.fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return r < 0 ? r : -error;
}

void stream_drop_endpoint(struct stream *s)
{
    leg_close(s, &s->up, true);
    if (s->endpoint_held)
        endpoints_release(s->set, s->endpoint);
    s->endpoint_held = false;
}

int leg_prepare_tls(struct stream *s, struct leg *leg)
{
    tls_use_chains(leg->tls, s->env->chains);
    return leg_prefer_records(s, leg);
}

int leg_handshake(struct stream *s, struct leg *leg)
{
    struct stream_env *env = s->env;
    if (env->handshakes_left == 0) { /* so that handshakes do not stall the data of others */
        stats_add(env->stats, STAT_HANDSHAKES_DEFERRED, 1);
        loop_requeue(env->loop, &leg->source);
        return 0;
    }
    env->handshakes_left--;
    int r = tls_handshake(leg->tls, env->snapshot);
    if (r < 0)
        stats_add(env->stats, STAT_HANDSHAKES_FAILED, 1);
    if (r <= 0)
        return r;
    struct tls_info info;
    tls_get_info(leg->tls, &info);
    stats_add(env->stats, leg == &s->down ? STAT_HANDSHAKES_SERVER : STAT_HANDSHAKES_CLIENT, 1);
    stats_add(env->stats, STAT_HANDSHAKES_RESUMED, info.resumed);
    stats_record(env->stats, HISTOGRAM_HANDSHAKE_NS, clock_ns() - leg->started_ns);
    leg->record = tls_record(leg->tls);
    leg_got_records(s, leg);
    return 1;
}

int stream_read_early(struct stream *s)
{
    if (s->early == NULL) {
        s->early = buffers_get(s->env->relay.buffers, false);
        s->early->off = s->early->len = LINK_HEADER_MAX;
    }
    struct buffer *early = s->early;
    while (early->len < early->cap && !s->to_up.source_ended) {
        ssize_t n = s->down.record->ops->read(s->down.record, early->data + early->len,
                                              early->cap - early->len);
        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return (int)n;
        if (n == 0)
            s->to_up.source_ended = true;
        early->len += (uint32_t)n;
    }
    return 0;
}

void stream_prepare_early(struct stream *s, const struct link_header *header)
{
    if (s->early == NULL) {
        s->early = buffers_get(s->env->relay.buffers, false);
        s->early->len = LINK_HEADER_MAX;
    }
    s->early->off = LINK_HEADER_MAX;
    if (header == NULL)
        return;
    uint8_t bytes[LINK_HEADER_MAX];
    int size = link_header_encode(header, bytes, sizeof(bytes));
    assert(size > 0);
    s->early->off -= (uint32_t)size;
    memcpy(s->early->data + s->early->off, bytes, (size_t)size);
}

static uint8_t layer_of(const struct stream *s, const struct leg *leg)
{
    if (leg->record == NULL)
        return DP_RECORD_PLAIN;
    bool spliced = s->to_up.spliced || s->to_down.spliced;
    uint8_t layer = leg->record->ops->layer;
    return layer == DP_RECORD_PLAIN && spliced ? DP_RECORD_SPLICE : layer;
}

static void fill_tls(const struct leg *leg, uint16_t *version, uint16_t *cipher, bool *resumed)
{
    if (leg->tls == NULL || leg->record == NULL)
        return;
    struct tls_info info;
    tls_get_info(leg->tls, &info);
    *version = info.version;
    *cipher = info.cipher;
    *resumed = info.resumed;
}

void stream_post(struct stream *s, uint16_t kind)
{
    uint64_t now_ns = clock_ns();
    dp_event event = {
        .kind = kind, .worker = s->env->worker, .time_ns = clock_real_ns(),
        .src_port = s->src_port, .dst_port = s->dst_port, .peer_port = s->up.port,
        .flow = s->flow, .grade = s->grade, .reason = s->reason,
        .down_fallback = s->down.fallback, .up_fallback = s->up.fallback,
        .down_layer = layer_of(s, &s->down), .up_layer = layer_of(s, &s->up),
        .retries = (uint8_t)(s->attempts > 256 ? 255 : s->attempts > 0 ? s->attempts - 1 : 0),
        .bytes_up = s->to_up.bytes, .bytes_down = s->to_down.bytes,
        .connect_ns = s->established ? s->established_ns - s->accepted_ns : 0,
        .duration_ns = now_ns - s->accepted_ns,
    };
    memcpy(event.flow_id, s->flow_id, sizeof(event.flow_id));
    memcpy(event.src_addr, s->src_addr, sizeof(event.src_addr));
    memcpy(event.dst_addr, s->dst_addr, sizeof(event.dst_addr));
    memcpy(event.peer_addr, s->up.addr, sizeof(event.peer_addr));
    bool down_resumed = false, up_resumed = false;
    fill_tls(&s->down, &event.down_tls, &event.down_cipher, &down_resumed);
    fill_tls(&s->up, &event.up_tls, &event.up_cipher, &up_resumed);
    event.resumed = (uint8_t)(down_resumed | up_resumed << 1);
    const struct event_text text = {
        .src_id = s->src_id, .dst_id = s->dst_id, .service = s->service,
        .endpoint = s->endpoint != NULL ? s->endpoint->name : NULL, .detail = s->detail,
    };
    s->reported = s->to_up.bytes + s->to_down.bytes;
    if (kind == DP_EVENT_CLOSE || kind == DP_EVENT_REFUSED) {
        s->announced = true; /* counted before it is told: who hears of it may look */
        stats_add(s->env->stats, (enum stat_id)(STAT_REASON_0 + s->reason), 1);
    }
    if (!event_ring_put(s->env->events, &event, &text))
        stats_add(s->env->stats, STAT_EVENTS_DROPPED, 1);
}

void stream_post_update(struct stream *s)
{
    if (s->state == STREAM_RELAY && s->to_up.bytes + s->to_down.bytes != s->reported)
        stream_post(s, DP_EVENT_UPDATE);
}

static void new_flow_id(struct stream *s)
{
    struct stream_env *env = s->env;
    if (env->random_left < sizeof(s->flow_id)) {
        ssize_t n = sys->getrandom(env->random, sizeof(env->random));
        env->random_left = n > 0 ? (uint32_t)n : 0;
    }
    if (env->random_left < sizeof(s->flow_id))
        return; /* no entropy, no id: the stream is not worth less */
    env->random_left -= sizeof(s->flow_id);
    memcpy(s->flow_id, env->random + env->random_left, sizeof(s->flow_id));
}

static void refuse_accept(struct stream_env *env, int fd, enum stat_id stat)
{
    const struct linger now = {.l_onoff = 1, .l_linger = 0};
    stats_add(env->stats, STAT_REASON_0 + DP_REASON_POOL_FULL, 1);
    stats_add(env->stats, stat, 1);
    (void)sys->setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    sys->close(fd);
}

void stream_is_known(struct stream *s)
{
    if (s->stranger != NULL)
        strangers_leave(s->env->strangers, s->stranger);
    s->stranger = NULL;
}

void stream_accept_take(struct stream_env *env, int fd, uint8_t kind,
                        const struct sockaddr_storage *peer)
{
    struct stream *s = pool_get(env->streams);
    if (s == NULL) {
        refuse_accept(env, fd, STAT_POOL_STREAMS_FULL);
        return;
    }
    address_from_socket(peer, s->down.addr, &s->down.port);
    int r = kind == DP_LISTEN_MESH ? strangers_enter(env->strangers, s->down.addr, &s->stranger) : 0;
    if (r < 0) {
        refuse_accept(env, fd, r == -EDQUOT ? STAT_STRANGERS_SOURCE_FULL : STAT_STRANGERS_FULL);
        pool_put(env->streams, s);
        return;
    }
    s->env = env;
    s->kind = kind;
    s->state = STREAM_NEW;
    s->accepted_ns = clock_ns();
    s->phase.fn = on_phase;
    s->duration.fn = on_duration;
    s->up.stream = s;
    if (leg_open_take(s, &s->down, fd) < 0) {
        stats_add(env->stats, STAT_ACCEPT_ERRORS, 1);
        stream_is_known(s);
        pool_put(env->streams, s);
        return;
    }
    memcpy(s->src_addr, s->down.addr, sizeof(s->src_addr));
    s->src_port = s->down.port;
    new_flow_id(s);
    stats_add(env->stats, STAT_STREAMS_NOW, 1);
    stats_add(env->stats, kind == DP_LISTEN_MESH ? STAT_ACCEPTED_MESH : STAT_ACCEPTED_TRANSPARENT,
              1);
    run(s, down_new);
}

/* The last thing that happens to a stream: events while all is known, then everything back. */
static void end(struct stream *s, bool reset)
{
    struct stream_env *env = s->env;
    leg_settle_records(s, &s->down);
    leg_settle_records(s, &s->up);
    if (!s->announced)
        stream_post(s, s->established ? DP_EVENT_CLOSE : DP_EVENT_REFUSED);
    if (s->established) {
        stats_add(env->stats, STAT_STREAMS_CLOSED, 1);
        stats_record(env->stats, HISTOGRAM_DURATION_NS, clock_ns() - s->accepted_ns);
    }
    s->state = STREAM_CLOSED;
    stream_is_known(s);
    timer_cancel(env->timers, &s->phase);
    timer_cancel(env->timers, &s->duration);
    pump_fini(&s->to_up, &env->relay);
    pump_fini(&s->to_down, &env->relay);
    buffers_put(env->relay.buffers, s->early);
    buffers_put(env->relay.buffers, s->input);
    leg_close(s, &s->up, reset);
    leg_close(s, &s->down, reset);
    if (s->endpoint_held)
        endpoints_release(s->set, s->endpoint);
    endpoints_unref(s->set);
    dp_leaf_free((struct dp_leaf *)s->leaf);
    stats_add(env->stats, STAT_STREAMS_NOW, -1);
    s->next_dead = env->dead; /* its legs may still be named by this turn's readiness */
    env->dead = s;
}

void stream_kill(struct stream *s, uint16_t reason, const char *detail)
{
    if (s->state == STREAM_CLOSED)
        return;
    if (!s->announced)
        (void)stream_refuse(s, reason, "%s", detail != NULL ? detail : "");
    end(s, true);
}

void stream_reauthorize(struct stream *s)
{
    if (s->state == STREAM_CLOSED || s->state == STREAM_REFUSE || !s->routed)
        return;
    char detail[DP_DETAIL_MAX + 1] = "";
    uint16_t reason = stream_review(s, detail);
    if (reason == DP_REASON_NONE)
        return;
    stats_add(s->env->stats, STAT_REAUTHORIZED_CLOSED, 1);
    stream_kill(s, reason, detail);
}

void stream_free_dead(struct stream_env *env)
{
    while (env->dead != NULL) {
        struct stream *s = env->dead;
        env->dead = s->next_dead;
        free(s->src_id);
        free(s->dst_id);
        free(s->service);
        pool_put(env->details, s->detail);
        pool_put(env->streams, s);
    }
}
