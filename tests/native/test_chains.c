/* test_chains.c: chains that were found good are not verified again; what must not be forgotten
 * over it. */
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "test.h"
#include "tls_pair.h"

enum { DAY_S = 24 * 3600, YEAR_S = 365 * DAY_S };

static uint64_t remembered_before;

/* Every handshake a full one. */
static void sites_init_full(struct sites *sites)
{
    sites_init(sites);
    tls_sessions_free(sites->sessions);
    REQUIRE_INT(tls_sessions_new(sites->ctx_a, 0, &sites->sessions), 0);
    remembered_before = 0;
}

/* By how many ends the other's chain was remembered, since asked the last time. */
static unsigned remembered(const struct sites *sites)
{
    uint64_t now = stats_get(sites->stats, STAT_CHAINS_REMEMBERED);
    unsigned since = (unsigned)(now - remembered_before);
    remembered_before = now;
    return since;
}

static bool connects(struct sites *sites, const struct dp_leaf *leaf)
{
    struct pair pair;
    bool good = pair_connect(&pair, sites, leaf, PAYMENTS_SNI, PAYMENTS_ID);
    if (good)
        CHECK(!pair_is_resumed(&pair));
    pair_close(&pair);
    return good;
}

/* Where it is refused and why; DP_REASON_NONE if it is not. */
struct verdict {
    uint16_t at_client, at_server;
};

static struct verdict verdict_on(struct sites *sites, const struct dp_leaf *leaf,
                                 const char *expected)
{
    struct pair pair;
    struct verdict ret = {0};
    (void)pair_connect(&pair, sites, leaf, PAYMENTS_SNI, expected);
    if (pair.client_result < 0)
        ret.at_client = tls_reason(pair.client);
    if (pair.server_result < 0)
        ret.at_server = tls_reason(pair.server);
    pair_close(&pair);
    return ret;
}

static void a_good_chain_is_remembered(void)
{
    struct sites sites;
    sites_init_full(&sites);
    CHECK(connects(&sites, sites.web));
    CHECK_INT(remembered(&sites), 0);
    for (int i = 0; i < 3; i++) {
        struct pair pair;
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        CHECK_INT(remembered(&sites), 2);
        const struct tls_peer *peer = tls_peer(pair.server);
        CHECK_TEXT(peer->id, WEB_ID);
        CHECK_TEXT(peer->trust_domain, "a.example");
        CHECK_INT(peer->grade, DP_GRADE_L2);
        CHECK(peer->delegated);
        CHECK_INT(peer->not_after_s, sites.web->not_after_s);
        CHECK_INT(peer->serial_len, sites.web->serial_len);
        CHECK(memcmp(peer->serial, sites.web->serial, peer->serial_len) == 0);
        CHECK_TEXT(tls_peer(pair.client)->id, PAYMENTS_ID);
        CHECK(pair_carries(pair.client, pair.server, "ping"));
        CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, PKI_NOW_S), DP_REASON_NONE);
        CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, sites.web->not_after_s),
                  DP_REASON_EXPIRED);
        pair_close(&pair);
    }
    CHECK(connects(&sites, sites.batch)); /* the server is known, the client is another */
    CHECK_INT(remembered(&sites), 1);
    sites_fini(&sites);
}

static void not_when_the_leaf_expired(void)
{
    struct sites sites;
    sites_init_full(&sites);
    struct dp_leaf *brief = pki_leaf(
        &sites.ca_a, &(struct pki_spec){.uris = {WEB_ID}, .not_after_s = PKI_NOW_S + 600}, false);
    brief->not_after_s = PKI_NOW_S + DAY_S; /* so that its client shows it nevertheless */
    CHECK(connects(&sites, brief));
    clock_test_advance(UINT64_C(599000000000));
    CHECK(connects(&sites, brief));
    CHECK_INT(remembered(&sites), 2);
    clock_test_advance(UINT64_C(1000000000));
    CHECK_INT(verdict_on(&sites, brief, PAYMENTS_ID).at_server, DP_REASON_EXPIRED);
    CHECK_INT(remembered(&sites), 1); /* the server's */
    dp_leaf_free(brief);
    sites_fini(&sites);
}

