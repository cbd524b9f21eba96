/* test_tls_profile.c: which version and suite a handshake comes to under which profiles, and what
 * TLS 1.2 must have to be taken. */
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sys.h"
#include "test.h"
#include "tls_internal.h"
#include "tls_pair.h"

enum { NEVER = DP_TLS12_NEVER, ALLOW = DP_TLS12_ALLOW, PREFER = DP_TLS12_PREFER };

static void both_have_to_want_it(void)
{
    struct sites sites;
    sites_init(&sites);
    for (uint8_t client = NEVER; client <= PREFER; client++) {
        for (uint8_t server = NEVER; server <= PREFER; server++) {
            struct pair pair;
            pair_client_offload.tls12 = client;
            pair_server_offload.tls12 = server;
            tls_sessions_clear(sites.sessions);
            for (int resumed = 0; resumed < 2; resumed++) {
                REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
                CHECK_INT(pair_is_resumed(&pair), resumed);
                CHECK_INT(pair_version(&pair),
                          client == PREFER && server != NEVER ? 0x0303 : 0x0304);
                CHECK_INT(tls_record(pair.client)->ops->layer, pair_client_layer);
                CHECK_INT(tls_record(pair.server)->ops->layer, pair_server_layer);
                CHECK(pair_carries(pair.client, pair.server, "ping"));
                CHECK(pair_carries(pair.server, pair.client, "pong"));
                pair_close(&pair);
            }
        }
    }
    sites_fini(&sites);
}

/* A session of TLS 1.2 is of no use to who no longer speaks it, whoever that is. */
static void a_changed_profile_ends_sessions(void)
{
    for (int who = 0; who < 2; who++) {
        struct sites sites;
        struct pair pair;
        sites_init(&sites);
        pair_client_offload.tls12 = pair_server_offload.tls12 = PREFER;
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        CHECK_INT(pair_version(&pair), 0x0303);
        pair_close(&pair);
        *(who == 0 ? &pair_client_offload.tls12 : &pair_server_offload.tls12) = NEVER;
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        CHECK_INT(pair_version(&pair), 0x0304);
        CHECK(!pair_is_resumed(&pair));
        pair_close(&pair);
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        CHECK(pair_is_resumed(&pair));
        pair_close(&pair);
        sites_fini(&sites);
    }
}

/* Nor one with a suite that is no longer taken. */
static void fewer_suites_end_sessions(void)
{
    static const uint8_t versions[] = {NEVER, PREFER};
    for (int i = 0; i < 4; i++) {
        struct sites sites;
        struct pair pair;
        struct tls_info info;
        sites_init(&sites);
        pair_client_offload = pair_server_offload = (dp_offload){.tls12 = versions[i % 2]};
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        pair_close(&pair);
        *(i / 2 == 0 ? &pair_client_offload.ciphers : &pair_server_offload.ciphers) = 2;
        for (int resumed = 0; resumed < 2; resumed++) {
            REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
            CHECK_INT(pair_is_resumed(&pair), resumed);
            tls_get_info(pair.client, &info);
            CHECK_INT(info.cipher, versions[i % 2] == PREFER ? 0xc02c : 0x1302);
            pair_close(&pair);
        }
        sites_fini(&sites);
    }
    pair_client_offload = pair_server_offload = (dp_offload){0};
}

