/* stream_up.c: the endpoint's side before bytes flow: pick, connect, handshake, header and first
 * payload out, reply in; and when one endpoint fails, the next. */
#define _GNU_SOURCE
#include "stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>

#include "address.h"
#include "clock.h"
#include "ejection.h"
#include "sys.h"

enum { KEEPALIVE_IDLE_S = 300, SKIPS_MAX = 64 };

/* The endpoint's fault: it counts towards its ejection. */
static void blame_endpoint(struct stream *s)
{
    stats_add(s->env->stats, STAT_CONNECT_FAILURES, 1);
    uint32_t for_ms = endpoint_failed(s->set, s->endpoint, clock_ms());
    if (for_ms > 0)
        ejection_announce(s, for_ms);
}

/* Another endpoint may do better, as long as the client's bytes are all still here. */
static enum outcome try_next(struct stream *s)
{
    blame_endpoint(s);
    return OUTCOME_RETRY;
}

static bool needs_tls(const struct stream *s)
{
    return s->endpoint->kind != DP_ENDPOINT_PLAIN;
}

static enum outcome pick(struct stream *s)
{
    for (uint32_t skips = 0; skips < SKIPS_MAX; skips++) {
        int r = endpoints_pick(s->set, clock_ms(), &s->env->rng, &s->tried, &s->endpoint);
        if (r == -EDQUOT)
            return stream_refuse(s, DP_REASON_LIMIT, "the service's connection limit is reached");
        if (r < 0)
            break;
        s->endpoint_held = true;
        if (s->flow != DP_FLOW_INBOUND || s->endpoint->kind != DP_ENDPOINT_MESH)
            return OUTCOME_DONE;
        stream_drop_endpoint(s); /* what came from a peer never goes to a peer: no loops */
    }
    s->endpoint = NULL;
    if (s->attempts > 0) /* the last attempt's reason stands */
        return OUTCOME_REFUSED;
    return stream_refuse(s, DP_REASON_NO_ENDPOINT, "no endpoint of the service is healthy");
}

/* May this source go to the endpoint that was picked, and with which leaf? */
static enum outcome admit(struct stream *s)
{
    if (s->flow != DP_FLOW_INBOUND)
        s->flow = s->endpoint->kind == DP_ENDPOINT_MESH ? DP_FLOW_OUTBOUND : DP_FLOW_LOCAL;
    if (s->flow != DP_FLOW_OUTBOUND) { /* else the destination's site decides and says why */
        char detail[DP_DETAIL_MAX + 1] = "";
        uint16_t reason = stream_authorize(s, detail);
        if (reason != DP_REASON_NONE)
            return stream_refuse(s, reason, "%s", detail);
    } else if (s->leaf == NULL && s->leaf_expired) {
        return stream_refuse(s, DP_REASON_EXPIRED, "the source's leaf has expired");
    } else if (s->leaf == NULL) {
        return stream_refuse(s, DP_REASON_NO_IDENTITY, "the source has no identity to cross with");
    }
    return OUTCOME_DONE;
}

static int bind_to_source(struct stream *s, int fd, int family)
{
    const int on = 1;
    if (!s->env->config->allow_transparent)
        return -EPERM;
    struct sockaddr_storage from;
    socklen_t len = address_to_socket(s->src_addr, 0, &from);
    if (from.ss_family != family)
        return -EAFNOSUPPORT;
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
    int name = family == AF_INET ? IP_TRANSPARENT : IPV6_TRANSPARENT;
    int r = sys->setsockopt(fd, level, name, &on, sizeof(on));
    if (r == 0) /* the port is chosen at connect, by the whole four-tuple */
        r = sys->setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    return r < 0 ? r : sys->bind(fd, (const struct sockaddr *)&from, len);
}

/* Only for hosts here: what a peer says of its client's address is good enough to be told, not to
 * speak with, since it might name a host of ours, or the service's own. */
static bool speaks_as_source(const struct stream *s)
{
    return s->source_address == DP_SOURCE_TRANSPARENT && s->flow != DP_FLOW_INBOUND &&
           !needs_tls(s);
}

