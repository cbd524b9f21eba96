/* tls.c: contexts and handshakes: what is offered, which leaf is shown, how a failure reads. Who
 * the peer is decides tls_verify.c. TLS 1.3, unless tls_profile.c says 1.2; no 0-RTT. */
#define _GNU_SOURCE /* strerror_r that returns the text */
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "tls_internal.h"

/* With ML-KEM where the library has it (OpenSSL 3.5: a key share for each, so that an older peer
 * costs no round trip), else the classic group alone. */
static const char *const groups[] = {"*X25519MLKEM768:*X25519", "X25519"};
static const char ciphers[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
static const char alpn_prefix[] = "sluice-l4/";
enum {
    ALPN_LEN = sizeof(alpn_prefix), /* prefix and one digit */
    CERTIFICATES_BYTES_MAX = 16384, /* of a peer's whole chain */
    SECURITY_LEVEL = 2,
};
static_assert(TLS_LINK_VERSION_MAX <= 9, "a version is one digit");

static void alpn_name(int version, uint8_t name[ALPN_LEN])
{
    memcpy(name, alpn_prefix, ALPN_LEN - 1);
    name[ALPN_LEN - 1] = (uint8_t)('0' + version);
}

/* 0 = none of ours. */
static uint8_t alpn_version(const uint8_t *name, size_t len)
{
    uint8_t ours[ALPN_LEN];
    for (int version = TLS_LINK_VERSION_MAX; version >= TLS_LINK_VERSION_MIN; version--) {
        alpn_name(version, ours);
        if (len == ALPN_LEN && memcmp(name, ours, ALPN_LEN) == 0)
            return (uint8_t)version;
    }
    return 0;
}

/* Our highest version that the client offers. */
static int on_alpn(SSL *ssl, const unsigned char **ret, unsigned char *ret_len,
                   const unsigned char *offer, unsigned int offer_len, void *arg)
{
    struct tls *tls = SSL_get_app_data(ssl);
    uint8_t best = 0;
    (void)arg;
    for (unsigned at = 0; at < offer_len; at += 1u + offer[at]) {
        uint8_t version = alpn_version(offer + at + 1, offer[at]);
        if (version > best && version <= tls->ctx->link_version_max) {
            best = version;
            *ret = offer + at + 1;
            *ret_len = offer[at];
        }
    }
    if (best > 0)
        return SSL_TLSEXT_ERR_OK;
    tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE,
               "client offers no link version of ours (ALPN %s%d to %d)", alpn_prefix,
               TLS_LINK_VERSION_MIN, tls->ctx->link_version_max);
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* The leaf for tls->sni; false and a refusal if there is none to show. */
static bool choose_leaf(struct tls *tls)
{
    const struct service *service = NULL;
    if (tls->sni[0] != '\0')
        service = snapshot_sni(tls->snap, tls->sni, NULL);
    const struct dp_leaf *leaf =
        service != NULL ? service->leaf : snapshot_appliance_leaf(tls->snap);
    const char *name = service != NULL ? service->name : "the appliance";
    if (leaf == NULL) {
        tls_refuse(&tls->refusal, DP_REASON_NO_IDENTITY, "no leaf in use for %s", name);
        return false;
    }
    if (clock_real_s() >= leaf->not_after_s) {
        tls_refuse(&tls->refusal, DP_REASON_EXPIRED, "our leaf for %s has expired", name);
        return false;
    }
    if (!SSL_use_cert_and_key(tls->ssl, leaf->cert, leaf->key, leaf->chain, 1)) {
        tls_refuse(&tls->refusal, DP_REASON_INTERNAL, "our leaf for %s cannot be used", name);
        return false;
    }
    dp_leaf_ref(leaf);
    dp_leaf_free((struct dp_leaf *)tls->leaf);
    tls->leaf = leaf;
    return true;
}

/* Before OpenSSL looks at the hello; again when it asked for another key share. */
static int on_client_hello(SSL *ssl, int *ret_alert, void *arg)
{
    struct tls *tls = SSL_get_app_data(ssl);
    const unsigned char *ext;
    size_t len;
    (void)arg;
    tls->sni[0] = '\0';
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &ext, &len) &&
        sni_from_extension(ext, len, tls->sni) < 0) {
        tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "client sent a malformed server name");
        *ret_alert = SSL_AD_ILLEGAL_PARAMETER;
        return SSL_CLIENT_HELLO_ERROR;
    }
    /* Without the extension OpenSSL would not ask on_alpn at all. */
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &ext,
                                   &len)) {
        tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "client offers no ALPN: not a mesh link");
        *ret_alert = SSL_AD_NO_APPLICATION_PROTOCOL;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (!choose_leaf(tls)) {
        *ret_alert = SSL_AD_UNRECOGNIZED_NAME;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (!tls_profile_on_hello(tls)) {
        tls_refuse(&tls->refusal, DP_REASON_INTERNAL, "TLS 1.2 cannot be set");
        *ret_alert = SSL_AD_INTERNAL_ERROR;
        return SSL_CLIENT_HELLO_ERROR;
    }
    return SSL_CLIENT_HELLO_SUCCESS;
}

