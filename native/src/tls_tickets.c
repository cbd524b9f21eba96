/* tls_tickets.c: the server's side of resumption: keys shared by all workers (and, by the process
 * above, by its successor), what a ticket says beside OpenSSL's session, and whether it still
 * counts. Resumption skips the certificate check, so everything that can have changed since is
 * asked here; a ticket that fails is ignored and the handshake becomes a full one.
 * Form of the ticket: https://www.rfc-editor.org/rfc/rfc5077#section-4 */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdlib.h>

#include "clock.h"
#include "tls_internal.h"

enum { KEYS_MAX = 8, TICKET_LIFE_MAX_S = 4 * 3600, DATA_VERSION = 1 };

struct ticket_key {
    uint8_t name[16], aes[32], hmac[32];
};
static_assert(sizeof(struct ticket_key) == DP_TICKET_KEY_SIZE, "as dp.h has it");

struct tls_tickets {
    pthread_rwlock_t lock;
    size_t count;                /* guarded by lock, as keys */
    struct ticket_key keys[KEYS_MAX];
    EVP_CIPHER *cipher;          /* owned */
};

/* Rides in the ticket, which only we read: no need for a byte order. */
struct ticket_data {
    uint8_t version, pad[7];
    int64_t made_s, expires_s;   /* CLOCK_REALTIME */
    uint8_t bundle_fingerprint[TLS_HASH_SIZE]; /* vouched for the client */
    uint8_t server[TLS_HASH_SIZE];             /* SNI and the ID we showed for it */
};

static void server_hash(const struct tls *tls, uint8_t *hash)
{
    char text[SNI_MAX + 1 + DP_ID_MAX + 1] = {0};
    size_t sni_len = strlen(tls->sni), id_len = strlen(tls->leaf->id);
    memcpy(text, tls->sni, sni_len);
    memcpy(text + sni_len + 1, tls->leaf->id, id_len);
    SHA256((const uint8_t *)text, sni_len + 1 + id_len, hash);
}

/* Copies the key that seals, or the one of this name. Its index, or -1. */
static int find_key(struct tls_tickets *tickets, const uint8_t *name, struct ticket_key *ret)
{
    int found = -1;
    pthread_rwlock_rdlock(&tickets->lock);
    for (size_t i = 0; i < tickets->count && found < 0; i++)
        if (name == NULL || memcmp(tickets->keys[i].name, name, sizeof(ret->name)) == 0)
            found = (int)i;
    if (found >= 0)
        *ret = tickets->keys[found];
    pthread_rwlock_unlock(&tickets->lock);
    return found;
}

/* -1 = failed, 0 = no such key, 1 = good, 2 = good but not the key that seals. */
static int on_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                  EVP_MAC_CTX *mac, int seal)
{
    struct tls *tls = SSL_get_app_data(ssl);
    struct tls_tickets *tickets = tls->ctx->tickets;
    struct ticket_key key;
    int found = find_key(tickets, seal ? NULL : name, &key);
    if (found < 0)
        return 0;
    int result = -1;
    if (!seal || RAND_bytes(iv, EVP_CIPHER_get_iv_length(tickets->cipher)) == 1) {
        OSSL_PARAM params[] = {
            OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.hmac, sizeof(key.hmac)),
            OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
            OSSL_PARAM_construct_end()};
        if (EVP_CipherInit_ex2(cipher, tickets->cipher, key.aes, iv, seal, NULL) &&
            EVP_MAC_CTX_set_params(mac, params))
            result = found == 0 ? 1 : 2;
    }
    if (seal)
        memcpy(name, key.name, sizeof(key.name));
    OPENSSL_cleanse(&key, sizeof(key));
    return result;
}

