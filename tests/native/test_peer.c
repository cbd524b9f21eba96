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
    site_init_pair(&a, &b);
    service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    client = accepted = -1;
}

static bool sites_connect(void)
{
    site_start_pair(&a, &b);
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

/* Publishes a DENY of an address to b, while a stream lives and before the next. */
static bool denied(uint8_t field, const char *address)
{
    dp_match match = {.part = DP_PART_FROM, .field = field, .prefix_len = 128};
    site_address(address, match.addr);
    sites_init();
    bool found = false;
    if (CHECK(sites_connect())) {
        b.deny = &match;
        CHECK_INT(site_publish(&b), 0);
        const struct site_event *event = NULL;
        found = !site_echo(client, accepted);
        if (found) {
            event = site_wait_event(&b, DP_EVENT_CLOSE);
            CHECK(event != NULL && event->head.reason == DP_REASON_REAUTHORIZED);
        }
        close(client);
        close(accepted);
        accepted = -1;
        client = site_connect(&a, "127.0.1.1");
        if (found) {
            event = site_wait_event(&a, DP_EVENT_REFUSED);
            if (CHECK(event != NULL))
                CHECK_TEXT(event->detail, "denied by no-batch, rule 1");
        } else {
            accepted = site_accept(service);
            CHECK(client >= 0 && accepted >= 0 && site_echo(client, accepted));
        }
    }
    b.deny = NULL;
    sites_fini();
    return found;
}

/* The header says 127.0.1.1; the appliance itself comes from 127.0.0.1. */
static void its_word_is_not_the_connections_address(void)
{
    CHECK(!denied(DP_FIELD_IP, "127.0.1.1"));
    CHECK(denied(DP_FIELD_IP, "127.0.0.1"));
    CHECK(denied(DP_FIELD_REMOTE_IP, "127.0.1.1"));
    CHECK(!denied(DP_FIELD_REMOTE_IP, "127.0.0.1"));
}

/* Streams pass, in a full handshake and a resumed one, and a refusal says as much as both know. */
static void speak(uint8_t client_version, uint8_t server_version, const char *detail)
{
    sites_init();
    a.config.link_version_max = client_version;
    b.config.link_version_max = server_version;
    if (CHECK(sites_connect())) {
        for (int i = 0; i < 2; i++) {
            close(client);
            close(accepted);
            client = site_connect(&a, "127.0.1.1");
            accepted = site_accept(service);
            CHECK(client >= 0 && accepted >= 0 && site_echo(client, accepted));
        }
        CHECK(site_stat(&b, STAT_HANDSHAKES_RESUMED) > 0);
        close(client);
        b.deny_principal = a.host_id + strlen("spiffe://");
        CHECK_INT(site_publish(&b), 0);
        client = site_connect(&a, "127.0.1.1");
        const struct site_event *event = site_wait_event(&a, DP_EVENT_REFUSED);
        if (CHECK(event != NULL)) {
            CHECK_INT(event->head.reason, DP_REASON_DENIED);
            CHECK_TEXT(event->detail, detail);
        }
    }
    sites_fini();
}

static void one_version_older_still_works(void)
{
    const char *why = "denied by no-batch, rule 1";
    speak(2, 2, why);
    speak(1, 2, ""); /* its replies have no room for the detail */
    speak(2, 1, "");
    speak(1, 1, "");
    speak(0, 0, why); /* the newest */
}

static void a_version_that_we_do_not_know(void)
{
    sites_init();
    a.config.link_version_max = TLS_LINK_VERSION_MAX + 1;
    CHECK_INT(dp_engine_new(&a.config, &a.engine), -EINVAL);
    sites_fini();
}

SITE_TEST_MAIN(TEST(it_chooses_no_address_of_ours),
               TEST(its_word_is_not_the_connections_address), TEST(one_version_older_still_works),
               TEST(a_version_that_we_do_not_know))
