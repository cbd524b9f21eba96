/* test_starving.c: strangers who open mesh connections and say nothing: neither hosts' streams nor
 * a peer's are kept out by them, and who is turned away is counted. */
#include <sys/socket.h>
#include <unistd.h>

#include "site.h"
#include "test.h"

enum { STREAMS = 64, STRANGERS = STREAMS / 4, SHARE = STRANGERS / 8 };

static struct site a, b; /* large, and their engines point into them */
static int service, silent[STRANGERS];
static unsigned silent_count;

static void sites_init(void)
{
    uint16_t port;
    site_init_pair(&a, &b);
    service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    site_add_plain(&b.outbound, port); /* for b's own hosts */
    b.config.streams_max = STREAMS;
    site_start_pair(&a, &b);
    silent_count = 0;
}

static void hang_up(void)
{
    while (silent_count > 0)
        close(silent[--silent_count]);
}

static void sites_fini(void)
{
    hang_up();
    close(service);
    site_fini(&a);
    site_fini(&b);
}

/* Connections that say nothing, as many as b takes. */
static void stay_silent(const char *from, unsigned count)
{
    uint64_t before = site_stat(&b, STAT_ACCEPTED_MESH);
    for (unsigned i = 0; i < count; i++)
        CHECK((silent[silent_count++] = site_connect_to(from, "127.0.2.1", b.mesh_port)) >= 0);
    CHECK(site_wait_stat(&b, STAT_ACCEPTED_MESH, before + count));
}

static void is_turned_away(const char *from, uint32_t stat)
{
    uint64_t before = site_stat(&b, stat), refused = STAT_REASON_0 + DP_REASON_POOL_FULL;
    uint64_t refused_before = site_stat(&b, (uint32_t)refused);
    int fd = site_connect_to(from, "127.0.2.1", b.mesh_port);
    CHECK(site_was_reset(fd));
    CHECK_INT(site_stat(&b, stat), before + 1);
    CHECK_INT(site_stat(&b, (uint32_t)refused), refused_before + 1);
    close(fd);
}

/* A host of site's gets to the service. */
static void serves(const struct site *site)
{
    int client = site_connect(site, "127.0.1.1");
    int accepted = site_accept(service);
    CHECK(client >= 0 && accepted >= 0 && site_echo(client, accepted));
    close(client);
    close(accepted);
}

static void one_silent_source_keeps_no_peer_out(void)
{
    sites_init();
    stay_silent("127.0.9.1", STRANGERS / 2);
    is_turned_away("127.0.9.1", STAT_STRANGERS_SOURCE_FULL);
    for (unsigned i = 0; i < 2 * STRANGERS; i++) /* each leaves when it has said who it is */
        serves(&a);
    serves(&b);
    sites_fini();
}

static void many_silent_sources_keep_no_known_one_out(void)
{
    static const char *const sources[] = {"127.0.9.2", "127.0.9.3", "127.0.9.4", "127.0.9.5"};
    sites_init();
    int client = site_connect(&a, "127.0.1.1"); /* before they come */
    int accepted = site_accept(service);
    stay_silent("127.0.9.1", STRANGERS / 2);
    for (size_t i = 0; i < DP_COUNT(sources); i++)
        stay_silent(sources[i], SHARE);
    is_turned_away("127.0.9.6", STAT_STRANGERS_FULL);
    serves(&b);
    CHECK(client >= 0 && accepted >= 0 && site_echo(client, accepted));
    hang_up();
    CHECK(site_wait_stat(&b, STAT_REASON_0 + DP_REASON_HANDSHAKE, STRANGERS));
    serves(&a); /* there is room again */
    close(client);
    close(accepted);
    sites_fini();
}

/* Who was refused still counts until it is gone: failing on purpose frees no room. */
static void a_failed_handshake_is_still_a_stranger(void)
{
    sites_init();
    stay_silent("127.0.9.1", STRANGERS / 2);
    for (unsigned i = 0; i < silent_count; i++)
        CHECK(site_send(silent[i], "GET / HTTP/1.1\r\n", 16));
    CHECK(site_wait_stat(&b, STAT_HANDSHAKES_FAILED, STRANGERS / 2));
    is_turned_away("127.0.9.1", STAT_STRANGERS_SOURCE_FULL);
    sites_fini();
}

SITE_TEST_MAIN(TEST(one_silent_source_keeps_no_peer_out),
               TEST(many_silent_sources_keep_no_known_one_out),
               TEST(a_failed_handshake_is_still_a_stranger))
