/* test_resume.c: resumption skips the certificate check, so: whose sessions are used, and when
 * they no longer are. */
#include <openssl/ssl.h>
#include <unistd.h>

#include "clock.h"
#include "test.h"
#include "tls_pair.h"

enum { HOUR_S = 3600 };

static void advance_s(uint64_t seconds)
{
    clock_test_advance(seconds * UINT64_C(1000000000));
}

/* One connection; true when it was resumed. Fails the test if it is refused. */
static bool resumes(struct sites *sites, const struct dp_leaf *leaf, const char *sni,
                    const char *expected)
{
    struct pair pair;
    bool resumed = false;
    if (CHECK(pair_connect(&pair, sites, leaf, sni, expected))) {
        resumed = pair_is_resumed(&pair);
        /* Who is who is right in either case. */
        CHECK_TEXT(tls_peer(pair.server)->id, leaf->id);
        CHECK_TEXT(tls_peer(pair.client)->id, expected);
        CHECK_INT(tls_peer(pair.server)->serial_len, leaf->serial_len);
        CHECK(memcmp(tls_peer(pair.server)->serial, leaf->serial, leaf->serial_len) == 0);
        CHECK(pair_carries(pair.client, pair.server, "ping"));
        CHECK(pair_carries(pair.server, pair.client, "pong"));
    } else {
        printf("# client: %s; server: %s\n", tls_detail(pair.client), tls_detail(pair.server));
    }
    pair_close(&pair);
    return resumed;
}

static bool web_resumes(struct sites *sites)
{
    return resumes(sites, sites->web, PAYMENTS_SNI, PAYMENTS_ID);
}

static void the_same_client_resumes(void)
{
    struct sites sites;
    sites_init(&sites);
    CHECK(!web_resumes(&sites));
    for (int i = 0; i < 5; i++) /* one ticket does for many connections */
        CHECK(web_resumes(&sites));
    struct pair pair;
    REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    REQUIRE(pair_is_resumed(&pair));
    /* Grade and delegation come back with the session. */
    CHECK_INT(tls_peer(pair.server)->grade, DP_GRADE_L2);
    CHECK(tls_peer(pair.server)->delegated);
    CHECK_INT(tls_peer(pair.server)->not_after_s, sites.web->not_after_s);
    struct tls_info info;
    tls_get_info(pair.server, &info);
    CHECK_INT(info.link_version, TLS_LINK_VERSION_MAX);
    pair_close(&pair);
    tls_sessions_clear(sites.sessions);
    CHECK(!web_resumes(&sites));
    sites_fini(&sites);
}

