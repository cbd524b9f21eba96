/* test_withdrawn.c: an identity that is withdrawn while a stream of it is half made, and one that
 * the far side refuses: the first must not get in, the second must not harm others. */
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link.h"
#include "site.h"
#include "sys.h"
#include "test.h"

static struct site a, b; /* large, and their engines point into them */

static void sites_init(void)
{
    site_init_pair(&a, &b);
}

static void sites_fini(void)
{
    site_fini(&a);
    site_fini(&b);
}

/* The handshake is done, the header not sent yet, when the deny list grows. */
static void revoked_before_its_header(void)
{
    sites_init();
    uint16_t port;
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    site_start(&b);
    struct site_client client;
    if (CHECK(site_client_open(&client, &b, a.host_leaf, "127.0.1.1")) &&
        CHECK(site_wait_stat(&b, STAT_HANDSHAKES_SERVER, 1))) {
        b.denied_id = a.host_id;
        CHECK_INT(site_publish(&b), 0);
        struct link_header header = {.src_port = 1, .dst_port = b.port, .flow_id = {1, 2, 3}};
        memcpy(header.src_addr, a.host_addr, 16);
        memcpy(header.dst_addr, b.vip, 16);
        uint8_t bytes[LINK_HEADER_MAX];
        int size = link_header_encode(&header, bytes, sizeof(bytes));
        CHECK(size > 0 && site_client_send(&client, bytes, (size_t)size));
        const struct site_event *event = site_wait_event(&b, DP_EVENT_REFUSED);
        if (CHECK(event != NULL)) {
            CHECK_INT(event->head.reason, DP_REASON_REVOKED);
            CHECK_TEXT(event->src_id, a.host_id);
        }
        CHECK_INT(site_stat(&b, STAT_STREAMS_OPENED), 0);
    }
    site_client_close(&client);
    close(service);
    sites_fini();
}

/* A source whom the peer refuses goes on trying: the peer stays in use for everybody else. */
static void a_refused_source_ejects_nobody(void)
{
    enum { TRIES = 4 };
    sites_init();
    uint16_t port;
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    b.denied_id = a.host_id;
    site_start(&b);
    site_add_mesh(&a, &b);
    a.outbound.policy.failures_consecutive = 2;
    a.outbound.policy.ejection_percent_max = 100;
    a.outbound.policy.ejection_base_ms = a.outbound.policy.ejection_max_ms = 60000;
    site_start(&a);
    for (int i = 0; i < TRIES; i++) {
        int client = site_connect(&a, "127.0.1.1");
        const struct site_event *event = site_wait_event(&a, DP_EVENT_REFUSED);
        if (CHECK(client >= 0 && event != NULL))
            CHECK_INT(event->head.reason, DP_REASON_REVOKED);
        close(client);
    }
    CHECK_INT(site_stat(&a, STAT_EJECTIONS), 0);
    CHECK_INT(site_stat(&a, STAT_CONNECT_FAILURES), 0);
    close(service);
    sites_fini();
}

/* A peer whose last message of the handshake is held back by who stands between. */
enum { RECORD_HEAD = 5, RECORD_MAX = RECORD_HEAD + 16640, RECORD_DATA = 23, HANDSHAKE_RECORDS = 5 };

static uint16_t between_port;
static atomic_uint_fast64_t between_read, between_starved; /* bytes; read when there were no more */

static ssize_t recv_noting(int fd, void *buf, size_t len, int flags)
{
    struct sockaddr_in from = {0};
    socklen_t size = sizeof(from);
    ssize_t n = sys_real.recv(fd, buf, len, flags);
    if (getpeername(fd, (struct sockaddr *)&from, &size) < 0 ||
        from.sin_port != htons(between_port))
        return n;
    if (n > 0)
        atomic_fetch_add(&between_read, (uint64_t)n);
    else if (n == -EAGAIN)
        atomic_store(&between_starved, atomic_load(&between_read));
    return n;
}

/* One record from a socket to another, or into held. Its type, or 0. */
static uint8_t pass_record(int from, int to, uint8_t *held, size_t *ret_size)
{
    if (!site_receive(from, held, RECORD_HEAD))
        return 0;
    size_t size = (size_t)held[3] << 8 | held[4];
    *ret_size = RECORD_HEAD + size;
    if (*ret_size > RECORD_MAX || !site_receive(from, held + RECORD_HEAD, size))
        return 0;
    return to < 0 || site_send(to, held, *ret_size) ? held[0] : 0;
}

static bool wait_starved(uint64_t bytes)
{
    for (int left_ms = SITE_WAIT_MS; left_ms > 0; left_ms--) {
        if (atomic_load(&between_starved) >= bytes)
            return true;
        poll(NULL, 0, 1);
    }
    return false;
}

/* EncryptedExtensions, CertificateRequest, Certificate and CertificateVerify go on, Finished waits
 * until the snapshot that denies the certificate's identity runs. */
static void revoked_before_its_finished(void)
{
    static struct sys_table table;
    static uint8_t held[RECORD_MAX];
    size_t size = 0;
    uint64_t passed = 0;
    table = sys_real;
    table.recv = recv_noting;
    atomic_store(&between_read, 0);
    atomic_store(&between_starved, 0);
    int between = site_listen(&between_port);
    sys = &table;
    sites_init();
    uint16_t port;
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    site_start(&b);
    struct site_endpoint *endpoint = site_add_mesh(&a, &b);
    site_address("127.0.3.1", endpoint->endpoint.addr);
    endpoint->endpoint.port = between_port;
    a.service.attempts_max = 1;
    site_start(&a);

    int client = site_connect(&a, "127.0.1.1");
    int near = site_accept(between);
    int far = site_connect_to("127.0.0.1", "127.0.2.1", b.mesh_port);
    bool good = CHECK(client >= 0 && near >= 0 && far >= 0) &&
                CHECK(pass_record(near, far, held, &size) != 0);
    for (int data = 0; good && data < HANDSHAKE_RECORDS;) {
        uint8_t type = pass_record(far, -1, held, &size);
        data += type == RECORD_DATA;
        good = CHECK(type != 0) &&
               (data == HANDSHAKE_RECORDS || CHECK(site_send(near, held, size)));
        passed += data < HANDSHAKE_RECORDS ? size : 0;
    }
    if (good && CHECK(wait_starved(passed))) {
        a.denied_id = b.service_id;
        CHECK_INT(site_publish(&a), 0);
        CHECK(site_send(near, held, size));
        const struct site_event *event = site_wait_event(&a, DP_EVENT_REFUSED);
        if (CHECK(event != NULL))
            CHECK_INT(event->head.reason, DP_REASON_REVOKED);
        CHECK_INT(site_stat(&a, STAT_HANDSHAKES_CLIENT), 1);
    }
    close(client);
    close(near);
    close(far);
    close(between);
    close(service);
    sites_fini();
    sys = &sys_real;
}

SITE_TEST_MAIN(TEST(revoked_before_its_header), TEST(revoked_before_its_finished),
               TEST(a_refused_source_ejects_nobody))
