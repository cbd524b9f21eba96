/* test_leaf.c: certificates as they come in PEM: what is taken, and what is refused. */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>

#include "pki.h"
#include "snapshot.h"
#include "test.h"

#define ANN "spiffe://site-a/ns/shop/sa/ann"

static struct pki_ca ca, other;
static EVP_PKEY *key;
static char *key_pem;

static void begin(void)
{
    pki_ca_init(&ca, "site-a", NULL);
    pki_ca_init(&other, "other", NULL);
    key = pki_key();
    key_pem = pki_key_pem(key);
}

static void end(void)
{
    free(key_pem);
    EVP_PKEY_free(key);
    pki_ca_fini(&other);
    pki_ca_fini(&ca);
}

/* A leaf of spec with pem as its key and after as what follows in the chain. */
static int try_leaf(const struct pki_spec *spec, const char *pem, const char *after,
                    struct dp_leaf **ret)
{
    X509 *cert = pki_issue(&ca, spec, key);
    char *cert_pem = pki_cert_pem(cert);
    size_t size = strlen(cert_pem) + strlen(after) + 1;
    char *chain = malloc(size);
    snprintf(chain, size, "%s%s", cert_pem, after);
    int r = dp_leaf_new(ANN, chain, size - 1, pem, strlen(pem), ret);
    free(chain);
    free(cert_pem);
    X509_free(cert);
    return r;
}

static void a_good_leaf_is_taken(void)
{
    begin();
    char *ca_pem = pki_cert_pem(ca.cert);
    struct dp_leaf *leaf = NULL;
    const struct pki_spec spec = {.uris = {ANN}, .dns = "ann.example", .serial = 0x1234,
                                  .not_after_s = PKI_NOW_S + 77};
    REQUIRE_INT(try_leaf(&spec, key_pem, ca_pem, &leaf), 0);
    CHECK_TEXT(leaf->id, ANN);
    CHECK_INT(sk_X509_num(leaf->chain), 1);
    CHECK_INT(leaf->not_after_s, PKI_NOW_S + 77);
    CHECK_INT(dp_leaf_not_after_s(leaf), PKI_NOW_S + 77);
    CHECK_INT(leaf->serial_len, 2);
    CHECK(memcmp(leaf->serial, "\x12\x34", 2) == 0);
    dp_leaf_ref(leaf);
    dp_leaf_free(leaf);
    dp_leaf_free(leaf);
    dp_leaf_free(NULL);
    free(ca_pem);
    end();
}

