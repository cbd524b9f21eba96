/* site.c: see site.h. */
#define _GNU_SOURCE
#include "site.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "address.h"
#include "clock.h"
#include "link.h"
#include "must.h"

enum { PORT_MESH_SERVICE = 5432 };

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void site_address(const char *text, uint8_t *ret)
{
    if (inet_pton(AF_INET6, text, ret) == 1)
        return;
    memcpy(ret, address_ipv4_prefix, sizeof(address_ipv4_prefix));
    MUST(inet_pton(AF_INET, text, ret + 12) == 1);
}

static int listen_on(const char *address, uint16_t *ret_port)
{
    uint8_t addr[16];
    site_address(address, addr);
    struct sockaddr_storage to;
    socklen_t len = address_to_socket(addr, 0, &to);
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&to, len) == 0 && listen(fd, 512) == 0);
    len = sizeof(to);
    MUST(getsockname(fd, (struct sockaddr *)&to, &len) == 0);
    uint8_t unused[16];
    address_from_socket(&to, unused, ret_port);
    return fd;
}

uint8_t site_records;

bool site_next_records(void)
{
    static const char *const names[] = {
        [DP_RECORD_OPENSSL] = "openssl", [DP_RECORD_USER] = "user", [DP_RECORD_KTLS] = "ktls"};
    const char *wanted = getenv("TEST_RECORDS");
    bool kernel = wanted != NULL && strcmp(wanted, "kernel") == 0;
    if (site_records == 0)
        site_records = kernel ? DP_RECORD_KTLS : DP_RECORD_OPENSSL;
    else if (site_records++ >= DP_RECORD_USER)
        return false;
    printf("# records: %s\n", names[site_records]);
    return true;
}

static struct dp_leaf *delegated_leaf(struct site *site, const char *id, const char *grade)
{
    const struct pki_spec spec = {.uris = {id}, .grade = grade};
    return pki_leaf(&site->ca, &spec, false);
}

void site_init(struct site *site, const char *trust_domain, uint32_t workers)
{
    memset(site, 0, sizeof(*site));
    clock_test_shift_real((PKI_NOW_S - (int64_t)time(NULL)) * 1000000000);
    snprintf(site->trust_domain, sizeof(site->trust_domain), "%s", trust_domain);
    snprintf(site->host_id, sizeof(site->host_id), "spiffe://%s/ns/default/sa/web", trust_domain);
    snprintf(site->service_id, sizeof(site->service_id), "spiffe://%s/ns/default/sa/payments",
             trust_domain);
    snprintf(site->sni, sizeof(site->sni), "_.%d.payments.default.%s", PORT_MESH_SERVICE,
             trust_domain);
    char appliance_id[DP_ID_MAX + 1];
    snprintf(appliance_id, sizeof(appliance_id), "spiffe://%s/sluice/appliance/one", trust_domain);
    pki_ca_init(&site->ca, trust_domain, NULL);
    site->appliance_leaf = delegated_leaf(site, appliance_id, "key");
    site->service_leaf = delegated_leaf(site, site->service_id, "l2");
    site->host_leaf = delegated_leaf(site, site->host_id, "l2");
    site->bundle = pki_bundle(trust_domain, &site->ca, NULL);

    site->config = (dp_config){
        .workers = workers, .streams_max = 256, .pipes_max = 16, .handshakes_per_turn = 4,
        .sessions_max = 64, .event_bytes = 1 << 18, .handshake_timeout_ms = SITE_WAIT_MS,
        .header_timeout_ms = SITE_WAIT_MS, .records = site_records,
    };
    site_address("127.77.0.1", site->vip);
    site_address("127.0.1.1", site->host_addr);
    site_address("127.66.0.1", site->own_addr);
    site_address("127.0.2.1", site->mesh_addr);
    site->listen_address = "0.0.0.0";
    site->has_host = site->has_service = site->has_sni = true;
    site->host_grade = DP_GRADE_L2;
    site->service = (dp_service){
        .name = "payments.default", .namespace_ = "default", .mtls = DP_MTLS_STRICT,
        .port = PORT_MESH_SERVICE, .grade_min = DP_GRADE_L3, .outbound_set = SITE_OUTBOUND,
        .connect_timeout_ms = SITE_WAIT_MS, .attempts_max = 3,
    };
    site->outbound.policy = site->inbound.policy =
        (dp_set_policy){.balance = DP_BALANCE_ROUND_ROBIN, .ejection_percent_max = 100};
}

