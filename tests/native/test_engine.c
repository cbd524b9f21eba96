/* test_engine.c: whole engines on loopback, with real sockets, threads and TLS: site A's host
 * through A over mTLS to B and its service; and what must be refused, told and counted. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "address.h"
#include "clock.h"
#include "link.h"
#include "site.h"
#include "sys.h"
#include "test.h"

enum { BULK = 8 << 20 };

/* A test's two sites and the service behind B; everything that was opened is closed by fini. */
struct pair {
    struct site a, b;
    int service;                 /* listening */
    uint16_t service_port;
    int client, accepted;        /* the last stream's ends, or -1 */
};

static void pair_init(struct pair *p)
{
    site_init_pair(&p->a, &p->b);
    p->service = site_listen(&p->service_port);
    p->client = p->accepted = -1;
    site_add_plain(&p->b.inbound, p->service_port);
}

static void pair_start(struct pair *p)
{
    site_start_pair(&p->a, &p->b);
}

static void close_ends(struct pair *p)
{
    if (p->client >= 0)
        close(p->client);
    if (p->accepted >= 0)
        close(p->accepted);
    p->client = p->accepted = -1;
}

static void pair_fini(struct pair *p)
{
    close_ends(p);
    close(p->service);
    site_fini(&p->a);
    site_fini(&p->b);
}

static bool pair_open(struct pair *p)
{
    p->client = site_connect(&p->a, "127.0.1.1");
    p->accepted = p->client >= 0 ? site_accept(p->service) : -1;
    return p->accepted >= 0;
}

static struct pair pair; /* large, and its sites' engines point into it */

/* One site alone, with the service on its own network. */
static void local_init(struct pair *p)
{
    site_init(&p->a, "a.test", 1);
    memset(&p->b, 0, sizeof(p->b));
    p->service = site_listen(&p->service_port);
    p->client = p->accepted = -1;
    site_add_plain(&p->a.outbound, p->service_port);
}

static void local_fini(struct pair *p)
{
    close_ends(p);
    close(p->service);
    site_fini(&p->a);
}

/* Sends size bytes from one end to the other, each on its own thread; true if they are equal. */
struct sending { int fd; const uint8_t *bytes; size_t size; bool good; };

static void *send_all(void *arg)
{
    struct sending *sending = arg;
    sending->good = site_send(sending->fd, sending->bytes, sending->size);
    return NULL;
}

static bool bulk(int from, int to, size_t size)
{
    uint8_t *out = malloc(size), *in = malloc(size);
    bool good = out != NULL && in != NULL;
    uint32_t state = 12345;
    for (size_t i = 0; good && i < size; i++)
        out[i] = (uint8_t)((state = state * 1664525 + 1013904223) >> 24);
    struct sending sending = {.fd = from, .bytes = out, .size = size};
    pthread_t thread;
    if (good && pthread_create(&thread, NULL, send_all, &sending) == 0) {
        good = site_receive(to, in, size) && memcmp(in, out, size) == 0;
        pthread_join(thread, NULL);
    }
    free(out);
    free(in);
    return good && sending.good;
}

/* ---- what must work ---- */

static void local_stream(void)
{
    struct pair *p = &pair;
    local_init(p);
    site_start(&p->a);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        shutdown(p->client, SHUT_WR);
        CHECK(site_ended(p->accepted));
        CHECK(site_send(p->accepted, "late", 4));
        char late[4];
        CHECK(site_receive(p->client, late, 4));
        close(p->accepted);
        p->accepted = -1;
        CHECK(site_ended(p->client));
        const struct site_event *open = site_wait_event(&p->a, DP_EVENT_OPEN);
        if (CHECK(open != NULL)) {
            CHECK_TEXT(open->src_id, "spiffe://a.test/ns/default/sa/web");
            CHECK_TEXT(open->dst_id, "spiffe://a.test/ns/default/sa/payments");
            CHECK_TEXT(open->service, "payments.default");
            CHECK_TEXT(open->endpoint, "b1");
            CHECK_INT(open->head.flow, DP_FLOW_LOCAL);
            CHECK_INT(open->head.grade, DP_GRADE_L2);
            CHECK_INT(open->head.down_layer, DP_RECORD_PLAIN);
            CHECK_INT(open->head.up_tls, 0);
            CHECK(open->head.connect_ns > 0);
            CHECK(memcmp(open->head.dst_addr, p->a.vip, 16) == 0);
            CHECK(memcmp(open->head.src_addr, p->a.host_addr, 16) == 0);
            CHECK_INT(open->head.peer_port, p->service_port);
        }
        const struct site_event *closed = site_wait_event(&p->a, DP_EVENT_CLOSE);
        if (CHECK(closed != NULL)) {
            CHECK_INT(closed->head.reason, DP_REASON_NONE);
            CHECK_INT(closed->head.bytes_up, 4);
            CHECK_INT(closed->head.bytes_down, 8);
        }
        CHECK(site_wait_idle(&p->a));
        CHECK_INT(site_stat(&p->a, STAT_STREAMS_OPENED), 1);
        CHECK_INT(site_stat(&p->a, STAT_STREAMS_CLOSED), 1);
        CHECK_INT(site_stat(&p->a, STAT_BYTES_DOWN), 8);
    }
    local_fini(p);
}

