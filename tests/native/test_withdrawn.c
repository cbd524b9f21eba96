/* test_withdrawn.c: an identity that is withdrawn while a stream of it is half made, and one that
 * the far side refuses: the first must not get in, the second must not harm others. */
#include <unistd.h>

#include "link.h"
#include "site.h"
#include "test.h"

static struct site a, b; /* large, and their engines point into them */

static void sites_init(void)
{
    site_init(&a, "a.test", 1);
    site_init(&b, "b.test", 1);
    site_trust(&a, &b);
    site_trust(&b, &a);
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

SITE_TEST_MAIN(TEST(revoked_before_its_header), TEST(a_refused_source_ejects_nobody))
