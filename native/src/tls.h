/* tls.h: mTLS handshakes by OpenSSL and the check of who the peer is. The peer is checked against
 * the bundle of the trust domain that its SPIFFE ID names and, for a client, against the SPIFFE
 * IDs expected; never by host name. After the handshake the bytes go through a struct record.
 * Knows nothing of routing, policy, loops or workers. */
#ifndef SLUICE_TLS_H
#define SLUICE_TLS_H

#include "base.h"
#include "buffer.h"
#include "record.h"
#include "snapshot.h"
#include "stats.h"

struct tls_context;  /* one a process: SSL_CTXs, ticket keys; safe to share between threads */
struct tls_sessions; /* one a worker: client sessions to resume, LRU, bounded; outlives its legs */
struct tls_chains;   /* one a worker: peers' chains found good, LRU, bounded; outlives its legs */
struct tls;          /* one leg, from its first byte */

/* ALPN names protocol and link version. Highest common version wins. */
enum { TLS_LINK_VERSION_MIN = 1, TLS_LINK_VERSION_MAX = 2 }; /* "sluice-l4/<version>" */

struct tls_peer {
    char id[DP_ID_MAX + 1];      /* SPIFFE ID, verified */
    char trust_domain[DP_ID_MAX + 1];
    uint8_t serial[20];
    uint8_t serial_len;
    uint8_t grade;               /* enum dp_grade: DP_GRADE_KEY for a host's own leaf */
    bool delegated;              /* the leaf has the grade extension: an appliance speaks for id */
    int64_t not_after_s;         /* CLOCK_REALTIME */
};

struct tls_info {
    uint16_t version, cipher;    /* IANA numbers */
    uint8_t link_version;
    bool resumed;
};

struct tls_client {              /* all borrowed until tls_new_client returns, but leaf (counted) */
    const struct dp_leaf *leaf;  /* who we say we are */
    const char *sni;
    const char *const *expected; /* SPIFFE IDs, any of which will do; at least one */
    size_t expected_count;
};

/* First thing in a thread that will shake hands, and do nothing else with keys or certificates of
 * OpenSSL's default library context. Without it handshakes only take longer. */
void tls_thread_init(void);

DP_MUST_CHECK int tls_context_new(struct tls_context **ret);
void tls_context_free(struct tls_context *ctx);
/* As if we knew no newer version, TLS_LINK_VERSION_MIN or more. Before the first leg; -ENOMEM. */
DP_MUST_CHECK int tls_context_set_link_version_max(struct tls_context *ctx, uint8_t version);
/* DP_TICKET_KEY_SIZE bytes each, at most 8; the first seals, all open. Any thread, any time. */
DP_MUST_CHECK int tls_context_set_ticket_keys(struct tls_context *ctx, const uint8_t *keys,
                                              size_t count);

DP_MUST_CHECK int tls_sessions_new(struct tls_context *ctx, size_t sessions_max,
                                   struct tls_sessions **ret);
void tls_sessions_free(struct tls_sessions *sessions);
void tls_sessions_clear(struct tls_sessions *sessions); /* e.g. a leaf or deny list changed */

/* chains_max, 1 or more, whether clients' or servers'. stats, borrowed, counts what was remembered
 * and what had to go for want of room. */
DP_MUST_CHECK int tls_chains_new(size_t chains_max, struct stats *stats, struct tls_chains **ret);
void tls_chains_free(struct tls_chains *chains); /* accepts NULL */

DP_MUST_CHECK int tls_new_server(struct tls_context *ctx, int fd, struct tls **ret);
/* -EINVAL: no leaf, no or too many expected IDs, or an SNI that is no host name. */
DP_MUST_CHECK int tls_new_client(struct tls_context *ctx, struct tls_sessions *sessions, int fd,
                                 const struct tls_client *client, struct tls **ret);
/* A chain that is in there need not be verified again. Before the first tls_handshake. */
void tls_use_chains(struct tls *tls, struct tls_chains *chains);
/* Suites and versions as the profile has them; without it TLS 1.3 with all of them. Before the
 * first tls_handshake; -ENOMEM. */
DP_MUST_CHECK int tls_profile_apply(struct tls *tls, const dp_offload *offload);
/* After the handshake: records of our own (record_user.h), if the suite is one of theirs; else
 * OpenSSL's. Before the first tls_handshake. buffers, borrowed until tls_free, are of the sizes
 * that record_user.h says. */
void tls_want_user_records(struct tls *tls, struct buffers *buffers);
/* The same, but by the kernel (record_ktls.h) if it can; else records of our own. device: only if
 * the NIC might seal them, and see whether it does. */
void tls_want_kernel_records(struct tls *tls, struct buffers *buffers, bool device);
/* Once established with records of our own: to the kernel's, as soon as none is under way. From
 * the first call on, call again after every read and write, which may say -EAGAIN for it, until:
 * 1 = done, and tls_record is another; 0 = not yet; -ENOTSUP = it will not be, tls_fallback says
 * why, and reading and writing go on. */
DP_MUST_CHECK int tls_move_to_kernel(struct tls *tls, bool device);
uint64_t tls_installed_ns(const struct tls *tls); /* by clock_ns, just before its NIC had its keys */
void tls_lose_device(struct tls *tls);         /* its NIC seals no more: the kernel does */
/* After the handshake: why no NIC would seal these records; NONE = one might. */
uint8_t tls_device_refusal(const struct tls *tls); /* enum dp_fallback */
void tls_free(struct tls *tls); /* accepts NULL */

/* 1 = done and the peer verified; 0 = wait for the descriptor; -EPROTO or -EACCES = refused, see
 * tls_reason and tls_detail. snap is borrowed for the call: it gives the leaf to show for the
 * SNI (snapshot_sni's service, else the appliance's own), the bundles and the deny list.
 * A client's 1 does not mean that the server took *our* certificate: if it did not, the first read
 * is -EBADMSG, and tls_reason and tls_detail say what the server's alert said. */
DP_MUST_CHECK int tls_handshake(struct tls *tls, const struct dp_snapshot *snap);
bool tls_wants_write(const struct tls *tls); /* what a 0, or a record's -EAGAIN, waits for */

uint16_t tls_reason(const struct tls *tls);    /* enum dp_reason of the refusal */
bool tls_refused_by_peer(const struct tls *tls); /* by its alert */
const char *tls_detail(const struct tls *tls); /* never NULL; at most DP_DETAIL_MAX bytes */
const struct tls_peer *tls_peer(const struct tls *tls); /* after 1 */
const char *tls_sni(const struct tls *tls);    /* what the client sent; "" if none */
void tls_get_info(const struct tls *tls, struct tls_info *ret);
struct record *tls_record(struct tls *tls);    /* after 1; lives as long as tls */
uint8_t tls_fallback(const struct tls *tls);   /* enum dp_fallback, after tls_handshake */
bool tls_met_key_update(const struct tls *tls);/* and so ended, since the kernel has its records */

/* Is this verified peer still good in snap at now_s? 0, or the enum dp_reason (EXPIRED, REVOKED,
 * PEER_IDENTITY when its trust domain's bundle is gone, or no longer vouches for it); tls_detail
 * then says why. For live streams. */
uint16_t tls_peer_recheck(struct tls *tls, const struct dp_snapshot *snap, int64_t now_s);

#endif