static int context_common(SSL_CTX *ctx)
{
    if (ctx == NULL)
        return -ENOMEM;
    SSL_CTX_set_security_level(ctx, SECURITY_LEVEL);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    /* The system's configuration might have set these. */
    (void)SSL_CTX_clear_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_ENABLE_KTLS);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN | SSL_MODE_RELEASE_BUFFERS |
                                    SSL_MODE_ENABLE_PARTIAL_WRITE |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    (void)SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
    /* One read of the socket a record, not two; but see tls_want_user_records. */
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_max_cert_list(ctx, CERTIFICATES_BYTES_MAX);
    (void)SSL_CTX_set_max_early_data(ctx, 0);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, tls_verify_callback, NULL);
    tls_user_attach(ctx);
    if (!SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
        !SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(ctx, ciphers))
        return -ENOMEM;
    for (size_t i = 0; i < DP_COUNT(groups); i++)
        if (SSL_CTX_set1_groups_list(ctx, groups[i]))
            return 0;
    return -ENOTSUP;
}

static int context_server(SSL_CTX *ctx)
{
    static const unsigned char id[] = "sluice";
    int r = context_common(ctx);
    if (r < 0)
        return r;
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets only */
    (void)SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_client_hello_cb(ctx, on_client_hello, NULL);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    if (!SSL_CTX_set_session_id_context(ctx, id, sizeof(id) - 1))
        return -ENOMEM;
    return tls_tickets_attach(ctx);
}

static int context_client(SSL_CTX *ctx)
{
    int r = context_common(ctx);
    if (r < 0)
        return r;
    tls_sessions_attach(ctx);
    return 0;
}

int tls_context_set_link_version_max(struct tls_context *ctx, uint8_t version_max)
{
    assert(version_max >= TLS_LINK_VERSION_MIN && version_max <= TLS_LINK_VERSION_MAX);
    uint8_t offer[(1 + ALPN_LEN) * (TLS_LINK_VERSION_MAX - TLS_LINK_VERSION_MIN + 1)];
    size_t len = 0;
    for (int version = version_max; version >= TLS_LINK_VERSION_MIN; version--) {
        offer[len] = ALPN_LEN;
        alpn_name(version, offer + len + 1);
        len += 1 + ALPN_LEN;
    }
    ctx->link_version_max = version_max;
    return SSL_CTX_set_alpn_protos(ctx->client, offer, (unsigned)len) == 0 ? 0 : -ENOMEM;
}

int tls_context_new(struct tls_context **ret)
{
    struct tls_context *ctx = calloc(1, sizeof(*ctx));
    if (ctx == NULL)
        return -ENOMEM;
    int r = tls_tickets_new(&ctx->tickets);
    if (r == 0) {
        ctx->server = SSL_CTX_new_ex(tls_library(), NULL, TLS_server_method());
        r = context_server(ctx->server);
    }
    if (r == 0) {
        ctx->client = SSL_CTX_new_ex(tls_library(), NULL, TLS_client_method());
        r = context_client(ctx->client);
    }
    if (r == 0)
        r = tls_context_set_link_version_max(ctx, TLS_LINK_VERSION_MAX);
    ERR_clear_error();
    if (r < 0) {
        tls_context_free(ctx);
        return r;
    }
    *ret = ctx;
    return 0;
}