static int prepare_socket(struct stream *s, int fd, int family)
{
    const int on = 1, idle_s = KEEPALIVE_IDLE_S;
    uint32_t mark = s->env->config->mark;
    int r = sys->setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (r == 0)
        r = sys->setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (r == 0)
        r = sys->setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    if (r == 0 && mark != 0)
        r = sys->setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
    if (r == 0 && speaks_as_source(s))
        r = bind_to_source(s, fd, family);
    return r;
}

/* WAIT, DONE when it connected at once, RETRY when it failed at once, REFUSED for our own faults. */
static enum outcome start(struct stream *s)
{
    struct sockaddr_storage to;
    socklen_t len = address_to_socket(s->endpoint->addr, s->endpoint->port, &to);
    memcpy(s->up.addr, s->endpoint->addr, sizeof(s->up.addr));
    s->up.port = s->endpoint->port;
    stats_add(s->env->stats, STAT_CONNECTS, 1);
    int fd = sys->socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (fd < 0)
        return stream_refuse(s, DP_REASON_INTERNAL, "no socket: %s", strerrordesc_np(-fd));
    int r = prepare_socket(s, fd, to.ss_family);
    if (r < 0) {
        sys->close(fd);
        return stream_refuse(s, DP_REASON_INTERNAL, "socket options: %s", strerrordesc_np(-r));
    }
    int connecting = sys->connect(fd, (const struct sockaddr *)&to, len);
    if (connecting < 0 && connecting != -EINPROGRESS) {
        sys->close(fd);
        (void)stream_refuse(s, DP_REASON_CONNECT_FAILED, "%s", strerrordesc_np(-connecting));
        return try_next(s);
    }
    r = leg_open_take(s, &s->up, fd);
    if (r < 0)
        return stream_refuse(s, DP_REASON_INTERNAL, "epoll: %s", strerrordesc_np(-r));
    stream_arm(s, s->connect_timeout_ms);
    return connecting < 0 ? OUTCOME_WAIT : OUTCOME_DONE;
}

static enum outcome connected(struct stream *s)
{
    if (needs_tls(s))
        return OUTCOME_DONE;
    endpoint_succeeded(s->set, s->endpoint);
    s->up.record = &s->up.plain;
    return OUTCOME_PLAIN;
}

enum outcome up_connect_enter(struct stream *s)
{
    enum outcome outcome;
    do {
        stream_drop_endpoint(s);
        if (s->attempts >= s->attempts_max)
            return OUTCOME_REFUSED; /* for the last attempt's reason */
        outcome = pick(s);
        if (outcome != OUTCOME_DONE)
            return outcome;
        if (s->attempts++ > 0)
            stats_add(s->env->stats, STAT_RETRIES, 1);
        outcome = admit(s);
        if (outcome != OUTCOME_DONE)
            return outcome;
        outcome = start(s);
    } while (outcome == OUTCOME_RETRY);
    return outcome == OUTCOME_DONE ? connected(s) : outcome;
}