static void mesh_stream(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_OPEN);
        uint8_t flow_id[16] = {0};
        if (CHECK(event != NULL)) {
            memcpy(flow_id, event->head.flow_id, 16);
            CHECK_INT(event->head.flow, DP_FLOW_OUTBOUND);
            CHECK_INT(event->head.up_tls, 0x0304);
            CHECK_INT(event->head.up_layer, site_records);
            CHECK(event->head.up_cipher != 0);
            CHECK_TEXT(event->src_id, "spiffe://a.test/ns/default/sa/web");
            CHECK_TEXT(event->dst_id, "spiffe://b.test/ns/default/sa/payments");
            CHECK_TEXT(event->endpoint, "b.test");
        }
        event = site_wait_event(&p->b, DP_EVENT_OPEN);
        if (CHECK(event != NULL)) {
            CHECK(memcmp(flow_id, event->head.flow_id, 16) == 0);
            CHECK_INT(event->head.flow, DP_FLOW_INBOUND);
            CHECK_INT(event->head.grade, DP_GRADE_L2);
            CHECK_INT(event->head.down_tls, 0x0304);
            CHECK_INT(event->head.up_tls, 0);
            CHECK_TEXT(event->src_id, "spiffe://a.test/ns/default/sa/web");
            CHECK(memcmp(event->head.src_addr, p->a.host_addr, 16) == 0);
            CHECK(memcmp(event->head.dst_addr, p->a.vip, 16) == 0);
        }
        CHECK(bulk(p->client, p->accepted, BULK));
        CHECK(bulk(p->accepted, p->client, BULK));
        shutdown(p->client, SHUT_WR);
        CHECK(site_ended(p->accepted));
        CHECK(bulk(p->accepted, p->client, BULK)); /* the other half lives on */
        shutdown(p->accepted, SHUT_WR);
        CHECK(site_ended(p->client));
        event = site_wait_event(&p->a, DP_EVENT_CLOSE);
        CHECK(event != NULL && event->head.reason == DP_REASON_NONE &&
              event->head.bytes_up == BULK + 4 && event->head.bytes_down == 2 * BULK + 4);
        event = site_wait_event(&p->b, DP_EVENT_CLOSE);
        CHECK(event != NULL && event->head.reason == DP_REASON_NONE &&
              event->head.bytes_up == BULK + 4 && event->head.bytes_down == 2 * BULK + 4);
    }
    pair_fini(p);
}

static void mesh_resumes(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    for (int i = 0; i < 2; i++) {
        if (CHECK(pair_open(p)))
            CHECK(site_echo(p->client, p->accepted));
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_OPEN);
        if (CHECK(event != NULL))
            CHECK_INT(event->head.resumed, i == 0 ? 0 : 2);
        event = site_wait_event(&p->b, DP_EVENT_OPEN);
        if (CHECK(event != NULL))
            CHECK_INT(event->head.resumed, i == 0 ? 0 : 1);
        close_ends(p);
    }
    pair_fini(p);
}

static void service_speaks_first(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    if (CHECK(pair_open(p))) {
        char greeting[3];
        CHECK(site_send(p->accepted, "220", 3));
        CHECK(site_receive(p->client, greeting, 3));
        CHECK(memcmp(greeting, "220", 3) == 0);
        CHECK(site_echo(p->client, p->accepted));
    }
    pair_fini(p);
}

static void client_ends_at_once(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    p->client = site_connect(&p->a, "127.0.1.1");
    REQUIRE(p->client >= 0);
    CHECK(site_send(p->client, "request", 7)); /* and FIN, before anything is connected */
    shutdown(p->client, SHUT_WR);
    p->accepted = site_accept(p->service);
    char request[7];
    CHECK(p->accepted >= 0 && site_receive(p->accepted, request, 7) && site_ended(p->accepted));
    CHECK(site_send(p->accepted, "answer", 6));
    char answer[6];
    CHECK(site_receive(p->client, answer, 6));
    pair_fini(p);
}

/* More than is kept for a retry: the rest waits in the kernel until the reply. */
static void much_before_the_reply(void)
{
    static uint8_t out[200000], in[sizeof(out)];
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    p->client = site_connect(&p->a, "127.0.1.1");
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 31 >> 3);
    CHECK(site_send(p->client, out, sizeof(out)));
    p->accepted = site_accept(p->service);
    CHECK(p->accepted >= 0 && site_receive(p->accepted, in, sizeof(in)));
    CHECK(memcmp(in, out, sizeof(in)) == 0);
    CHECK(site_echo(p->client, p->accepted));
    close_ends(p);
    const struct site_event *event = site_wait_event(&p->a, DP_EVENT_CLOSE);
    CHECK(event != NULL && event->head.bytes_up == sizeof(out) + 4);
    CHECK_INT(site_stat(&p->a, STAT_BYTES_UP), sizeof(out) + 4);
    pair_fini(p);
}

/* Every write takes a few bytes only: headers, replies and records arrive in pieces. */
static atomic_uint send_calls;

static ssize_t short_send(int fd, const void *buf, size_t len, int flags)
{
    unsigned call = atomic_fetch_add(&send_calls, 1);
    size_t most = 1 + call * 2654435761u % 700;
    return sys_real.send(fd, buf, len < most ? len : most, flags);
}

static void short_writes_everywhere(void)
{
    static struct sys_table table;
    struct pair *p = &pair;
    table = sys_real;
    table.send = short_send;
    sys = &table;
    pair_init(p);
    pair_start(p);
    if (CHECK(pair_open(p))) {
        CHECK(bulk(p->client, p->accepted, BULK / 16));
        CHECK(bulk(p->accepted, p->client, BULK / 16));
        shutdown(p->client, SHUT_WR);
        CHECK(site_ended(p->accepted));
    }
    CHECK(atomic_load(&send_calls) > 1000);
    pair_fini(p);
    sys = &sys_real;
}

static void ipv6_stream(void)
{
    struct pair *p = &pair;
    local_init(p);
    site_address("::1", p->a.vip);
    site_address("::1", p->a.host_addr);
    p->a.listen_address = "::";
    int service = site_listen_on("::1", &p->service_port);
    p->a.outbound.count = 0;
    site_address("::1", site_add_plain(&p->a.outbound, p->service_port)->endpoint.addr);
    site_start(&p->a);
    p->client = site_connect_to("::1", "::1", p->a.port);
    p->accepted = site_accept(service);
    CHECK(p->accepted >= 0 && site_echo(p->client, p->accepted));
    const struct site_event *event = site_wait_event(&p->a, DP_EVENT_OPEN);
    CHECK(event != NULL && memcmp(event->head.src_addr, p->a.vip, 16) == 0);
    close(service);
    local_fini(p);
}

