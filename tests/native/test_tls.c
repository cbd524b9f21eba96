/* test_tls.c: who may shake hands with whom, and how a refusal reads at either end. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "test.h"
#include "tls_pair.h"

static const struct pki_spec web = {.uris = {WEB_ID}};

static void both_ends_know_each_other(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    const struct tls_peer *client = tls_peer(pair.server), *server = tls_peer(pair.client);
    CHECK_TEXT(client->id, WEB_ID);
    CHECK_TEXT(client->trust_domain, "a.example");
    CHECK_INT(client->grade, DP_GRADE_L2);
    CHECK(client->delegated);
    CHECK_INT(client->not_after_s, sites.web->not_after_s);
    CHECK_INT(client->serial_len, sites.web->serial_len);
    CHECK(memcmp(client->serial, sites.web->serial, sites.web->serial_len) == 0);
    CHECK_TEXT(server->id, PAYMENTS_ID);
    CHECK_INT(server->grade, DP_GRADE_KEY);
    CHECK(!server->delegated);
    CHECK_TEXT(tls_sni(pair.server), PAYMENTS_SNI);
    CHECK_INT(tls_reason(pair.server), DP_REASON_NONE);
    CHECK_TEXT(tls_detail(pair.server), "");

    struct tls_info info;
    tls_get_info(pair.server, &info);
    bool tls12 = pair_server_offload.tls12 == DP_TLS12_PREFER;
    CHECK_INT(info.version, tls12 ? 0x0303 : 0x0304);
    CHECK_TEXT(dp_cipher_name(info.cipher), tls12 ? "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
                                                  : "TLS_AES_128_GCM_SHA256");
    CHECK_INT(info.link_version, TLS_LINK_VERSION_MAX);
    CHECK(!info.resumed);
    CHECK_INT(tls_record(pair.client)->ops->layer, pair_client_layer);
    CHECK_INT(tls_record(pair.server)->ops->layer, pair_server_layer);
    CHECK(pair_carries(pair.client, pair.server, "ping"));
    CHECK(pair_carries(pair.server, pair.client, "pong"));
    pair_close(&pair);
    sites_fini(&sites);
}

static void the_name_dialled_chooses_the_leaf(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    CHECK(pair_connect(&pair, &sites, sites.web, UNKNOWN_SNI, APPLIANCE_ID));
    CHECK_TEXT(tls_sni(pair.server), UNKNOWN_SNI);
    pair_close(&pair);
    CHECK(pair_connect(&pair, &sites, sites.web, "", APPLIANCE_ID));
    CHECK_TEXT(tls_sni(pair.server), "");
    pair_close(&pair);
    sites_fini(&sites);
}

static void any_expected_id_will_do(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
    tls_free(pair.client);
    const char *expected[] = {"spiffe://b.example/ns/default/sa/other", PAYMENTS_ID};
    struct tls_client client = {
        .leaf = sites.web, .sni = PAYMENTS_SNI, .expected = expected, .expected_count = 2};
    REQUIRE_INT(tls_new_client(sites.ctx_a, NULL, pair.client_fd, &client, &pair.client), 0);
    CHECK(pair_shake(&pair, &sites));
    pair_close(&pair);

    expected[1] = "spiffe://b.example/ns/default/sa/third";
    pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
    tls_free(pair.client);
    REQUIRE_INT(tls_new_client(sites.ctx_a, NULL, pair.client_fd, &client, &pair.client), 0);
    CHECK(!pair_shake(&pair, &sites));
    CHECK_TEXT(tls_detail(pair.client), "peer is " PAYMENTS_ID
               ", expected spiffe://b.example/ns/default/sa/other or 1 others");
    pair_close(&pair);
    sites_fini(&sites);
}

/* The server's verdict on a client's certificate, and how the client reads it. */
static void expect_refused_client(struct sites *sites, struct dp_leaf *leaf, uint16_t reason,
                                  const char *detail, uint16_t reason_at_client)
{
    struct pair pair;
    leaf->not_after_s = PKI_NOW_S + 3600; /* so that our client itself sends what is too old */
    CHECK(!pair_connect(&pair, sites, leaf, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(pair.server_result, -EACCES);
    CHECK_INT(tls_reason(pair.server), reason);
    CHECK_TEXT(tls_detail(pair.server), detail);
    /* TLS 1.3: the client was done before it heard. */
    if (pair_server_offload.tls12 == DP_TLS12_PREFER) {
        CHECK_INT(pair.client_result, reason_at_client == DP_REASON_HANDSHAKE ? -EPROTO : -EACCES);
    } else if (CHECK_INT(pair.client_result, 1)) {
        char buf[8];
        struct record *rec = tls_record(pair.client);
        CHECK_INT(rec->ops->read(rec, buf, sizeof(buf)), -EBADMSG);
    }
    CHECK_INT(tls_reason(pair.client), reason_at_client);
    CHECK(strncmp(tls_detail(pair.client), "peer refused us: ", 17) == 0);
    /* The refusal is remembered. */
    CHECK_INT(tls_handshake(pair.server, sites->snap_b), -EACCES);
    CHECK(ERR_peek_error() == 0);
    pair_close(&pair);
}

static void refuses_clients_by_their_certificate(void)
{
    struct sites sites;
    sites_init(&sites);
    struct pki_ca ca_c, false_a;
    pki_ca_init(&ca_c, "site c", NULL);
    pki_ca_init(&false_a, "site a", NULL); /* the same name, another key */
    const struct {
        const char *what;
        const struct pki_ca *ca;
        struct pki_spec spec;
        bool with_ca;
        uint16_t reason;
        const char *detail;
        uint16_t at_client;
    } cases[] = {
        {"another trust domain", &ca_c, {.uris = {"spiffe://c.example/ns/x/sa/y"}}, true,
         DP_REASON_PEER_IDENTITY,
         "spiffe://c.example/ns/x/sa/y is of trust domain c.example, which is no peer of this site",
         DP_REASON_PEER_IDENTITY},
        {"a peer's CA, our name", &sites.ca_b, web, false, DP_REASON_PEER_IDENTITY,
         "certificate of " WEB_ID " is not signed by a CA of trust domain a.example",
         DP_REASON_PEER_IDENTITY},
        {"a peer's CA, our name, with the CA", &sites.ca_b, web, true, DP_REASON_PEER_IDENTITY,
         "certificate of " WEB_ID " is not signed by a CA of trust domain a.example",
         DP_REASON_PEER_IDENTITY},
        {"a CA of the same name", &false_a, web, true, DP_REASON_PEER_IDENTITY,
         "certificate of " WEB_ID " is not signed by a CA of trust domain a.example",
         DP_REASON_HANDSHAKE},
        {"expired", &sites.ca_a, {.uris = {WEB_ID}, .not_after_s = PKI_NOW_S - 1}, false,
         DP_REASON_EXPIRED, "certificate of " WEB_ID " expired at 2027-01-15T07:59:59Z",
         DP_REASON_EXPIRED},
        {"not yet valid", &sites.ca_a, {.uris = {WEB_ID}, .not_before_s = PKI_NOW_S + 60}, false,
         DP_REASON_PEER_IDENTITY,
         "certificate of " WEB_ID " is not valid before 2027-01-15T08:01:00Z and here it is "
         "2027-01-15T08:00:00Z: check both clocks", DP_REASON_PEER_IDENTITY},
        {"no ID", &sites.ca_a, {.dns = "a.example"}, false, DP_REASON_PEER_IDENTITY,
         "peer's certificate has no SPIFFE ID (no URI name)", DP_REASON_PEER_IDENTITY},
        {"two IDs", &sites.ca_a, {.uris = {WEB_ID, BATCH_ID}}, false, DP_REASON_PEER_IDENTITY,
         "peer's certificate has more than one URI name", DP_REASON_PEER_IDENTITY},
        {"malformed ID", &sites.ca_a, {.uris = {"spiffe://a.example/ns/../sa/x"}}, false,
         DP_REASON_PEER_IDENTITY, "peer's certificate has a malformed SPIFFE ID",
         DP_REASON_PEER_IDENTITY},
        {"a CA", &sites.ca_a, {.uris = {WEB_ID}, .is_ca = true}, false, DP_REASON_PEER_IDENTITY,
         "peer shows a CA's certificate, not a leaf", DP_REASON_PEER_IDENTITY},
        {"may not sign", &sites.ca_a, {.uris = {WEB_ID}, .key_usage = ""}, false,
         DP_REASON_PEER_IDENTITY, "certificate of " WEB_ID " lacks key usage digitalSignature",
         DP_REASON_PEER_IDENTITY},
        {"for servers only", &sites.ca_a, {.uris = {WEB_ID}, .extended_usage = "serverAuth"}, false,
         DP_REASON_PEER_IDENTITY,
         "certificate of " WEB_ID ", or a CA's above it, is not for this use (key usage)",
         DP_REASON_PEER_IDENTITY},
        {"malformed grade", &sites.ca_a, {.uris = {WEB_ID}, .grade = "l9"}, false,
         DP_REASON_PEER_IDENTITY, "certificate of " WEB_ID " has a malformed grade extension",
         DP_REASON_PEER_IDENTITY},
    };
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        unsigned before = test_failures;
        struct dp_leaf *leaf = pki_leaf(cases[i].ca, &cases[i].spec, cases[i].with_ca);
        expect_refused_client(&sites, leaf, cases[i].reason, cases[i].detail, cases[i].at_client);
        if (test_failures != before)
            printf("# in case: %s\n", cases[i].what);
        dp_leaf_free(leaf);
    }
    pki_ca_fini(&ca_c);
    pki_ca_fini(&false_a);
    sites_fini(&sites);
}

static void refuses_denied_clients(void)
{
    struct sites sites;
    sites_init(&sites);
    struct pair pair;
    /* A serial number is denied in its own trust domain only. */
    sites.spec_b.denied_trust_domain = "b.example";
    sites.spec_b.denied_leaf = sites.web;
    sites_publish(&sites);
    CHECK(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    pair_close(&pair);
    tls_sessions_clear(sites.sessions);
    sites.spec_b.denied_trust_domain = "a.example";
    sites_publish(&sites);
    expect_refused_client(&sites, sites.web, DP_REASON_REVOKED, WEB_ID " is on the deny list",
                          DP_REASON_REVOKED);
    sites.spec_b.denied_leaf = NULL;
    sites.spec_b.denied_id = WEB_ID;
    sites_publish(&sites);
    expect_refused_client(&sites, sites.web, DP_REASON_REVOKED, WEB_ID " is on the deny list",
                          DP_REASON_REVOKED);
    CHECK(pair_connect(&pair, &sites, sites.batch, PAYMENTS_SNI, PAYMENTS_ID));
    pair_close(&pair);
    sites_fini(&sites);
}

/* The client's verdict on a server's certificate; the server reads an alert. */
static void refuses_servers_by_their_certificate(void)
{
    struct sites sites;
    sites_init(&sites);
    const struct {
        const char *what;
        const struct pki_ca *ca;
        struct pki_spec spec;
        uint16_t reason;
        const char *detail;
    } cases[] = {
        {"another workload", &sites.ca_b, {.uris = {"spiffe://b.example/ns/default/sa/other"}},
         DP_REASON_PEER_IDENTITY,
         "peer is spiffe://b.example/ns/default/sa/other, expected " PAYMENTS_ID},
        {"another site's workload", &sites.ca_a, {.uris = {BATCH_ID}}, DP_REASON_PEER_IDENTITY,
         "peer is " BATCH_ID ", expected " PAYMENTS_ID},
        {"signed by another site", &sites.ca_a, {.uris = {PAYMENTS_ID}}, DP_REASON_PEER_IDENTITY,
         "certificate of " PAYMENTS_ID " is not signed by a CA of trust domain b.example"},
        {"the name dialled, no ID", &sites.ca_b, {.dns = PAYMENTS_SNI}, DP_REASON_PEER_IDENTITY,
         "peer's certificate has no SPIFFE ID (no URI name)"},
        {"expired", &sites.ca_b, {.uris = {PAYMENTS_ID}, .not_after_s = PKI_NOW_S},
         DP_REASON_EXPIRED, "certificate of " PAYMENTS_ID " expired at 2027-01-15T08:00:00Z"},
    };
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        unsigned before = test_failures;
        struct dp_leaf *leaf = pki_leaf(cases[i].ca, &cases[i].spec, false);
        leaf->not_after_s = PKI_NOW_S + 3600;
        sites.spec_b.payments = leaf;
        sites_publish(&sites);
        struct pair pair;
        CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        CHECK_INT(pair.client_result, -EACCES);
        CHECK_INT(tls_reason(pair.client), cases[i].reason);
        CHECK_TEXT(tls_detail(pair.client), cases[i].detail);
        CHECK_INT(pair.server_result, -EACCES);
        CHECK_INT(tls_reason(pair.server), cases[i].reason);
        if (test_failures != before)
            printf("# in case: %s\n", cases[i].what);
        pair_close(&pair);
        sites.spec_b.payments = sites.payments;
        sites_publish(&sites);
        dp_leaf_free(leaf);
    }
    sites.spec_a.denied_id = PAYMENTS_ID;
    sites_publish(&sites);
    struct pair pair;
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.client), DP_REASON_REVOKED);
    CHECK_INT(tls_reason(pair.server), DP_REASON_REVOKED);
    pair_close(&pair);
    sites_fini(&sites);
}

