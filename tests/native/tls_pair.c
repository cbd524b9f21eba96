/* tls_pair.c: see tls_pair.h. */
#include "tls_pair.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "must.h"
#include "record_user.h"

enum { SESSIONS_MAX = 4, ROUNDS_MAX = 32, PAIRS_MAX = 16, LARGE_MAX = 4, AWAIT_MS = 20000 };

uint8_t pair_client_layer = DP_RECORD_OPENSSL, pair_server_layer = DP_RECORD_OPENSSL;
dp_offload pair_client_offload, pair_server_offload;
void (*pair_sockets)(int ret_fds[2]) = socket_pair;

struct buffers *sites_buffers(struct stats *stats)
{
    struct buffers *buffers = NULL;
    MUST(buffers_new_sized(RECORD_SMALL, 2 * PAIRS_MAX * RECORD_BUFFERS_A_LEG, RECORD_LARGE,
                           LARGE_MAX, stats, &buffers) == 0);
    return buffers;
}

struct dp_snapshot *snapshot_make(const struct snapshot_spec *spec)
{
    static atomic_uint_fast64_t version;
    struct dp_snapshot *snap = NULL;
    char detail[256] = "";
    MUST(dp_snapshot_new(atomic_fetch_add(&version, 1) + 1, "b.example", &snap) == 0);
    for (size_t i = 0; i < DP_COUNT(spec->bundles); i++)
        if (spec->bundles[i] != NULL)
            MUST(dp_snapshot_add_bundle(snap, spec->bundles[i]) == 0);
    uint32_t payments = DP_NONE, appliance = DP_NONE, service;
    if (spec->payments != NULL)
        MUST(dp_snapshot_add_leaf(snap, spec->payments, &payments) == 0);
    if (spec->appliance != NULL) {
        MUST(dp_snapshot_add_leaf(snap, spec->appliance, &appliance) == 0);
        MUST(dp_snapshot_set_appliance_leaf(snap, appliance) == 0);
    }
    struct dp_endpoints *set = NULL;
    MUST(dp_endpoints_new(&(dp_set_policy){0}, &set) == 0);
    MUST(dp_snapshot_add_set_take(snap, 1, set) == 0);
    dp_service payments_service = {
        .name = "payments.default", .namespace_ = "default", .port = 5432, .leaf = payments,
        .outbound_set = 1, .connect_timeout_ms = 1000, .attempts_max = 1};
    MUST(dp_snapshot_add_service(snap, &payments_service, &service) == 0);
    MUST(dp_snapshot_add_sni(snap, PAYMENTS_SNI, service, 1) == 0);
    if (spec->denied_id != NULL)
        MUST(dp_snapshot_add_denied_id(snap, spec->denied_id) == 0);
    if (spec->denied_leaf != NULL)
        MUST(dp_snapshot_add_denied_serial(snap, spec->denied_trust_domain,
                                           spec->denied_leaf->serial,
                                           spec->denied_leaf->serial_len) == 0);
    if (dp_snapshot_seal(snap, detail, sizeof(detail)) != 0) {
        fprintf(stderr, "seal: %s\n", detail);
        abort();
    }
    return snap;
}

void sites_publish(struct sites *sites)
{
    dp_snapshot_free(sites->snap_a);
    dp_snapshot_free(sites->snap_b);
    sites->snap_a = snapshot_make(&sites->spec_a);
    sites->snap_b = snapshot_make(&sites->spec_b);
}

void sites_init(struct sites *sites)
{
    *sites = (struct sites){0};
    clock_test_set(UINT64_C(1000000000), (uint64_t)PKI_NOW_S * UINT64_C(1000000000));
    pki_ca_init(&sites->ca_a, "site a", NULL);
    pki_ca_init(&sites->ca_b, "site b", NULL);
    sites->bundle_a = pki_bundle("a.example", &sites->ca_a, NULL);
    sites->bundle_b = pki_bundle("b.example", &sites->ca_b, NULL);
    sites->web = pki_leaf(&sites->ca_a, &(struct pki_spec){.uris = {WEB_ID}, .grade = "l2"}, false);
    sites->batch = pki_leaf_id(&sites->ca_a, BATCH_ID);
    sites->payments = pki_leaf_id(&sites->ca_b, PAYMENTS_ID);
    sites->appliance = pki_leaf_id(&sites->ca_b, APPLIANCE_ID);
    sites->spec_a = (struct snapshot_spec){.bundles = {sites->bundle_a, sites->bundle_b}};
    sites->spec_b = (struct snapshot_spec){.bundles = {sites->bundle_a, sites->bundle_b},
                                           .payments = sites->payments,
                                           .appliance = sites->appliance};
    sites_publish(sites);
    MUST(tls_context_new(&sites->ctx_a) == 0);
    MUST(tls_context_new(&sites->ctx_b) == 0);
    MUST(tls_sessions_new(sites->ctx_a, SESSIONS_MAX, &sites->sessions) == 0);
    MUST(stats_new(&sites->stats) == 0);
    MUST(tls_chains_new(SITES_CHAINS_MAX, sites->stats, &sites->chains) == 0);
    sites->buffers = sites_buffers(sites->stats);
}