/* One handshake a turn: the others wait their turn, none is lost. */
static void handshakes_are_rationed(void)
{
    enum { STREAMS = 30 };
    struct pair *p = &pair;
    int clients[STREAMS];
    pair_init(p);
    p->a.config.handshakes_per_turn = p->b.config.handshakes_per_turn = 1;
    site_open(&p->a);
    for (int i = 0; i < STREAMS; i++) /* all are there when it starts */
        clients[i] = site_connect(&p->a, "127.0.1.1");
    pair_start(p);
    for (int i = 0; i < STREAMS; i++) {
        int fd = site_accept(p->service);
        CHECK(fd >= 0);
        close(fd);
    }
    for (int i = 0; i < STREAMS; i++) {
        CHECK(site_ended(clients[i]));
        close(clients[i]);
    }
    CHECK(site_stat(&p->a, STAT_HANDSHAKES_DEFERRED) > 0);
    CHECK_INT(site_stat(&p->b, STAT_HANDSHAKES_SERVER), STREAMS);
    CHECK(site_wait_idle(&p->a));
    pair_fini(p);
}

static void bulk_is_spliced(void)
{
    struct pair *p = &pair;
    local_init(p);
    site_start(&p->a);
    if (CHECK(pair_open(p))) {
        CHECK(bulk(p->client, p->accepted, 4 * BULK));
        CHECK(bulk(p->accepted, p->client, 4 * BULK));
        CHECK(site_echo(p->client, p->accepted));
        close_ends(p);
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_CLOSE);
        if (CHECK(event != NULL)) {
            CHECK_INT(event->head.up_layer, DP_RECORD_SPLICE);
            CHECK_INT(event->head.bytes_up, 4 * BULK + 4);
        }
        CHECK(site_stat(&p->a, STAT_SPLICED_BYTES) > 4 * BULK);
    }
    local_fini(p);
}

static void no_pipe_copies(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.config.pipes_max = 0;
    site_start(&p->a);
    if (CHECK(pair_open(p)))
        CHECK(bulk(p->client, p->accepted, BULK));
    CHECK_INT(site_stat(&p->a, STAT_SPLICED_BYTES), 0);
    CHECK(site_stat(&p->a, STAT_POOL_PIPES_FULL) > 0);
    local_fini(p);
}

static void proxy_header_for_the_service(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.service.source_address = DP_SOURCE_PROXY;
    site_start(&p->a);
    if (CHECK(pair_open(p))) {
        uint8_t bytes[47];
        struct link_header header;
        CHECK(site_receive(p->accepted, bytes, sizeof(bytes)));
        if (CHECK_INT(link_header_decode(bytes, sizeof(bytes), &header), 47)) {
            CHECK(memcmp(header.src_addr, p->a.host_addr, 16) == 0);
            CHECK_INT(header.dst_port, p->a.port);
        }
        CHECK(site_echo(p->client, p->accepted));
        close_ends(p);
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_CLOSE);
        CHECK(event != NULL && event->head.bytes_up == 4); /* the header is not payload */
    }
    local_fini(p);
}

static void transparent_source(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.service.source_address = DP_SOURCE_TRANSPARENT;
    p->a.config.allow_transparent = geteuid() == 0;
    site_start(&p->a);
    if (p->a.config.allow_transparent) {
        if (CHECK(pair_open(p))) {
            struct sockaddr_storage peer;
            socklen_t len = sizeof(peer);
            uint8_t addr[16];
            uint16_t port;
            CHECK_INT(getpeername(p->accepted, (struct sockaddr *)&peer, &len), 0);
            address_from_socket(&peer, addr, &port);
            CHECK(memcmp(addr, p->a.host_addr, 16) == 0);
            CHECK(site_echo(p->client, p->accepted));
        }
    } else { /* never silently from another address */
        p->client = site_connect(&p->a, "127.0.1.1");
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_REFUSED);
        CHECK(event != NULL && event->head.reason == DP_REASON_INTERNAL);
    }
    local_fini(p);
}

/* ---- what must be refused, and said ---- */

static void expect_refused(struct site *site, int client, uint16_t reason, const char *detail)
{
    if (client >= 0) {
        CHECK(site_was_reset(client));
        CHECK(site_wait_idle(site));
    }
    const struct site_event *event = site_wait_event(site, DP_EVENT_REFUSED);
    if (!CHECK(event != NULL))
        return;
    if (!CHECK_INT(event->head.reason, reason))
        printf("# %s\n", event->detail);
    if (detail != NULL && !CHECK(strstr(event->detail, detail) != NULL))
        printf("# %s\n", event->detail);
    CHECK_INT(site_stat(site, STAT_REASON_0 + reason), 1);
}

static void denied_at_the_source(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.deny_principal = "a.test/ns/default/sa/web";
    site_start(&p->a);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_DENIED, "no-batch");
    local_fini(p);
}

static void denied_at_the_destination(void)
{
    struct pair *p = &pair;
    pair_init(p);
    p->b.deny_principal = "a.test/ns/default/sa/web";
    pair_start(p);
    p->client = site_connect(&p->a, "127.0.1.1");
    CHECK(site_send(p->client, "hello", 5));
    expect_refused(&p->a, p->client, DP_REASON_DENIED, "no-batch"); /* the rule, at the source */
    expect_refused(&p->b, -1, DP_REASON_DENIED, "no-batch");
    CHECK_INT(site_stat(&p->a, STAT_RETRIES), 0);
    pair_fini(p);
}

static void unknown_source_and_routes(void)
{
    struct pair *p = &pair;
    local_init(p);
    site_start(&p->a);
    p->client = site_connect(&p->a, "127.0.1.9");
    expect_refused(&p->a, p->client, DP_REASON_UNIDENTIFIED, NULL);
    close_ends(p);
    p->client = site_connect_to("127.0.1.1", "127.77.0.2", p->a.port);
    expect_refused(&p->a, p->client, DP_REASON_NO_ROUTE, NULL);
    close_ends(p);
    p->client = site_connect_to("127.0.1.1", "127.66.0.1", p->a.port);
    expect_refused(&p->a, p->client, DP_REASON_OWN_ADDRESS, NULL);
    local_fini(p);
}

static void weak_grade(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.service.grade_min = DP_GRADE_PORT;
    site_start(&p->a);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_GRADE, NULL);
    local_fini(p);
}

static void denied_identity(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.denied_id = p->a.host_id;
    site_start(&p->a);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_REVOKED, NULL);
    local_fini(p);
}

static void no_identity_to_cross_with(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    p->client = site_connect(&p->a, "127.0.1.9");
    expect_refused(&p->a, p->client, DP_REASON_NO_IDENTITY, NULL);
    close_ends(p);
    clock_test_shift_real((PKI_NOW_S + 100000 - (int64_t)time(NULL)) * 1000000000);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_EXPIRED, NULL);
    pair_fini(p);
}

