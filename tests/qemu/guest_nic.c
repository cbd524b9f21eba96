/* guest_nic.c: our handling of kernel TLS on an adapter that offers it (nic/, by way of cable.h):
 * when the adapter seals and opens, when the kernel does it instead, and that faults cost time but
 * no byte. The other end has the kernel's records, our own or OpenSSL's. */
#include <linux/tls.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cable.h"
#include "test.h"
#include "tls_pair.h"

enum { AWAIT_MS = 20000, TOTAL = 1 << 20, UNIT = 24 };
#define MARKER "in the clear, "

static struct sites sites;
static int family = AF_INET;

/* A stream of units, each with the marker and its own number. */
static void content(size_t place, char *ret, size_t len)
{
    char unit[UNIT + 1] = "";
    for (size_t i = 0; i < len; i++, place++) {
        if (i == 0 || place % UNIT == 0)
            snprintf(unit, sizeof(unit), MARKER "%010u", (unsigned)(place / UNIT));
        ret[i] = unit[place % UNIT];
    }
}

static void across(int ret_fds[2])
{
    cable_pair(family, ret_fds);
}

struct two {                     /* one connection: a's end is the client's, b's the server's */
    struct pair pair;
    struct record *ends[2];
};

/* In its own namespace, whose counts tell whether the adapter took it. */
static int shake(int end, struct tls *tls, const struct dp_snapshot *snap)
{
    cable_enter(end);
    int r = tls_handshake(tls, snap);
    cable_enter(-1);
    return r;
}

static bool shakes(struct pair *pair)
{
    pair->client_result = pair->server_result = 0;
    for (;;) {
        struct pollfd waits[] = {{.fd = pair->client_fd, .events = POLLIN},
                                 {.fd = pair->server_fd, .events = POLLIN}};
        if (pair->client_result == 0)
            pair->client_result = shake(0, pair->client, sites.snap_a);
        if (pair->server_result == 0)
            pair->server_result = shake(1, pair->server, sites.snap_b);
        if (pair->client_result < 0 || pair->server_result < 0)
            return false;
        if (pair->client_result == 1 && pair->server_result == 1)
            return true;
        /* Who has done its part may have data to read: its turn comes. */
        waits[0].events = pair->client_result == 1 ? 0 : POLLIN;
        waits[1].events = pair->server_result == 1 ? 0 : POLLIN;
        if (poll(waits, 2, AWAIT_MS) <= 0)
            return false;
    }
}

static void two_close(struct two *two)
{
    pair_close(&two->pair);
}

/* Bytes total from one end to the other, with what happens halfway. False: it failed; what arrived
 * until then was right. */
static bool carry(struct two *two, int from, size_t total, void (*halfway)(void))
{
    static char out[30011], in[1 << 16], want[1 << 16];
    struct record *source = two->ends[from], *sink = two->ends[1 - from];
    size_t sent = 0, got = 0;
    while (got < total) {
        size_t len = total - sent < sizeof(out) ? total - sent : sizeof(out);
        content(sent, out, len);
        ssize_t wrote = len > 0 ? source->ops->write(source, out, len) : 0;
        if (wrote < 0 && wrote != -EAGAIN)
            return false;
        sent += wrote > 0 ? (size_t)wrote : 0;
        if (halfway != NULL && sent >= total / 2) {
            halfway();
            halfway = NULL;
        }
        ssize_t n = sink->ops->read(sink, in, sizeof(in));
        if (n == 0 || (n < 0 && n != -EAGAIN))
            return false;
        if (n > 0) {
            content(got, want, (size_t)n);
            if (!CHECK(memcmp(in, want, (size_t)n) == 0))
                return false;
            got += (size_t)n;
        }
        struct pollfd waits[] = {{.fd = sink->fd, .events = POLLIN},
                                 {.fd = source->fd, .events = sent < total ? POLLOUT : 0}};
        if (n <= 0 && wrote <= 0 && !CHECK(poll(waits, 2, AWAIT_MS) > 0))
            return false;
    }
    return true;
}

/* What the adapter at each end has sealed and opened since the last look. */
struct work {
    uint64_t sealed[2], opened[2];
};