void site_open(struct site *site)
{
    if (site->engine != NULL)
        return;
    MUST(dp_engine_new(&site->config, &site->engine) == 0);
    int fd = listen_on(site->listen_address, &site->port);
    int mesh_fd = listen_on("127.0.2.1", &site->mesh_port);
    for (uint32_t w = 0; w < site->config.workers; w++) {
        MUST(dp_engine_add_listener(site->engine, fd, DP_LISTEN_TRANSPARENT, w) == 0);
        MUST(dp_engine_add_listener(site->engine, mesh_fd, DP_LISTEN_MESH, w) == 0);
    }
    close(fd);
    close(mesh_fd);
    uint8_t key[DP_TICKET_KEY_SIZE];
    memset(key, 7, sizeof(key));
    MUST(dp_engine_set_ticket_keys(site->engine, key, 1) == 0);
}

void site_fini(struct site *site)
{
    dp_engine_free(site->engine);
    dp_leaf_free(site->appliance_leaf);
    dp_leaf_free(site->service_leaf);
    dp_leaf_free(site->host_leaf);
    dp_bundle_free(site->bundle);
    dp_bundle_free(site->peer_bundle);
    pki_ca_fini(&site->ca);
    clock_test_reset();
}

void site_start(struct site *site)
{
    site_open(site);
    MUST(dp_engine_start(site->engine) == 0);
    MUST(site_publish(site) == 0);
}

void site_trust(struct site *site, const struct site *peer)
{
    dp_bundle_free(site->peer_bundle);
    dp_bundle_ref(peer->bundle);
    site->peer_bundle = peer->bundle;
}

static dp_endpoints *make_set(const struct site_set *from)
{
    dp_endpoints *set;
    MUST(dp_endpoints_new(&from->policy, &set) == 0);
    for (uint32_t i = 0; i < from->count; i++) {
        uint32_t index;
        MUST(dp_endpoints_add(set, &from->endpoints[i].endpoint, &index) == 0);
        if (from->endpoints[i].expected != NULL)
            MUST(dp_endpoints_add_expected(set, index, from->endpoints[i].expected) == 0);
    }
    return set;
}

static void add_policies(struct site *site, dp_snapshot *snap, uint32_t service)
{
    if (site->deny_principal == NULL && site->deny == NULL)
        return;
    uint32_t policy, rule;
    MUST(dp_snapshot_add_policy(snap, DP_DENY, "no-batch", &policy) == 0);
    MUST(dp_snapshot_add_rule(snap, policy, &rule) == 0);
    const dp_match match = {.part = DP_PART_FROM, .field = DP_FIELD_PRINCIPAL,
                            .op = DP_MATCH_EXACT, .text = site->deny_principal};
    MUST(dp_snapshot_add_match(snap, policy, rule, site->deny != NULL ? site->deny : &match) == 0);
    MUST(dp_snapshot_attach_policy(snap, service, policy) == 0);
}

