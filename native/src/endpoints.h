/* endpoints.h: a set of endpoints: balancing, limits, ejection. The set is immutable and counted;
 * what must hold for the service and not per worker (connections, failures, ejections, the round
 * robin position) is relaxed atomics in state that survives a swap of the set. */
#ifndef SLUICE_ENDPOINTS_H
#define SLUICE_ENDPOINTS_H

#include "base.h"

struct endpoint_state;           /* counted; shared between versions of a set and workers */
struct endpoints_state;

struct endpoint {
    uint8_t addr[16];
    uint16_t port, target_port;
    uint8_t kind, priority, healthy;
    uint32_t weight;
    const char *name, *sni, *service; /* owned by the set */
    const char *const *expected; /* SPIFFE IDs; owned by the set */
    uint32_t expected_count;
    struct endpoint_state *state; /* counted */
};

void endpoints_ref(const struct dp_endpoints *set);
void endpoints_unref(const struct dp_endpoints *set); /* accepts NULL */
/* Builds what balancing needs; after it the set is immutable. Again = no-op. dp_snapshot_seal does
 * it for the sets of a snapshot, the publisher for one that swaps alone. */
DP_MUST_CHECK int endpoints_seal(struct dp_endpoints *set);
/* Before a sealed set is handed to workers: takes over the state of the endpoints (same address,
 * port, kind and SNI) and of the set that the earlier version had. Publisher's thread. */
void endpoints_inherit(struct dp_endpoints *set, const struct dp_endpoints *earlier);
uint32_t endpoints_count(const struct dp_endpoints *set);
const struct endpoint *endpoints_at(const struct dp_endpoints *set, uint32_t i);
uint32_t endpoints_connections(const struct dp_endpoints *set);  /* of all workers, now */
uint32_t endpoint_connections(const struct endpoint *endpoint);  /* the same */
bool endpoint_is_ejected(const struct endpoint *endpoint, int64_t now_ms);

/* Picks one that was not tried yet and counts a connection on it and the set: lowest priority
 * first, healthy and not ejected; if ejection would leave none, an ejected one (never an
 * unhealthy one). tried is a bitmap of the first 64 endpoints' indexes, updated. rng is the
 * caller's random state, any value to start with. Returns 0 and *ret, -ENOENT (none), -EDQUOT
 * (connection limit). */
DP_MUST_CHECK int endpoints_pick(const struct dp_endpoints *set, int64_t now_ms, uint64_t *rng,
                                 uint64_t *tried, const struct endpoint **ret);
/* Each picked endpoint ends in exactly one release. */
void endpoints_release(const struct dp_endpoints *set, const struct endpoint *endpoint);
void endpoint_succeeded(const struct dp_endpoints *set, const struct endpoint *endpoint);
/* A failed connect. Milliseconds it is ejected for if this was one too many, else 0: base times the
 * ejections so far, at most max. One ejection is forgotten for every base time without another.
 * Not more than the percentage of the set at once, but one may always be. */
uint32_t endpoint_failed(const struct dp_endpoints *set, const struct endpoint *endpoint,
                         int64_t now_ms);

#endif