static void shows_no_leaf_that_it_has_not(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    sites.spec_b.payments = NULL;
    sites_publish(&sites);
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(pair.server_result, -EACCES);
    CHECK_INT(tls_reason(pair.server), DP_REASON_NO_IDENTITY);
    CHECK_TEXT(tls_detail(pair.server), "no leaf in use for payments.default");
    CHECK_INT(pair.client_result, -EACCES);
    CHECK_INT(tls_reason(pair.client), DP_REASON_NO_IDENTITY);
    CHECK_TEXT(tls_detail(pair.client), "peer refused us: unrecognized name");
    pair_close(&pair);

    sites.spec_b.appliance = NULL;
    sites_publish(&sites);
    CHECK(!pair_connect(&pair, &sites, sites.web, UNKNOWN_SNI, APPLIANCE_ID));
    CHECK_TEXT(tls_detail(pair.server), "no leaf in use for the appliance");
    pair_close(&pair);

    /* Expired leaves are not shown either, by neither end. */
    sites.spec_b.payments = sites.payments;
    sites_publish(&sites);
    clock_test_advance(UINT64_C(86400) * 1000000000);
    struct dp_leaf *young = pki_leaf(
        &sites.ca_a, &(struct pki_spec){.uris = {WEB_ID}, .not_after_s = PKI_NOW_S + 90000}, false);
    CHECK(!pair_connect(&pair, &sites, young, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.server), DP_REASON_EXPIRED);
    CHECK_TEXT(tls_detail(pair.server), "our leaf for payments.default has expired");
    pair_close(&pair);
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(pair.client_result, -EACCES);
    CHECK_INT(tls_reason(pair.client), DP_REASON_EXPIRED);
    CHECK_TEXT(tls_detail(pair.client), "our own leaf of " WEB_ID " has expired");
    pair_close(&pair);
    dp_leaf_free(young);
    sites_fini(&sites);
}

