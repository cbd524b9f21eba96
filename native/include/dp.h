/* dp.h: the whole public API of the data plane. The marked part is the cffi cdef, so one copy
 * cannot drift: no macros, attributes or includes between the marks.
 *
 * Conventions. Functions return 0 (or a count) on success and -errno on failure; outputs are
 * named ret_… and are untouched on failure. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, in
 * network order; ports are host order. Strings are NUL-terminated UTF-8 and are copied.
 * …_take takes ownership of its argument, also on failure. Times end in their unit.
 * The library never logs, never calls back and never parses configuration. */
#ifndef SLUICE_DP_H
#define SLUICE_DP_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)
/* cdef: begin */
enum {
    DP_ABI_VERSION = 1,
    DP_WORKERS_MAX = 64,
    DP_NONE = 0x7fffffff,     /* no leaf, no service, no set */
    DP_ID_MAX = 255,          /* a SPIFFE ID's length, without the NUL */
    DP_NAME_MAX = 253,        /* a service's, endpoint's or policy's name */
    DP_DETAIL_MAX = 255,      /* the text that says why */
    DP_TICKET_KEY_SIZE = 80,  /* name 16, AES-256 key 32, HMAC-SHA-256 key 32 */
    DP_EXPECTED_MAX = 64,     /* SPIFFE IDs that one endpoint may answer with */
    DP_LOST_MAX = 64          /* addresses of links that are lost at once */
};

/* What a listening socket carries. */
enum dp_listener_kind {
    DP_LISTEN_TRANSPARENT = 0, /* plain TCP, IP_TRANSPARENT: getsockname is the original target */
    DP_LISTEN_MESH = 1         /* mTLS: peers' appliances and hosts' agents, told apart by leaf */
};

/* How sure we are of a source, weakest first. */
enum dp_grade { DP_GRADE_NONE = 0, DP_GRADE_L3 = 1, DP_GRADE_L2 = 2, DP_GRADE_PORT = 3,
                DP_GRADE_KEY = 4 };

/* Who moves and encrypts a leg's bytes. */
enum dp_record_layer { DP_RECORD_PLAIN = 0, DP_RECORD_SPLICE = 1, DP_RECORD_OPENSSL = 2,
                       DP_RECORD_USER = 3, DP_RECORD_KTLS = 4, DP_RECORD_NIC = 5 };

enum dp_endpoint_kind {
    DP_ENDPOINT_PLAIN = 0, /* TCP straight to the service */
    DP_ENDPOINT_AGENT = 1, /* mTLS to the host's agent, link protocol inside */
    DP_ENDPOINT_MESH = 2   /* mTLS to a peer site's mesh listener, link protocol inside */
};

enum dp_balance { DP_BALANCE_ROUND_ROBIN = 0, DP_BALANCE_RANDOM = 1, DP_BALANCE_LEAST_REQUEST = 2 };

enum dp_mtls_mode { DP_MTLS_STRICT = 0, DP_MTLS_PERMISSIVE = 1, DP_MTLS_DISABLE = 2 };

/* Whose address a plain endpoint sees. TRANSPARENT: the client's, if it is a host here; ours, if it
 * comes from a peer. PROXY: ours, and a PROXY v2 header tells the client's. */
enum dp_source_address { DP_SOURCE_APPLIANCE = 0, DP_SOURCE_TRANSPARENT = 1, DP_SOURCE_PROXY = 2 };

enum dp_action { DP_ALLOW = 0, DP_DENY = 1 };

/* Authorization rules, as Istio's AuthorizationPolicy has them. A rule matches when its FROM
 * part (any entry), its TO part (any entry) and its WHEN part (every entry) match; an absent
 * part matches. An entry matches when each field in it does: any positive value, no negated. */