static void peer_is_not_trusted(void)
{
    struct pair *p = &pair;
    pair_init(p);
    dp_bundle_free(p->b.peer_bundle);
    p->b.peer_bundle = NULL;
    pair_start(p);
    p->client = site_connect(&p->a, "127.0.1.1");
    CHECK(site_was_reset(p->client));
    const struct site_event *event = site_wait_event(&p->b, DP_EVENT_REFUSED);
    if (CHECK(event != NULL))
        CHECK_INT(event->head.reason, DP_REASON_PEER_IDENTITY);
    event = site_wait_event(&p->a, DP_EVENT_REFUSED);
    CHECK(event != NULL && event->detail[0] != 0);
    pair_fini(p);
}

static void peer_is_somebody_else(void)
{
    struct pair *p = &pair;
    pair_init(p);
    site_start(&p->b);
    site_add_mesh(&p->a, &p->b)->expected = "spiffe://b.test/ns/default/sa/other";
    site_start(&p->a);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_PEER_IDENTITY, NULL);
    pair_fini(p);
}

static void no_route_at_the_destination(void)
{
    struct pair *p = &pair;
    pair_init(p);
    p->b.has_sni = false;
    site_start(&p->b);
    site_add_mesh(&p->a, &p->b)->expected = p->b.appliance_leaf->id;
    site_start(&p->a);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_NO_ROUTE, "SNI");
    pair_fini(p);
}

/* A snapshot with such a set is not sealed; a swap of the set alone must not get it in either. */
static void inbound_goes_no_further(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    p->b.inbound.endpoints[0] = (struct site_endpoint){
        .endpoint = {.port = 1, .kind = DP_ENDPOINT_MESH, .healthy = 1, .weight = 1,
                     .name = "loop", .sni = p->a.sni},
        .expected = p->a.service_id};
    memcpy(p->b.inbound.endpoints[0].endpoint.addr, p->a.mesh_addr, 16);
    CHECK_INT(site_publish_set(&p->b, SITE_INBOUND), 0);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_NO_ENDPOINT, NULL);
    CHECK_INT(site_stat(&p->b, STAT_CONNECTS), 0);
    pair_fini(p);
}

/* ---- retries, limits, ejection ---- */

enum { DEAD_PORT = 1, DEAD_PORT_2 = 2 }; /* nobody listens, and the kernel gives them to nobody */

static void retry_and_ejection(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.outbound.count = 0;
    site_add_plain(&p->a.outbound, DEAD_PORT)->endpoint.name = "dead";
    struct site_endpoint *good = site_add_plain(&p->a.outbound, p->service_port);
    good->endpoint.priority = 1;
    p->a.outbound.policy.failures_consecutive = 2;
    p->a.outbound.policy.ejection_base_ms = 50;
    p->a.outbound.policy.ejection_max_ms = 50;
    site_start(&p->a);
    for (int i = 0; i < 2; i++) {
        if (CHECK(pair_open(p)))
            CHECK(site_echo(p->client, p->accepted));
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_OPEN);
        CHECK(event != NULL && event->head.retries == 1);
        close_ends(p);
    }
    CHECK_INT(site_stat(&p->a, STAT_RETRIES), 2);
    CHECK_INT(site_stat(&p->a, STAT_CONNECT_FAILURES), 2);
    const struct site_event *event = site_wait_event(&p->a, DP_EVENT_EJECTED);
    if (CHECK(event != NULL)) {
        CHECK_TEXT(event->endpoint, "dead");
        CHECK_TEXT(event->service, "payments.default");
        CHECK_INT(event->head.duration_ns, 50000000);
    }
    event = site_wait_event(&p->a, DP_EVENT_RETURNED);
    CHECK(event != NULL && strcmp(event->endpoint, "dead") == 0);
    local_fini(p);
}

static void every_endpoint_fails(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.outbound.count = 0;
    site_add_plain(&p->a.outbound, DEAD_PORT);
    site_add_plain(&p->a.outbound, DEAD_PORT_2);
    site_start(&p->a);
    p->client = site_connect(&p->a, "127.0.1.1");
    expect_refused(&p->a, p->client, DP_REASON_CONNECT_FAILED, "refused");
    CHECK_INT(site_stat(&p->a, STAT_CONNECTS), 2);
    local_fini(p);
}

/* The first payload was sent to a site that has no endpoint: the other site gets all of it. */
static void retry_keeps_the_first_payload(void)
{
    struct pair *p = &pair;
    static struct site empty;
    pair_init(p);
    site_init(&empty, "c.test", 1);
    site_trust(&empty, &p->a);
    site_start(&empty);
    site_start(&p->b);
    struct site_endpoint *first = site_add_mesh(&p->a, &empty);
    first->endpoint.priority = 0;
    site_add_mesh(&p->a, &p->b)->endpoint.priority = 1;
    site_start(&p->a);
    /* A trusts two peers: the snapshot of the helper holds one, so the other replaces its own. */
    dp_bundle_free(p->a.bundle);
    dp_bundle_ref(empty.bundle);
    p->a.bundle = empty.bundle;
    REQUIRE_INT(site_publish(&p->a), 0);
    p->client = site_connect(&p->a, "127.0.1.1");
    uint8_t out[12000], in[12000];
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7);
    CHECK(site_send(p->client, out, sizeof(out)));
    p->accepted = site_accept(p->service);
    CHECK(p->accepted >= 0 && site_receive(p->accepted, in, sizeof(in)) &&
          memcmp(in, out, sizeof(in)) == 0);
    CHECK(site_echo(p->client, p->accepted));
    const struct site_event *event = site_wait_event(&p->a, DP_EVENT_OPEN);
    CHECK(event != NULL && event->head.retries == 1);
    event = site_wait_event(&empty, DP_EVENT_REFUSED);
    CHECK(event != NULL && event->head.reason == DP_REASON_NO_ENDPOINT);
    pair_fini(p);
    site_fini(&empty);
}

