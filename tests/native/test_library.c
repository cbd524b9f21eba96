/* test_library.c: handshakes see fewer of OpenSSL's decoders than there are: every kind of key that
 * a certificate may have must still be read, in threads that asked for it and in others. */
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

static void each_kind_of_key(void)
{
    struct sites sites;
    sites_init(&sites);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        struct dp_leaf *web = leaf_of(&sites.ca_a, WEB_ID, key_of_kind(kind));
        struct dp_leaf *payments = leaf_of(&sites.ca_b, PAYMENTS_ID, key_of_kind(kind));
        sites.spec_b.payments = payments;
        sites_publish(&sites);
        for (int resumed = 0; resumed < 2; resumed++) {
            struct pair pair;
            if (CHECK(pair_connect(&pair, &sites, web, PAYMENTS_SNI, PAYMENTS_ID))) {
                CHECK_INT(pair_is_resumed(&pair), resumed);
                CHECK_TEXT(tls_peer(pair.server)->id, WEB_ID);
                CHECK_TEXT(tls_peer(pair.client)->id, PAYMENTS_ID);
                CHECK(pair_carries(pair.client, pair.server, "ping"));
            } else {
                printf("# kind %u: %s; %s\n", kind, tls_detail(pair.client), tls_detail(pair.server));
            }
            pair_close(&pair);
        }
        dp_leaf_free(web);
        dp_leaf_free(payments);
    }
    sites_fini(&sites);
}

static void each_kind_of_key_in_a_thread_that_asked(void)
{
    tls_thread_init();
    each_kind_of_key();
}

TEST_MAIN(TEST(each_kind_of_key), TEST(each_kind_of_key_in_a_thread_that_asked))