static void intermediates_lead_to_the_bundle(void)
{
    struct sites sites;
    struct pair pair;
    struct pki_ca below;
    sites_init(&sites);
    pki_ca_init(&below, "below site a", &sites.ca_a);
    struct dp_leaf *with = pki_leaf(&below, &web, true), *without = pki_leaf(&below, &web, false);
    CHECK(pair_connect(&pair, &sites, with, PAYMENTS_SNI, PAYMENTS_ID));
    pair_close(&pair);
    tls_sessions_clear(sites.sessions);
    expect_refused_client(&sites, without, DP_REASON_PEER_IDENTITY,
                          "certificate of " WEB_ID " is not signed by a CA of trust domain a.example",
                          DP_REASON_PEER_IDENTITY);
    /* A site's CA may itself be an intermediate: then it is the anchor, and its parent is not. */
    dp_bundle_free(sites.bundle_a);
    sites.bundle_a = pki_bundle("a.example", &below, NULL);
    sites.spec_a.bundles[0] = sites.spec_b.bundles[0] = sites.bundle_a;
    sites_publish(&sites);
    CHECK(pair_connect(&pair, &sites, without, PAYMENTS_SNI, PAYMENTS_ID));
    pair_close(&pair);
    expect_refused_client(&sites, sites.web, DP_REASON_PEER_IDENTITY,
                          "certificate of " WEB_ID " is not signed by a CA of trust domain a.example",
                          DP_REASON_PEER_IDENTITY);
    dp_leaf_free(with);
    dp_leaf_free(without);
    pki_ca_fini(&below);
    sites_fini(&sites);
}