static void connection_limit(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.outbound.policy.connections_max = 1;
    site_start(&p->a);
    if (CHECK(pair_open(p))) {
        int second = site_connect(&p->a, "127.0.1.1");
        CHECK(site_was_reset(second));
        expect_refused(&p->a, -1, DP_REASON_LIMIT, NULL);
        CHECK(site_echo(p->client, p->accepted));
        close(second);
    }
    local_fini(p);
}

static void full_pool(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.config.streams_max = 1;
    site_start(&p->a);
    if (CHECK(pair_open(p))) {
        int second = site_connect(&p->a, "127.0.1.1");
        CHECK(site_was_reset(second));
        close(second);
        CHECK_INT(site_stat(&p->a, STAT_POOL_STREAMS_FULL), 1);
        CHECK(site_echo(p->client, p->accepted));
        close_ends(p);
        CHECK(site_wait_idle(&p->a));
        CHECK(pair_open(p)); /* there is room again */
    }
    local_fini(p);
}

/* ---- hosts' agents and forgery ---- */

static struct dp_leaf *own_leaf(struct site *site)
{
    const struct pki_spec spec = {.uris = {site->host_id}};
    return pki_leaf(&site->ca, &spec, false);
}

static size_t header_bytes(const struct site *site, const char *source, const uint8_t *target,
                           uint8_t *buf)
{
    struct link_header header = {.src_port = 1, .dst_port = site->port, .flow_id = {1, 2, 3}};
    site_address(source, header.src_addr);
    memcpy(header.dst_addr, target, 16);
    int size = link_header_encode(&header, buf, LINK_HEADER_MAX);
    return size > 0 ? (size_t)size : 0;
}

static bool receive_reply(struct site_client *client, struct link_reply *reply)
{
    uint8_t bytes[LINK_REPLY_MAX];
    size_t size = 0;
    int used = 0;
    while (used == 0 && size < sizeof(bytes) && site_client_receive(client, bytes + size, 1))
        used = link_reply_decode(bytes, ++size, 2, reply);
    return used > 0;
}

static void agent_stream(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.has_agent = true;
    p->a.has_host = false;
    p->a.service.grade_min = DP_GRADE_KEY;
    site_start(&p->a);
    struct dp_leaf *leaf = own_leaf(&p->a);
    struct site_client client;
    if (CHECK(site_client_open(&client, &p->a, leaf, "127.0.1.1"))) {
        uint8_t bytes[LINK_HEADER_MAX + 8];
        size_t size = header_bytes(&p->a, "127.0.1.1", p->a.vip, bytes);
        memcpy(bytes + size, "request", 7);
        CHECK(site_client_send(&client, bytes, size + 7));
        struct link_reply reply;
        if (CHECK(receive_reply(&client, &reply)))
            CHECK_INT(reply.reason, DP_REASON_NONE);
        p->accepted = site_accept(p->service);
        char request[7];
        CHECK(p->accepted >= 0 && site_receive(p->accepted, request, 7));
        CHECK(site_send(p->accepted, "answer", 6));
        char answer[6];
        CHECK(site_client_receive(&client, answer, 6));
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_OPEN);
        CHECK(event != NULL && event->head.grade == DP_GRADE_KEY &&
              event->head.flow == DP_FLOW_LOCAL && event->head.down_tls == 0x0304);
    }
    site_client_close(&client); /* without close_notify: the service must not see a clean end */
    CHECK(site_was_reset(p->accepted));
    const struct site_event *event = site_wait_event(&p->a, DP_EVENT_CLOSE);
    if (CHECK(event != NULL))
        CHECK_INT(event->head.reason, DP_REASON_TRUNCATED);
    dp_leaf_free(leaf);
    local_fini(p);
}

/* What an agent must not do: each case is told why, in the reply. */
static void agent_refused(const char *source, bool enrolled, uint16_t reason)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.has_agent = enrolled;
    site_start(&p->a);
    struct dp_leaf *leaf = own_leaf(&p->a);
    struct site_client client;
    if (CHECK(site_client_open(&client, &p->a, leaf, "127.0.1.1"))) {
        uint8_t bytes[LINK_HEADER_MAX];
        struct link_reply reply;
        CHECK(site_client_send(&client, bytes, header_bytes(&p->a, source, p->a.vip, bytes)));
        if (CHECK(receive_reply(&client, &reply)))
            CHECK_INT(reply.reason, reason);
        CHECK(site_client_ended(&client));
    }
    site_client_close(&client);
    expect_refused(&p->a, -1, reason, NULL);
    CHECK_INT(site_stat(&p->a, STAT_CONNECTS), 0);
    dp_leaf_free(leaf);
    local_fini(p);
}

static void forged_header(void)
{
    agent_refused("127.0.1.2", true, DP_REASON_FORGED_HEADER);
}

static void agent_of_no_host(void)
{
    agent_refused("127.0.1.1", false, DP_REASON_UNIDENTIFIED);
}

static void own_leaf_of_another_site(void)
{
    struct pair *p = &pair;
    pair_init(p);
    site_start(&p->b);
    struct dp_leaf *leaf = own_leaf(&p->a);
    struct site_client client;
    if (CHECK(site_client_open(&client, &p->b, leaf, "127.0.1.1"))) {
        uint8_t bytes[LINK_HEADER_MAX];
        struct link_reply reply;
        CHECK(site_client_send(&client, bytes, header_bytes(&p->b, "127.0.1.1", p->b.vip, bytes)));
        if (CHECK(receive_reply(&client, &reply)))
            CHECK_INT(reply.reason, DP_REASON_PEER_IDENTITY);
    }
    site_client_close(&client);
    dp_leaf_free(leaf);
    pair_fini(p);
}

static void bad_header(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.has_agent = true;
    p->a.config.header_timeout_ms = 1000; /* time for what is sent at once */
    site_start(&p->a);
    struct dp_leaf *leaf = own_leaf(&p->a);
    const char *const cases[] = {"GET / HTTP/1.1\r\n\r\n", "\r\n\r\n"}; /* the second: too slow */
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        struct site_client client;
        if (CHECK(site_client_open(&client, &p->a, leaf, "127.0.1.1"))) {
            struct link_reply reply;
            CHECK(site_client_send(&client, cases[i], strlen(cases[i])));
            if (CHECK(receive_reply(&client, &reply)))
                CHECK_INT(reply.reason, DP_REASON_BAD_HEADER);
        }
        site_client_close(&client);
    }
    CHECK(site_wait_stat(&p->a, STAT_REASON_0 + DP_REASON_BAD_HEADER, 2));
    dp_leaf_free(leaf);
    local_fini(p);
}