dp_snapshot *site_snapshot(struct site *site)
{
    dp_snapshot *snap;
    uint32_t appliance, service_leaf, host, service;
    MUST(dp_snapshot_new(++site->version, site->trust_domain, &snap) == 0);
    MUST(dp_snapshot_add_bundle(snap, site->bundle) == 0);
    if (site->peer_bundle != NULL)
        MUST(dp_snapshot_add_bundle(snap, site->peer_bundle) == 0);
    MUST(dp_snapshot_add_leaf(snap, site->appliance_leaf, &appliance) == 0);
    MUST(dp_snapshot_add_leaf(snap, site->service_leaf, &service_leaf) == 0);
    MUST(dp_snapshot_add_leaf(snap, site->host_leaf, &host) == 0);
    MUST(dp_snapshot_set_appliance_leaf(snap, appliance) == 0);
    MUST(dp_snapshot_add_own_address(snap, site->own_addr) == 0);
    if (site->offload != NULL)
        MUST(dp_snapshot_set_offload(snap, site->offload) == 0);
    if (site->has_host)
        MUST(dp_snapshot_add_host(snap, site->host_addr, site->host_grade, host, "a1") == 0);
    if (site->has_agent)
        MUST(dp_snapshot_add_agent(snap, site->host_leaf->id, host, "a1") == 0);
    if (site->denied_id != NULL)
        MUST(dp_snapshot_add_denied_id(snap, site->denied_id) == 0);
    MUST(dp_snapshot_add_set_take(snap, SITE_OUTBOUND, make_set(&site->outbound)) == 0);
    MUST(dp_snapshot_add_set_take(snap, SITE_INBOUND, make_set(&site->inbound)) == 0);
    if (site->has_service) {
        dp_service definition = site->service;
        definition.leaf = service_leaf;
        MUST(dp_snapshot_add_service(snap, &definition, &service) == 0);
        MUST(dp_snapshot_add_vip(snap, site->vip, site->port, service) == 0);
        if (site->has_sni)
            MUST(dp_snapshot_add_sni(snap, site->sni, service, SITE_INBOUND) == 0);
        add_policies(site, snap, service);
    }
    char detail[256] = "";
    int r = dp_snapshot_seal(snap, detail, sizeof(detail));
    if (r < 0)
        fprintf(stderr, "seal: %s\n", detail);
    MUST(r == 0);
    return snap;
}

static bool wait_applied(const struct site *site)
{
    int64_t until_ms = now_ms() + SITE_WAIT_MS;
    while (dp_engine_applied(site->engine) < dp_engine_published(site->engine)) {
        if (now_ms() > until_ms)
            return false;
        poll(NULL, 0, 1);
    }
    return true;
}

int site_publish(struct site *site)
{
    site_open(site);
    int r = dp_engine_publish_take(site->engine, site_snapshot(site));
    return r < 0 ? r : wait_applied(site) ? 0 : -ETIMEDOUT;
}

int site_publish_set(struct site *site, uint32_t id)
{
    const struct site_set *set = id == SITE_OUTBOUND ? &site->outbound : &site->inbound;
    int r = dp_engine_publish_set_take(site->engine, id, make_set(set));
    return r < 0 ? r : wait_applied(site) ? 0 : -ETIMEDOUT;
}

static struct site_endpoint *add_endpoint(struct site_set *set)
{
    MUST(set->count < SITE_ENDPOINTS_MAX);
    struct site_endpoint *added = &set->endpoints[set->count++];
    *added = (struct site_endpoint){.endpoint = {.healthy = 1, .weight = 1}};
    return added;
}

struct site_endpoint *site_add_plain(struct site_set *set, uint16_t port)
{
    struct site_endpoint *added = add_endpoint(set);
    site_address("127.0.3.1", added->endpoint.addr);
    added->endpoint.port = added->endpoint.target_port = port;
    added->endpoint.kind = DP_ENDPOINT_PLAIN;
    added->endpoint.name = "b1";
    return added;
}

struct site_endpoint *site_add_mesh(struct site *site, const struct site *peer)
{
    struct site_endpoint *added = add_endpoint(&site->outbound);
    memcpy(added->endpoint.addr, peer->mesh_addr, 16);
    added->endpoint.port = peer->mesh_port;
    added->endpoint.kind = DP_ENDPOINT_MESH;
    added->endpoint.name = peer->trust_domain;
    added->endpoint.sni = peer->sni;
    added->expected = peer->service_id;
    return added;
}

void site_init_pair(struct site *a, struct site *b)
{
    site_init(a, "a.test", 1);
    site_init(b, "b.test", 1);
    site_trust(a, b);
    site_trust(b, a);
}