void sites_fini(struct sites *sites)
{
    buffers_free(sites->buffers);
    tls_chains_free(sites->chains);
    stats_free(sites->stats);
    tls_sessions_free(sites->sessions);
    tls_context_free(sites->ctx_a);
    tls_context_free(sites->ctx_b);
    dp_snapshot_free(sites->snap_a);
    dp_snapshot_free(sites->snap_b);
    dp_leaf_free(sites->web);
    dp_leaf_free(sites->batch);
    dp_leaf_free(sites->payments);
    dp_leaf_free(sites->appliance);
    dp_bundle_free(sites->bundle_a);
    dp_bundle_free(sites->bundle_b);
    pki_ca_fini(&sites->ca_a);
    pki_ca_fini(&sites->ca_b);
    clock_test_reset();
}

static void tcp_pair(int ret_fds[2])
{
    const int type = SOCK_STREAM | SOCK_CLOEXEC, on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(to);
    int listener = socket(AF_INET, type, 0);
    MUST(listener >= 0 && bind(listener, (struct sockaddr *)&to, len) == 0);
    MUST(listen(listener, 1) == 0 && getsockname(listener, (struct sockaddr *)&to, &len) == 0);
    ret_fds[0] = socket(AF_INET, type, 0);
    MUST(connect(ret_fds[0], (struct sockaddr *)&to, len) == 0);
    ret_fds[1] = accept(listener, NULL, NULL);
    MUST(ret_fds[1] >= 0);
    for (int i = 0; i < 2; i++) {
        MUST(fcntl(ret_fds[i], F_SETFL, O_NONBLOCK) == 0);
        MUST(setsockopt(ret_fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
    }
    close(listener);
}

void socket_pair(int ret_fds[2])
{
    if (pair_client_layer == DP_RECORD_KTLS || pair_server_layer == DP_RECORD_KTLS)
        tcp_pair(ret_fds);
    else
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ret_fds) == 0);
}

/* Until either is readable, -1 being none: what was sent by TCP may be under way still. */
static bool await(int one, int other)
{
    struct pollfd waits[2] = {{.fd = one, .events = POLLIN}, {.fd = other, .events = POLLIN}};
    return poll(waits, 2, AWAIT_MS) > 0;
}

static void want_records(struct tls *tls, uint8_t layer, struct buffers *buffers)
{
    if (layer == DP_RECORD_USER)
        tls_want_user_records(tls, buffers);
    else if (layer == DP_RECORD_KTLS || layer == DP_RECORD_NIC)
        tls_want_kernel_records(tls, buffers, layer == DP_RECORD_NIC);
}

void pair_open(struct pair *pair, struct sites *sites, const struct dp_leaf *leaf,
               const char *sni, const char *expected_id)
{
    int fds[2];
    pair_sockets(fds);
    *pair = (struct pair){.client_fd = fds[0], .server_fd = fds[1]};
    struct tls_client client = {
        .leaf = leaf, .sni = sni, .expected = &expected_id, .expected_count = 1};
    MUST(tls_new_client(sites->ctx_a, sites->sessions, fds[0], &client, &pair->client) == 0);
    MUST(tls_new_server(sites->ctx_b, fds[1], &pair->server) == 0);
    tls_use_chains(pair->client, sites->chains);
    tls_use_chains(pair->server, sites->chains);
    MUST(tls_profile_apply(pair->client, &pair_client_offload) == 0);
    MUST(tls_profile_apply(pair->server, &pair_server_offload) == 0);
    want_records(pair->client, pair_client_layer, sites->buffers);
    want_records(pair->server, pair_server_layer, sites->buffers);
}

