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
#include "tls_internal.h"

enum { NONE = -1 };

struct entry {
    uint8_t key[TLS_HASH_SIZE];
    uint8_t bundle_fingerprint[TLS_HASH_SIZE]; /* vouched for the server */
    SSL_SESSION *session;        /* owned; NULL = slot is free */
    int64_t expires_s;           /* CLOCK_REALTIME: ticket, our leaf or theirs */
    int32_t newer, older;        /* by use; a free slot's older is the next free one */
    int32_t next;                /* same bucket */
};

struct tls_sessions {
    struct tls_context *ctx;     /* borrowed */
    struct entry *entries;       /* owned */
    int32_t *buckets;            /* owned */
    uint32_t bucket_mask;
    int32_t newest, oldest, free;
    size_t count_max;
};

static int32_t *bucket_of(struct tls_sessions *sessions, const uint8_t *key)
{
    uint32_t hash;
    memcpy(&hash, key, sizeof(hash)); /* SHA-256: any bits will do */
    return &sessions->buckets[hash & sessions->bucket_mask];
}

static int32_t find(struct tls_sessions *sessions, const uint8_t *key)
{
    int32_t at = *bucket_of(sessions, key);
    while (at != NONE && memcmp(sessions->entries[at].key, key, TLS_HASH_SIZE) != 0)
        at = sessions->entries[at].next;
    return at;
}

static void age_unlink(struct tls_sessions *sessions, int32_t at)
{
    struct entry *entry = &sessions->entries[at];
    *(entry->newer != NONE ? &sessions->entries[entry->newer].older : &sessions->newest) =
        entry->older;
    *(entry->older != NONE ? &sessions->entries[entry->older].newer : &sessions->oldest) =
        entry->newer;
}

static void age_push(struct tls_sessions *sessions, int32_t at)
{
    struct entry *entry = &sessions->entries[at];
    entry->newer = NONE;
    entry->older = sessions->newest;
    *(sessions->newest != NONE ? &sessions->entries[sessions->newest].newer : &sessions->oldest) =
        at;
    sessions->newest = at;
}

static void drop(struct tls_sessions *sessions, int32_t at)
{
    struct entry *entry = &sessions->entries[at];
    int32_t *link = bucket_of(sessions, entry->key);
    while (*link != at)
        link = &sessions->entries[*link].next;
    *link = entry->next;
    age_unlink(sessions, at);
    SSL_SESSION_free(entry->session);
    entry->session = NULL;
    entry->older = sessions->free;
    sessions->free = at;
}

/* OpenSSL has parsed a NewSessionTicket. Keeps a copy, since OpenSSL spoils its own when the
 * connection ends badly; hence 0: session stays OpenSSL's. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls *tls = SSL_get_app_data(ssl);
    struct tls_sessions *sessions = tls->sessions;
    if (sessions == NULL || sessions->count_max == 0 || !tls->established)
        return 0;
    const int64_t now_s = clock_real_s();
    int64_t expires_s = now_s + (int64_t)SSL_SESSION_get_ticket_lifetime_hint(session);
    if (expires_s > tls->peer.not_after_s)
        expires_s = tls->peer.not_after_s;
    if (expires_s > tls->leaf->not_after_s)
        expires_s = tls->leaf->not_after_s;
    SSL_SESSION *copy = expires_s > now_s ? SSL_SESSION_dup(session) : NULL;
    if (copy == NULL)
        return 0;

    int32_t at = find(sessions, tls->session_key);
    if (at != NONE)
        drop(sessions, at);
    else if (sessions->free == NONE)
        drop(sessions, sessions->oldest);
    at = sessions->free;
    struct entry *entry = &sessions->entries[at];
    sessions->free = entry->older;
    memcpy(entry->key, tls->session_key, TLS_HASH_SIZE);
    memcpy(entry->bundle_fingerprint, tls->bundle_fingerprint, TLS_HASH_SIZE);
    entry->session = copy;
    entry->expires_s = expires_s;
    int32_t *bucket = bucket_of(sessions, entry->key);
    entry->next = *bucket;
    *bucket = at;
    age_push(sessions, at);
    return 0;
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
    if (sessions == NULL || sessions->count_max == 0)
        return;
    int32_t at = find(sessions, tls->session_key);
    if (at == NONE)
        return;
    struct entry *entry = &sessions->entries[at];
    struct tls_peer peer;
    struct tls_refusal why_not = {0}; /* not the connection's: a full handshake follows */
    if (clock_real_s() >= entry->expires_s || !SSL_SESSION_is_resumable(entry->session) ||
        !tls_verify_resumed(tls, SSL_SESSION_get0_peer(entry->session), entry->bundle_fingerprint,
                            snap, &peer, &why_not)) {
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
    age_unlink(sessions, at);
    age_push(sessions, at);
}

void tls_sessions_forget(struct tls *tls)
{
    if (tls->sessions == NULL || tls->sessions->count_max == 0)
        return;
    int32_t at = find(tls->sessions, tls->session_key);
    if (at != NONE)
        drop(tls->sessions, at);
}

const struct tls_context *tls_sessions_context(const struct tls_sessions *sessions)
{
    return sessions->ctx;
}

int tls_sessions_new(struct tls_context *ctx, size_t sessions_max, struct tls_sessions **ret)
{
    if (sessions_max > INT32_MAX / 4)
        return -EINVAL;
    struct tls_sessions *sessions = calloc(1, sizeof(*sessions));
    if (sessions == NULL)
        return -ENOMEM;
    uint32_t buckets = 1;
    while (buckets < 2 * sessions_max)
        buckets *= 2;
    sessions->ctx = ctx;
    sessions->count_max = sessions_max;
    sessions->bucket_mask = buckets - 1;
    sessions->newest = sessions->oldest = NONE;
    sessions->entries = calloc(sessions_max > 0 ? sessions_max : 1, sizeof(struct entry));
    sessions->buckets = malloc(buckets * sizeof(int32_t));
    if (sessions->entries == NULL || sessions->buckets == NULL) {
        tls_sessions_free(sessions);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < buckets; i++)
        sessions->buckets[i] = NONE;
    sessions->free = NONE;
    for (int32_t i = (int32_t)sessions_max - 1; i >= 0; i--) {
        sessions->entries[i].older = sessions->free;
        sessions->free = i;
    }
    *ret = sessions;
    return 0;
}

void tls_sessions_clear(struct tls_sessions *sessions)
{
    while (sessions->oldest != NONE)
        drop(sessions, sessions->oldest);
}

void tls_sessions_free(struct tls_sessions *sessions)
{
    if (sessions == NULL)
        return;
    if (sessions->entries != NULL && sessions->buckets != NULL)
        tls_sessions_clear(sessions);
    free(sessions->entries);
    free(sessions->buckets);
    free(sessions);
}
