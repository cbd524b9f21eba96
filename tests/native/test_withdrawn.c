/* test_withdrawn.c: an identity that is withdrawn while a stream of it is half made. */
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

TEST_MAIN(TEST(revoked_before_its_header))