void tls_context_free(struct tls_context *ctx)
{
    if (ctx == NULL)
        return;
    SSL_CTX_free(ctx->client);
    SSL_CTX_free(ctx->server);
    tls_tickets_free(ctx->tickets);
    free(ctx);
}

int tls_context_set_ticket_keys(struct tls_context *ctx, const uint8_t *keys, size_t count)
{
    return tls_tickets_set(ctx->tickets, keys, count);
}

static int leg_new(struct tls_context *ctx, SSL_CTX *ssl_ctx, int fd, struct tls **ret)
{
    struct tls *tls = calloc(1, sizeof(*tls));
    if (tls == NULL)
        return -ENOMEM;
    tls->rec.fd = fd;
    tls->ctx = ctx;
    tls->is_server = ssl_ctx == ctx->server;
    tls->ssl = SSL_new(ssl_ctx);
    if (tls->ssl == NULL || !SSL_set_app_data(tls->ssl, tls) || tls_bio_attach(tls) < 0) {
        tls_free(tls);
        ERR_clear_error();
        return -ENOMEM;
    }
    *ret = tls;
    return 0;
}

int tls_new_server(struct tls_context *ctx, int fd, struct tls **ret)
{
    struct tls *tls;
    int r = leg_new(ctx, ctx->server, fd, &tls);
    if (r < 0)
        return r;
    SSL_set_accept_state(tls->ssl);
    *ret = tls;
    return 0;
}

/* Pointers and texts in one block. */
static int copy_expected(struct tls *tls, const struct tls_client *client)
{
    size_t bytes = client->expected_count * sizeof(char *);
    for (size_t i = 0; i < client->expected_count; i++)
        bytes += strlen(client->expected[i]) + 1;
    tls->expected = malloc(bytes);
    if (tls->expected == NULL)
        return -ENOMEM;
    char *text = (char *)(tls->expected + client->expected_count);
    for (size_t i = 0; i < client->expected_count; i++) {
        size_t size = strlen(client->expected[i]) + 1;
        memcpy(text, client->expected[i], size);
        tls->expected[i] = text;
        text += size;
    }
    tls->expected_count = client->expected_count;
    return 0;
}

static int client_prepare(struct tls *tls, const struct tls_client *client)
{
    size_t sni_len = client->sni != NULL ? strlen(client->sni) : 0;
    int r = copy_expected(tls, client);
    if (r < 0)
        return r;
    dp_leaf_ref(client->leaf);
    tls->leaf = client->leaf;
    if (sni_len > 0) {
        memcpy(tls->sni, client->sni, sni_len + 1);
        if (!SSL_set_tlsext_host_name(tls->ssl, tls->sni))
            return -ENOMEM;
    }
    if (!SSL_use_cert_and_key(tls->ssl, client->leaf->cert, client->leaf->key,
                              client->leaf->chain, 1))
        return -EINVAL;
    return 0;
}

int tls_new_client(struct tls_context *ctx, struct tls_sessions *sessions, int fd,
                   const struct tls_client *client, struct tls **ret)
{
    if (client->leaf == NULL || client->expected_count == 0 ||
        client->expected_count > DP_EXPECTED_MAX)
        return -EINVAL;
    if (client->sni != NULL && client->sni[0] != '\0' &&
        !sni_is_valid(client->sni, strlen(client->sni)))
        return -EINVAL;
    assert(sessions == NULL || tls_sessions_context(sessions) == ctx);
    struct tls *tls;
    int r = leg_new(ctx, ctx->client, fd, &tls);
    if (r < 0)
        return r;
    SSL_set_connect_state(tls->ssl);
    r = client_prepare(tls, client);
    ERR_clear_error();
    if (r < 0) {
        tls_free(tls);
        return r;
    }
    tls->sessions = sessions;
    if (sessions != NULL)
        tls_sessions_key(tls);
    *ret = tls;
    return 0;
}