enum dp_part { DP_PART_FROM = 0, DP_PART_TO = 1, DP_PART_WHEN = 2 };
enum dp_field {
    DP_FIELD_PRINCIPAL = 0,    /* text: SPIFFE ID without "spiffe://" */
    DP_FIELD_NAMESPACE = 1,    /* text: of the source's SPIFFE ID */
    DP_FIELD_IP = 2,           /* addr/prefix: the other end's of the connection: a host's of this
                                * site, or a peer's appliance's */
    DP_FIELD_REMOTE_IP = 3,    /* addr/prefix: the same, or what the PROXY header says of the source:
                                * a peer's word */
    DP_FIELD_PORT = 4,         /* port: the service's port */
    DP_FIELD_GRADE = 5,        /* number: the source's grade is at least this */
    DP_FIELD_TRUST_DOMAIN = 6, /* text: of the source's SPIFFE ID */
    DP_FIELD_SERVICE_ACCOUNT = 7, /* text: "<namespace>/<service account>" of the source */
    DP_FIELD_SNI = 8           /* text: connection.sni */
};
enum dp_match_op { DP_MATCH_EXACT = 0, DP_MATCH_PREFIX = 1, DP_MATCH_SUFFIX = 2,
                   DP_MATCH_PRESENT = 3 };

/* Why a stream was refused or ended. The numbers are stable: they cross the mesh link. */
enum dp_reason {
    DP_REASON_NONE = 0,              /* ended by its own ends */
    DP_REASON_NO_ROUTE = 1,          /* no service at that address and port, or SNI */
    DP_REASON_OWN_ADDRESS = 2,       /* original destination is the listener's own address */
    DP_REASON_UNIDENTIFIED = 3,      /* the source has no identity and the service is STRICT */
    DP_REASON_GRADE = 4,             /* the identity's grade is weaker than required */
    DP_REASON_DENIED = 5,            /* an AuthorizationPolicy said no; detail names it */
    DP_REASON_NO_ENDPOINT = 6,       /* none in the set is healthy */
    DP_REASON_CONNECT_FAILED = 7,    /* every attempt was refused, reset or unreachable */
    DP_REASON_CONNECT_TIMEOUT = 8,
    DP_REASON_LIMIT = 9,             /* the service's connection limit */
    DP_REASON_POOL_FULL = 10,        /* one of our own pools */
    DP_REASON_HANDSHAKE = 11,        /* TLS failed: detail has OpenSSL's reason */
    DP_REASON_HANDSHAKE_TIMEOUT = 12,
    DP_REASON_PEER_IDENTITY = 13,    /* chain, trust domain, expiry or SPIFFE ID not as expected */
    DP_REASON_REVOKED = 14,          /* leaf or identity is on the deny list */
    DP_REASON_EXPIRED = 15,          /* our leaf or theirs ran out */
    DP_REASON_BAD_HEADER = 16,       /* PROXY header malformed or too long */
    DP_REASON_FORGED_HEADER = 17,    /* PROXY source not believed from this leaf */
    DP_REASON_BAD_REPLY = 18,        /* link reply malformed */
    DP_REASON_REMOTE = 19,           /* the peer refused without a reason we know */
    DP_REASON_IDLE_TIMEOUT = 20,
    DP_REASON_DURATION = 21,         /* maxConnectionDuration */
    DP_REASON_DRAIN = 22,            /* the drain deadline passed */
    DP_REASON_RESET = 23,            /* an end reset the connection */
    DP_REASON_TRUNCATED = 24,        /* FIN without close_notify */
    DP_REASON_REAUTHORIZED = 25,     /* a publish withdrew the permission */
    DP_REASON_INTERNAL = 26,         /* a system call failed that should not */
    DP_REASON_NO_IDENTITY = 27,      /* no leaf in use for the source or the service */
    DP_REASON_COUNT = 28
};

/* Why a leg's records are not where the profile would have them: in the kernel, or on the NIC.
 * Each leg is counted under one of them, NONE too, when it is decided. */