static void garbage_instead_of_a_handshake(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.config.handshake_timeout_ms = 2000; /* time to say it, however busy */
    site_start(&p->a);
    int fd = site_connect_to("127.0.1.1", "127.0.2.1", p->a.mesh_port);
    CHECK(site_send(fd, "GET / HTTP/1.1\r\n\r\n", 18));
    expect_refused(&p->a, -1, DP_REASON_HANDSHAKE, NULL);
    close(fd);
    fd = site_connect_to("127.0.1.1", "127.0.2.1", p->a.mesh_port); /* says nothing */
    expect_refused(&p->a, -1, DP_REASON_HANDSHAKE_TIMEOUT, NULL);
    CHECK(site_ended(fd));
    close(fd);
    local_fini(p);
}

/* A host's agent as the endpoint, played by a second engine of the same site. */
static void agent_endpoint(void)
{
    struct pair *p = &pair;
    pair_init(p);
    struct site *agent = &p->b;
    snprintf(agent->trust_domain, sizeof(agent->trust_domain), "a.test");
    dp_bundle_free(agent->bundle);
    dp_bundle_ref(p->a.bundle);
    agent->bundle = p->a.bundle;
    dp_bundle_free(agent->peer_bundle);
    agent->peer_bundle = NULL;
    dp_leaf_free(agent->service_leaf);
    const struct pki_spec spec = {.uris = {p->a.service_id}};
    agent->service_leaf = pki_leaf(&p->a.ca, &spec, false);
    dp_bundle_free(p->a.peer_bundle);
    p->a.peer_bundle = NULL;
    site_start(agent);
    struct site_endpoint *endpoint = site_add_mesh(&p->a, agent);
    endpoint->endpoint.kind = DP_ENDPOINT_AGENT;
    endpoint->endpoint.target_port = 5432;
    endpoint->expected = p->a.service_id;
    site_start(&p->a);
    if (CHECK(pair_open(p))) {
        CHECK(site_echo(p->client, p->accepted));
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_OPEN);
        CHECK(event != NULL && event->head.flow == DP_FLOW_LOCAL && event->head.up_tls == 0x0304);
        event = site_wait_event(agent, DP_EVENT_OPEN);
        CHECK(event != NULL && event->head.dst_port == 5432 &&
              strcmp(event->src_id, p->a.host_id) == 0);
    }
    pair_fini(p);
}

/* ---- live streams and publishes ---- */

static void stream_lives_through_publishes(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    if (CHECK(pair_open(p))) {
        for (int i = 0; i < 50; i++) {
            CHECK_INT(site_publish(i % 2 ? &p->a : &p->b), 0);
            CHECK_INT(site_publish_set(&p->a, SITE_OUTBOUND), 0);
            CHECK_INT(site_publish_set(&p->b, SITE_INBOUND), 0);
            if (!CHECK(site_echo(p->client, p->accepted)))
                break;
        }
        CHECK_INT(site_stat(&p->a, STAT_REAUTHORIZED_CLOSED), 0);
        CHECK(snapshot_alive() <= 2); /* one in force each: streams hold none */
    }
    pair_fini(p);
}

/* That would keep streams waiting: what a snapshot replaced is put away until it is collected. */
static void workers_free_no_snapshot(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    dp_engine_collect(p->a.engine);
    dp_engine_collect(p->b.engine);
    uint32_t alive = snapshot_alive();
    CHECK_INT(site_publish(&p->a), 0);
    CHECK_INT(snapshot_alive(), alive + 1);
    dp_engine_collect(p->a.engine);
    CHECK_INT(snapshot_alive(), alive);
    CHECK_INT(site_publish(&p->a), 0);
    CHECK_INT(site_publish_set(&p->a, SITE_OUTBOUND), 0); /* collects too */
    CHECK_INT(snapshot_alive(), alive);
    pair_fini(p);
    CHECK_INT(snapshot_alive(), alive - 2);
}

static void expect_closed(struct pair *p, struct site *site, uint16_t reason)
{
    CHECK(site_was_reset(p->client));
    CHECK(site_was_reset(p->accepted));
    const struct site_event *event = site_wait_event(site, DP_EVENT_CLOSE);
    if (CHECK(event != NULL) && !CHECK_INT(event->head.reason, reason))
        printf("# %s\n", event->detail);
    close_ends(p);
}

static void publish_withdraws_locally(void)
{
    struct pair *p = &pair;
    local_init(p);
    site_start(&p->a);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        p->a.deny_principal = "a.test/ns/default/sa/web";
        CHECK_INT(site_publish(&p->a), 0);
        expect_closed(p, &p->a, DP_REASON_REAUTHORIZED);
    }
    p->a.deny_principal = NULL;
    CHECK_INT(site_publish(&p->a), 0);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        /* The address now stands for nobody. */
        p->a.has_host = false;
        CHECK_INT(site_publish(&p->a), 0);
        expect_closed(p, &p->a, DP_REASON_REAUTHORIZED);
    }
    p->a.has_host = true;
    CHECK_INT(site_publish(&p->a), 0);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        p->a.has_service = false;
        CHECK_INT(site_publish(&p->a), 0);
        expect_closed(p, &p->a, DP_REASON_REAUTHORIZED);
    }
    CHECK_INT(site_stat(&p->a, STAT_REAUTHORIZED_CLOSED), 3);
    local_fini(p);
}

static void publish_revokes_and_expires(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        p->b.denied_id = p->a.host_id; /* B learned that A's host is revoked */
        CHECK_INT(site_publish(&p->b), 0);
        expect_closed(p, &p->b, DP_REASON_REVOKED);
    }
    p->b.denied_id = NULL;
    CHECK_INT(site_publish(&p->b), 0);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        clock_test_shift_real((PKI_NOW_S + 100000 - (int64_t)time(NULL)) * 1000000000);
        CHECK_INT(site_publish(&p->b), 0);
        expect_closed(p, &p->b, DP_REASON_EXPIRED);
    }
    pair_fini(p);
}

