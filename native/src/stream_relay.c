/* stream_relay.c: an established stream: two pumps, half-closes, the end. */
#include "stream.h"

#include "clock.h"

enum { BRIEF_MS = 20 }; /* after a few bytes moved, nobody takes long turns */

/* The pump's source is the leg that the other pump's target is. */
static struct leg *source_leg(struct stream *s, const struct pump *pump)
{
    return pump == &s->to_up ? &s->down : &s->up;
}

static int run_pump(struct stream *s, struct pump *pump)
{
    struct stream_env *env = s->env;
    struct leg *leg = source_leg(s, pump);
    uint64_t before = pump->bytes;
    bool brief = env->moved_ms - env->few_ms < BRIEF_MS;
    env->relay.turn_bytes = relay_share(loop_busy(env->loop), brief);
    int r = pump_run(pump, &env->relay, leg->hangup);
    if (pump->bytes != before) {
        uint64_t moved = pump->bytes - before;
        stats_add(env->stats, pump == &s->to_up ? STAT_BYTES_UP : STAT_BYTES_DOWN, (int64_t)moved);
        s->active_ms = env->moved_ms = loop_now_ms(env->loop);
        if (relay_is_few(pump, moved))
            env->few_ms = env->moved_ms;
        else if (brief)
            env->moved_beside += moved;
    }
    if (r == PUMP_AGAIN)
        loop_requeue(env->loop, &leg->source);
    return r;
}

static enum outcome broken(struct stream *s, struct pump *pump, int error)
{
    struct pump *other = pump == &s->to_up ? &s->to_down : &s->to_up;
    if (pump->target_failed) /* what it said before it went away may be the answer: pass it on */
        (void)!run_pump(s, other);
    bool down = (pump == &s->to_down) == pump->target_failed;
    return stream_fail(s, down ? &s->down : &s->up, error);
}

static enum outcome run_both(struct stream *s)
{
    int r = run_pump(s, &s->to_down);
    if (r < 0)
        return broken(s, &s->to_down, r);
    r = run_pump(s, &s->to_up);
    if (r < 0)
        return broken(s, &s->to_up, r);
    return s->to_up.finished && s->to_down.finished ? OUTCOME_END : OUTCOME_WAIT;
}

/* 1 = a leg's records are others now, or no longer wait to be. */
static int move_once(struct stream *s)
{
    return leg_move_records(s, &s->down) | leg_move_records(s, &s->up);
}

/* A leg that has rested for it may have more to read, and what was not written to it waits: so the
 * pumps run again, and may bring the other leg to rest. Each is moved, or not, once. */
static enum outcome move_records(struct stream *s)
{
    enum outcome outcome = OUTCOME_WAIT;
    while (outcome == OUTCOME_WAIT && move_once(s) != 0)
        outcome = run_both(s);
    return outcome;
}

/* Something happened on leg. The pump that reads from it waits for the other leg's edge if it is
 * blocked; the one that writes to it has something to do only if it is. */
static enum outcome relay_leg(struct stream *s, struct leg *leg)
{
    struct pump *from = leg == &s->down ? &s->to_up : &s->to_down;
    struct pump *to = leg == &s->down ? &s->to_down : &s->to_up;
    int r = pump_blocked(from) ? leg_error(leg) : run_pump(s, from);
    if (r < 0)
        return broken(s, from, r);
    r = pump_blocked(to) ? run_pump(s, to) : 0;
    if (r < 0)
        return broken(s, to, r);
    return from->finished && to->finished ? OUTCOME_END : move_records(s);
}

enum outcome relay_down(struct stream *s)
{
    return relay_leg(s, &s->down);
}

enum outcome relay_up(struct stream *s)
{
    return relay_leg(s, &s->up);
}

/* The client's first bytes: what the endpoint has not taken yet, behind a PROXY header for a
 * plain endpoint that wants one. */