static void not_when_a_ca_above_expired(void)
{
    struct sites sites;
    sites_init_full(&sites);
    const struct pki_spec long_lived = {.uris = {PAYMENTS_ID}, .not_after_s = PKI_NOW_S + 2 * YEAR_S};
    struct dp_leaf *payments = pki_leaf(&sites.ca_b, &long_lived, false);
    sites.web->not_after_s = PKI_NOW_S + 2 * YEAR_S;
    sites.spec_b.payments = payments;
    sites_publish(&sites);
    CHECK(connects(&sites, sites.web));
    CHECK(connects(&sites, sites.web));
    CHECK_INT(remembered(&sites), 2);
    clock_test_advance((uint64_t)YEAR_S * UINT64_C(1000000000)); /* the CAs' year began yesterday */
    struct pair pair;
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.client), DP_REASON_EXPIRED);
    CHECK_TEXT(tls_detail(pair.client), "a CA certificate above " PAYMENTS_ID " has expired");
    CHECK_INT(remembered(&sites), 0);
    pair_close(&pair);
    dp_leaf_free(payments);
    sites_fini(&sites);
}

static void not_before_it_counts(void)
{
    struct sites sites;
    sites_init_full(&sites);
    CHECK(connects(&sites, sites.web));
    CHECK(connects(&sites, sites.web));
    CHECK_INT(remembered(&sites), 2);
    /* The clock is set back, to before the leaves' first second. */
    clock_test_set(UINT64_C(2000000000), (uint64_t)(PKI_NOW_S - 61) * UINT64_C(1000000000));
    CHECK_INT(verdict_on(&sites, sites.web, PAYMENTS_ID).at_client, DP_REASON_PEER_IDENTITY);
    CHECK_INT(remembered(&sites), 0);
    sites_fini(&sites);
}

static void not_when_denied_since(void)
{
    struct sites sites;
    sites_init_full(&sites);
    CHECK(connects(&sites, sites.web));
    sites.spec_b.denied_id = WEB_ID;
    sites_publish(&sites);
    CHECK_INT(verdict_on(&sites, sites.web, PAYMENTS_ID).at_server, DP_REASON_REVOKED);
    sites.spec_b.denied_id = NULL;
    sites.spec_b.denied_leaf = sites.web;
    sites.spec_b.denied_trust_domain = "a.example";
    sites_publish(&sites);
    CHECK_INT(verdict_on(&sites, sites.web, PAYMENTS_ID).at_server, DP_REASON_REVOKED);
    sites.spec_b.denied_leaf = NULL;
    sites.spec_a.denied_id = PAYMENTS_ID;
    sites_publish(&sites);
    CHECK_INT(verdict_on(&sites, sites.web, PAYMENTS_ID).at_client, DP_REASON_REVOKED);
    CHECK_INT(remembered(&sites), 5); /* both ends twice, then the client: it is asked each time */
    sites_fini(&sites);
}

static void not_when_the_bundle_changed(void)
{
    struct sites sites;
    sites_init_full(&sites);
    struct pki_ca next;
    pki_ca_init(&next, "next site a", NULL);
    struct dp_bundle *both = pki_bundle("a.example", &sites.ca_a, &next);
    struct dp_bundle *later = pki_bundle("a.example", &next, NULL);
    CHECK(connects(&sites, sites.web));
    sites.spec_b.bundles[0] = both;
    sites_publish(&sites);
    CHECK(connects(&sites, sites.web)); /* verified by the new bundle */
    CHECK_INT(remembered(&sites), 1);
    CHECK(connects(&sites, sites.web));
    CHECK_INT(remembered(&sites), 2);
    sites.spec_b.bundles[0] = later;
    sites_publish(&sites);
    CHECK_INT(verdict_on(&sites, sites.web, PAYMENTS_ID).at_server, DP_REASON_PEER_IDENTITY);
    sites.spec_b.bundles[0] = NULL;
    sites_publish(&sites);
    CHECK_INT(verdict_on(&sites, sites.web, PAYMENTS_ID).at_server, DP_REASON_PEER_IDENTITY);
    CHECK_INT(remembered(&sites), 2); /* the server's */
    /* The first bundle again: what it once vouched for is no longer remembered. */
    sites.spec_b.bundles[0] = sites.bundle_a;
    sites_publish(&sites);
    CHECK(connects(&sites, sites.web));
    CHECK_INT(remembered(&sites), 1);
    dp_bundle_free(both);
    dp_bundle_free(later);
    pki_ca_fini(&next);
    sites_fini(&sites);
}