static void bad_client_arguments(void)
{
    struct sites sites;
    struct tls *tls;
    sites_init(&sites);
    const char *expected = PAYMENTS_ID;
    const struct tls_client bad[] = {
        {.leaf = NULL, .sni = PAYMENTS_SNI, .expected = &expected, .expected_count = 1},
        {.leaf = sites.web, .sni = PAYMENTS_SNI, .expected = &expected, .expected_count = 0},
        {.leaf = sites.web, .sni = PAYMENTS_SNI, .expected_count = DP_EXPECTED_MAX + 1},
        {.leaf = sites.web, .sni = "Upper.example", .expected = &expected, .expected_count = 1},
    };
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        CHECK_INT(tls_new_client(sites.ctx_a, NULL, -1, &bad[i], &tls), -EINVAL);
    uint8_t keys[9 * DP_TICKET_KEY_SIZE] = {0};
    CHECK_INT(tls_context_set_ticket_keys(sites.ctx_a, keys, 0), -EINVAL);
    CHECK_INT(tls_context_set_ticket_keys(sites.ctx_a, keys, 9), -EINVAL);
    CHECK_INT(tls_context_set_ticket_keys(sites.ctx_a, keys, 8), 0);
    sites_fini(&sites);
}

/* A client of another make: plain OpenSSL, set up by the case. */
static void expect_refused_stranger(struct sites *sites, SSL_CTX *ctx, const char *sni,
                                    const char *detail)
{
    int fds[2], result = 0;
    struct tls *server;
    socket_pair(fds);
    SSL *ssl = SSL_new(ctx);
    REQUIRE(ssl != NULL && SSL_set_fd(ssl, fds[0]));
    if (sni != NULL)
        SSL_set_tlsext_host_name(ssl, sni);
    REQUIRE_INT(tls_new_server(sites->ctx_b, fds[1], &server), 0);
    for (int i = 0; i < 16 && result == 0; i++) {
        (void)SSL_connect(ssl);
        result = tls_handshake(server, sites->snap_b);
    }
    CHECK_INT(result, -EPROTO);
    CHECK_INT(tls_reason(server), DP_REASON_HANDSHAKE);
    CHECK_TEXT(tls_detail(server), detail);
    ERR_clear_error();
    tls_free(server);
    SSL_free(ssl);
    close(fds[0]);
    close(fds[1]);
}