void tls_use_chains(struct tls *tls, struct tls_chains *chains)
{
    assert(!tls->started);
    tls->chains = chains;
}

void tls_want_user_records(struct tls *tls, struct buffers *buffers)
{
    assert(!tls->started);
    tls->buffers = buffers;
    /* OpenSSL takes one record at a time from our inbox, so that none is left in its own. */
    SSL_set_read_ahead(tls->ssl, 0);
}

void tls_want_kernel_records(struct tls *tls, struct buffers *buffers, bool device)
{
    tls_want_user_records(tls, buffers);
    tls->wants_kernel = true;
    tls->wants_device = device;
}

void tls_free(struct tls *tls)
{
    if (tls == NULL)
        return;
    tls_user_fini(tls);
    SSL_free(tls->ssl);
    free(tls->chain);
    dp_leaf_free((struct dp_leaf *)tls->leaf);
    free(tls->expected);
    tls_refusal_fini(&tls->refusal);
    free(tls);
}

/* What a peer's alert says of our certificate. */
static uint16_t alert_reason(int alert)
{
    switch (alert) {
    case SSL_AD_CERTIFICATE_REVOKED:
        return DP_REASON_REVOKED;
    case SSL_AD_CERTIFICATE_EXPIRED:
        return DP_REASON_EXPIRED;
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
        return DP_REASON_PEER_IDENTITY;
    case SSL_AD_UNRECOGNIZED_NAME:
        return DP_REASON_NO_IDENTITY;
    default:
        return DP_REASON_HANDSHAKE;
    }
}

void tls_refuse_from_alert(struct tls *tls, int alert)
{
    tls->refused_by_peer |= tls->refusal.reason == DP_REASON_NONE;
    tls_refuse(&tls->refusal, alert_reason(alert), "peer refused us: %s",
               SSL_alert_desc_string_long(alert));
}

void tls_refuse_from_openssl(struct tls *tls, const char *during)
{
    unsigned long error = ERR_peek_last_error();
    int reason = ERR_GET_REASON(error);
    if (tls->io_eof) {
        tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "peer closed the connection while %s",
                   during);
    } else if (tls->io_error != 0) {
        char text[128];
        tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "connection failed while %s: %s", during,
                   strerror_r(tls->io_error, text, sizeof(text)));
    } else if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET) {
        tls_refuse_from_alert(tls, reason - SSL_AD_REASON_OFFSET);
    } else {
        const char *text = ERR_reason_error_string(error);
        tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "TLS failed while %s: %s", during,
                   text != NULL ? text : "unknown error");
    }
}

static int refusal_errno(const struct tls *tls)
{
    switch (tls->refusal.reason) {
    case DP_REASON_PEER_IDENTITY:
    case DP_REASON_REVOKED:
    case DP_REASON_EXPIRED:
    case DP_REASON_NO_IDENTITY:
        return -EACCES;
    default:
        return -EPROTO;
    }
}

/* Before a client's first byte: are we somebody, and do we know this server? */
static bool client_start(struct tls *tls, const struct dp_snapshot *snap)
{
    if (clock_real_s() >= tls->leaf->not_after_s) {
        tls_refuse(&tls->refusal, DP_REASON_EXPIRED, "our own leaf of %s has expired",
                   tls->leaf->id);
        return false;
    }
    tls_sessions_offer(tls, snap);
    return true;
}

static void read_info(struct tls *tls)
{
    const unsigned char *alpn;
    unsigned alpn_len;
    const SSL_CIPHER *cipher = SSL_get_current_cipher(tls->ssl);
    SSL_get0_alpn_selected(tls->ssl, &alpn, &alpn_len);
    tls->info = (struct tls_info){
        .version = (uint16_t)SSL_version(tls->ssl),
        .cipher = cipher != NULL ? SSL_CIPHER_get_protocol_id(cipher) : 0,
        .link_version = alpn_version(alpn, alpn_len),
        .resumed = SSL_session_reused(tls->ssl) == 1,
    };
}

