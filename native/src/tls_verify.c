/* tls_verify.c: who is the peer? Its leaf must hold exactly one SPIFFE ID, chain to the bundle of
 * the trust domain that this ID names, be in time, not denied and, for a client, one of those
 * expected. The name that was dialled plays no part. Asks the clock seam, never the clock. */
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "spiffe.h"
#include "tls_internal.h"

enum { CHAIN_DEPTH_MAX = 4, SECURITY_LEVEL = 2 };

void tls_refuse(struct tls_refusal *refusal, uint16_t reason, const char *format, ...)
{
    if (refusal->reason != DP_REASON_NONE)
        return;
    refusal->reason = reason;
    va_list args;
    va_start(args, format);
    refusal->detail = malloc(DP_DETAIL_MAX + 1); /* few are refused: no room in those that are not */
    if (refusal->detail != NULL)
        (void)vsnprintf(refusal->detail, DP_DETAIL_MAX + 1, format, args);
    va_end(args);
}

void tls_refusal_fini(struct tls_refusal *refusal)
{
    free(refusal->detail);
    refusal->detail = NULL;
}

struct time_text {
    char text[32];
};

static struct time_text time_text(int64_t seconds)
{
    struct time_text ret = {"?"};
    time_t when = (time_t)seconds;
    struct tm tm;
    if (gmtime_r(&when, &tm) != NULL)
        (void)strftime(ret.text, sizeof(ret.text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    return ret;
}

static bool time_seconds(const ASN1_TIME *time, int64_t *ret)
{
    struct tm tm;
    if (!ASN1_TIME_to_tm(time, &tm))
        return false;
    *ret = (int64_t)timegm(&tm);
    return true;
}

/* What the leaf says by itself; nothing here is proved yet. */
static bool read_leaf(X509 *cert, struct tls_peer *ret, struct tls_refusal *refusal)
{
    struct tls_peer peer = {0};
    int r = spiffe_from_certificate(cert, peer.id);
    if (r < 0) {
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY, "%s",
                   r == -ENOENT  ? "peer's certificate has no SPIFFE ID (no URI name)"
                   : r == -E2BIG ? "peer's certificate has more than one URI name"
                   : r == -EPERM ? "peer shows a CA's certificate, not a leaf"
                                 : "peer's certificate has a malformed SPIFFE ID");
        return false;
    }
    struct spiffe_id id;
    r = spiffe_parse(peer.id, strlen(peer.id), &id);
    assert(r == 0);
    memcpy(peer.trust_domain, id.trust_domain, id.trust_domain_len);

    uint32_t flags = X509_get_extension_flags(cert);
    if ((flags & EXFLAG_INVALID) || !(flags & EXFLAG_KUSAGE) ||
        !(X509_get_key_usage(cert) & KU_DIGITAL_SIGNATURE)) {
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY,
                   "certificate of %s lacks key usage digitalSignature", peer.id);
        return false;
    }
    if (spiffe_grade(cert, &peer.grade, &peer.delegated) < 0) {
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY,
                   "certificate of %s has a malformed grade extension", peer.id);
        return false;
    }
    const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
    int serial_len = ASN1_STRING_length(serial);
    if (serial_len < 1 || (size_t)serial_len > sizeof(peer.serial) ||
        ASN1_STRING_type(serial) != V_ASN1_INTEGER) { /* else negative, which RFC 5280 forbids */
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY,
                   "certificate of %s has a serial number that is not 1 to 20 bytes", peer.id);
        return false;
    }
    memcpy(peer.serial, ASN1_STRING_get0_data(serial), (size_t)serial_len);
    peer.serial_len = (uint8_t)serial_len;
    if (!time_seconds(X509_get0_notAfter(cert), &peer.not_after_s)) {
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY, "certificate of %s has a malformed date",
                   peer.id);
        return false;
    }
    *ret = peer;
    return true;
}

static void refuse_chain(const struct tls_peer *peer, X509 *cert, int error, int depth,
                         int64_t now_s, struct tls_refusal *refusal)
{
    int64_t not_before_s = 0;
    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        if (depth == 0)
            tls_refuse(refusal, DP_REASON_EXPIRED, "certificate of %s expired at %s", peer->id,
                       time_text(peer->not_after_s).text);
        else
            tls_refuse(refusal, DP_REASON_EXPIRED, "a CA certificate above %s has expired",
                       peer->id);
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        (void)time_seconds(X509_get0_notBefore(cert), &not_before_s);
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY,
                   "certificate of %s is not valid before %s and here it is %s: check both clocks",
                   peer->id, time_text(not_before_s).text, time_text(now_s).text);
        break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_CERT_UNTRUSTED:
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY,
                   "certificate of %s is not signed by a CA of trust domain %s", peer->id,
                   peer->trust_domain);
        break;
    case X509_V_ERR_INVALID_PURPOSE: /* its text differs between releases */
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY,
                   "certificate of %s, or a CA's above it, is not for this use (key usage)",
                   peer->id);
        break;
    default:
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY, "certificate of %s: %s", peer->id,
                   X509_verify_cert_error_string(error));
    }
}

