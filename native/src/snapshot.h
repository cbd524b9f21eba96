/* snapshot.h: what the workers look up: hosts, services, VIPs, SNI, leaves, bundles, deny list,
 * policies, endpoint sets. Built by one thread, immutable once sealed, counted references. */
#ifndef SLUICE_SNAPSHOT_H
#define SLUICE_SNAPSHOT_H

#include <openssl/ssl.h>

#include "base.h"
#include "rules.h"

struct dp_leaf {                 /* counted; immutable */
    atomic_uint refs;
    char id[DP_ID_MAX + 1];
    X509 *cert;                  /* owned */
    STACK_OF(X509) *chain;       /* owned; intermediates, leaf excluded */
    EVP_PKEY *key;               /* owned */
    int64_t not_after_s;         /* CLOCK_REALTIME */
    uint8_t serial[20];
    uint8_t serial_len;
};

struct dp_bundle {               /* counted; immutable */
    atomic_uint refs;
    char trust_domain[DP_ID_MAX + 1];
    X509_STORE *store;           /* owned */
    uint8_t fingerprint[32];     /* SHA-256 over the sorted certificates: its generation */
};

struct service {
    const char *name, *namespace_; /* owned by the snapshot */
    uint16_t port;
    uint8_t mtls, grade_min, source_address;
    const struct dp_leaf *leaf;  /* NULL = none in use */
    uint32_t outbound_set;       /* DP_NONE */
    uint32_t connect_timeout_ms, attempts_max, idle_timeout_ms, duration_max_ms;
    const struct rules *rules;   /* borrowed from the snapshot */
    const uint32_t *policies;    /* indexes in rules: of DENY, then of ALLOW, each ascending */
    uint32_t policy_count, deny_count; /* of both; of DENY */
};

struct host {                    /* a source known by address, or by its own leaf */
    const char *name;
    uint8_t grade;               /* DP_GRADE_NONE = revoked */
    const struct dp_leaf *leaf;  /* delegated; NULL = known but without identity in use */
};

void dp_leaf_ref(const struct dp_leaf *leaf);     /* dp_leaf_free drops one */
void dp_bundle_ref(const struct dp_bundle *bundle);
void snapshot_ref(const struct dp_snapshot *snap);
void snapshot_unref(const struct dp_snapshot *snap); /* accepts NULL */
uint32_t snapshot_alive(void);                    /* not yet freed, in this process */

bool snapshot_is_sealed(const struct dp_snapshot *snap);
uint64_t snapshot_version(const struct dp_snapshot *snap);
const char *snapshot_trust_domain(const struct dp_snapshot *snap);
bool snapshot_is_own_address(const struct dp_snapshot *snap, const uint8_t *addr);
const struct host *snapshot_host(const struct dp_snapshot *snap, const uint8_t *addr);
const struct host *snapshot_agent(const struct dp_snapshot *snap, const char *spiffe_id);
const struct service *snapshot_vip(const struct dp_snapshot *snap, const uint8_t *addr,
                                   uint16_t port);
const struct service *snapshot_sni(const struct dp_snapshot *snap, const char *sni,
                                   uint32_t *ret_set); /* ret_set may be NULL */
/* Finds the service by name and port in a later snapshot, for live streams; NULL = gone. */
const struct service *snapshot_service(const struct dp_snapshot *snap, const char *name,
                                       uint16_t port);
const dp_offload *snapshot_offload(const struct dp_snapshot *snap); /* NULL = does not say */
const struct dp_leaf *snapshot_appliance_leaf(const struct dp_snapshot *snap);
const struct dp_bundle *snapshot_bundle(const struct dp_snapshot *snap, const char *trust_domain,
                                        size_t len);
bool snapshot_is_denied(const struct dp_snapshot *snap, const char *spiffe_id,
                        const char *trust_domain, const uint8_t *serial, size_t serial_len);

/* The sets it was published with; ids are what services and SNIs name. */
uint32_t snapshot_set_count(const struct dp_snapshot *snap);
struct dp_endpoints *snapshot_set_at(const struct dp_snapshot *snap, uint32_t index,
                                     uint32_t *ret_id);

#endif
