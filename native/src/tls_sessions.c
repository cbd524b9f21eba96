/* tls_sessions.c: a worker's client sessions: bounded, least recently used goes first, one thread.
 * A session is found only by who we are (ID and leaf), whom we want (SNI and expected IDs) and what
 * we offer (ALPN), so that nobody resumes another's; and it is offered only while the server's
 * identity would still be accepted, since resumption skips the certificate check.
 * A ticket is used for many connections until the server sends a newer one. RFC 8446 C.4 advises
 * single use against tracking by address; here both ends are known appliances anyway, and a burst
 * of streams would find no ticket left. */
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>

#include "clock.h"
#include "lru.h"
#include "tls_internal.h"

enum { LIFE_UNTOLD_S = 4 * 3600 };

struct entry {
    uint8_t bundle_fingerprint[TLS_HASH_SIZE]; /* vouched for the server */
    SSL_SESSION *session;        /* owned; NULL = slot is free */
    int64_t expires_s;           /* CLOCK_REALTIME: ticket, our leaf or theirs */
};

struct tls_sessions {
    struct tls_context *ctx;     /* borrowed */
    struct lru *slots;           /* owned; by session_key */
    struct entry *entries;       /* owned; a slot each */
};
static_assert((int)TLS_HASH_SIZE == LRU_KEY_SIZE, "session_key is a slot's key");

static void drop(struct tls_sessions *sessions, int32_t at)
{
    SSL_SESSION_free(sessions->entries[at].session);
    sessions->entries[at].session = NULL;
    lru_remove(sessions->slots, at);
}

/* OpenSSL has parsed a NewSessionTicket; too early in TLS 1.2, hence tls_sessions_keep. Keeps a
 * copy, since OpenSSL spoils its own when the connection ends badly; hence 0: session stays
 * OpenSSL's. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls *tls = SSL_get_app_data(ssl);
    struct tls_sessions *sessions = tls->sessions;
    if (sessions == NULL || !tls->established)
        return 0;
    const int64_t now_s = clock_real_s();
    int64_t life_s = (int64_t)SSL_SESSION_get_ticket_lifetime_hint(session);
    /* In TLS 1.2 the life of a renewed ticket is not told: the server will see. */
    if (life_s == 0 && tls->info.version == TLS1_2_VERSION)
        life_s = LIFE_UNTOLD_S;
    int64_t expires_s = now_s + life_s;
    if (expires_s > tls->peer.not_after_s)
        expires_s = tls->peer.not_after_s;
    if (expires_s > tls->leaf->not_after_s)
        expires_s = tls->leaf->not_after_s;
    SSL_SESSION *copy = expires_s > now_s ? SSL_SESSION_dup(session) : NULL;
    if (copy == NULL)
        return 0;

    int32_t at = lru_find(sessions->slots, tls->session_key);
    if (at != LRU_NONE)
        drop(sessions, at);
    else if (lru_is_full(sessions->slots))
        drop(sessions, lru_oldest(sessions->slots));
    at = lru_add(sessions->slots, tls->session_key);
    struct entry *entry = &sessions->entries[at];
    memcpy(entry->bundle_fingerprint, tls->bundle_fingerprint, TLS_HASH_SIZE);
    entry->session = copy;
    entry->expires_s = expires_s;
    return 0;
}

static bool has_ticket_of(const SSL_SESSION *session, const SSL_SESSION *other)
{
    const unsigned char *ticket, *its;
    size_t len, its_len;
    SSL_SESSION_get0_ticket(session, &ticket, &len);
    SSL_SESSION_get0_ticket(other, &its, &its_len);
    return len == its_len && memcmp(ticket, its, len) == 0;
}

void tls_sessions_keep(struct tls *tls)
{
    struct tls_sessions *sessions = tls->sessions;
    if (sessions == NULL || tls->info.version != TLS1_2_VERSION)
        return;
    SSL_SESSION *session = SSL_get_session(tls->ssl);
    int32_t at = tls->info.resumed ? lru_find(sessions->slots, tls->session_key)
                                    : LRU_NONE;
    /* The ticket that we came with lives no longer for having been used. */
    if (SSL_SESSION_has_ticket(session) &&
        (at == LRU_NONE || !has_ticket_of(session, sessions->entries[at].session)))
        (void)on_session(tls->ssl, session);
}