/* When the chain that led to the bundle counts: all its certificates, the anchor too. Never, if a
 * date cannot be read. */
static void chain_dates(X509_STORE_CTX *store_ctx, int64_t *ret_from_s, int64_t *ret_until_s)
{
    STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(store_ctx);
    *ret_from_s = INT64_MIN;
    *ret_until_s = INT64_MAX;
    for (int i = 0; i < sk_X509_num(chain); i++) {
        const X509 *cert = sk_X509_value(chain, i);
        int64_t from_s, until_s;
        if (!time_seconds(X509_get0_notBefore(cert), &from_s) ||
            !time_seconds(X509_get0_notAfter(cert), &until_s)) { /* though OpenSSL just could */
            *ret_until_s = INT64_MIN;
            return;
        }
        if (from_s > *ret_from_s)
            *ret_from_s = from_s;
        if (until_s < *ret_until_s)
            *ret_until_s = until_s;
    }
}

/* Chain, dates and purpose against one bundle. Bundles' certificates are anchors whether or not
 * they are self-signed: a site's CA may be an intermediate. Returns an X509_V_… code, and the dates
 * with X509_V_OK. */
static int verify_chain(X509 *cert, STACK_OF(X509) *others, const struct dp_bundle *bundle,
                        int purpose, int64_t now_s, struct tls_known *known,
                        struct tls_refusal *refusal)
{
    const struct tls_peer *peer = &known->peer;
    int error = X509_V_ERR_OUT_OF_MEM;
    X509_STORE_CTX *store_ctx = X509_STORE_CTX_new();
    if (store_ctx != NULL && X509_STORE_CTX_init(store_ctx, bundle->store, cert, others) &&
        X509_STORE_CTX_set_purpose(store_ctx, purpose)) {
        X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(store_ctx);
        X509_VERIFY_PARAM_set_time(param, (time_t)now_s);
        X509_VERIFY_PARAM_set_depth(param, CHAIN_DEPTH_MAX);
        X509_VERIFY_PARAM_set_auth_level(param, SECURITY_LEVEL);
        (void)X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
        if (X509_verify_cert(store_ctx) == 1) {
            error = X509_V_OK;
            memcpy(known->bundle_fingerprint, bundle->fingerprint, TLS_HASH_SIZE);
            chain_dates(store_ctx, &known->from_s, &known->until_s);
        } else {
            error = X509_STORE_CTX_get_error(store_ctx);
            if (error == X509_V_OK)
                error = X509_V_ERR_UNSPECIFIED;
            refuse_chain(peer, cert, error, X509_STORE_CTX_get_error_depth(store_ctx), now_s,
                         refusal);
        }
    } else {
        tls_refuse(refusal, DP_REASON_INTERNAL, "out of memory while verifying %s", peer->id);
    }
    X509_STORE_CTX_free(store_ctx);
    return error;
}

/* What can change while a connection or a session lives. */
static bool is_in_standing(const struct tls_peer *peer, const struct dp_snapshot *snap,
                           int64_t now_s, struct tls_refusal *refusal)
{
    if (now_s >= peer->not_after_s) {
        tls_refuse(refusal, DP_REASON_EXPIRED, "certificate of %s expired at %s", peer->id,
                   time_text(peer->not_after_s).text);
        return false;
    }
    if (snapshot_is_denied(snap, peer->id, peer->trust_domain, peer->serial, peer->serial_len)) {
        tls_refuse(refusal, DP_REASON_REVOKED, "%s is on the deny list", peer->id);
        return false;
    }
    return true;
}

static bool is_expected(const struct tls *tls, const struct tls_peer *peer,
                        struct tls_refusal *refusal)
{
    if (tls->is_server)
        return true;
    for (size_t i = 0; i < tls->expected_count; i++)
        if (strcmp(tls->expected[i], peer->id) == 0)
            return true;
    if (tls->expected_count == 1)
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY, "peer is %s, expected %s", peer->id,
                   tls->expected[0]);
    else
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY, "peer is %s, expected %s or %zu others",
                   peer->id, tls->expected[0], tls->expected_count - 1);
    return false;
}

static const struct dp_bundle *find_bundle(const struct dp_snapshot *snap,
                                           const struct tls_peer *peer,
                                           struct tls_refusal *refusal)
{
    const struct dp_bundle *bundle =
        snapshot_bundle(snap, peer->trust_domain, strlen(peer->trust_domain));
    if (bundle == NULL)
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY,
                   "%s is of trust domain %s, which is no peer of this site", peer->id,
                   peer->trust_domain);
    return bundle;
}