static void nobody_resumes_for_another(void)
{
    struct sites sites;
    sites_init(&sites);
    CHECK(!web_resumes(&sites));
    CHECK(!resumes(&sites, sites.batch, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK(!resumes(&sites, sites.web, UNKNOWN_SNI, APPLIANCE_ID));
    /* The same ID with a new leaf starts anew. */
    struct dp_leaf *renewed =
        pki_leaf(&sites.ca_a, &(struct pki_spec){.uris = {WEB_ID}, .grade = "l2"}, false);
    CHECK(!resumes(&sites, renewed, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK(web_resumes(&sites));
    CHECK(resumes(&sites, sites.batch, PAYMENTS_SNI, PAYMENTS_ID));
    dp_leaf_free(renewed);
    sites_fini(&sites);
}

static void the_oldest_session_goes_first(void)
{
    struct sites sites;
    sites_init(&sites);
    struct dp_leaf *leaves[4]; /* with web one more than there is room for */
    CHECK(!web_resumes(&sites));
    for (size_t i = 0; i < DP_COUNT(leaves); i++) {
        leaves[i] = pki_leaf_id(&sites.ca_a, BATCH_ID);
        CHECK(!resumes(&sites, leaves[i], PAYMENTS_SNI, PAYMENTS_ID));
        if (i < 3)
            CHECK(web_resumes(&sites)); /* used, so not the oldest */
    }
    CHECK(web_resumes(&sites));
    CHECK(!resumes(&sites, leaves[0], PAYMENTS_SNI, PAYMENTS_ID));
    CHECK(resumes(&sites, leaves[3], PAYMENTS_SNI, PAYMENTS_ID));
    for (size_t i = 0; i < DP_COUNT(leaves); i++)
        dp_leaf_free(leaves[i]);
    sites_fini(&sites);
}

/* A client that keeps to no rule but the protocol's: plain OpenSSL. */
struct stranger {
    SSL_CTX *ctx;
    SSL_SESSION *session;        /* offered if set; the first that came is kept */
    int result;                  /* of the server's tls_handshake */
    uint16_t reason;
    bool resumed;
    char id[DP_ID_MAX + 1];      /* as the server sees it */
};

static void stranger_init(struct stranger *stranger, const struct dp_leaf *leaf)
{
    static const uint8_t alpn[] = "\x0bsluice-l4/2";
    *stranger = (struct stranger){.ctx = SSL_CTX_new(TLS_client_method())};
    CHECK(stranger->ctx != NULL && SSL_CTX_use_certificate(stranger->ctx, leaf->cert) == 1 &&
          SSL_CTX_use_PrivateKey(stranger->ctx, leaf->key) == 1 &&
          SSL_CTX_set_alpn_protos(stranger->ctx, alpn, sizeof(alpn) - 1) == 0);
}

static void stranger_fini(struct stranger *stranger)
{
    SSL_SESSION_free(stranger->session);
    SSL_CTX_free(stranger->ctx);
}

static void stranger_connect(struct stranger *stranger, struct sites *sites, const char *sni)
{
    int fds[2];
    struct tls *server;
    socket_pair(fds);
    SSL *ssl = SSL_new(stranger->ctx);
    REQUIRE(ssl != NULL && SSL_set_fd(ssl, fds[0]) && SSL_set_tlsext_host_name(ssl, sni));
    SSL_SESSION *offer =
        stranger->session != NULL ? SSL_SESSION_dup(stranger->session) : NULL;
    if (offer != NULL)
        CHECK(SSL_set_session(ssl, offer));
    SSL_SESSION_free(offer);
    REQUIRE_INT(tls_new_server(sites->ctx_b, fds[1], &server), 0);
    stranger->result = 0;
    for (int turn = 0; turn < 16 && stranger->result == 0; turn++) {
        (void)SSL_connect(ssl);
        stranger->result = tls_handshake(server, sites->snap_b);
    }
    stranger->reason = tls_reason(server);
    if (stranger->result == 1) {
        char byte;
        struct tls_info info;
        (void)SSL_read(ssl, &byte, 1);
        tls_get_info(server, &info);
        stranger->resumed = info.resumed;
        (void)snprintf(stranger->id, sizeof(stranger->id), "%s", tls_peer(server)->id);
        if (stranger->session == NULL)
            stranger->session = SSL_SESSION_dup(SSL_get_session(ssl));
    }
    tls_free(server);
    SSL_free(ssl);
    close(fds[0]);
    close(fds[1]);
}

/* Whoever holds a session is who made it, whatever certificate it has; and only for the server
 * name that it was made for. */
static void a_session_is_the_one_that_made_it(void)
{
    struct sites sites;
    struct stranger batch, thief;
    sites_init(&sites);
    stranger_init(&batch, sites.batch);
    stranger_init(&thief, sites.web);
    stranger_connect(&batch, &sites, PAYMENTS_SNI);
    CHECK_INT(batch.result, 1);
    CHECK(!batch.resumed);
    stranger_connect(&batch, &sites, PAYMENTS_SNI);
    CHECK(batch.resumed);
    CHECK_TEXT(batch.id, BATCH_ID);
    thief.session = SSL_SESSION_dup(batch.session);
    stranger_connect(&thief, &sites, PAYMENTS_SNI);
    CHECK(thief.resumed);
    CHECK_TEXT(thief.id, BATCH_ID);
    stranger_connect(&thief, &sites, UNKNOWN_SNI);
    CHECK_INT(thief.result, 1);
    CHECK(!thief.resumed);
    CHECK_TEXT(thief.id, WEB_ID);
    stranger_fini(&batch);
    stranger_fini(&thief);
    sites_fini(&sites);
}

/* The server itself sees what a client's cache would have seen. */
static void the_server_asks_again(void)
{
    struct sites sites;
    struct stranger batch, brief;
    sites_init(&sites);
    struct dp_leaf *leaf = pki_leaf(
        &sites.ca_a, &(struct pki_spec){.uris = {WEB_ID}, .not_after_s = PKI_NOW_S + 600}, false);
    stranger_init(&brief, leaf);
    stranger_init(&batch, sites.batch);
    stranger_connect(&brief, &sites, PAYMENTS_SNI);
    stranger_connect(&batch, &sites, PAYMENTS_SNI);
    advance_s(599);
    stranger_connect(&brief, &sites, PAYMENTS_SNI);
    CHECK(brief.resumed);
    advance_s(1);
    stranger_connect(&brief, &sites, PAYMENTS_SNI);
    CHECK_INT(brief.result, -EACCES);
    CHECK_INT(brief.reason, DP_REASON_EXPIRED);

    stranger_connect(&batch, &sites, PAYMENTS_SNI);
    CHECK(batch.resumed);
    advance_s(4 * HOUR_S); /* the ticket's life, not the leaf's */
    stranger_connect(&batch, &sites, PAYMENTS_SNI);
    CHECK_INT(batch.result, 1);
    CHECK(!batch.resumed);
    sites.spec_b.denied_id = BATCH_ID;
    sites_publish(&sites);
    stranger_connect(&batch, &sites, PAYMENTS_SNI);
    CHECK_INT(batch.reason, DP_REASON_REVOKED);
    stranger_fini(&batch);
    stranger_fini(&brief);
    dp_leaf_free(leaf);
    sites_fini(&sites);
}

static void not_after_a_deny_at_the_server(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    CHECK(!web_resumes(&sites));
    CHECK(web_resumes(&sites));
    sites.spec_b.denied_id = WEB_ID;
    sites_publish(&sites);
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.server), DP_REASON_REVOKED);
    pair_close(&pair);
    sites.spec_b.denied_id = NULL;
    sites.spec_b.denied_leaf = sites.web;
    sites.spec_b.denied_trust_domain = "a.example";
    sites_publish(&sites);
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.server), DP_REASON_REVOKED);
    pair_close(&pair);
    sites_fini(&sites);
}