static void refuses_strangers(void)
{
    struct sites sites;
    sites_init(&sites);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    REQUIRE(ctx != NULL);
    static const uint8_t h2[] = "\x02h2", ours[] = "\x0bsluice-l4/1",
                         later[] = "\x0bsluice-l4/3\x0csluice-l4/10";
    expect_refused_stranger(&sites, ctx, PAYMENTS_SNI,
                            "client offers no ALPN: not a mesh link");
    SSL_CTX_set_alpn_protos(ctx, h2, sizeof(h2) - 1);
    expect_refused_stranger(&sites, ctx, PAYMENTS_SNI,
                            "client offers no link version of ours (ALPN sluice-l4/1 to 2)");
    SSL_CTX_set_alpn_protos(ctx, later, sizeof(later) - 1);
    expect_refused_stranger(&sites, ctx, PAYMENTS_SNI,
                            "client offers no link version of ours (ALPN sluice-l4/1 to 2)");
    SSL_CTX_set_alpn_protos(ctx, ours, sizeof(ours) - 1);
    expect_refused_stranger(&sites, ctx, PAYMENTS_SNI,
                            "TLS failed while shaking hands: peer did not return a certificate");
    expect_refused_stranger(&sites, ctx, "Payments.b.example",
                            "client sent a malformed server name");
    expect_refused_stranger(&sites, ctx, "a..b", "client sent a malformed server name");
    SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
    expect_refused_stranger(&sites, ctx, PAYMENTS_SNI,
                            "TLS failed while shaking hands: unsupported protocol");
    SSL_CTX_set_max_proto_version(ctx, 0);
    SSL_CTX_set1_groups_list(ctx, "P-256");
    expect_refused_stranger(&sites, ctx, PAYMENTS_SNI,
                            "TLS failed while shaking hands: no suitable key share");
    SSL_CTX_free(ctx);
    sites_fini(&sites);
}