bool pair_shake(struct pair *pair, const struct sites *sites)
{
    pair->client_result = pair->server_result = 0;
    for (int i = 0; i < ROUNDS_MAX && (pair->client_result == 0 || pair->server_result == 0); i++) {
        if (pair->client_result == 0)
            pair->client_result = tls_handshake(pair->client, sites->snap_a);
        if (pair->client_result < 0)
            shutdown(pair->client_fd, SHUT_WR); /* as closing it would */
        if (pair->server_result == 0)
            pair->server_result = tls_handshake(pair->server, sites->snap_b);
        if (pair->server_result < 0)
            shutdown(pair->server_fd, SHUT_WR);
        bool client_waits = pair->client_result == 0, server_waits = pair->server_result == 0;
        if ((client_waits || server_waits) &&
            !await(client_waits ? pair->client_fd : -1, server_waits ? pair->server_fd : -1))
            return false;
    }
    if (pair->client_result != 1 || pair->server_result != 1)
        return false;
    char byte;
    struct record *rec = tls_record(pair->client);
    bool has_ticket = pair_version(pair) == 0x0304 && !pair_is_resumed(pair); /* under way */
    if (has_ticket && !await(rec->fd, -1))
        return false;
    return rec->ops->read(rec, &byte, 1) == -EAGAIN;
}

void pair_close(struct pair *pair)
{
    tls_free(pair->client);
    tls_free(pair->server);
    close(pair->client_fd);
    close(pair->server_fd);
}

bool pair_connect(struct pair *pair, struct sites *sites, const struct dp_leaf *leaf,
                  const char *sni, const char *expected_id)
{
    pair_open(pair, sites, leaf, sni, expected_id);
    return pair_shake(pair, sites);
}

uint16_t pair_version(const struct pair *pair)
{
    struct tls_info client, server;
    tls_get_info(pair->client, &client);
    tls_get_info(pair->server, &server);
    MUST(client.version == server.version);
    return client.version;
}

bool pair_is_resumed(const struct pair *pair)
{
    struct tls_info client, server;
    tls_get_info(pair->client, &client);
    tls_get_info(pair->server, &server);
    MUST(client.resumed == server.resumed);
    return client.resumed;
}

bool pair_carries(struct tls *from, struct tls *to, const char *text)
{
    char buf[256];
    size_t len = strlen(text);
    struct record *source = tls_record(from), *sink = tls_record(to);
    MUST(len <= sizeof(buf));
    if (source->ops->write(source, text, len) != (ssize_t)len)
        return false;
    ssize_t n = sink->ops->read(sink, buf, sizeof(buf));
    if (n == -EAGAIN && await(sink->fd, -1))
        n = sink->ops->read(sink, buf, sizeof(buf));
    return n == (ssize_t)len && memcmp(buf, text, len) == 0;
}

bool pair_wants_kernel(void)
{
    const char *records = getenv("TEST_RECORDS");
    return records != NULL && strcmp(records, "kernel") == 0;
}

static int run_in_each_version(int (*run)(void), const char *client, const char *server)
{
    int failed = 0;
    for (int tls12 = 0; tls12 < 2; tls12++) {
        pair_client_offload.tls12 = pair_server_offload.tls12 =
            tls12 ? DP_TLS12_PREFER : DP_TLS12_NEVER;
        printf("# TLS 1.%d, records: client %s, server %s\n", 3 - tls12, client, server);
        failed |= run();
    }
    return failed;
}

int pair_run_layers(int (*run)(void))
{
    static const uint8_t layers[] = {DP_RECORD_OPENSSL, DP_RECORD_USER, DP_RECORD_KTLS};
    static const char *const names[] = {"openssl", "user", "ktls"};
    int failed = 0;
    for (size_t client = 0; client < DP_COUNT(layers); client++) {
        for (size_t server = 0; server < DP_COUNT(layers); server++) {
            pair_client_layer = layers[client];
            pair_server_layer = layers[server];
            bool kernel = pair_client_layer == DP_RECORD_KTLS || pair_server_layer == DP_RECORD_KTLS;
            if (kernel == pair_wants_kernel())
                failed |= run_in_each_version(run, names[client], names[server]);
        }
    }
    return failed;
}