enum outcome up_connect(struct stream *s)
{
    int error = 0;
    socklen_t len = sizeof(error);
    int r = sys->getsockopt(s->up.source.fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (r == 0 && error == 0) {
        struct sockaddr_storage to;
        len = sizeof(to);
        if (sys->getpeername(s->up.source.fd, (struct sockaddr *)&to, &len) < 0)
            return OUTCOME_WAIT; /* not there yet */
        return connected(s);
    }
    (void)stream_refuse(s, DP_REASON_CONNECT_FAILED, "%s", strerrordesc_np(r < 0 ? -r : error));
    return try_next(s);
}

enum outcome up_connect_timeout(struct stream *s)
{
    (void)stream_refuse(s, DP_REASON_CONNECT_TIMEOUT, "no answer within %u ms",
                        s->connect_timeout_ms);
    return try_next(s);
}

/* To a peer's site only the source's own leaf; to a host here ours will do as well, since it is
 * we who authorized the stream. */
static const struct dp_leaf *leaf_to_show(const struct stream *s)
{
    if (s->leaf != NULL || s->endpoint->kind == DP_ENDPOINT_MESH)
        return s->leaf;
    return snapshot_appliance_leaf(s->env->snapshot);
}

enum outcome up_handshake_enter(struct stream *s)
{
    const struct dp_leaf *leaf = leaf_to_show(s);
    if (leaf == NULL)
        return stream_refuse(s, DP_REASON_NO_IDENTITY, "no leaf to show to the endpoint");
    if (leaf->not_after_s <= clock_real_s())
        return stream_refuse(s, DP_REASON_EXPIRED, "the leaf to show has expired");
    const struct tls_client client = {
        .leaf = leaf,
        .sni = s->endpoint->sni,
        .expected = s->endpoint->expected,
        .expected_count = s->endpoint->expected_count,
    };
    int r = tls_new_client(s->env->tls, s->env->sessions, s->up.source.fd, &client, &s->up.tls);
    if (r < 0)
        return stream_refuse(s, DP_REASON_INTERNAL, "TLS client: %s", strerrordesc_np(-r));
    if (leg_prepare_tls(s, &s->up) < 0)
        return stream_refuse(s, DP_REASON_INTERNAL, "no memory for a TLS connection");
    s->up.started_ns = clock_ns();
    stream_arm(s, s->env->config->handshake_timeout_ms);
    return up_handshake(s);
}

/* The leaf that we showed, not the endpoint's own: the source's fault, and no reason to put the
 * endpoint aside for all the others. In TLS 1.3 it is told when our handshake is done already. */
static bool leaf_was_refused(const struct stream *s)
{
    return tls_refused_by_peer(s->up.tls) &&
           (s->reason == DP_REASON_REVOKED || s->reason == DP_REASON_EXPIRED ||
            s->reason == DP_REASON_PEER_IDENTITY);
}

enum outcome up_handshake(struct stream *s)
{
    int r = leg_handshake(s, &s->up);
    if (r < 0) {
        (void)stream_refuse(s, tls_reason(s->up.tls), "%s", tls_detail(s->up.tls));
        return leaf_was_refused(s) ? OUTCOME_REFUSED : try_next(s);
    }
    if (r == 0)
        return OUTCOME_WAIT;
    /* The certificate may have been looked at by an older snapshot. No publish looks at a leg that
     * is still shaking hands. */
    uint16_t reason = tls_peer_recheck(s->up.tls, s->env->snapshot, clock_real_s());
    if (reason != DP_REASON_NONE) {
        (void)stream_refuse(s, reason, "%s", tls_detail(s->up.tls));
        return try_next(s);
    }
    if (stream_set_name(&s->dst_id, tls_peer(s->up.tls)->id) < 0)
        return stream_refuse(s, DP_REASON_INTERNAL, "no memory for the stream's names");
    return OUTCOME_DONE;
}

enum outcome up_handshake_timeout(struct stream *s)
{
    (void)stream_refuse(s, DP_REASON_HANDSHAKE_TIMEOUT, "the endpoint did not finish in time");
    return try_next(s);
}

/* Header and the client's first bytes, as far as the endpoint takes them. 0 or -errno. */
static int send_early(struct stream *s)
{
    struct buffer *early = s->early;
    while (early->off < early->len) {
        ssize_t n = s->up.record->ops->write(s->up.record, early->data + early->off,
                                             early->len - early->off);
        if (n == -EAGAIN)
            break;
        if (n < 0)
            return (int)n;
        early->off += (uint32_t)n;
    }
    return 0;
}

static bool payload_sent(const struct stream *s)
{
    return s->early->off > LINK_HEADER_MAX;
}

/* The endpoint went silent or away without a reply. Whether it had begun to use the client's
 * bytes is not known, so only a stream that sent none may go to another. */
static enum outcome no_reply(struct stream *s)
{
    if (!payload_sent(s))
        return try_next(s);
    stats_add(s->env->stats, STAT_EARLY_RETRY_IMPOSSIBLE, 1);
    blame_endpoint(s);
    return OUTCOME_REFUSED;
}

static enum outcome up_failed(struct stream *s, int error)
{
    (void)stream_fail(s, &s->up, error);
    return leaf_was_refused(s) ? OUTCOME_REFUSED : no_reply(s);
}

static enum outcome exchange(struct stream *s)
{
    int r = stream_read_early(s);
    if (r < 0)
        return stream_fail(s, &s->down, r); /* the client is gone: nobody to try again for */
    return up_reply(s);
}

enum outcome up_reply_enter(struct stream *s)
{
    struct link_header header = {.src_port = s->src_port, .dst_port = s->dst_port};
    memcpy(header.src_addr, s->src_addr, sizeof(header.src_addr));
    memcpy(header.dst_addr, s->dst_addr, sizeof(header.dst_addr));
    memcpy(header.flow_id, s->flow_id, sizeof(header.flow_id));
    if (s->endpoint->kind == DP_ENDPOINT_AGENT) {
        memcpy(header.dst_addr, s->endpoint->addr, sizeof(header.dst_addr));
        header.dst_port = s->endpoint->target_port;
    }
    stream_prepare_early(s, &header);
    if (s->input == NULL)
        s->input = buffers_get(s->env->relay.buffers, false);
    s->input->off = s->input->len = 0;
    /* The endpoint's site may try several endpoints of its own before it answers. */
    uint64_t wait_ms = s->env->config->header_timeout_ms +
                       (uint64_t)s->connect_timeout_ms * s->attempts_max;
    stream_arm(s, wait_ms < INT32_MAX ? (uint32_t)wait_ms : INT32_MAX);
    return exchange(s);
}

enum outcome up_reply_down(struct stream *s)
{
    return exchange(s);
}

static bool may_retry(uint16_t reason)
{
    switch (reason) { /* of these the peer says that no byte reached a service */
    case DP_REASON_NO_ENDPOINT:
    case DP_REASON_CONNECT_FAILED:
    case DP_REASON_CONNECT_TIMEOUT:
    case DP_REASON_LIMIT:
    case DP_REASON_POOL_FULL:
    case DP_REASON_DRAIN:
        return true;
    default:
        return false;
    }
}

static enum outcome on_reply(struct stream *s, const struct link_reply *reply, uint32_t used)
{
    static const uint8_t no_flow_id[16];
    bool ours = memcmp(reply->flow_id, s->flow_id, sizeof(s->flow_id)) == 0;
    bool early_refusal = reply->reason != DP_REASON_NONE &&
                         memcmp(reply->flow_id, no_flow_id, sizeof(no_flow_id)) == 0;
    if (!ours && !early_refusal) {
        (void)stream_refuse(s, DP_REASON_BAD_REPLY, "the reply is for another stream");
        return no_reply(s);
    }
    if (reply->reason == DP_REASON_NONE) {
        endpoint_succeeded(s->set, s->endpoint);
        s->input->off = used; /* what follows is the service's first payload */
        return OUTCOME_DONE;
    }
    (void)stream_refuse(s, reply->reason, "%s", reply->detail);
    if (may_retry(reply->reason)) {
        if (reply->reason != DP_REASON_LIMIT)
            blame_endpoint(s);
        return OUTCOME_RETRY;
    }
    endpoint_succeeded(s->set, s->endpoint); /* it works: it said no */
    return OUTCOME_REFUSED;
}

enum outcome up_reply(struct stream *s)
{
    struct tls_info info;
    tls_get_info(s->up.tls, &info);
    struct buffer *input = s->input;
    int r = send_early(s); /* if that fails, a refusal may still be there to read */
    for (;;) {
        ssize_t n = s->up.record->ops->read(s->up.record, input->data + input->len,
                                            input->cap - LINK_REPLY_MAX - input->len);
        if (n == -EAGAIN)
            return r < 0 ? up_failed(s, r) : OUTCOME_WAIT;
        if (n < 0)
            return up_failed(s, (int)n);
        if (n == 0) {
            (void)stream_refuse(s, DP_REASON_REMOTE, "the endpoint ended without a reply");
            return no_reply(s);
        }
        input->len += (uint32_t)n;
        struct link_reply reply;
        int used = link_reply_decode(input->data, input->len, info.link_version, &reply);
        if (used > 0)
            return on_reply(s, &reply, (uint32_t)used);
        if (used < 0) {
            (void)stream_refuse(s, DP_REASON_BAD_REPLY, "the endpoint's reply is malformed");
            return no_reply(s);
        }
    }
}

enum outcome up_reply_timeout(struct stream *s)
{
    (void)stream_refuse(s, DP_REASON_CONNECT_TIMEOUT, "no reply from the endpoint in time");
    return no_reply(s);
}