/* A ticket is about to be sealed: the handshake is done and the client verified. */
static int on_make(SSL *ssl, void *arg)
{
    (void)arg;
    struct tls *tls = SSL_get_app_data(ssl);
    SSL_SESSION *session = SSL_get_session(ssl);
    const int64_t now_s = clock_real_s();
    struct ticket_data data = {
        .version = DATA_VERSION, .made_s = now_s, .expires_s = now_s + TICKET_LIFE_MAX_S};
    if (data.expires_s > tls->peer.not_after_s)
        data.expires_s = tls->peer.not_after_s;
    if (data.expires_s > tls->leaf->not_after_s)
        data.expires_s = tls->leaf->not_after_s;
    memcpy(data.bundle_fingerprint, tls->bundle_fingerprint, TLS_HASH_SIZE);
    server_hash(tls, data.server);
    int64_t life_s = data.expires_s > now_s ? data.expires_s - now_s : 0;
    (void)SSL_SESSION_set_timeout(session, (long)life_s); /* the lifetime that the client is told */
    return SSL_SESSION_set1_ticket_appdata(session, &data, sizeof(data));
}

static bool is_usable(struct tls *tls, SSL_SESSION *session, struct ticket_data *ret)
{
    void *buf = NULL;
    size_t len = 0;
    if (SSL_SESSION_get0_ticket_appdata(session, &buf, &len) != 1 || len != sizeof(*ret))
        return false;
    memcpy(ret, buf, sizeof(*ret));
    uint8_t server[TLS_HASH_SIZE];
    server_hash(tls, server);
    struct tls_refusal why_not = {0}; /* not the connection's: a full handshake follows */
    bool usable = ret->version == DATA_VERSION && clock_real_s() < ret->expires_s &&
                  memcmp(server, ret->server, TLS_HASH_SIZE) == 0 &&
                  tls_profile_has_suite(tls, session) &&
                  tls_verify_resumed(tls, SSL_SESSION_get0_peer(session), ret->bundle_fingerprint,
                                     tls->snap, &tls->peer, &why_not);
    tls_refusal_fini(&why_not);
    return usable;
}

static SSL_TICKET_RETURN on_open(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
                                 size_t name_len, SSL_TICKET_STATUS status, void *arg)
{
    struct tls *tls = SSL_get_app_data(ssl);
    struct ticket_data data;
    (void)name;
    (void)name_len;
    (void)arg;
    if ((status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) ||
        !is_usable(tls, session, &data))
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    memcpy(tls->bundle_fingerprint, data.bundle_fingerprint, TLS_HASH_SIZE);
    /* Our clients keep a ticket for many connections: a new one only when this grows old. */
    bool is_old = clock_real_s() >= data.made_s + (data.expires_s - data.made_s) / 2;
    return status == SSL_TICKET_SUCCESS_RENEW || is_old ? SSL_TICKET_RETURN_USE_RENEW
                                                        : SSL_TICKET_RETURN_USE;
}

int tls_tickets_new(struct tls_tickets **ret)
{
    struct tls_tickets *tickets = calloc(1, sizeof(*tickets));
    if (tickets == NULL)
        return -ENOMEM;
    tickets->cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    if (tickets->cipher == NULL ||
        RAND_bytes((uint8_t *)tickets->keys, sizeof(tickets->keys[0])) != 1 ||
        pthread_rwlock_init(&tickets->lock, NULL) != 0) {
        EVP_CIPHER_free(tickets->cipher);
        free(tickets);
        return -ENOMEM;
    }
    tickets->count = 1;
    *ret = tickets;
    return 0;
}

void tls_tickets_free(struct tls_tickets *tickets)
{
    if (tickets == NULL)
        return;
    pthread_rwlock_destroy(&tickets->lock);
    EVP_CIPHER_free(tickets->cipher);
    OPENSSL_cleanse(tickets->keys, sizeof(tickets->keys));
    free(tickets);
}

int tls_tickets_attach(SSL_CTX *server)
{
    if (!SSL_CTX_set_tlsext_ticket_key_evp_cb(server, on_key) ||
        !SSL_CTX_set_session_ticket_cb(server, on_make, on_open, NULL) ||
        !SSL_CTX_set_num_tickets(server, 1))
        return -ENOMEM;
    return 0;
}

int tls_tickets_set(struct tls_tickets *tickets, const uint8_t *keys, size_t count)
{
    if (count == 0 || count > KEYS_MAX)
        return -EINVAL;
    pthread_rwlock_wrlock(&tickets->lock);
    OPENSSL_cleanse(tickets->keys, sizeof(tickets->keys));
    memcpy(tickets->keys, keys, count * sizeof(tickets->keys[0]));
    tickets->count = count;
    pthread_rwlock_unlock(&tickets->lock);
    return 0;
}