enum dp_fallback {
    DP_FALLBACK_NONE = 0,          /* they are, or nobody asked */
    DP_FALLBACK_NO_KERNEL_TLS = 1, /* no TLS in this kernel, or its module is not loaded */
    DP_FALLBACK_SOCKET = 2,        /* this socket cannot have it: gone already, or in other hands */
    DP_FALLBACK_KERNEL_CIPHER = 3, /* the kernel refused to send with this suite */
    DP_FALLBACK_CIPHER = 4,        /* a suite that we cannot give it, or that no device takes */
    DP_FALLBACK_READ_AHEAD = 5,    /* bytes that came behind the handshake were read already */
    DP_FALLBACK_MEMORY = 6,
    DP_FALLBACK_HALF = 7,          /* it seals but would not open: we do that */
    DP_FALLBACK_VERSION = 8,       /* NIC: the profile allows TLS 1.3 only, which no device takes */
    DP_FALLBACK_PEER = 9,          /* NIC: the peer did not agree to TLS 1.2 */
    DP_FALLBACK_NO_DEVICE = 10,    /* NIC: in the kernel, but its device does not encrypt */
    DP_FALLBACK_KEY_UPDATE = 11,   /* the peer's wish for a new key was not served yet */
    DP_FALLBACK_SMALL = 12,        /* the stream ended below bytes_min */
    DP_FALLBACK_DEARER = 13,       /* auto: our own records are cheaper */
    DP_FALLBACK_BUSY = 14,         /* never at rest between two records, both ways, to be moved */
    DP_FALLBACK_LINK_CHANGED = 15, /* NIC: its link was lost since, and the kernel seals for it. Such a
                                    * leg is counted here beside NONE or SEALS_ONLY, where it began */
    DP_FALLBACK_SEALS_ONLY = 16,   /* NIC: its device seals, and the kernel opens */
    DP_FALLBACK_IN_DOUBT = 17,     /* NIC: in the kernel; whether its device works could not be seen */
    DP_FALLBACK_COUNT = 18
};

/* What the operator would have for the records of TLS legs. */
enum dp_prefer {
    DP_PREFER_AUTO = 0,    /* what is measured cheapest without a NIC: our own */
    DP_PREFER_USER = 1,
    DP_PREFER_OPENSSL = 2, /* all by OpenSSL, for auditors */
    DP_PREFER_KTLS = 3,    /* in the kernel, in software */
    DP_PREFER_NIC = 4      /* in the kernel, by the NIC; TLS 1.2 only: see tls12 */
};

/* TLS 1.2 on mesh links: ECDHE-ECDSA-AES-GCM with the extended master secret, nothing else. It
 * shows both ends' certificates on the wire. A client offers it only with PREFER, and always
 * beside TLS 1.3; a server takes it from whom offers it. So a link has it when its source's side
 * prefers it and the other allows it, and TLS 1.3 in every other case. */
enum dp_tls12 { DP_TLS12_NEVER = 0, DP_TLS12_ALLOW = 1, DP_TLS12_PREFER = 2 };

enum dp_event_kind {
    DP_EVENT_OPEN = 1,    /* a stream is established end to end */
    DP_EVENT_UPDATE = 2,  /* a live stream's totals, every few seconds if they changed */
    DP_EVENT_CLOSE = 3,   /* an established stream ended: totals and reason */
    DP_EVENT_REFUSED = 4, /* a stream that was never established: reason and detail */
    DP_EVENT_EJECTED = 5, /* endpoint put aside: service, peer address, duration_ns */
    DP_EVENT_RETURNED = 6 /* ejection over */
};

enum dp_flow_kind {
    DP_FLOW_LOCAL = 0,   /* source and endpoint both at this site */
    DP_FLOW_OUTBOUND = 1,/* from a host here over a mesh link to a peer */
    DP_FLOW_INBOUND = 2  /* from a peer's mesh link to an endpoint here */
};

/* An event record: this head, then src_id, dst_id, service, endpoint, detail without NULs, padded
 * to 8 bytes. size counts all of it. */
typedef struct {
    uint32_t size;
    uint16_t kind;            /* enum dp_event_kind */
    uint16_t worker;
    uint64_t time_ns;         /* CLOCK_REALTIME */
    uint8_t flow_id[16];      /* same at both ends of a mesh link */
    uint8_t src_addr[16], dst_addr[16], peer_addr[16]; /* client, original target, next hop */
    uint16_t src_port, dst_port, peer_port;
    uint8_t flow;             /* enum dp_flow_kind */
    uint8_t grade;            /* enum dp_grade of the source */
    uint8_t down_layer, up_layer; /* enum dp_record_layer of each leg */
    uint16_t down_tls, up_tls;    /* 0 or 0x0303, 0x0304 */
    uint16_t down_cipher, up_cipher; /* IANA number or 0 */
    uint16_t reason;          /* enum dp_reason */
    uint8_t resumed;          /* bit 0 down, bit 1 up */
    uint8_t retries;
    uint8_t down_fallback, up_fallback; /* enum dp_fallback of each leg, so far */
    uint64_t bytes_up, bytes_down; /* client to service, service to client; payload only */
    uint64_t connect_ns;      /* accept until established */
    uint64_t duration_ns;
    uint16_t src_id_len, dst_id_len, service_len, endpoint_len, detail_len;
    uint16_t pad[3];
} dp_event;