/* OpenSSL is content; are we? */
static bool complete(struct tls *tls, const struct dp_snapshot *snap)
{
    read_info(tls);
    if (tls->info.link_version == 0) {
        tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "peer chose no link version: not a mesh link");
        return false;
    }
    if (!tls_profile_is_kept(tls))
        return false;
    if (SSL_session_reused(tls->ssl)) {
        X509 *leaf = SSL_get0_peer_certificate(tls->ssl);
        if (!tls_verify_resumed(tls, leaf, tls->bundle_fingerprint, snap, &tls->peer,
                                &tls->refusal))
            return false;
        if (tls_verify_keep(tls, leaf, SSL_get_peer_cert_chain(tls->ssl)) < 0) {
            tls_refuse(&tls->refusal, DP_REASON_INTERNAL,
                       "out of memory for the peer's certificates");
            return false;
        }
    } else if (tls->peer.id[0] == '\0') { /* cannot be: verification is required */
        tls_refuse(&tls->refusal, DP_REASON_INTERNAL, "peer was not verified");
        return false;
    }
    tls->established = true;
    tls_sessions_keep(tls);
    int r = tls->buffers != NULL ? tls_user_take_over(tls) : -ENOTSUP;
    if (r == -EIO) {
        tls->established = false;
        tls_refuse(&tls->refusal, DP_REASON_INTERNAL,
                   "no memory for the direction of TLS that the kernel refused");
        return false;
    }
    if (r < 0)
        record_openssl_init(tls);
    return true;
}

int tls_handshake(struct tls *tls, const struct dp_snapshot *snap)
{
    assert(!tls->established);
    if (tls->refusal.reason != DP_REASON_NONE)
        return refusal_errno(tls);
    if (!tls->started && !tls->is_server && !client_start(tls, snap))
        return refusal_errno(tls);
    tls->started = true;
    tls->snap = snap;
    tls->io_error = 0;
    ERR_clear_error();
    tls_kdf_enter(tls);
    int r = SSL_do_handshake(tls->ssl);
    tls_kdf_leave();
    int waits = 0;
    if (r != 1) {
        int error = SSL_get_error(tls->ssl, r);
        waits = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
        if (!waits)
            tls_refuse_from_openssl(tls, "shaking hands");
    }
    tls->snap = NULL;
    ERR_clear_error();
    if (waits)
        return 0;
    if (r == 1 && complete(tls, snap))
        return 1;
    tls_sessions_forget(tls); /* a session that ends so is not to be tried again */
    return refusal_errno(tls);
}

bool tls_wants_write(const struct tls *tls)
{
    if (tls->user != NULL)
        return record_user_wants_write(tls->user);
    return tls->ktls == NULL && SSL_want_write(tls->ssl);
}

uint16_t tls_reason(const struct tls *tls)
{
    return tls->refusal.reason;
}

bool tls_refused_by_peer(const struct tls *tls)
{
    return tls->refused_by_peer;
}

const char *tls_detail(const struct tls *tls)
{
    return tls->refusal.detail != NULL ? tls->refusal.detail : "";
}

const struct tls_peer *tls_peer(const struct tls *tls)
{
    assert(tls->established);
    return &tls->peer;
}

const char *tls_sni(const struct tls *tls)
{
    return tls->sni;
}

void tls_get_info(const struct tls *tls, struct tls_info *ret)
{
    *ret = tls->info;
}

struct record *tls_record(struct tls *tls)
{
    assert(tls->established);
    if (tls->ktls != NULL)
        return record_ktls_record(tls->ktls);
    return tls->user != NULL ? record_user_record(tls->user) : &tls->rec;
}

uint8_t tls_fallback(const struct tls *tls)
{
    return tls->fallback;
}

bool tls_met_key_update(const struct tls *tls)
{
    return tls->ktls != NULL && record_ktls_met_key_update(tls->ktls);
}