/* Who is unknown may use a PERMISSIVE service; who is known to be revoked may not. */
static void revoked_host(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.service.mtls = DP_MTLS_PERMISSIVE;
    p->a.has_host = false;
    site_start(&p->a);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        p->a.has_host = true;
        p->a.host_grade = DP_GRADE_NONE;
        CHECK_INT(site_publish(&p->a), 0);
        expect_closed(p, &p->a, DP_REASON_REVOKED);
    }
    p->client = site_connect(&p->a, "127.0.1.1");
    CHECK(site_was_reset(p->client));
    const struct site_event *event = site_wait_event(&p->a, DP_EVENT_REFUSED);
    if (CHECK(event != NULL))
        CHECK_INT(event->head.reason, DP_REASON_REVOKED);
    local_fini(p);
}

static void publish_limits(void)
{
    struct pair *p = &pair;
    local_init(p);
    site_start(&p->a);
    CHECK_INT(dp_engine_publish_set_take(p->a.engine, 99, NULL), -ENOENT);
    dp_snapshot *first = site_snapshot(&p->a), *second = site_snapshot(&p->a);
    CHECK_INT(dp_engine_publish_take(p->a.engine, second), 0);
    CHECK_INT(dp_engine_publish_take(p->a.engine, first), -ESTALE);
    dp_snapshot *unsealed;
    REQUIRE_INT(dp_snapshot_new(1000, "a.test", &unsealed), 0);
    CHECK_INT(dp_engine_publish_take(p->a.engine, unsealed), -EINVAL);
    local_fini(p);
}

static void too_many_snapshots(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.config.workers = 2;
    site_open(&p->a);
    for (int i = 0; i < 3; i++)
        CHECK_INT(dp_engine_publish_take(p->a.engine, site_snapshot(&p->a)), 0);
    CHECK_INT(dp_engine_publish_take(p->a.engine, site_snapshot(&p->a)), -EBUSY);
    CHECK_INT(site_stat(&p->a, STAT_SNAPSHOTS_REFUSED), 1);
    CHECK_INT(dp_engine_applied(p->a.engine), 0);
    REQUIRE_INT(dp_engine_start(p->a.engine), 0);
    CHECK(site_wait_stat(&p->a, STAT_SNAPSHOTS_TAKEN, 6)); /* two workers, three each */
    CHECK_INT(site_publish(&p->a), 0);
    local_fini(p);
}

/* ---- ends ---- */

static void resets_pass_through(void)
{
    struct pair *p = &pair;
    const struct linger now = {.l_onoff = 1};
    pair_init(p);
    pair_start(p);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        setsockopt(p->client, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        close(p->client);
        p->client = -1;
        CHECK(site_was_reset(p->accepted));
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_CLOSE);
        CHECK(event != NULL && event->head.reason == DP_REASON_RESET);
        event = site_wait_event(&p->b, DP_EVENT_CLOSE);
        CHECK(event != NULL && event->head.reason == DP_REASON_RESET);
    }
    close_ends(p);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        setsockopt(p->accepted, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        close(p->accepted);
        p->accepted = -1;
        CHECK(site_was_reset(p->client));
    }
    pair_fini(p);
}

static void timeouts(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.service.idle_timeout_ms = 2000; /* time for an echo, however busy */
    site_start(&p->a);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted)))
        expect_closed(p, &p->a, DP_REASON_IDLE_TIMEOUT);
    p->a.service.idle_timeout_ms = 0;
    p->a.service.duration_max_ms = 50;
    CHECK_INT(site_publish(&p->a), 0);
    if (CHECK(pair_open(p)))
        expect_closed(p, &p->a, DP_REASON_DURATION);
    local_fini(p);
}

static void updates(void)
{
    struct pair *p = &pair;
    local_init(p);
    p->a.config.update_interval_ms = 20;
    site_start(&p->a);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        uint64_t seen = 0;
        while (seen < 8) { /* totals only grow; the last one has all of it */
            const struct site_event *event = site_wait_event(&p->a, DP_EVENT_UPDATE);
            if (!CHECK(event != NULL))
                break;
            uint64_t bytes = event->head.bytes_up + event->head.bytes_down;
            CHECK(bytes > seen);
            seen = bytes;
        }
    }
    local_fini(p);
}

static void drain(void)
{
    struct pair *p = &pair;
    local_init(p);
    site_start(&p->a);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        CHECK_INT(dp_engine_drain(p->a.engine, 2 * SITE_WAIT_MS), 0);
        /* Its listener is the last descriptor of the socket: closed, so the port refuses. */
        int64_t until_ms = clock_ms() + SITE_WAIT_MS;
        int refused = 0;
        while (!refused && clock_ms() < until_ms) {
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            struct sockaddr_storage to;
            socklen_t len = address_to_socket(p->a.vip, p->a.port, &to);
            refused = connect(fd, (struct sockaddr *)&to, len) < 0;
            close(fd);
        }
        CHECK(refused);
        CHECK(site_echo(p->client, p->accepted)); /* lives on until the deadline */
        CHECK_INT(dp_engine_drain(p->a.engine, 1), 0);
        expect_closed(p, &p->a, DP_REASON_DRAIN);
        CHECK(site_stat(&p->a, STAT_DRAINED_CLOSED) >= 1);
        CHECK(site_wait_idle(&p->a));
    }
    CHECK_INT(dp_engine_stop(p->a.engine), 0);
    CHECK_INT(dp_engine_drain(p->a.engine, 1), -ESHUTDOWN);
    CHECK_INT(dp_engine_publish_take(p->a.engine, site_snapshot(&p->a)), -ESHUTDOWN);
    local_fini(p);
}

static void stop_closes_everything(void)
{
    struct pair *p = &pair;
    pair_init(p);
    pair_start(p);
    if (CHECK(pair_open(p)) && CHECK(site_echo(p->client, p->accepted))) {
        CHECK_INT(dp_engine_stop(p->a.engine), 0);
        CHECK(site_was_reset(p->client));
        CHECK_INT(dp_engine_live(p->a.engine), 0);
        const struct site_event *event = site_wait_event(&p->a, DP_EVENT_CLOSE);
        CHECK(event != NULL && event->head.reason == DP_REASON_DRAIN);
    }
    pair_fini(p);
}