typedef struct {
    uint32_t workers;             /* 1 … DP_WORKERS_MAX */
    uint32_t streams_max;         /* a worker; further accepts are closed and counted, and those
                                   * of strangers from a quarter on */
    uint32_t pipes_max;           /* a worker may make itself, beside those added */
    uint32_t handshakes_per_turn; /* of the loop, so that data does not stall */
    uint32_t sessions_max;        /* resumable client sessions kept, a worker; 0 = none */
    uint32_t event_bytes;         /* of each worker's event ring, a power of two */
    uint32_t handshake_timeout_ms;
    uint32_t header_timeout_ms;   /* from handshake to a whole PROXY header, or reply */
    uint32_t update_interval_ms;  /* between DP_EVENT_UPDATE */
    uint32_t mark;                /* SO_MARK on upstream sockets; 0 = none */
    uint8_t pin;                  /* pin worker n to the nth allowed processor */
    uint8_t allow_transparent;    /* may bind to a client's address (CAP_NET_RAW) */
    uint8_t records;              /* of TLS legs while a snapshot does not say (dp_offload):
                                   * DP_RECORD_OPENSSL, _USER or _KTLS; 0 = the first */
    uint8_t link_version_max;     /* of mesh links, offered and taken; 0 = the newest we know */
} dp_config;

typedef struct {
    const char *name;            /* "payments.default" */
    const char *namespace_;      /* "default" */
    uint16_t port;               /* the service's port */
    uint8_t mtls;                /* enum dp_mtls_mode */
    uint8_t grade_min;           /* enum dp_grade, for STRICT */
    uint8_t source_address;      /* enum dp_source_address */
    uint8_t pad[3];
    uint32_t leaf;               /* shown to peers for it, or DP_NONE */
    uint32_t outbound_set;       /* endpoints here and at peers, or DP_NONE */
    uint32_t connect_timeout_ms; /* one attempt */
    uint32_t attempts_max;       /* connects tried in all, >= 1 */
    uint32_t idle_timeout_ms;    /* 0 = none */
    uint32_t duration_max_ms;    /* 0 = none */
} dp_service;

typedef struct {
    uint8_t balance;             /* enum dp_balance */
    uint8_t ejection_percent_max;/* of the set */
    uint16_t failures_consecutive; /* connect failures until ejection; 0 = never */
    uint32_t connections_max;    /* of all workers together; 0 = no limit */
    uint32_t ejection_base_ms;   /* times the number of ejections so far */
    uint32_t ejection_max_ms;
} dp_set_policy;

typedef struct {
    uint8_t addr[16];            /* connect to: the service, the agent, the peer's mesh listener */
    uint16_t port;
    uint16_t target_port;        /* AGENT: the service's port on that host */
    uint8_t kind;                /* enum dp_endpoint_kind */
    uint8_t priority;            /* lowest with a healthy endpoint wins; 0 = local */
    uint8_t healthy;             /* active health checks, by the control plane */
    uint8_t pad;
    uint32_t weight;             /* >= 1 */
    const char *name;            /* host's or peer site's name, for events */
    const char *sni;             /* AGENT, MESH */
    const char *service;         /* name of the service, for events; may be NULL */
} dp_endpoint;

/* The operator's profile for the records of TLS legs: those that shake hands under its snapshot. */
typedef struct {
    uint8_t records;             /* enum dp_prefer */
    uint8_t tls12;               /* enum dp_tls12; NIC without PREFER is for links that others open */
    uint8_t ciphers;             /* bits: 1 AES-128-GCM, 2 AES-256-GCM, 4 ChaCha20; 0 = all. Of TLS
                                  * 1.3's suites and, but for the last, of TLS 1.2's */
    uint8_t pad[5];
    uint64_t bytes_min;          /* KTLS, NIC: a stream begins with our own records and is moved once
                                  * it has carried so many, both ways together; 0 = at once */
} dp_offload;

