/* test_library.c: handshakes see fewer of OpenSSL's decoders than there are: every kind of key that
 * a certificate may have must still be read, by workers and by others. */
#include <openssl/evp.h>

#include "test.h"
#include "tls_pair.h"

/* pki_leaf's, with a key of that kind. */
static struct dp_leaf *leaf_of(const struct pki_ca *ca, const char *id, EVP_PKEY *key)
{
    const struct pki_spec spec = {.uris = {id}};
    struct dp_leaf *leaf = pki_leaf(ca, &spec, false);
    assert(key != NULL);
    EVP_PKEY_free(leaf->key);
    X509_free(leaf->cert);
    leaf->key = key;
    leaf->cert = pki_issue(ca, &spec, key);
    return leaf;
}

static EVP_PKEY *key_of_kind(unsigned kind)
{
    switch (kind) {
    case 0: return EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    case 1: return EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-384");
    case 2: return EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
    case 3: return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    case 4: return EVP_PKEY_Q_keygen(NULL, NULL, "ED448");
    default: return NULL;
    }
}
enum { KINDS = 5 };

static void connect_and_recheck(struct sites *sites, const struct dp_leaf *web, bool resumed)
{
    struct pair pair;
    if (CHECK(pair_connect(&pair, sites, web, PAYMENTS_SNI, PAYMENTS_ID))) {
        CHECK_INT(pair_is_resumed(&pair), resumed);
        CHECK_TEXT(tls_peer(pair.server)->id, WEB_ID);
        CHECK_TEXT(tls_peer(pair.client)->id, PAYMENTS_ID);
        CHECK(pair_carries(pair.client, pair.server, "ping"));
        /* Snapshots a and b differ in a's bundle: the chain is verified again. */
        CHECK_INT(tls_peer_recheck(pair.server, sites->snap_a, PKI_NOW_S), DP_REASON_NONE);
    } else {
        printf("# %s; %s\n", tls_detail(pair.client), tls_detail(pair.server));
    }
    pair_close(&pair);
}

static void each_kind_of_key(bool as_worker)
{
    struct sites sites;
    struct pki_ca next;
    sites_init(&sites);
    pki_ca_init(&next, "next site a", NULL);
    struct dp_bundle *both = pki_bundle("a.example", &sites.ca_a, &next);
    sites.spec_a.bundles[0] = both;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        struct dp_leaf *web = leaf_of(&sites.ca_a, WEB_ID, key_of_kind(kind));
        struct dp_leaf *payments = leaf_of(&sites.ca_b, PAYMENTS_ID, key_of_kind(kind));
        sites.spec_b.payments = payments;
        sites_publish(&sites);
        OSSL_LIB_CTX *before = OSSL_LIB_CTX_set0_default(NULL);
        if (as_worker)
            tls_thread_init();
        connect_and_recheck(&sites, web, false);
        connect_and_recheck(&sites, web, true);
        (void)OSSL_LIB_CTX_set0_default(before);
        dp_leaf_free(web);
        dp_leaf_free(payments);
    }
    dp_bundle_free(both);
    pki_ca_fini(&next);
    sites_fini(&sites);
}

static void each_kind_of_key_in_a_worker(void)
{
    each_kind_of_key(true);
}

static void each_kind_of_key_elsewhere(void)
{
    each_kind_of_key(false);
}

TEST_MAIN(TEST(each_kind_of_key_in_a_worker), TEST(each_kind_of_key_elsewhere))