static struct work work_done(void)
{
    static struct work before;
    struct work now, since;
    for (int i = 0; i < 2; i++) {
        now.sealed[i] = cable_count(i, "tx_tls_encrypted_bytes");
        now.opened[i] = cable_count(i, "rx_tls_decrypted_bytes");
        since.sealed[i] = now.sealed[i] - before.sealed[i];
        since.opened[i] = now.opened[i] - before.opened[i];
    }
    before = now;
    return since;
}

/* Which ends have the kernel's records, asked for as this layer; the other has other. */
static uint8_t kernels_layer = DP_RECORD_KTLS;
enum kernels { SENDER = 1, RECEIVER = 2, BOTH = 3 };

static bool two_open(struct two *two, enum kernels kernels, uint8_t other)
{
    bool good = true;
    pair_client_layer = kernels & SENDER ? kernels_layer : other;
    pair_server_layer = kernels & RECEIVER ? kernels_layer : other;
    pair_open(&two->pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
    if (!CHECK(shakes(&two->pair))) {
        printf("# a: %s; b: %s\n", tls_detail(two->pair.client), tls_detail(two->pair.server));
        return false;
    }
    two->ends[0] = tls_record(two->pair.client);
    two->ends[1] = tls_record(two->pair.server);
    if (kernels_layer == DP_RECORD_KTLS) { /* else the adapter's, or not: check_booked */
        CHECK_INT(two->ends[0]->ops->layer, pair_client_layer);
        CHECK_INT(two->ends[1]->ops->layer, pair_server_layer);
    }
    /* What came while the keys were on their way to the adapter it has not opened, and has then to
     * find its place. */
    for (int i = 0; i < 4; i++)
        good &= carry(two, i % 2, UNIT, NULL);
    work_done();
    cable_hear(MARKER);
    return CHECK(good);
}

static bool two_open_usual(struct two *two, enum kernels kernels)
{
    return two_open(two, kernels, DP_RECORD_USER);
}

static void check_conf(struct two *two, int end, uint16_t tx, uint16_t rx)
{
    struct cable_conf conf = cable_conf(end, two->ends[end]->fd);
    CHECK_INT(conf.tx, tx);
    CHECK_INT(conf.rx, rx);
}

static void check_booked(struct two *two, int end, uint8_t layer, uint8_t why)
{
    CHECK_INT(two->ends[end]->ops->layer, layer);
    CHECK_INT(tls_fallback(end == 0 ? two->pair.client : two->pair.server), why);
}

/* Without this, silence on the cable would prove nothing. */
static void the_wire_hears_plain_text(void)
{
    char text[1000];
    int fds[2];
    cable_pair(AF_INET, fds);
    content(0, text, sizeof(text));
    cable_hear(MARKER);
    CHECK_INT(write(fds[0], text, sizeof(text)), sizeof(text));
    struct pollfd comes = {.fd = fds[1], .events = POLLIN};
    CHECK_INT(poll(&comes, 1, AWAIT_MS), 1);
    CHECK_INT(cable_hear(MARKER).with, 1);
    close(fds[0]);
    close(fds[1]);
}

static void the_adapter_seals_and_opens(void)
{
    static const struct {
        int family;
        uint8_t cipher, other;
        enum kernels kernels;
    } cases[] = {
        {AF_INET, 1, DP_RECORD_OPENSSL, SENDER},  {AF_INET, 2, DP_RECORD_OPENSSL, RECEIVER},
        {AF_INET6, 2, DP_RECORD_OPENSSL, SENDER}, {AF_INET6, 1, DP_RECORD_OPENSSL, RECEIVER},
        {AF_INET, 2, DP_RECORD_USER, SENDER},     {AF_INET, 1, DP_RECORD_USER, RECEIVER},
        {AF_INET, 1, 0, BOTH},                    {AF_INET6, 2, 0, BOTH},
    };
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        long tx = cable_tls_stat(0, "TlsTxDevice"), rx = cable_tls_stat(1, "TlsRxDevice");
        bool a = cases[i].kernels & SENDER, b = cases[i].kernels & RECEIVER;
        struct two two;
        unsigned before = test_failures;
        family = cases[i].family;
        pair_client_offload.ciphers = cases[i].cipher;
        if (two_open(&two, cases[i].kernels, cases[i].other)) {
            uint64_t records = cable_count(1, "rx_tls_records");
            struct tls_info info;
            tls_get_info(two.pair.client, &info);
            CHECK_INT(info.cipher, cases[i].cipher == 1 ? 0xc02b : 0xc02c);
            CHECK_INT(cable_tls_stat(0, "TlsTxDevice") - tx, a);
            CHECK_INT(cable_tls_stat(1, "TlsRxDevice") - rx, b);
            check_conf(&two, 0, a ? TLS_CONF_HW : 0, a ? TLS_CONF_HW : 0);
            check_conf(&two, 1, b ? TLS_CONF_HW : 0, b ? TLS_CONF_HW : 0);
            CHECK(carry(&two, 0, TOTAL, NULL));
            CHECK(carry(&two, 1, TOTAL / 4, NULL));
            struct work work = work_done();
            CHECK((work.sealed[0] >= TOTAL) == a);
            CHECK((work.sealed[1] >= TOTAL / 4) == b);
            CHECK((work.opened[1] >= TOTAL) == b);
            CHECK((work.opened[0] >= TOTAL / 4) == a);
            if (b)
                CHECK(cable_count(1, "rx_tls_records") - records >= TOTAL / 16384);
            struct cable_heard heard = cable_hear(MARKER);
            CHECK_INT(heard.with, 0);
            CHECK(heard.without > 10);
        }
        two_close(&two);
        if (test_failures != before)
            printf("# with case %zu\n", i);
    }
    family = AF_INET;
    pair_client_offload.ciphers = 0;
    CHECK_INT(cable_count(1, "rx_tls_err"), 0);
    CHECK_INT(cable_count(0, "tx_tls_drop_no_sync_data"), 0);
    CHECK_INT(cable_count(1, "rx_tls_ctx"), cable_count(1, "rx_tls_del"));
}