typedef struct {
    uint8_t part, field, op, negated; /* enum dp_part, dp_field, dp_match_op; bool */
    uint16_t entry;              /* index of the entry in its part */
    uint16_t port;               /* PORT */
    uint8_t addr[16];            /* IP, REMOTE_IP */
    uint8_t prefix_len;          /* of the 16-byte form: an IPv4 /24 is 120; one below 96 is
                                  * IPv6's. Neither kind matches the other's addresses */
    uint8_t number;              /* GRADE */
    uint8_t pad[6];
    const char *text;            /* the other fields; for PREFIX and SUFFIX without the star */
} dp_match;

typedef struct dp_engine dp_engine;
typedef struct dp_snapshot dp_snapshot;
typedef struct dp_endpoints dp_endpoints;
typedef struct dp_leaf dp_leaf;
typedef struct dp_bundle dp_bundle;

uint32_t dp_abi_version(void);

/* Certificates. Leaves and bundles are shared objects: one may be in several snapshots, so that
 * a publish does not parse again what did not change. -EINVAL: not PEM, a key that is not PKCS #8
 * or not the leaf's, not exactly one SPIFFE ID, another ID than given. */
int dp_leaf_new(const char *spiffe_id, const char *chain_pem, size_t chain_len,
                const char *key_pem, size_t key_len, dp_leaf **ret);
void dp_leaf_free(dp_leaf *leaf);
int64_t dp_leaf_not_after_s(const dp_leaf *leaf); /* CLOCK_REALTIME */
int dp_bundle_new(const char *trust_domain, const char *certs_pem, size_t len, dp_bundle **ret);
void dp_bundle_free(dp_bundle *bundle);

/* A snapshot: built by one thread, sealed, handed over, read by all workers. */
int dp_snapshot_new(uint64_t version, const char *trust_domain, dp_snapshot **ret);
void dp_snapshot_free(dp_snapshot *snap);
int dp_snapshot_add_bundle(dp_snapshot *snap, dp_bundle *bundle);
int dp_snapshot_add_leaf(dp_snapshot *snap, dp_leaf *leaf, uint32_t *ret_leaf);
int dp_snapshot_set_appliance_leaf(dp_snapshot *snap, uint32_t leaf);
/* Without it dp_config.records holds and TLS is 1.3. -EINVAL: not as dp_offload says. */
int dp_snapshot_set_offload(dp_snapshot *snap, const dp_offload *offload);
int dp_snapshot_add_own_address(dp_snapshot *snap, const uint8_t *addr);
int dp_snapshot_add_denied_serial(dp_snapshot *snap, const char *trust_domain,
                                  const uint8_t *serial, size_t len);
int dp_snapshot_add_denied_id(dp_snapshot *snap, const char *spiffe_id);
/* A host known by address: its streams get this leaf and this grade. DP_GRADE_NONE: it was revoked,
 * and is refused whatever a service lets in. */
int dp_snapshot_add_host(dp_snapshot *snap, const uint8_t *addr, uint8_t grade, uint32_t leaf,
                         const char *name);
/* A host that comes with its own leaf (grade key): which delegated leaf to go on with. */
int dp_snapshot_add_agent(dp_snapshot *snap, const char *spiffe_id, uint32_t leaf,
                          const char *name);
int dp_snapshot_add_service(dp_snapshot *snap, const dp_service *service, uint32_t *ret_service);
int dp_snapshot_add_vip(dp_snapshot *snap, const uint8_t *addr, uint16_t port, uint32_t service);
/* Streams that arrive over a mesh link with this SNI go to this set (local endpoints only). */
int dp_snapshot_add_sni(dp_snapshot *snap, const char *sni, uint32_t service, uint32_t set);
int dp_snapshot_add_policy(dp_snapshot *snap, uint8_t action, const char *name,
                           uint32_t *ret_policy);
int dp_snapshot_add_rule(dp_snapshot *snap, uint32_t policy, uint32_t *ret_rule);
int dp_snapshot_add_match(dp_snapshot *snap, uint32_t policy, uint32_t rule,
                          const dp_match *match);
int dp_snapshot_attach_policy(dp_snapshot *snap, uint32_t service, uint32_t policy);
int dp_snapshot_add_set_take(dp_snapshot *snap, uint32_t set, dp_endpoints *endpoints);
/* Checks references and builds the indexes. After it the snapshot is immutable. -EINVAL with the
 * first problem in ret_detail (at most len bytes with the NUL). */