static void not_after_a_deny_at_the_client(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    CHECK(!web_resumes(&sites));
    sites.spec_a.denied_id = PAYMENTS_ID;
    sites_publish(&sites);
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.client), DP_REASON_REVOKED);
    pair_close(&pair);
    sites_fini(&sites);
}

static void not_when_a_bundle_changed(void)
{
    struct sites sites;
    sites_init(&sites);
    struct pki_ca next;
    pki_ca_init(&next, "next", NULL);
    struct dp_bundle *a = pki_bundle("a.example", &sites.ca_a, &next);
    struct dp_bundle *b = pki_bundle("b.example", &sites.ca_b, &next);
    CHECK(!web_resumes(&sites));
    CHECK(web_resumes(&sites));
    sites.spec_b.bundles[0] = a; /* the server's view of the client's site */
    sites_publish(&sites);
    CHECK(!web_resumes(&sites));
    CHECK(web_resumes(&sites));
    sites.spec_a.bundles[1] = b; /* the client's view of the server's site */
    sites_publish(&sites);
    CHECK(!web_resumes(&sites));
    CHECK(web_resumes(&sites));
    dp_bundle_free(a);
    dp_bundle_free(b);
    pki_ca_fini(&next);
    sites_fini(&sites);
}

static void not_with_an_expired_leaf(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    struct dp_leaf *brief = pki_leaf(
        &sites.ca_a, &(struct pki_spec){.uris = {WEB_ID}, .not_after_s = PKI_NOW_S + 600}, false);
    CHECK(!resumes(&sites, brief, PAYMENTS_SNI, PAYMENTS_ID));
    advance_s(599);
    CHECK(resumes(&sites, brief, PAYMENTS_SNI, PAYMENTS_ID));
    advance_s(1);
    CHECK(!pair_connect(&pair, &sites, brief, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.client), DP_REASON_EXPIRED);
    pair_close(&pair);
    dp_leaf_free(brief);
    sites_fini(&sites);
}

static void not_after_the_servers_leaf_expired(void)
{
    struct sites sites;
    sites_init(&sites);
    struct dp_leaf *old = pki_leaf(
        &sites.ca_b, &(struct pki_spec){.uris = {PAYMENTS_ID}, .not_after_s = PKI_NOW_S + 600},
        false);
    sites.spec_b.payments = old;
    sites_publish(&sites);
    CHECK(!web_resumes(&sites));
    CHECK(web_resumes(&sites));
    sites.spec_b.payments = sites.payments; /* renewed; the session is of the old one's time */
    sites_publish(&sites);
    CHECK(web_resumes(&sites));
    advance_s(600);
    CHECK(!web_resumes(&sites));
    CHECK(web_resumes(&sites));
    dp_leaf_free(old);
    sites_fini(&sites);
}

