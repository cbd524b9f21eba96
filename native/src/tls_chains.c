/* tls_chains.c: a worker's memory of certificate chains that it found good, so that a peer who
 * comes again costs no signature check above its own. A chain is known by the SHA-256 of all its
 * certificates and by the use it was checked for; it counts only within the dates of every
 * certificate that led to the bundle, and only while that bundle is the one in force. Whether the
 * peer is denied, or expected, is asked each time by tls_verify.c. Nothing that failed is kept.
 * With each the peer's own certificate stays decoded, where OpenSSL is slow at that. */
#include <openssl/evp.h>
#include <stdlib.h>

#include "lru.h"
#include "stats.h"
#include "tls_internal.h"

struct tls_chains {
    struct stats *stats;         /* borrowed from the worker */
    struct lru *slots;           /* owned */
    struct tls_known *entries;   /* owned; a slot each */
};
static_assert((int)TLS_HASH_SIZE == LRU_KEY_SIZE, "a chain's digest is a slot's key");

int tls_chains_new(size_t chains_max, struct stats *stats, struct tls_chains **ret)
{
    assert(chains_max > 0);
    struct tls_chains *chains = calloc(1, sizeof(*chains));
    if (chains == NULL)
        return -ENOMEM;
    chains->stats = stats;
    int r = lru_new(chains_max, &chains->slots);
    if (r == 0) {
        chains->entries = calloc(chains_max, sizeof(struct tls_known));
        r = chains->entries != NULL ? 0 : -ENOMEM;
    }
    if (r < 0) {
        tls_chains_free(chains);
        return r;
    }
    *ret = chains;
    return 0;
}

static void drop(struct tls_chains *chains, int32_t at)
{
    X509_free(chains->entries[at].leaf);
    lru_remove(chains->slots, at);
}

void tls_chains_free(struct tls_chains *chains)
{
    if (chains == NULL)
        return;
    while (chains->entries != NULL && lru_oldest(chains->slots) != LRU_NONE)
        drop(chains, lru_oldest(chains->slots));
    lru_free(chains->slots);
    free(chains->entries);
    free(chains);
}

/* A certificate's DER says where it ends, so the bytes of all are unambiguous. */
bool tls_chains_key(const struct tls *tls, uint8_t *ret)
{
    const uint8_t use = tls->is_server;
    if (tls->chains == NULL)
        return false;
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    bool good = hash != NULL && EVP_DigestInit_ex2(hash, EVP_sha256(), NULL) &&
                EVP_DigestUpdate(hash, &use, sizeof(use)) &&
                EVP_DigestUpdate(hash, tls->chain, tls->chain_len) &&
                EVP_DigestFinal_ex(hash, ret, NULL);
    EVP_MD_CTX_free(hash);
    return good;
}

const struct tls_known *tls_chains_find(const struct tls *tls, const uint8_t *key, int64_t now_s)
{
    struct tls_chains *chains = tls->chains;
    int32_t at = lru_find(chains->slots, key);
    if (at == LRU_NONE)
        return NULL;
    const struct tls_known *known = &chains->entries[at];
    const char *trust_domain = known->peer.trust_domain;
    const struct dp_bundle *bundle =
        snapshot_bundle(tls->snap, trust_domain, strlen(trust_domain));
    if (bundle == NULL ||
        memcmp(bundle->fingerprint, known->bundle_fingerprint, TLS_HASH_SIZE) != 0 ||
        now_s < known->from_s || now_s >= known->until_s) {
        drop(chains, at); /* to be looked at afresh, by who says what is wrong */
        return NULL;
    }
    lru_touch(chains->slots, at);
    stats_add(chains->stats, STAT_CHAINS_REMEMBERED, 1);
    return known;
}

void tls_chains_add(const struct tls *tls, const uint8_t *key, const struct tls_known *known)
{
    struct tls_chains *chains = tls->chains;
    assert(lru_find(chains->slots, key) == LRU_NONE);
    if (lru_is_full(chains->slots)) {
        drop(chains, lru_oldest(chains->slots));
        stats_add(chains->stats, STAT_CHAINS_EVICTED, 1);
    }
    if (known->leaf != NULL)
        (void)X509_up_ref(known->leaf);
    chains->entries[lru_add(chains->slots, key)] = *known;
}
