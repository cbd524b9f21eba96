/* stream_down.c: the client's side before bytes flow: accept, handshake, PROXY header, and the
 * reply that says why not. */
#include "stream.h"

#include "address.h"
#include "clock.h"
#include "sys.h"

/* Once refused, a client may still be sending; this much is read away so that a reset does not
 * overtake the reply. */
enum { DISCARD_MAX = 256 * 1024 };

enum outcome down_new(struct stream *s)
{
    if (s->kind == DP_LISTEN_MESH)
        return OUTCOME_DONE;
    struct sockaddr_storage to;
    socklen_t len = sizeof(to);
    int r = sys->getsockname(s->down.source.fd, (struct sockaddr *)&to, &len);
    if (r < 0)
        return stream_refuse(s, DP_REASON_INTERNAL, "getsockname failed");
    address_from_socket(&to, s->dst_addr, &s->dst_port);
    s->down.record = &s->down.plain;
    char detail[DP_DETAIL_MAX + 1] = "";
    uint16_t reason = stream_route_transparent(s, detail);
    return reason == DP_REASON_NONE ? OUTCOME_PLAIN : stream_refuse(s, reason, "%s", detail);
}

enum outcome down_handshake_enter(struct stream *s)
{
    if (tls_new_server(s->env->tls, s->down.source.fd, &s->down.tls) < 0 ||
        leg_prepare_tls(s, &s->down) < 0)
        return stream_refuse(s, DP_REASON_INTERNAL, "no memory for a TLS connection");
    s->down.started_ns = clock_ns();
    stream_arm(s, s->env->config->handshake_timeout_ms);
    return down_handshake(s);
}

enum outcome down_handshake(struct stream *s)
{
    int r = leg_handshake(s, &s->down);
    if (r < 0)
        return stream_refuse(s, tls_reason(s->down.tls), "%s", tls_detail(s->down.tls));
    return r == 0 ? OUTCOME_WAIT : OUTCOME_DONE;
}

enum outcome down_handshake_timeout(struct stream *s)
{
    return stream_refuse(s, DP_REASON_HANDSHAKE_TIMEOUT, "the client did not finish in time");
}

enum outcome down_header_enter(struct stream *s)
{
    s->input = buffers_get(s->env->relay.buffers, false);
    stream_arm(s, s->env->config->header_timeout_ms);
    return down_header(s);
}

/* What came behind the header is the client's first payload; its place in early is fixed. */
static void keep_early(struct stream *s, uint32_t used)
{
    struct buffer *buffer = s->input;
    uint32_t rest = buffer->len - used;
    s->input = NULL;
    memmove(buffer->data + LINK_HEADER_MAX, buffer->data + used, rest);
    buffer->off = LINK_HEADER_MAX;
    buffer->len = LINK_HEADER_MAX + rest;
    s->early = buffer;
}

enum outcome down_header(struct stream *s)
{
    struct buffer *buffer = s->input;
    struct record *record = s->down.record;
    struct link_header header;
    int used = 0;
    while (used == 0) {
        ssize_t n = record->ops->read(record, buffer->data + buffer->len,
                                      buffer->cap - LINK_HEADER_MAX - buffer->len);
        if (n == -EAGAIN)
            return OUTCOME_WAIT;
        if (n < 0)
            return stream_fail(s, &s->down, (int)n);
        if (n == 0)
            return stream_refuse(s, DP_REASON_BAD_HEADER, "the client ended before its header");
        buffer->len += (uint32_t)n;
        used = link_header_decode(buffer->data, buffer->len, &header);
    }
    if (used < 0)
        return stream_refuse(s, DP_REASON_BAD_HEADER, "not a PROXY v2 header that we take");
    keep_early(s, (uint32_t)used);
    char detail[DP_DETAIL_MAX + 1] = "";
    uint16_t reason = stream_route_mesh(s, &header, detail);
    if (reason != DP_REASON_NONE)
        return stream_refuse(s, reason, "%s", detail);
    stream_is_known(s);
    return OUTCOME_DONE;
}

enum outcome down_header_timeout(struct stream *s)
{
    return stream_refuse(s, DP_REASON_BAD_HEADER, "no whole PROXY header in time");
}

/* While an endpoint is looked for, the client's bytes stay in the kernel; only its reset is of
 * interest. */
enum outcome down_watch(struct stream *s)
{
    int r = leg_error(&s->down); /* a half-close is none: the client may wait for an answer */
    return r < 0 ? stream_fail(s, &s->down, r) : OUTCOME_WAIT;
}

enum outcome down_refuse_enter(struct stream *s)
{
    struct stream_env *env = s->env;
    leg_settle_records(s, &s->down);
    stream_post(s, DP_EVENT_REFUSED);
    stream_drop_endpoint(s);
    if (s->down.tls == NULL)
        return OUTCOME_END;
    if (s->input == NULL)
        s->input = buffers_get(env->relay.buffers, false);
    s->input->off = s->input->len = 0;
    stream_arm(s, env->config->header_timeout_ms);
    if (s->down.record == NULL) /* the handshake failed: OpenSSL has sent its alert */
        return down_refuse(s);
    struct link_reply reply = {.reason = s->reason};
    memcpy(reply.flow_id, s->flow_id, sizeof(reply.flow_id));
    if (s->detail != NULL)
        memcpy(reply.detail, s->detail, sizeof(reply.detail));
    struct tls_info info;
    tls_get_info(s->down.tls, &info);
    int size = link_reply_encode(&reply, info.link_version, s->input->data, s->input->cap);
    assert(size > 0);
    s->input->len = (uint32_t)size;
    return down_refuse(s);
}

/* Below TLS: whatever still comes is of no interest, only that it ends. */
static enum outcome discard(struct stream *s)
{
    struct buffer *scratch = buffers_get(s->env->relay.buffers, false);
    ssize_t n;
    while ((n = sys->recv(s->down.source.fd, scratch->data, scratch->cap, 0)) > 0 &&
           s->discarded < DISCARD_MAX)
        s->discarded += (uint32_t)n;
    buffers_put(s->env->relay.buffers, scratch);
    return n == -EAGAIN ? OUTCOME_WAIT : OUTCOME_END;
}

enum outcome down_refuse(struct stream *s)
{
    struct buffer *reply = s->input;
    struct record *record = s->down.record;
    while (record != NULL && reply->off < reply->len) {
        ssize_t n = record->ops->write(record, reply->data + reply->off, reply->len - reply->off);
        if (n == -EAGAIN)
            return OUTCOME_WAIT;
        if (n < 0)
            return OUTCOME_END;
        reply->off += (uint32_t)n;
    }
    if (record != NULL) {
        int r = record->ops->finish(record);
        if (r < 0)
            return r == -EAGAIN ? OUTCOME_WAIT : OUTCOME_END;
        s->down.record = NULL; /* nothing more passes as a record */
    }
    if (s->discarded == 0)
        (void)sys->shutdown(s->down.source.fd, SHUT_WR);
    return discard(s);
}

enum outcome down_refuse_timeout(struct stream *s)
{
    (void)s;
    return OUTCOME_END;
}