static void suites_as_the_profiles_have_them(void)
{
    static const struct {
        uint8_t client, server, tls12;
        const char *suite;       /* NULL = no handshake */
    } cases[] = {
        {0, 0, NEVER, "TLS_AES_128_GCM_SHA256"},
        {2, 0, NEVER, "TLS_AES_256_GCM_SHA384"},
        {0, 4, NEVER, "TLS_CHACHA20_POLY1305_SHA256"},
        {6, 3, NEVER, "TLS_AES_256_GCM_SHA384"},
        {1, 2, NEVER, NULL},
        {0, 0, PREFER, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
        {2, 0, PREFER, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
        {0, 6, PREFER, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
        {5, 6, PREFER, "TLS_CHACHA20_POLY1305_SHA256"}, /* none of 1.2's in common: 1.3 */
    };
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        struct sites sites;
        struct pair pair;
        sites_init(&sites);
        pair_client_offload = (dp_offload){.ciphers = cases[i].client, .tls12 = cases[i].tls12};
        pair_server_offload = (dp_offload){.ciphers = cases[i].server, .tls12 = cases[i].tls12};
        bool shook = pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
        CHECK_INT(shook, cases[i].suite != NULL);
        if (shook && cases[i].suite != NULL) {
            struct tls_info info;
            tls_get_info(pair.server, &info);
            CHECK_TEXT(dp_cipher_name(info.cipher), cases[i].suite);
            CHECK(pair_carries(pair.client, pair.server, "ping"));
        }
        pair_close(&pair);
        sites_fini(&sites);
    }
    pair_client_offload = pair_server_offload = (dp_offload){0};
}

/* The client is ours but for one thing. */
enum lack { LACK_NOTHING, LACK_EMS, LACK_P256, LACK_SUITE, LACK_GCM, LACK_COUNT };

static void take_from(SSL *ssl, enum lack lack)
{
    switch (lack) {
    case LACK_EMS:
        (void)SSL_set_options(ssl, SSL_OP_NO_EXTENDED_MASTER_SECRET);
        break;
    case LACK_P256:
        CHECK(SSL_set1_groups_list(ssl, "X25519"));
        break;
    case LACK_SUITE:
        CHECK(SSL_set_cipher_list(ssl, "ECDHE-ECDSA-CHACHA20-POLY1305"));
        break;
    case LACK_GCM:
        CHECK(SSL_set_cipher_list(ssl, "ECDHE-ECDSA-AES128-CCM:ECDHE-RSA-AES128-GCM-SHA256"));
        break;
    default:
        break;
    }
}

static void what_tls_12_must_have(void)
{
    for (int i = 0; i < 2 * LACK_COUNT; i++) {
        struct sites sites;
        struct pair pair;
        enum lack lack = (enum lack)(i / 2);
        bool only_12 = i % 2 == 1;
        sites_init(&sites);
        pair_client_offload.tls12 = pair_server_offload.tls12 = PREFER;
        pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
        take_from(pair.client->ssl, lack);
        if (only_12)
            CHECK(SSL_set_max_proto_version(pair.client->ssl, TLS1_2_VERSION));
        bool shook = pair_shake(&pair, &sites);
        bool good = CHECK_INT(shook, !only_12 || lack == LACK_NOTHING);
        if (shook)
            good &= CHECK_INT(pair_version(&pair), lack == LACK_NOTHING ? 0x0303 : 0x0304);
        else
            good &= CHECK_INT(tls_reason(pair.server), DP_REASON_HANDSHAKE);
        if (!good)
            printf("# lacks %d, only 1.2: %d\n", lack, only_12);
        pair_close(&pair);
        sites_fini(&sites);
    }
}

/* A server of TLS 1.2 without the extended master secret is none for us. */
static void a_server_without_ems_is_refused(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    pair_client_offload.tls12 = PREFER;
    pair_server_offload.tls12 = NEVER;
    pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
    SSL *server = pair.server->ssl;
    REQUIRE(SSL_set_min_proto_version(server, TLS1_2_VERSION));
    REQUIRE(SSL_set_max_proto_version(server, TLS1_2_VERSION));
    REQUIRE(SSL_set1_groups_list(server, "X25519:P-256"));
    (void)SSL_set_options(server, SSL_OP_NO_EXTENDED_MASTER_SECRET);
    CHECK(!pair_shake(&pair, &sites));
    CHECK_INT(tls_reason(pair.client), DP_REASON_HANDSHAKE);
    CHECK_TEXT(tls_detail(pair.client),
               "peer speaks TLS 1.2 without the extended master secret");
    pair_close(&pair);
    sites_fini(&sites);
}

/* An attacker who takes TLS 1.3 out of the hello on its way breaks the handshake. */
static size_t tamper_at;

static ssize_t tampering_send(int fd, const void *buf, size_t len, int flags)
{
    uint8_t copy[4096];
    if (!CHECK(len <= sizeof(copy)))
        return -EIO;
    memcpy(copy, buf, len);
    for (size_t i = 0; tamper_at == 0 && i + 7 < len; i++) /* supported_versions: 1.3, 1.2 */
        if (memcmp(copy + i, "\0\x2b\0\5\4\3\4\3", 8) == 0) {
            tamper_at = i;
            copy[i + 6] = 0x7e;  /* a version that nobody knows */
        }
    return sys_real.send(fd, copy, len, flags);
}

static void a_stripped_version_is_noticed(void)
{
    struct sites sites;
    struct pair pair;
    struct sys_table table = sys_real;
    sites_init(&sites);
    pair_client_offload.tls12 = pair_server_offload.tls12 = PREFER;
    table.send = tampering_send;
    tamper_at = 0;
    sys = &table;
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    sys = &sys_real;
    CHECK(tamper_at > 0);
    pair_close(&pair);
    sites_fini(&sites);
}

TLS_TEST_MAIN(TEST(both_have_to_want_it), TEST(a_changed_profile_ends_sessions),
              TEST(fewer_suites_end_sessions), TEST(suites_as_the_profiles_have_them),
              TEST(what_tls_12_must_have), TEST(a_server_without_ems_is_refused),
              TEST(a_stripped_version_is_noticed))