/* The same leaf and key, and nothing above them. */
static struct dp_leaf *without_chain(const struct dp_leaf *leaf)
{
    struct dp_leaf *ret = malloc(sizeof(*ret));
    assert(ret != NULL);
    memcpy(ret, leaf, sizeof(*ret));
    atomic_init(&ret->refs, 1);
    ret->chain = sk_X509_new_null();
    CHECK(ret->chain != NULL && X509_up_ref(ret->cert) && EVP_PKEY_up_ref(ret->key));
    return ret;
}

static void another_chain_to_the_same_leaf_is_another(void)
{
    struct sites sites;
    sites_init_full(&sites);
    struct pki_ca below;
    pki_ca_init(&below, "below site a", &sites.ca_a);
    struct dp_leaf *with = pki_leaf(&below, &(struct pki_spec){.uris = {WEB_ID}}, true);
    struct dp_leaf *without = without_chain(with);
    CHECK(connects(&sites, with));
    CHECK(connects(&sites, with));
    CHECK_INT(remembered(&sites), 2);
    CHECK_INT(verdict_on(&sites, without, PAYMENTS_ID).at_server, DP_REASON_PEER_IDENTITY);
    CHECK_INT(remembered(&sites), 1);
    CHECK(connects(&sites, with));
    CHECK_INT(remembered(&sites), 2);
    dp_leaf_free(with);
    dp_leaf_free(without);
    pki_ca_fini(&below);
    sites_fini(&sites);
}

/* The public half of one key, so that OpenSSL lets it be shown with its certificate, and the
 * private half of another. */
static EVP_PKEY *patched_key(EVP_PKEY *shown, EVP_PKEY *owned)
{
    uint8_t public[128];
    size_t len;
    BIGNUM *private = NULL;
    EVP_PKEY *ret = NULL;
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    CHECK(EVP_PKEY_get_octet_string_param(shown, OSSL_PKEY_PARAM_PUB_KEY, public, sizeof(public),
                                          &len));
    CHECK(EVP_PKEY_get_bn_param(owned, OSSL_PKEY_PARAM_PRIV_KEY, &private));
    CHECK(OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0));
    CHECK(OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, public, len));
    CHECK(OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_PRIV_KEY, private));
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    CHECK(EVP_PKEY_fromdata_init(ctx) == 1);
    CHECK(EVP_PKEY_fromdata(ctx, &ret, EVP_PKEY_KEYPAIR, params) == 1);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(build);
    EVP_PKEY_CTX_free(ctx);
    BN_clear_free(private);
    return ret;
}

static void who_shows_a_remembered_certificate_needs_its_key(void)
{
    struct sites sites;
    sites_init_full(&sites);
    CHECK(connects(&sites, sites.web));
    CHECK(connects(&sites, sites.web));
    CHECK_INT(remembered(&sites), 2);
    EVP_PKEY *key = sites.web->key, *patched = patched_key(key, sites.batch->key);
    sites.web->key = patched;
    CHECK_INT(X509_check_private_key(sites.web->cert, patched), 1);
    CHECK_INT(verdict_on(&sites, sites.web, PAYMENTS_ID).at_server, DP_REASON_HANDSHAKE);
    CHECK_INT(remembered(&sites), 2); /* the chain is good, and not enough */
    sites.web->key = key;
    EVP_PKEY_free(patched);
    CHECK(connects(&sites, sites.web));
    sites_fini(&sites);
}