/* May this peer, whose chain is good, come in? Returns X509_V_OK, or the code whose alert it gets. */
static int admit(struct tls *tls, const struct tls_known *known, int64_t now_s)
{
    struct tls_refusal *refusal = &tls->refusal;
    if (!is_in_standing(&known->peer, tls->snap, now_s, refusal))
        return refusal->reason == DP_REASON_REVOKED ? X509_V_ERR_CERT_REVOKED
                                                    : X509_V_ERR_CERT_HAS_EXPIRED;
    if (!is_expected(tls, &known->peer, refusal))
        return X509_V_ERR_CERT_REJECTED;
    tls->peer = known->peer;
    memcpy(tls->bundle_fingerprint, known->bundle_fingerprint, TLS_HASH_SIZE);
    return X509_V_OK;
}

/* The next of the certificates that were kept, with its key: the thread may have no way to that. */
static X509 *unpack(const uint8_t **at, const uint8_t *end)
{
    X509 *cert = X509_new_ex(tls_library_reader(), NULL);
    return cert != NULL ? d2i_X509(&cert, at, end - *at) : NULL; /* which frees it if it fails */
}

/* What was kept, as OpenSSL's objects: false = no memory. Both are the caller's to free. */
static bool unpack_chain(const struct tls *tls, X509 **ret_leaf, STACK_OF(X509) **ret_others)
{
    const uint8_t *at = tls->chain, *end = tls->chain + tls->chain_len;
    X509 *leaf = unpack(&at, end);
    STACK_OF(X509) *others = sk_X509_new_null();
    bool good = leaf != NULL && others != NULL;
    while (good && at < end) {
        X509 *cert = unpack(&at, end);
        good = cert != NULL && sk_X509_push(others, cert) > 0;
        if (!good)
            X509_free(cert);
    }
    if (good) {
        *ret_leaf = leaf;
        *ret_others = others;
        return true;
    }
    X509_free(leaf);
    sk_X509_pop_free(others, X509_free);
    return false;
}

/* As admit, of a chain that is not remembered, but will be. key: NULL = it won't. */
static int verify_new(struct tls *tls, X509 *cert, STACK_OF(X509) *others, const uint8_t *key,
                      int64_t now_s)
{
    struct tls_refusal *refusal = &tls->refusal;
    struct tls_known known = {.leaf = tls_library() != NULL ? cert : NULL};
    if (!read_leaf(cert, &known.peer, refusal))
        return X509_V_ERR_CERT_REJECTED;
    const struct dp_bundle *bundle = find_bundle(tls->snap, &known.peer, refusal);
    if (bundle == NULL)
        return X509_V_ERR_CERT_UNTRUSTED;
    int purpose = tls->is_server ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER;
    int error = verify_chain(cert, others, bundle, purpose, now_s, &known, refusal);
    if (error == X509_V_OK)
        error = admit(tls, &known, now_s);
    if (error == X509_V_OK && key != NULL)
        tls_chains_add(tls, key, &known);
    return error;
}

/* Who is this, and may it come in? As admit. In place of *leaf, counted, comes the same certificate
 * with its key, if handshakes decode none. */
static int verify_peer(struct tls *tls, X509 **leaf, STACK_OF(X509) *others)
{
    const int64_t now_s = clock_real_s();
    struct tls_refusal *refusal = &tls->refusal;
    if (tls_verify_keep(tls, *leaf, others) < 0) {
        tls_refuse(refusal, DP_REASON_INTERNAL, "out of memory for the peer's certificates");
        return X509_V_ERR_OUT_OF_MEM;
    }
    uint8_t key[TLS_HASH_SIZE];
    bool has_key = tls_chains_key(tls, key);
    const struct tls_known *remembered = has_key ? tls_chains_find(tls, key, now_s) : NULL;
    if (remembered != NULL) {
        if (remembered->leaf != NULL && X509_up_ref(remembered->leaf)) {
            X509_free(*leaf);
            *leaf = remembered->leaf;
        }
        return admit(tls, remembered, now_s);
    }
    if (tls_library() == NULL)
        return verify_new(tls, *leaf, others, has_key ? key : NULL, now_s);
    X509 *with_key;
    STACK_OF(X509) *others_with_keys;
    if (!unpack_chain(tls, &with_key, &others_with_keys)) {
        tls_refuse(refusal, DP_REASON_INTERNAL, "out of memory for the peer's certificates");
        return X509_V_ERR_OUT_OF_MEM;
    }
    X509_free(*leaf);
    *leaf = with_key;
    int error = verify_new(tls, with_key, others_with_keys, has_key ? key : NULL, now_s);
    sk_X509_pop_free(others_with_keys, X509_free);
    return error;
}