static void not_when_the_service_is_another_identity(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    CHECK(!web_resumes(&sites));
    struct dp_leaf *other = pki_leaf_id(&sites.ca_b, "spiffe://b.example/ns/default/sa/other");
    sites.spec_b.payments = other;
    sites_publish(&sites);
    CHECK(!pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK_INT(tls_reason(pair.client), DP_REASON_PEER_IDENTITY);
    pair_close(&pair);
    dp_leaf_free(other);
    sites_fini(&sites);
}

static void a_ticket_ends_and_is_renewed_before(void)
{
    struct sites sites;
    sites_init(&sites);
    CHECK(!web_resumes(&sites));
    advance_s(3 * HOUR_S);       /* past half of four hours: resumed, and a new ticket */
    CHECK(web_resumes(&sites));
    advance_s(3 * HOUR_S);
    CHECK(web_resumes(&sites));
    advance_s(4 * HOUR_S);
    CHECK(!web_resumes(&sites));
    sites_fini(&sites);
}

static void keys_are_shared_and_rotate(void)
{
    struct sites sites;
    sites_init(&sites);
    uint8_t keys[2 * DP_TICKET_KEY_SIZE];
    for (size_t i = 0; i < sizeof(keys); i++)
        keys[i] = (uint8_t)(i * 7);
    uint8_t *first = keys, *second = keys + DP_TICKET_KEY_SIZE;
    REQUIRE_INT(tls_context_set_ticket_keys(sites.ctx_b, first, 1), 0);
    CHECK(!web_resumes(&sites));

    /* The successor of a process, with the same keys. */
    struct tls_context *ctx = sites.ctx_b;
    REQUIRE_INT(tls_context_new(&sites.ctx_b), 0);
    struct tls_context *successor = sites.ctx_b;
    REQUIRE_INT(tls_context_set_ticket_keys(successor, first, 1), 0);
    CHECK(web_resumes(&sites));

    /* Rotated: the old key still opens, the new one seals. */
    uint8_t rotated[2 * DP_TICKET_KEY_SIZE];
    memcpy(rotated, second, DP_TICKET_KEY_SIZE);
    memcpy(rotated + DP_TICKET_KEY_SIZE, first, DP_TICKET_KEY_SIZE);
    REQUIRE_INT(tls_context_set_ticket_keys(successor, rotated, 2), 0);
    CHECK(web_resumes(&sites)); /* and gets a ticket of the new key */
    REQUIRE_INT(tls_context_set_ticket_keys(successor, second, 1), 0);
    CHECK(web_resumes(&sites));
    /* A key that is gone, and one of the right name with other secrets, open nothing. */
    REQUIRE_INT(tls_context_set_ticket_keys(successor, first, 1), 0);
    CHECK(!web_resumes(&sites));
    first[DP_TICKET_KEY_SIZE - 1] ^= 1;
    REQUIRE_INT(tls_context_set_ticket_keys(successor, first, 1), 0);
    CHECK(!web_resumes(&sites));
    tls_context_free(ctx);
    sites_fini(&sites);
}

static void a_lost_connection_spoils_no_session(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    close(pair.server_fd);
    char byte;
    struct record *rec = tls_record(pair.client);
    CHECK_INT(rec->ops->read(rec, &byte, 1), -ENODATA);
    pair.server_fd = dup(pair.client_fd);
    pair_close(&pair);
    CHECK(web_resumes(&sites));
    sites_fini(&sites);
}

static void room_for_none_means_none(void)
{
    struct sites sites;
    sites_init(&sites);
    tls_sessions_free(sites.sessions);
    REQUIRE_INT(tls_sessions_new(sites.ctx_a, 0, &sites.sessions), 0);
    CHECK(!web_resumes(&sites));
    CHECK(!web_resumes(&sites));
    sites_fini(&sites);
}

TLS_TEST_MAIN(TEST(the_same_client_resumes), TEST(nobody_resumes_for_another),
          TEST(the_oldest_session_goes_first), TEST(a_session_is_the_one_that_made_it),
          TEST(the_server_asks_again),
          TEST(not_after_a_deny_at_the_server), TEST(not_after_a_deny_at_the_client),
          TEST(not_when_a_bundle_changed), TEST(not_with_an_expired_leaf),
          TEST(not_after_the_servers_leaf_expired),
          TEST(not_when_the_service_is_another_identity),
          TEST(a_ticket_ends_and_is_renewed_before), TEST(keys_are_shared_and_rotate),
          TEST(a_lost_connection_spoils_no_session), TEST(room_for_none_means_none))