static void start_to_up(struct stream *s)
{
    struct pump *pump = &s->to_up;
    if (s->endpoint->kind == DP_ENDPOINT_PLAIN) {
        struct link_header header = {.src_port = s->src_port, .dst_port = s->dst_port};
        memcpy(header.src_addr, s->src_addr, sizeof(header.src_addr));
        memcpy(header.dst_addr, s->dst_addr, sizeof(header.dst_addr));
        memcpy(header.flow_id, s->flow_id, sizeof(header.flow_id));
        bool proxy = s->source_address == DP_SOURCE_PROXY;
        if (proxy || s->early != NULL)
            stream_prepare_early(s, proxy ? &header : NULL);
    }
    struct buffer *early = s->early;
    s->early = NULL;
    pump->source = s->down.record;
    pump->target = s->up.record;
    if (early == NULL)
        return;
    if (early->off > LINK_HEADER_MAX) { /* sent while the reply was awaited */
        pump->bytes = early->off - LINK_HEADER_MAX;
        stats_add(s->env->stats, STAT_BYTES_UP, (int64_t)pump->bytes);
    }
    if (early->off == early->len) {
        buffers_put(s->env->relay.buffers, early);
        return;
    }
    pump->uncounted = early->off < LINK_HEADER_MAX ? LINK_HEADER_MAX - early->off : 0;
    pump->tail = early;
}

/* The service's first bytes, that came with its reply, or the reply that we owe the client. Not
 * both: with both, they go out in one. */
static void start_to_down(struct stream *s)
{
    struct pump *pump = &s->to_down;
    struct buffer *input = s->input;
    s->input = NULL;
    pump->source = s->up.record;
    pump->target = s->down.record;
    if (s->down.tls != NULL) {
        uint8_t bytes[LINK_REPLY_MAX];
        struct link_reply reply = {.reason = DP_REASON_NONE};
        memcpy(reply.flow_id, s->flow_id, sizeof(reply.flow_id));
        struct tls_info info;
        tls_get_info(s->down.tls, &info);
        int size = link_reply_encode(&reply, info.link_version, bytes, sizeof(bytes));
        assert(size > 0);
        if (input == NULL)
            input = buffers_get(s->env->relay.buffers, false);
        uint32_t rest = input->len - input->off; /* up_reply leaves room for a reply */
        memmove(input->data + size, input->data + input->off, rest);
        memcpy(input->data, bytes, (size_t)size);
        input->off = 0;
        input->len = (uint32_t)size + rest;
        pump->uncounted = (uint32_t)size;
    }
    if (input != NULL && input->off == input->len) {
        buffers_put(s->env->relay.buffers, input);
        input = NULL;
    }
    pump->tail = input;
}

enum outcome relay_enter(struct stream *s)
{
    s->established = true;
    s->established_ns = clock_ns();
    s->reason = DP_REASON_NONE; /* an earlier attempt's */
    pool_put(s->env->details, s->detail);
    s->detail = NULL;
    start_to_up(s);
    start_to_down(s);
    stats_add(s->env->stats, STAT_STREAMS_OPENED, 1);
    stats_record(s->env->stats, HISTOGRAM_CONNECT_NS, s->established_ns - s->accepted_ns);
    stream_post(s, DP_EVENT_OPEN);
    s->active_ms = clock_ms();
    stream_arm(s, s->idle_timeout_ms);
    if (s->duration_max_ms > 0)
        timer_arm(s->env->timers, &s->duration, s->active_ms + s->duration_max_ms);
    return run_both(s);
}

enum outcome relay_timeout(struct stream *s)
{
    int64_t idle_ms = clock_ms() - s->active_ms;
    if (idle_ms < s->idle_timeout_ms) { /* it moved since: sleep for the rest */
        stream_arm(s, (uint32_t)(s->idle_timeout_ms - idle_ms));
        return OUTCOME_WAIT;
    }
    (void)stream_refuse(s, DP_REASON_IDLE_TIMEOUT, "no bytes for %u ms", s->idle_timeout_ms);
    return OUTCOME_END;
}