/* No byte was worked on by the adapter, and none crossed as it was. */
static void check_by_the_kernel(struct two *two, uint16_t tx, uint16_t rx)
{
    check_conf(two, 0, tx, tx);
    check_conf(two, 1, rx, rx);
    CHECK(carry(two, 0, TOTAL, NULL));
    CHECK(carry(two, 1, TOTAL / 4, NULL));
    struct work work = work_done();
    CHECK_INT(work.sealed[0] + work.sealed[1] + work.opened[0] + work.opened[1], 0);
    CHECK_INT(cable_hear(MARKER).with, 0);
}

static void tls_13_is_the_kernels(void)
{
    struct two two;
    pair_client_offload.tls12 = DP_TLS12_NEVER;
    if (two_open_usual(&two, BOTH))
        check_by_the_kernel(&two, TLS_CONF_SW, TLS_CONF_SW);
    two_close(&two);
    pair_client_offload.tls12 = DP_TLS12_PREFER;
}

static void a_feature_is_off(void)
{
    struct two two, older;
    kernels_layer = DP_RECORD_NIC;
    REQUIRE(two_open_usual(&older, BOTH));
    for (int i = 0; i < 2; i++)
        check_booked(&older, i, DP_RECORD_NIC, DP_FALLBACK_NONE);
    for (int i = 0; i < 2; i++) {
        cable_feature(i, "tls-hw-tx-offload", false);
        cable_feature(i, "tls-hw-rx-offload", false);
    }
    if (two_open_usual(&two, BOTH)) {
        check_booked(&two, 0, DP_RECORD_KTLS, DP_FALLBACK_NO_DEVICE);
        check_booked(&two, 1, DP_RECORD_KTLS, DP_FALLBACK_NO_DEVICE);
        check_by_the_kernel(&two, TLS_CONF_SW, TLS_CONF_SW);
    }
    two_close(&two);
    check_conf(&older, 0, TLS_CONF_HW, TLS_CONF_HW); /* it counts for new connections alone */
    CHECK(carry(&older, 0, TOTAL, NULL));
    CHECK(work_done().sealed[0] > TOTAL);
    two_close(&older);
    cable_feature(0, "tls-hw-tx-offload", true);
    if (two_open_usual(&two, BOTH)) {
        check_booked(&two, 0, DP_RECORD_NIC, DP_FALLBACK_SEALS_ONLY);
        check_booked(&two, 1, DP_RECORD_KTLS, DP_FALLBACK_NO_DEVICE);
        check_conf(&two, 0, TLS_CONF_HW, TLS_CONF_SW);
        check_conf(&two, 1, TLS_CONF_SW, TLS_CONF_SW);
        CHECK(carry(&two, 0, TOTAL, NULL));
        struct work work = work_done();
        CHECK(work.sealed[0] >= TOTAL);
        CHECK_INT(work.opened[1], 0);
    }
    two_close(&two);
    cable_feature(0, "tls-hw-rx-offload", true);
    cable_feature(1, "tls-hw-tx-offload", true);
    cable_feature(1, "tls-hw-rx-offload", true);
    kernels_layer = DP_RECORD_KTLS;
}

