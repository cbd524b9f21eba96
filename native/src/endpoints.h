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
/* Before it is handed to workers: takes over the state of the endpoints (same address, port,
 * kind and SNI) and of the set that the earlier version had. Publisher's thread. */
void endpoints_inherit(struct dp_endpoints *set, const struct dp_endpoints *earlier);

/* Picks one that was not tried yet and counts a connection on it and the set: lowest priority
 * first, healthy and not ejected; if ejection would leave none, an ejected one (never an
 * unhealthy one). tried is a bitmap of the first 64 endpoints' indexes, updated. Returns
 * 0 and *ret, -ENOENT (none), -EDQUOT (connection limit). */
DP_MUST_CHECK int endpoints_pick(const struct dp_endpoints *set, int64_t now_ms, uint64_t *rng,
                                 uint64_t *tried, const struct endpoint **ret);
/* Each picked endpoint ends in exactly one release. */
void endpoints_release(const struct dp_endpoints *set, const struct endpoint *endpoint);
void endpoint_succeeded(const struct dp_endpoints *set, const struct endpoint *endpoint);
/* Milliseconds it is now ejected for, or 0. */
uint32_t endpoint_failed(const struct dp_endpoints *set, const struct endpoint *endpoint,
                         int64_t now_ms);

#endif