int dp_snapshot_seal(dp_snapshot *snap, char *ret_detail, size_t len);

int dp_endpoints_new(const dp_set_policy *policy, dp_endpoints **ret);
void dp_endpoints_free(dp_endpoints *set);
int dp_endpoints_add(dp_endpoints *set, const dp_endpoint *endpoint, uint32_t *ret_endpoint);
int dp_endpoints_add_expected(dp_endpoints *set, uint32_t endpoint, const char *spiffe_id);

/* The engine. Threads are made by start and joined by stop. */
int dp_engine_new(const dp_config *config, dp_engine **ret);
int dp_engine_add_listener(dp_engine *engine, int fd, uint8_t kind, uint32_t worker); /* dups fd */
int dp_engine_add_pipe(dp_engine *engine, int read_fd, int write_fd);                 /* dups both */
/* First key seals, all open. Safe while running. */
int dp_engine_set_ticket_keys(dp_engine *engine, const uint8_t *keys, uint32_t count);
int dp_engine_start(dp_engine *engine);
/* -EBUSY: too many snapshots alive (counted). -ESTALE: version not above the last. */
int dp_engine_publish_take(dp_engine *engine, dp_snapshot *snap);
/* Swaps one set alone. -ENOENT: no such set in the snapshot published last. */
int dp_engine_publish_set_take(dp_engine *engine, uint32_t set, dp_endpoints *endpoints);
/* The links that count (1 … DP_LOST_MAX) local addresses of 16 bytes belong to were lost, as somebody
 * saw at seen_ns (CLOCK_MONOTONIC): what a NIC there has sealed since before, the kernel seals from
 * now on, though it goes on saying otherwise. Counts as a publish. */
int dp_engine_lose_links(dp_engine *engine, const uint8_t *addrs, uint32_t count,
                         uint64_t seen_ns);
/* Sequence number of the last publish (any kind), and the lowest that every worker runs. */
uint64_t dp_engine_published(const dp_engine *engine);
uint64_t dp_engine_applied(const dp_engine *engine);
/* Frees what the workers have no use for any more, as they free nothing large themselves. Every
 * publish does so first; whoever waits until one is applied had better do so then. */
void dp_engine_collect(dp_engine *engine);
int dp_engine_drain(dp_engine *engine, uint32_t deadline_ms); /* stop accepting, then close */
uint32_t dp_engine_live(const dp_engine *engine);             /* streams now */
int dp_engine_stop(dp_engine *engine);                        /* blocks; closes every stream */
void dp_engine_free(dp_engine *engine);

/* Events: readable eventfd, then whole records. Returns bytes written to buf (0 = none). */
int dp_engine_event_fd(const dp_engine *engine);
int64_t dp_engine_read_events(dp_engine *engine, uint8_t *buf, size_t len);

/* Counters: one writer each, summed by the reader. Values are cumulative but for names that end
 * in "_now". Histograms are log-linear: bucket b counts values < dp_histogram_bound(b). */
uint32_t dp_stat_count(void);
const char *dp_stat_name(uint32_t stat);
int dp_engine_read_stats(const dp_engine *engine, uint64_t *ret_values, uint32_t count);
uint32_t dp_histogram_count(void);
const char *dp_histogram_name(uint32_t histogram);  /* unit is the name's end */
uint32_t dp_histogram_buckets(void);
uint64_t dp_histogram_bound(uint32_t bucket);
int dp_engine_read_histogram(const dp_engine *engine, uint32_t histogram, uint64_t *ret_counts,
                             uint32_t buckets, uint64_t *ret_sum);

const char *dp_reason_name(uint32_t reason);
const char *dp_fallback_name(uint32_t fallback); /* as its counter: fallback_<name> */
const char *dp_cipher_name(uint16_t cipher);

/* The process gives up what it no longer needs: seccomp with TSYNC over all threads. Sockets of
 * AF_INET, AF_INET6 and AF_UNIX only; no execve, netlink, packet sockets, ptrace, module or bpf
 * calls; nothing is opened for writing. Returns 0 or -errno; cannot be taken back. */
int dp_sandbox_enter(void);
/* cdef: end */
#pragma GCC visibility pop
#endif