void site_start_pair(struct site *a, struct site *b)
{
    site_start(b);
    site_add_mesh(a, b);
    site_start(a);
}

uint64_t site_stat(const struct site *site, uint32_t stat)
{
    uint64_t values[STAT_COUNT];
    MUST(dp_engine_read_stats(site->engine, values, STAT_COUNT) == 0);
    return values[stat];
}

bool site_wait_stat(const struct site *site, uint32_t stat, uint64_t at_least)
{
    int64_t until_ms = now_ms() + SITE_WAIT_MS;
    while (site_stat(site, stat) < at_least) {
        if (now_ms() > until_ms)
            return false;
        poll(NULL, 0, 1);
    }
    return true;
}

bool site_wait_idle(const struct site *site)
{
    int64_t until_ms = now_ms() + SITE_WAIT_MS;
    while (dp_engine_live(site->engine) > 0) {
        if (now_ms() > until_ms)
            return false;
        poll(NULL, 0, 1);
    }
    return true;
}

static const uint8_t *take_text(const uint8_t *from, size_t len, char *to)
{
    memcpy(to, from, len);
    to[len] = 0;
    return from + len;
}

static void read_events(struct site *site)
{
    static uint8_t buf[1 << 16];
    int64_t n;
    while ((n = dp_engine_read_events(site->engine, buf, sizeof(buf))) > 0) {
        for (const uint8_t *at = buf; at < buf + n;) {
            MUST(site->event_count < SITE_EVENTS_MAX);
            struct site_event *event = &site->events[site->event_count++];
            memcpy(&event->head, at, sizeof(event->head));
            const dp_event *head = &event->head;
            const uint8_t *text = at + sizeof(*head);
            text = take_text(text, head->src_id_len, event->src_id);
            text = take_text(text, head->dst_id_len, event->dst_id);
            text = take_text(text, head->service_len, event->service);
            text = take_text(text, head->endpoint_len, event->endpoint);
            text = take_text(text, head->detail_len, event->detail);
            at += head->size;
            MUST(text <= at);
        }
    }
}

const struct site_event *site_wait_event(struct site *site, uint16_t kind)
{
    int64_t until_ms = now_ms() + SITE_WAIT_MS;
    for (;;) {
        read_events(site);
        for (uint32_t i = 0; i < site->event_count; i++) {
            if (site->events[i].head.kind != kind)
                continue;
            static _Thread_local struct site_event found;
            found = site->events[i];
            site->events[i].head.kind = 0; /* handed out */
            return &found;
        }
        int64_t left_ms = until_ms - now_ms();
        struct pollfd ready = {.fd = dp_engine_event_fd(site->engine), .events = POLLIN};
        if (left_ms <= 0 || poll(&ready, 1, (int)left_ms) <= 0) {
            printf("# no event of kind %u\n", kind);
            return NULL;
        }
    }
}

static void set_timeout(int fd)
{
    const struct timeval timeout = {.tv_sec = SITE_WAIT_MS / 1000};
    const int on = 1;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0);
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0);
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
}

int site_listen(uint16_t *ret_port)
{
    return site_listen_on("127.0.3.1", ret_port);
}

int site_listen_on(const char *address, uint16_t *ret_port)
{
    int fd = listen_on(address, ret_port);
    const struct timeval timeout = {.tv_sec = SITE_WAIT_MS / 1000};
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0);
    return fd;
}

int site_connect_to(const char *from, const char *to, uint16_t port)
{
    uint8_t addr[16];
    struct sockaddr_storage peer;
    site_address(from, addr);
    socklen_t len = address_to_socket(addr, 0, &peer);
    int fd = socket(peer.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0);
    set_timeout(fd);
    MUST(bind(fd, (struct sockaddr *)&peer, len) == 0);
    site_address(to, addr);
    len = address_to_socket(addr, port, &peer);
    /* connect() would itself return, and forget, the reset that came before it woke. */
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    bool begun = connect(fd, (struct sockaddr *)&peer, len) == 0 || errno == EINPROGRESS;
    struct pollfd connected = {.fd = fd, .events = POLLOUT};
    if (begun && poll(&connected, 1, SITE_WAIT_MS) == 1) {
        MUST(fcntl(fd, F_SETFL, 0) == 0);
        return fd;
    }
    printf("# connect: %s\n", strerror(begun ? ETIMEDOUT : errno));
    close(fd);
    return -1;
}