static void whom_a_client_wants_is_asked_each_time(void)
{
    struct sites sites;
    sites_init_full(&sites);
    CHECK(connects(&sites, sites.web));
    CHECK_INT(verdict_on(&sites, sites.web, APPLIANCE_ID).at_client, DP_REASON_PEER_IDENTITY);
    CHECK_INT(remembered(&sites), 1);
    CHECK(connects(&sites, sites.web));
    sites_fini(&sites);
}

static void a_clients_chain_is_no_servers(void)
{
    struct sites sites;
    struct pair pair;
    sites_init_full(&sites);
    const struct pki_spec spec = {.uris = {WEB_ID}, .extended_usage = "clientAuth"};
    struct dp_leaf *leaf = pki_leaf(&sites.ca_a, &spec, false);
    CHECK(connects(&sites, leaf));
    sites.spec_b.payments = leaf;
    sites_publish(&sites);
    CHECK(!pair_connect(&pair, &sites, leaf, PAYMENTS_SNI, WEB_ID));
    CHECK_INT(tls_reason(pair.client), DP_REASON_PEER_IDENTITY);
    CHECK_INT(remembered(&sites), 0);
    pair_close(&pair);
    dp_leaf_free(leaf);
    sites_fini(&sites);
}

static void a_failure_is_not_remembered(void)
{
    struct sites sites;
    sites_init_full(&sites);
    struct pki_ca stranger;
    pki_ca_init(&stranger, "stranger", NULL);
    struct dp_leaf *leaf = pki_leaf(&stranger, &(struct pki_spec){.uris = {WEB_ID}}, false);
    struct dp_bundle *both = pki_bundle("a.example", &sites.ca_a, &stranger);
    for (int i = 0; i < 3; i++)
        CHECK_INT(verdict_on(&sites, leaf, PAYMENTS_ID).at_server, DP_REASON_PEER_IDENTITY);
    CHECK_INT(remembered(&sites), 2); /* the server's chain, from the second time */
    sites.spec_b.bundles[0] = both;
    sites_publish(&sites);
    CHECK(connects(&sites, leaf));
    CHECK_INT(remembered(&sites), 1);
    dp_bundle_free(both);
    dp_leaf_free(leaf);
    pki_ca_fini(&stranger);
    sites_fini(&sites);
}

static void the_oldest_goes_when_there_is_no_room(void)
{
    struct sites sites;
    struct dp_leaf *leaves[SITES_CHAINS_MAX];
    sites_init_full(&sites);
    for (int i = 0; i < SITES_CHAINS_MAX; i++) { /* the server's chain takes a place too */
        CHECK_INT(stats_get(sites.stats, STAT_CHAINS_EVICTED), 0);
        leaves[i] = pki_leaf_id(&sites.ca_a, WEB_ID);
        CHECK(connects(&sites, leaves[i]));
    }
    CHECK_INT(stats_get(sites.stats, STAT_CHAINS_EVICTED), 1);
    (void)remembered(&sites);
    CHECK(connects(&sites, leaves[1]));
    CHECK_INT(remembered(&sites), 2);
    CHECK(connects(&sites, leaves[0])); /* leaves[2] has to go */
    CHECK_INT(remembered(&sites), 1);
    CHECK_INT(stats_get(sites.stats, STAT_CHAINS_EVICTED), 2);
    CHECK(connects(&sites, leaves[1]));
    CHECK_INT(remembered(&sites), 2);
    CHECK(connects(&sites, leaves[2]));
    CHECK_INT(remembered(&sites), 1);
    for (int i = 0; i < SITES_CHAINS_MAX; i++)
        dp_leaf_free(leaves[i]);
    sites_fini(&sites);
}

TLS_TEST_MAIN(TEST(a_good_chain_is_remembered), TEST(not_when_the_leaf_expired),
              TEST(not_when_a_ca_above_expired), TEST(not_before_it_counts),
              TEST(not_when_denied_since), TEST(not_when_the_bundle_changed),
              TEST(another_chain_to_the_same_leaf_is_another),
              TEST(who_shows_a_remembered_certificate_needs_its_key),
              TEST(whom_a_client_wants_is_asked_each_time), TEST(a_clients_chain_is_no_servers),
              TEST(a_failure_is_not_remembered), TEST(the_oldest_goes_when_there_is_no_room))