/* A peer one version older still works. */
static void speaks_the_older_version(void)
{
    struct sites sites;
    sites_init(&sites);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    REQUIRE(ctx != NULL && SSL_CTX_use_certificate(ctx, sites.web->cert) == 1 &&
            SSL_CTX_use_PrivateKey(ctx, sites.web->key) == 1);
    static const uint8_t versions[] = "\x02h2\x0bsluice-l4/1\x0bsluice-l4/9";
    SSL_CTX_set_alpn_protos(ctx, versions, sizeof(versions) - 1);
    int fds[2], result = 0;
    struct tls *server;
    struct tls_info info;
    socket_pair(fds);
    SSL *ssl = SSL_new(ctx);
    REQUIRE(ssl != NULL && SSL_set_fd(ssl, fds[0]));
    REQUIRE_INT(tls_new_server(sites.ctx_b, fds[1], &server), 0);
    for (int i = 0; i < 16 && result == 0; i++) {
        (void)SSL_connect(ssl);
        result = tls_handshake(server, sites.snap_b);
    }
    REQUIRE_INT(result, 1);
    tls_get_info(server, &info);
    CHECK_INT(info.link_version, 1);
    CHECK_TEXT(tls_peer(server)->id, WEB_ID);
    ERR_clear_error();
    tls_free(server);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fds[0]);
    close(fds[1]);
    sites_fini(&sites);
}