/* ---- threads ---- */

static atomic_bool publishing;

static void *publish_all_the_time(void *arg)
{
    struct pair *p = arg;
    unsigned n = 0;
    while (atomic_load(&publishing)) {
        if (site_publish(&p->a) < 0 || site_publish_set(&p->b, SITE_INBOUND) < 0)
            return NULL;
        n++;
    }
    return n > 0 ? p : NULL;
}

static void *serve(void *arg)
{
    int fd;
    while ((fd = accept(*(int *)arg, NULL, NULL)) >= 0) {
        char bytes[4];
        if (recv(fd, bytes, 4, MSG_WAITALL) == 4)
            (void)!send(fd, bytes, 4, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

static void two_workers_under_publishes(void)
{
    enum { STREAMS = 200 };
    struct pair *p = &pair;
    pair_init(p);
    p->a.config.workers = p->b.config.workers = 2;
    p->a.config.pin = 1;
    pair_start(p);
    pthread_t publisher, server;
    atomic_store(&publishing, true);
    REQUIRE_INT(pthread_create(&publisher, NULL, publish_all_the_time, p), 0);
    REQUIRE_INT(pthread_create(&server, NULL, serve, &p->service), 0);
    for (int i = 0; i < STREAMS; i++) {
        int fd = site_connect(&p->a, "127.0.1.1");
        char back[4];
        bool good = site_send(fd, "ping", 4) && site_receive(fd, back, 4) && site_ended(fd);
        close(fd);
        if (!CHECK(good))
            break;
    }
    atomic_store(&publishing, false);
    void *published = NULL;
    pthread_join(publisher, &published);
    CHECK(published != NULL);
    shutdown(p->service, SHUT_RD);
    pthread_join(server, NULL);
    CHECK(site_wait_stat(&p->a, STAT_STREAMS_OPENED, STREAMS));
    CHECK(site_wait_idle(&p->a));
    CHECK_INT(site_stat(&p->a, STAT_STREAMS_CLOSED), STREAMS);
    uint64_t counts[HISTOGRAM_BUCKETS], sum, total = 0;
    CHECK_INT(dp_engine_read_histogram(p->a.engine, HISTOGRAM_CONNECT_NS, counts,
                                       HISTOGRAM_BUCKETS, &sum), 0);
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        total += counts[i];
    CHECK_INT(total, STREAMS);
    pair_fini(p);
}

/* In a child, since nothing takes the sandbox back. */
static void works_in_the_sandbox(void)
{
    fflush(stdout); /* or the child may say again what was said */
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        struct pair *p = &pair;
        pair_init(p);
        pair_start(p);
        bool good = dp_sandbox_enter() == 0 && pair_open(p) && site_echo(p->client, p->accepted) &&
                    bulk(p->client, p->accepted, BULK) && site_publish(&p->a) == 0 &&
                    site_echo(p->client, p->accepted);
        close_ends(p);
        good = good && site_wait_event(&p->a, DP_EVENT_CLOSE) != NULL &&
               dp_engine_stop(p->a.engine) == 0;
        _exit(good ? 0 : 1);
    }
    int status = -1;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
}

static void bad_configurations(void)
{
    struct pair *p = &pair;
    local_init(p);
    dp_engine *engine;
    dp_config config = p->a.config;
    config.workers = 0;
    CHECK_INT(dp_engine_new(&config, &engine), -EINVAL);
    config = p->a.config;
    config.workers = DP_WORKERS_MAX + 1;
    CHECK_INT(dp_engine_new(&config, &engine), -EINVAL);
    config = p->a.config;
    config.event_bytes = 5000;
    CHECK_INT(dp_engine_new(&config, &engine), -EINVAL);
    config = p->a.config;
    config.handshake_timeout_ms = 0;
    CHECK_INT(dp_engine_new(&config, &engine), -EINVAL);
    REQUIRE_INT(dp_engine_new(&p->a.config, &p->a.engine), 0);
    CHECK_INT(dp_engine_add_listener(p->a.engine, p->service, DP_LISTEN_MESH, 9), -EINVAL);
    CHECK_INT(dp_engine_add_listener(p->a.engine, p->service, 7, 0), -EINVAL);
    int not_listening = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_INT(dp_engine_add_listener(p->a.engine, not_listening, DP_LISTEN_MESH, 0), -EINVAL);
    close(not_listening);
    CHECK_INT(dp_engine_add_pipe(p->a.engine, -1, -1), -EBADF);
    local_fini(p);
}

SITE_TEST_MAIN(TEST(local_stream), TEST(mesh_stream), TEST(mesh_resumes), TEST(service_speaks_first),
          TEST(client_ends_at_once), TEST(much_before_the_reply),
          TEST(short_writes_everywhere), TEST(ipv6_stream), TEST(handshakes_are_rationed),
          TEST(bulk_is_spliced), TEST(no_pipe_copies),
          TEST(proxy_header_for_the_service), TEST(transparent_source),
          TEST(denied_at_the_source), TEST(denied_at_the_destination),
          TEST(unknown_source_and_routes), TEST(weak_grade), TEST(denied_identity),
          TEST(revoked_host),
          TEST(no_identity_to_cross_with), TEST(peer_is_not_trusted), TEST(peer_is_somebody_else),
          TEST(no_route_at_the_destination), TEST(inbound_goes_no_further),
          TEST(retry_and_ejection), TEST(every_endpoint_fails),
          TEST(retry_keeps_the_first_payload), TEST(connection_limit), TEST(full_pool),
          TEST(agent_stream), TEST(forged_header), TEST(agent_of_no_host),
          TEST(own_leaf_of_another_site), TEST(bad_header),
          TEST(garbage_instead_of_a_handshake), TEST(agent_endpoint),
          TEST(stream_lives_through_publishes), TEST(workers_free_no_snapshot), TEST(publish_withdraws_locally),
          TEST(publish_revokes_and_expires), TEST(publish_limits), TEST(too_many_snapshots),
          TEST(resets_pass_through), TEST(timeouts), TEST(updates), TEST(drain),
          TEST(stop_closes_everything), TEST(two_workers_under_publishes),
          TEST(works_in_the_sandbox),
          TEST(bad_configurations))