void tls_sessions_attach(SSL_CTX *client)
{
    (void)SSL_CTX_set_session_cache_mode(client, SSL_SESS_CACHE_CLIENT |
                                                     SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(client, on_session);
}

static void hash_field(EVP_MD_CTX *hash, const void *data, size_t len)
{
    uint32_t prefix = (uint32_t)len; /* so that fields cannot run into each other */
    (void)EVP_DigestUpdate(hash, &prefix, sizeof(prefix));
    (void)EVP_DigestUpdate(hash, data, len);
}

void tls_sessions_key(struct tls *tls)
{
    const struct lru *slots = tls->sessions->slots;
    if (lru_is_full(slots) && lru_oldest(slots) == LRU_NONE) { /* room for none */
        tls->sessions = NULL;
        return;
    }
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    if (hash == NULL || !EVP_DigestInit_ex2(hash, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(hash);
        tls->sessions = NULL; /* no key, no resumption */
        return;
    }
    const uint8_t versions[] = {TLS_LINK_VERSION_MIN, TLS_LINK_VERSION_MAX};
    hash_field(hash, tls->leaf->id, strlen(tls->leaf->id));
    hash_field(hash, tls->leaf->serial, tls->leaf->serial_len);
    hash_field(hash, tls->sni, strlen(tls->sni));
    hash_field(hash, versions, sizeof(versions));
    for (size_t i = 0; i < tls->expected_count; i++)
        hash_field(hash, tls->expected[i], strlen(tls->expected[i]));
    if (!EVP_DigestFinal_ex(hash, tls->session_key, NULL))
        tls->sessions = NULL;
    EVP_MD_CTX_free(hash);
}

void tls_sessions_offer(struct tls *tls, const struct dp_snapshot *snap)
{
    struct tls_sessions *sessions = tls->sessions;
    if (sessions == NULL)
        return;
    int32_t at = lru_find(sessions->slots, tls->session_key);
    if (at == LRU_NONE)
        return;
    struct entry *entry = &sessions->entries[at];
    struct tls_peer peer;
    struct tls_refusal why_not = {0}; /* not the connection's: a full handshake follows */
    if (clock_real_s() >= entry->expires_s || !SSL_SESSION_is_resumable(entry->session) ||
        !tls_profile_has_suite(tls, entry->session) ||
        !tls_verify_resumed(tls, SSL_SESSION_get0_peer(entry->session), entry->bundle_fingerprint,
                            snap, &peer, &why_not)) {
        tls_refusal_fini(&why_not);
        drop(sessions, at);
        return;
    }
    /* A copy: OpenSSL marks a TLS 1.3 session as used up by its first connection. */
    SSL_SESSION *copy = SSL_SESSION_dup(entry->session);
    bool is_offered = copy != NULL && SSL_set_session(tls->ssl, copy);
    SSL_SESSION_free(copy);
    if (!is_offered)
        return;
    memcpy(tls->bundle_fingerprint, entry->bundle_fingerprint, TLS_HASH_SIZE);
    lru_touch(sessions->slots, at);
}

void tls_sessions_forget(struct tls *tls)
{
    if (tls->sessions == NULL)
        return;
    int32_t at = lru_find(tls->sessions->slots, tls->session_key);
    if (at != LRU_NONE)
        drop(tls->sessions, at);
}

const struct tls_context *tls_sessions_context(const struct tls_sessions *sessions)
{
    return sessions->ctx;
}

int tls_sessions_new(struct tls_context *ctx, size_t sessions_max, struct tls_sessions **ret)
{
    struct tls_sessions *sessions = calloc(1, sizeof(*sessions));
    if (sessions == NULL)
        return -ENOMEM;
    sessions->ctx = ctx;
    int r = lru_new(sessions_max, &sessions->slots);
    if (r == 0) {
        sessions->entries = calloc(sessions_max > 0 ? sessions_max : 1, sizeof(struct entry));
        r = sessions->entries != NULL ? 0 : -ENOMEM;
    }
    if (r < 0) {
        tls_sessions_free(sessions);
        return r;
    }
    *ret = sessions;
    return 0;
}

void tls_sessions_clear(struct tls_sessions *sessions)
{
    while (lru_oldest(sessions->slots) != LRU_NONE)
        drop(sessions, lru_oldest(sessions->slots));
}

void tls_sessions_free(struct tls_sessions *sessions)
{
    if (sessions == NULL)
        return;
    if (sessions->slots != NULL)
        tls_sessions_clear(sessions);
    lru_free(sessions->slots);
    free(sessions->entries);
    free(sessions);
}