/* What is no ClientHello at all: refused, with a reason, and nothing left in the error queue. */
static void garbage_is_refused(void)
{
    struct sites sites;
    sites_init(&sites);
    static const struct {
        const char *bytes;
        size_t len;
    } inputs[] = {
        {"", 0},
        {"GET / HTTP/1.1\r\nHost: b\r\n\r\n", 27},
        {"\x16\x03\x01", 3},
        {"\x16\x03\x01\x00\x00", 5},
        {"\x16\x03\x01\xff\xff", 5},
        {"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x03", 10},
        {"\x15\x03\x03\x00\x02\x02\x28", 7},
        {"\x17\x03\x03\x00\x05hello", 10},
        {"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16},
    };
    for (size_t i = 0; i < DP_COUNT(inputs); i++) {
        int fds[2], result = 0;
        struct tls *server;
        socket_pair(fds);
        REQUIRE_INT(tls_new_server(sites.ctx_b, fds[1], &server), 0);
        CHECK(send(fds[0], inputs[i].bytes, inputs[i].len, 0) == (ssize_t)inputs[i].len);
        shutdown(fds[0], SHUT_WR);
        for (int turn = 0; turn < 8 && result == 0; turn++)
            result = tls_handshake(server, sites.snap_b);
        CHECK_INT(result, -EPROTO);
        CHECK(tls_reason(server) != DP_REASON_NONE);
        CHECK(tls_detail(server)[0] != '\0');
        CHECK(ERR_peek_error() == 0);
        tls_free(server);
        close(fds[0]);
        close(fds[1]);
    }
    sites_fini(&sites);
}

static void a_peer_that_goes_away(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
    CHECK_INT(tls_handshake(pair.client, sites.snap_a), 0);
    CHECK(!tls_wants_write(pair.client));
    shutdown(pair.server_fd, SHUT_RDWR);
    CHECK_INT(tls_handshake(pair.client, sites.snap_a), -EPROTO);
    CHECK_INT(tls_reason(pair.client), DP_REASON_HANDSHAKE);
    CHECK_TEXT(tls_detail(pair.client), "peer closed the connection while shaking hands");
    pair_close(&pair);
    sites_fini(&sites);
}

static void live_peers_are_checked_again(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, PKI_NOW_S), DP_REASON_NONE);
    CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, sites.web->not_after_s),
              DP_REASON_EXPIRED);
    CHECK_TEXT(tls_detail(pair.server),
               "certificate of " WEB_ID " expired at 2027-01-16T08:00:00Z");
    sites.spec_b.denied_id = WEB_ID;
    sites_publish(&sites);
    CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, PKI_NOW_S), DP_REASON_REVOKED);
    CHECK_INT(tls_peer_recheck(pair.client, sites.snap_a, PKI_NOW_S), DP_REASON_NONE);
    sites.spec_b.denied_id = NULL;

    /* A further CA in the bundle takes nothing away; another in its place does. */
    struct pki_ca next;
    pki_ca_init(&next, "next site a", NULL);
    struct dp_bundle *both = pki_bundle("a.example", &sites.ca_a, &next);
    struct dp_bundle *later = pki_bundle("a.example", &next, NULL);
    sites.spec_b.bundles[0] = both;
    sites_publish(&sites);
    CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, PKI_NOW_S), DP_REASON_NONE);
    sites.spec_b.bundles[0] = later;
    sites_publish(&sites);
    CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, PKI_NOW_S), DP_REASON_PEER_IDENTITY);
    CHECK_TEXT(tls_detail(pair.server),
               "certificate of " WEB_ID " is not signed by a CA of trust domain a.example");
    sites.spec_b.bundles[0] = NULL;
    sites_publish(&sites);
    CHECK_INT(tls_peer_recheck(pair.server, sites.snap_b, PKI_NOW_S), DP_REASON_PEER_IDENTITY);
    pair_close(&pair);
    dp_bundle_free(both);
    dp_bundle_free(later);
    pki_ca_fini(&next);
    sites_fini(&sites);
}

static void ciphers_have_names(void)
{
    CHECK_TEXT(dp_cipher_name(0), "");
    CHECK_TEXT(dp_cipher_name(0x1302), "TLS_AES_256_GCM_SHA384");
    CHECK_TEXT(dp_cipher_name(0xc02b), "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    CHECK_TEXT(dp_cipher_name(0x0001), "unknown");
}

TLS_TEST_MAIN(TEST(both_ends_know_each_other), TEST(the_name_dialled_chooses_the_leaf),
          TEST(any_expected_id_will_do), TEST(refuses_clients_by_their_certificate),
          TEST(refuses_denied_clients), TEST(refuses_servers_by_their_certificate),
          TEST(shows_no_leaf_that_it_has_not), TEST(intermediates_lead_to_the_bundle),
          TEST(bad_client_arguments), TEST(refuses_strangers), TEST(speaks_the_older_version),
          TEST(garbage_is_refused), TEST(a_peer_that_goes_away),
          TEST(live_peers_are_checked_again), TEST(ciphers_have_names))
