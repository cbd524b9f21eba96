/* stream_route.c: who the source is, which service it means and whether it may: questions to the
 * snapshot, with copies into the stream as answers. Performs no I/O. */
#include "stream.h"

#include <stdio.h>

#include "clock.h"
#include "policy.h"

static const char revoked[] = "the source's identity is on the deny list";
static const char no_memory[] = "no memory for the stream's names";

static uint16_t say(uint16_t reason, char *detail, const char *text)
{
    snprintf(detail, DP_DETAIL_MAX + 1, "%s", text);
    return reason;
}

static bool leaf_denied(const struct dp_snapshot *snap, const struct dp_leaf *leaf)
{
    return snapshot_is_denied(snap, leaf->id, snapshot_trust_domain(snap), leaf->serial,
                              leaf->serial_len);
}

/* The delegated leaf that the stream goes on with. An expired one is not used: the source then
 * counts as not identified. */
static uint16_t take_leaf(struct stream *s, const struct dp_leaf *leaf, char *detail)
{
    if (leaf == NULL)
        return DP_REASON_NONE;
    if (leaf_denied(s->env->snapshot, leaf))
        return say(DP_REASON_REVOKED, detail, revoked);
    if (leaf->not_after_s <= clock_real_s()) {
        s->leaf_expired = true;
        return DP_REASON_NONE;
    }
    dp_leaf_ref(leaf);
    s->leaf = leaf;
    return DP_REASON_NONE;
}

static uint16_t take_service(struct stream *s, const struct service *service, uint32_t set_id,
                             char *detail)
{
    if (stream_set_name(&s->service, service->name) < 0 ||
        (service->leaf != NULL && stream_set_name(&s->dst_id, service->leaf->id) < 0))
        return say(DP_REASON_INTERNAL, detail, no_memory);
    s->service_port = service->port;
    s->source_address = service->source_address;
    s->connect_timeout_ms = service->connect_timeout_ms;
    s->attempts_max = service->attempts_max > 0 ? service->attempts_max : 1;
    s->idle_timeout_ms = service->idle_timeout_ms;
    s->duration_max_ms = service->duration_max_ms;
    s->routed = true;
    struct dp_endpoints *set = set_id != DP_NONE ? sets_get(s->env->sets, set_id) : NULL;
    if (set == NULL)
        return say(DP_REASON_NO_ENDPOINT, detail, "the service has no endpoints");
    endpoints_ref(set);
    s->set = set;
    return DP_REASON_NONE;
}

static uint16_t route_to_vip(struct stream *s, char *detail)
{
    const struct service *service = snapshot_vip(s->env->snapshot, s->dst_addr, s->dst_port);
    if (service == NULL)
        return say(DP_REASON_NO_ROUTE, detail, "no service at this address and port");
    s->flow = DP_FLOW_LOCAL; /* until an endpoint at a peer is picked */
    return take_service(s, service, service->outbound_set, detail);
}

uint16_t stream_route_transparent(struct stream *s, char *detail)
{
    const struct dp_snapshot *snap = s->env->snapshot;
    if (snapshot_is_own_address(snap, s->dst_addr))
        return say(DP_REASON_OWN_ADDRESS, detail, "the destination is the appliance itself");
    const struct host *host = snapshot_host(snap, s->src_addr);
    uint16_t reason = DP_REASON_NONE;
    if (host != NULL) {
        s->grade = host->grade;
        reason = host->grade == DP_GRADE_NONE ? say(DP_REASON_REVOKED, detail, revoked)
                                              : take_leaf(s, host->leaf, detail);
        if (host->leaf != NULL && !s->leaf_expired &&
            stream_set_name(&s->src_id, host->leaf->id) < 0)
            return say(DP_REASON_INTERNAL, detail, no_memory);
    }
    /* The service is looked up even for a denied source, so that the event can name it. */
    char unused[DP_DETAIL_MAX + 1];
    uint16_t routed = route_to_vip(s, reason != DP_REASON_NONE ? unused : detail);
    return reason != DP_REASON_NONE ? reason : routed;
}

/* A host's agent with the host's own leaf: it may speak for its own address only. */
static uint16_t route_agent(struct stream *s, const struct tls_peer *peer, char *detail)
{
    const struct dp_snapshot *snap = s->env->snapshot;
    if (strcmp(peer->trust_domain, snapshot_trust_domain(snap)) != 0)
        return say(DP_REASON_PEER_IDENTITY, detail,
                   "a host's own leaf from another trust domain");
    if (memcmp(s->src_addr, s->down.addr, sizeof(s->src_addr)) != 0) {
        memcpy(s->src_addr, s->down.addr, sizeof(s->src_addr));
        return say(DP_REASON_FORGED_HEADER, detail,
                   "the header names a source that is not the host's address");
    }
    const struct host *host = snapshot_agent(snap, peer->id);
    if (host == NULL)
        return say(DP_REASON_UNIDENTIFIED, detail, "no host is enrolled with this identity");
    s->agent = true;
    uint16_t reason = take_leaf(s, host->leaf, detail);
    return reason != DP_REASON_NONE ? reason : route_to_vip(s, detail);
}

/* An appliance that speaks for the source. Only appliances hold delegated leaves: a site's CA
 * signs them for nobody else, so this is a peer's appliance, or our own site's towards a host's
 * agent or a second box. In each case the stream goes to local endpoints and never further. */