/* OpenSSL looks at the first of the chain afterwards, for the key that signed the handshake. */
int tls_verify_callback(X509_STORE_CTX *outer, void *arg)
{
    (void)arg;
    SSL *ssl = X509_STORE_CTX_get_ex_data(outer, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *tls = SSL_get_app_data(ssl);
    STACK_OF(X509) *chain = X509_STORE_CTX_get0_untrusted(outer);
    X509 *leaf = X509_STORE_CTX_get0_cert(outer); /* the chain's reference, till it is set again */
    assert(sk_X509_value(chain, 0) == leaf);
    int error = verify_peer(tls, &leaf, chain);
    (void)sk_X509_set(chain, 0, leaf);
    X509_STORE_CTX_set_cert(outer, leaf);
    X509_STORE_CTX_set_error(outer, error);
    return error == X509_V_OK;
}

bool tls_verify_resumed(const struct tls *tls, X509 *cert, const uint8_t *bundle_fingerprint,
                        const struct dp_snapshot *snap, struct tls_peer *ret_peer,
                        struct tls_refusal *refusal)
{
    struct tls_peer peer;
    if (cert == NULL) {
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY, "session without the peer's certificate");
        return false;
    }
    if (!read_leaf(cert, &peer, refusal))
        return false;
    const struct dp_bundle *bundle = find_bundle(snap, &peer, refusal);
    if (bundle == NULL)
        return false;
    if (memcmp(bundle->fingerprint, bundle_fingerprint, TLS_HASH_SIZE) != 0) {
        tls_refuse(refusal, DP_REASON_PEER_IDENTITY, "bundle of %s changed since the session",
                   peer.trust_domain);
        return false;
    }
    if (!is_in_standing(&peer, snap, clock_real_s(), refusal) ||
        !is_expected(tls, &peer, refusal))
        return false;
    *ret_peer = peer;
    return true;
}

/* Their DER's size, written to ret if that is not NULL; -ENOMEM. */
static int encode_chain(X509 *leaf, STACK_OF(X509) *others, uint8_t *ret)
{
    int count = others != NULL ? sk_X509_num(others) : 0, total = 0;
    for (int i = -1; i < count; i++) {
        X509 *cert = i < 0 ? leaf : sk_X509_value(others, i);
        if (i >= 0 && cert == leaf) /* OpenSSL counts it among them at times */
            continue;
        int len = i2d_X509(cert, ret != NULL ? &ret : NULL);
        if (len <= 0)
            return -ENOMEM;
        total += len;
    }
    return total;
}

/* The certificates are needed again when a bundle changes, and may have to outlive the SSL: DER is
 * a tenth of what OpenSSL's own objects take. */
int tls_verify_keep(struct tls *tls, X509 *leaf, STACK_OF(X509) *others)
{
    int len = encode_chain(leaf, others, NULL);
    uint8_t *chain = len > 0 ? malloc((size_t)len) : NULL;
    if (chain == NULL)
        return -ENOMEM;
    free(tls->chain);
    tls->chain = chain;
    tls->chain_len = (size_t)len;
    return encode_chain(leaf, others, chain) == len ? 0 : -ENOMEM;
}

static void recheck_chain(struct tls *tls, const struct dp_bundle *bundle, int64_t now_s,
                          struct tls_refusal *refusal)
{
    X509 *leaf;
    STACK_OF(X509) *others;
    if (!unpack_chain(tls, &leaf, &others)) {
        tls_refuse(refusal, DP_REASON_INTERNAL, "out of memory while verifying %s", tls->peer.id);
        return;
    }
    int purpose = tls->is_server ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER;
    struct tls_known known = {.peer = tls->peer};
    if (verify_chain(leaf, others, bundle, purpose, now_s, &known, refusal) == X509_V_OK)
        memcpy(tls->bundle_fingerprint, known.bundle_fingerprint, TLS_HASH_SIZE);
    X509_free(leaf);
    sk_X509_pop_free(others, X509_free);
}

uint16_t tls_peer_recheck(struct tls *tls, const struct dp_snapshot *snap, int64_t now_s)
{
    struct tls_refusal refusal = {0};
    const struct tls_peer *peer = &tls->peer;
    assert(tls->established);
    const struct dp_bundle *bundle = NULL;
    if (is_in_standing(peer, snap, now_s, &refusal))
        bundle = find_bundle(snap, peer, &refusal);
    /* A bundle changes when a CA is added too; only the withdrawn one ends connections. */
    if (bundle != NULL &&
        memcmp(bundle->fingerprint, tls->bundle_fingerprint, TLS_HASH_SIZE) != 0)
        recheck_chain(tls, bundle, now_s, &refusal);
    if (refusal.reason != DP_REASON_NONE) {
        tls_refusal_fini(&tls->refusal);
        tls->refusal = refusal;
    }
    return refusal.reason;
}