static void bad_leaves_are_refused(void)
{
    begin();
    struct dp_leaf *leaf = NULL;
    const struct pki_spec good = {.uris = {ANN}};
    const struct pki_spec bad[] = {
        {.uris = {NULL}},
        {.uris = {ANN, ANN}},
        {.uris = {"spiffe://site-a/ns/shop/sa/bob"}},
        {.uris = {"https://site-a/ns/shop/sa/ann"}},
        {.uris = {"spiffe://site-a"}},
        {.uris = {ANN}, .is_ca = true},
    };
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        CHECK_INT(try_leaf(&bad[i], key_pem, "", &leaf), -EINVAL);

    EVP_PKEY *foreign = pki_key();
    char *foreign_pem = pki_key_pem(foreign);
    CHECK_INT(try_leaf(&good, foreign_pem, "", &leaf), -EINVAL);
    CHECK_INT(try_leaf(&good, "no key", "", &leaf), -EINVAL);
    CHECK_INT(try_leaf(&good, "", "", &leaf), -EINVAL);
    CHECK_INT(try_leaf(&good, key_pem, "-----BEGIN CERTIFICATE-----\nAAAA\n", &leaf), -EINVAL);
    CHECK_INT(try_leaf(&good, key_pem,
                       "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &leaf),
              -EINVAL);
    CHECK_INT(dp_leaf_new(ANN, "no chain", 8, key_pem, strlen(key_pem), &leaf), -EINVAL);
    CHECK_INT(dp_leaf_new(ANN, NULL, 0, key_pem, strlen(key_pem), &leaf), -EINVAL);
    CHECK_INT(dp_leaf_new(NULL, key_pem, 8, key_pem, strlen(key_pem), &leaf), -EINVAL);
    CHECK(leaf == NULL);
    free(foreign_pem);
    EVP_PKEY_free(foreign);
    end();
}

/* An encrypted key is refused, not asked for on a terminal. */
static void a_key_with_a_password_is_refused(void)
{
    begin();
    struct dp_leaf *leaf = NULL;
    char pem[4096];
    BIO *bio = BIO_new(BIO_s_mem());
    REQUIRE(PEM_write_bio_PrivateKey(bio, key, EVP_aes_128_cbc(), (const unsigned char *)"pass", 4,
                                     NULL, NULL) == 1);
    int len = BIO_read(bio, pem, sizeof(pem) - 1);
    BIO_free(bio);
    REQUIRE(len > 0);
    pem[len] = '\0';
    CHECK_INT(try_leaf(&(struct pki_spec){.uris = {ANN}}, pem, "", &leaf), -EINVAL);
    end();
}

/* What the daemon never makes: another form of key, and bytes after it. */
static void a_key_is_pkcs8_and_nothing_more(void)
{
    begin();
    struct dp_leaf *leaf = NULL;
    const struct pki_spec good = {.uris = {ANN}};
    BIO *bio = BIO_new(BIO_s_mem());
    char pem[4096];
    REQUIRE(PEM_write_bio_PrivateKey_traditional(bio, key, NULL, NULL, 0, NULL, NULL) == 1);
    int len = BIO_read(bio, pem, sizeof(pem) - 1);
    REQUIRE(len > 0);
    pem[len] = '\0';
    CHECK_INT(try_leaf(&good, pem, "", &leaf), -EINVAL);

    PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(key);
    unsigned char der[512] = {0}, *at = der;
    REQUIRE(info != NULL && i2d_PKCS8_PRIV_KEY_INFO(info, NULL) < (int)sizeof(der));
    int size = i2d_PKCS8_PRIV_KEY_INFO(info, &at);
    for (int more = 0; more < 2; more++) {
        REQUIRE(PEM_write_bio(bio, PEM_STRING_PKCS8INF, "", der, size + more) > 0);
        len = BIO_read(bio, pem, sizeof(pem) - 1);
        REQUIRE(len > 0);
        pem[len] = '\0';
        CHECK_INT(try_leaf(&good, pem, "", &leaf), more ? -EINVAL : 0);
        if (!more)
            dp_leaf_free(leaf);
    }
    PKCS8_PRIV_KEY_INFO_free(info);
    BIO_free(bio);
    end();
}

static void a_chain_is_bounded(void)
{
    begin();
    struct dp_leaf *leaf = NULL;
    const struct pki_spec good = {.uris = {ANN}};
    char *ca_pem = pki_cert_pem(ca.cert);
    char *after = calloc(8, strlen(ca_pem) + 1);
    for (int i = 0; i < 7; i++)
        strcat(after, ca_pem);
    CHECK_INT(try_leaf(&good, key_pem, after, &leaf), 0);
    CHECK_INT(sk_X509_num(leaf->chain), 7);
    dp_leaf_free(leaf);
    leaf = NULL;
    strcat(after, ca_pem);
    CHECK_INT(try_leaf(&good, key_pem, after, &leaf), -EINVAL);
    CHECK(leaf == NULL);
    free(after);
    free(ca_pem);
    end();
}

static void a_bundle_is_known_by_its_certificates(void)
{
    begin();
    char *first = pki_cert_pem(ca.cert), *second = pki_cert_pem(other.cert);
    size_t size = strlen(first) + strlen(second) * 2 + 1;
    char *ab = malloc(size), *baa = malloc(size);
    snprintf(ab, size, "%s%s", first, second);
    snprintf(baa, size, "%s%s%s", second, first, second);
    struct dp_bundle *one, *two, *three;
    REQUIRE_INT(dp_bundle_new("site-a", ab, strlen(ab), &one), 0);
    REQUIRE_INT(dp_bundle_new("site-a", baa, strlen(baa), &two), 0);
    REQUIRE_INT(dp_bundle_new("site-a", first, strlen(first), &three), 0);
    CHECK(memcmp(one->fingerprint, two->fingerprint, 32) == 0);
    CHECK(memcmp(one->fingerprint, three->fingerprint, 32) != 0);
    CHECK_TEXT(one->trust_domain, "site-a");
    dp_bundle_free(one);
    dp_bundle_free(two);
    dp_bundle_free(three);
    free(ab);
    free(baa);
    free(first);
    free(second);
    end();
}

static void bad_bundles_are_refused(void)
{
    begin();
    struct dp_bundle *bundle = NULL;
    char *pem = pki_cert_pem(ca.cert);
    char long_domain[DP_ID_MAX + 2];
    memset(long_domain, 'a', sizeof(long_domain) - 1);
    long_domain[sizeof(long_domain) - 1] = '\0';
    const char *const domains[] = {NULL, "", "Site-A", "a/b", "a b", "spiffe://a", long_domain};
    for (size_t i = 0; i < DP_COUNT(domains); i++)
        CHECK_INT(dp_bundle_new(domains[i], pem, strlen(pem), &bundle), -EINVAL);
    CHECK_INT(dp_bundle_new("a", "", 0, &bundle), -EINVAL);
    CHECK_INT(dp_bundle_new("a", "text", 4, &bundle), -EINVAL);
    CHECK_INT(dp_bundle_new("a", pem, strlen(pem) / 2, &bundle), -EINVAL);
    X509 *leaf = pki_issue(&ca, &(struct pki_spec){.uris = {ANN}}, key);
    char *leaf_pem = pki_cert_pem(leaf);
    CHECK_INT(dp_bundle_new("a", leaf_pem, strlen(leaf_pem), &bundle), -EINVAL);
    CHECK(bundle == NULL);
    free(leaf_pem);
    X509_free(leaf);
    free(pem);
    end();
}

TEST_MAIN(TEST(a_good_leaf_is_taken), TEST(bad_leaves_are_refused),
          TEST(a_key_with_a_password_is_refused), TEST(a_key_is_pkcs8_and_nothing_more),
          TEST(a_chain_is_bounded),
          TEST(a_bundle_is_known_by_its_certificates), TEST(bad_bundles_are_refused))