int site_connect(const struct site *site, const char *from)
{
    return site_connect_to(from, "127.77.0.1", site->port);
}

int site_accept(int listen_fd)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        set_timeout(fd);
    else
        printf("# accept: %s\n", strerror(errno));
    return fd;
}

bool site_send(int fd, const void *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(fd, (const uint8_t *)bytes + done, len - done, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

bool site_receive(int fd, void *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = recv(fd, (uint8_t *)bytes + done, len - done, 0);
        if (n <= 0) {
            printf("# received %zu of %zu: %s\n", done, len, n == 0 ? "end" : strerror(errno));
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

bool site_echo(int client_fd, int service_fd)
{
    char there[5] = {0}, back[5] = {0};
    return site_send(client_fd, "ping", 4) && site_receive(service_fd, there, 4) &&
           strcmp(there, "ping") == 0 && site_send(service_fd, "pong", 4) &&
           site_receive(client_fd, back, 4) && strcmp(back, "pong") == 0;
}

bool site_ended(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);
    if (n != 0)
        printf("# not an end: %s\n", n > 0 ? "a byte" : strerror(errno));
    return n == 0;
}

bool site_was_reset(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);
    bool reset = n < 0 && errno == ECONNRESET;
    if (!reset)
        printf("# not a reset: %s\n", n == 0 ? "end" : n > 0 ? "a byte" : strerror(errno));
    return reset;
}

bool site_client_open(struct site_client *client, struct site *site, struct dp_leaf *leaf,
                      const char *from)
{
    memset(client, 0, sizeof(*client));
    client->fd = site_connect_to(from, "127.0.2.1", site->mesh_port);
    if (client->fd < 0)
        return false;
    client->snapshot = site_snapshot(site);
    const char *expected[] = {site->service_id, site->appliance_leaf->id};
    const struct tls_client hello = {.leaf = leaf, .sni = site->sni, .expected = expected,
                                     .expected_count = 2};
    MUST(tls_context_new(&client->context) == 0);
    MUST(tls_sessions_new(client->context, 4, &client->sessions) == 0);
    MUST(tls_new_client(client->context, client->sessions, client->fd, &hello, &client->tls) == 0);
    int r = 0;
    while (r == 0) /* the socket blocks, with a timeout */
        r = tls_handshake(client->tls, client->snapshot);
    if (r < 0)
        printf("# handshake: %s\n", tls_detail(client->tls));
    return r == 1;
}

bool site_client_send(struct site_client *client, const void *bytes, size_t len)
{
    struct record *record = tls_record(client->tls);
    return record->ops->write(record, bytes, len) == (ssize_t)len;
}

/* -EAGAIN may mean a ticket that was read instead, or the socket's timeout. */
static ssize_t client_read(struct site_client *client, void *bytes, size_t len)
{
    int64_t until_ms = now_ms() + SITE_WAIT_MS;
    struct record *record = tls_record(client->tls);
    ssize_t n;
    do
        n = record->ops->read(record, bytes, len);
    while (n == -EAGAIN && now_ms() < until_ms);
    return n;
}

bool site_client_receive(struct site_client *client, void *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = client_read(client, (uint8_t *)bytes + done, len - done);
        if (n <= 0) {
            printf("# received %zu of %zu over TLS: %zd\n", done, len, n);
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

bool site_client_ended(struct site_client *client)
{
    char byte;
    return client_read(client, &byte, 1) == 0;
}

void site_client_close(struct site_client *client)
{
    tls_free(client->tls);
    tls_sessions_free(client->sessions);
    tls_context_free(client->context);
    dp_snapshot_free(client->snapshot);
    if (client->fd >= 0)
        close(client->fd);
}