static uint16_t route_inbound(struct stream *s, char *detail)
{
    s->flow = DP_FLOW_INBOUND;
    uint32_t set = DP_NONE;
    const struct service *service = snapshot_sni(s->env->snapshot, tls_sni(s->down.tls), &set);
    if (service == NULL)
        return say(DP_REASON_NO_ROUTE, detail, "no service is exported with this SNI");
    return take_service(s, service, set, detail);
}

uint16_t stream_route_mesh(struct stream *s, const struct link_header *header, char *detail)
{
    static const uint8_t no_flow_id[16];
    const struct tls_peer *peer = tls_peer(s->down.tls);
    if (stream_set_name(&s->src_id, peer->id) < 0)
        return say(DP_REASON_INTERNAL, detail, no_memory);
    s->grade = peer->grade;
    if (header->local)
        return say(DP_REASON_BAD_HEADER, detail, "the header has no addresses (LOCAL)");
    memcpy(s->src_addr, header->src_addr, sizeof(s->src_addr));
    memcpy(s->dst_addr, header->dst_addr, sizeof(s->dst_addr));
    s->src_port = header->src_port;
    s->dst_port = header->dst_port;
    if (memcmp(header->flow_id, no_flow_id, sizeof(no_flow_id)) != 0)
        memcpy(s->flow_id, header->flow_id, sizeof(s->flow_id));
    /* The handshake may be older than the snapshot. No publish looks at a stream without a route,
     * so whoever holds the header back would outlive a revocation. */
    uint16_t reason = tls_peer_recheck(s->down.tls, s->env->snapshot, clock_real_s());
    if (reason != DP_REASON_NONE)
        return say(reason, detail, tls_detail(s->down.tls));
    return peer->delegated ? route_inbound(s, detail) : route_agent(s, peer, detail);
}

static const struct service *find_service(const struct stream *s)
{
    const struct dp_snapshot *snap = s->env->snapshot;
    const struct service *service = s->flow == DP_FLOW_INBOUND
        ? snapshot_sni(snap, tls_sni(s->down.tls), NULL)
        : snapshot_service(snap, s->service, s->service_port);
    bool same = service != NULL && service->port == s->service_port &&
                strcmp(service->name, s->service) == 0;
    return same ? service : NULL;
}

uint16_t stream_authorize(struct stream *s, char *detail)
{
    const struct service *service = find_service(s);
    if (service == NULL)
        return say(DP_REASON_NO_ROUTE, detail, "the service is gone");
    struct policy_input input = {
        .id = s->src_id,
        .grade = s->grade,
        .sni = s->down.tls != NULL ? tls_sni(s->down.tls) : "",
    };
    memcpy(input.addr, s->down.addr, sizeof(input.addr)); /* of a peer's host: its appliance's */
    memcpy(input.remote_addr, s->src_addr, sizeof(input.remote_addr));
    uint16_t reason = policy_authorize(service, &input, detail);
    if (reason == DP_REASON_UNIDENTIFIED && s->leaf_expired)
        return say(DP_REASON_EXPIRED, detail, "the source's leaf has expired");
    return reason;
}

/* What the host tables say now about a source at this site. */
static uint16_t review_source(struct stream *s, char *detail)
{
    const struct dp_snapshot *snap = s->env->snapshot;
    const struct host *host =
        s->agent ? snapshot_agent(snap, s->src_id) : snapshot_host(snap, s->src_addr);
    const struct dp_leaf *leaf = host != NULL ? host->leaf : NULL;
    if (host != NULL && (host->grade == DP_GRADE_NONE || (leaf != NULL && leaf_denied(snap, leaf))))
        return say(DP_REASON_REVOKED, detail, revoked);
    if (s->agent)
        return host != NULL ? DP_REASON_NONE
                            : say(DP_REASON_REAUTHORIZED, detail, "the host is not enrolled any more");
    bool same = leaf != NULL && s->src_id != NULL ? strcmp(leaf->id, s->src_id) == 0
                                                  : leaf == NULL && s->src_id == NULL;
    if (!same && !s->leaf_expired)
        return say(DP_REASON_REAUTHORIZED, detail,
                   "the source's address stands for another identity now");
    if (s->src_id != NULL && leaf->not_after_s <= clock_real_s())
        return say(DP_REASON_EXPIRED, detail, "the source's leaf has expired");
    s->grade = host != NULL ? host->grade : DP_GRADE_NONE;
    return DP_REASON_NONE;
}

uint16_t stream_review(struct stream *s, char *detail)
{
    const struct dp_snapshot *snap = s->env->snapshot;
    struct leg *legs[] = {&s->down, &s->up};
    for (size_t i = 0; i < DP_COUNT(legs); i++) {
        if (legs[i]->tls == NULL || legs[i]->record == NULL)
            continue;
        uint16_t reason = tls_peer_recheck(legs[i]->tls, snap, clock_real_s());
        if (reason != DP_REASON_NONE)
            return say(reason, detail, tls_detail(legs[i]->tls));
    }
    if (s->flow != DP_FLOW_INBOUND) {
        uint16_t reason = review_source(s, detail);
        if (reason != DP_REASON_NONE)
            return reason;
    }
    if (find_service(s) == NULL)
        return say(DP_REASON_REAUTHORIZED, detail, "the service was withdrawn");
    if (s->flow == DP_FLOW_OUTBOUND) /* the destination asks its own policies */
        return DP_REASON_NONE;
    uint16_t reason = stream_authorize(s, detail);
    return reason == DP_REASON_NONE || reason == DP_REASON_EXPIRED ? reason
                                                                   : DP_REASON_REAUTHORIZED;
}