static void the_adapter_is_full(void)
{
    struct two two;
    cable_fault("refuse", 3);
    if (two_open_usual(&two, BOTH))
        check_by_the_kernel(&two, TLS_CONF_SW, TLS_CONF_SW);
    two_close(&two);
    cable_fault("refuse", 0);
}

static void lose_the_link(void)
{
    cable_link(0, "down");
    cable_link(0, "up");
    work_done();
}

/* The kernel goes on in its place, and says hw all the same: only the adapter's counters tell. */
static void the_link_goes_down(void)
{
    struct two two;
    if (two_open_usual(&two, BOTH)) {
        CHECK(carry(&two, 0, TOTAL, lose_the_link));
        CHECK_INT(work_done().sealed[0], 0);
        check_conf(&two, 0, TLS_CONF_HW, TLS_CONF_HW);
        CHECK(carry(&two, 1, TOTAL, NULL));
        CHECK_INT(work_done().opened[0], 0);
        CHECK_INT(cable_hear(MARKER).with, 0);
    }
    two_close(&two);
    if (two_open_usual(&two, BOTH)) {
        CHECK(carry(&two, 0, TOTAL, NULL));
        CHECK(work_done().sealed[0] > TOTAL);
    }
    two_close(&two);
}

static void frames_are_lost(void)
{
    struct two two;
    uint64_t resyncs = cable_count(1, "rx_tls_resync_res_ok"), lost = cable_count(0, "tx_lost");
    if (two_open_usual(&two, BOTH)) {
        cable_fault("lose", 11);
        CHECK(carry(&two, 0, 4 * TOTAL, NULL));
        cable_fault("lose", 0);
        CHECK(carry(&two, 0, 4 * TOTAL, NULL));
        CHECK(cable_count(0, "tx_lost") > lost);
        CHECK(cable_count(1, "rx_tls_resync_res_ok") > resyncs);
        struct work work = work_done();
        CHECK(work.sealed[0] > 8 * TOTAL);
        CHECK(work.opened[1] > 4 * TOTAL); /* it found its way back */
        CHECK_INT(cable_hear(MARKER).with, 0);
    }
    two_close(&two);
    CHECK_INT(cable_count(1, "rx_tls_err"), 0);
}

static void give_another_name(void)
{
    cable_link(0, "name uplink");
    work_done();
}

static void the_device_is_renamed(void)
{
    struct two two;
    if (two_open_usual(&two, BOTH)) {
        CHECK(carry(&two, 0, TOTAL, give_another_name));
        CHECK(work_done().sealed[0] > TOTAL / 4);
        check_conf(&two, 0, TLS_CONF_HW, TLS_CONF_HW);
    }
    two_close(&two);
    cable_link(0, "name nic0");
}

static void a_bit_turns_over(void)
{
    struct two two;
    uint64_t bad = cable_count(1, "rx_tls_err");
    if (two_open_usual(&two, BOTH)) {
        CHECK(carry(&two, 0, TOTAL, NULL));
        cable_fault("flip", 5);
        CHECK(!carry(&two, 0, TOTAL, NULL)); /* carry has checked what came before */
        CHECK(cable_count(1, "rx_tls_err") > bad);
    }
    cable_fault("flip", 0);
    two_close(&two);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        TEST(the_wire_hears_plain_text), TEST(the_adapter_seals_and_opens),
        TEST(tls_13_is_the_kernels), TEST(a_feature_is_off), TEST(the_adapter_is_full),
        TEST(the_link_goes_down), TEST(frames_are_lost), TEST(the_device_is_renamed),
        TEST(a_bit_turns_over)};
    cable_init();
    sites_init(&sites);
    pair_sockets = across;
    pair_client_offload.tls12 = DP_TLS12_PREFER;
    pair_server_offload.tls12 = DP_TLS12_ALLOW;
    int failed = test_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
    sites_fini(&sites);
    cable_fini();
    return failed;
}
