/* test_peer.c: what a peer's appliance may not make us do, and what an older one still can. */
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "site.h"
#include "test.h"

static struct site a, b; /* large, and their engines point into them */
static int service, client, accepted;

static void sites_init(void)
{
    uint16_t port;
    site_init(&a, "a.test", 1);
    site_init(&b, "b.test", 1);
    site_trust(&a, &b);
    site_trust(&b, &a);
    service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    client = accepted = -1;
}

static bool sites_connect(void)
{
    site_start(&b);
    site_add_mesh(&a, &b);
    site_start(&a);
    client = site_connect(&a, "127.0.1.1");
    accepted = client >= 0 ? site_accept(service) : -1;
    return accepted >= 0 && site_echo(client, accepted);
}

static void sites_fini(void)
{
    close(client);
    close(accepted);
    close(service);
    site_fini(&a);
    site_fini(&b);
}

/* The header says 127.0.1.1, which may be a host of b's. */
static void it_chooses_no_address_of_ours(void)
{
    sites_init();
    b.service.source_address = DP_SOURCE_TRANSPARENT;
    b.config.allow_transparent = true; /* it would be refused where that is not permitted */
    if (CHECK(sites_connect())) {
        struct sockaddr_storage from;
        socklen_t len = sizeof(from);
        uint8_t addr[16], ours[16];
        uint16_t port;
        site_address("127.0.0.1", ours); /* what the kernel gives a socket on loopback */
        CHECK_INT(getpeername(accepted, (struct sockaddr *)&from, &len), 0);
        address_from_socket(&from, addr, &port);
        CHECK(memcmp(addr, ours, sizeof(ours)) == 0);
        const struct site_event *event = site_wait_event(&b, DP_EVENT_OPEN);
        if (CHECK(event != NULL)) /* it is told all the same */
            CHECK(memcmp(event->head.src_addr, a.host_addr, sizeof(ours)) == 0);
    }
    sites_fini();
}

SITE_TEST_MAIN(TEST(it_chooses_no_address_of_ours))
