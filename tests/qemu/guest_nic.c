/* guest_nic.c: kernel TLS on an adapter that offers it (nic/, by way of cable.h): when the adapter
 * seals and opens, when the kernel does it instead, and that faults cost time but no byte. The
 * peers are OpenSSL's, whose records are either its own or the kernel's. */
#include <linux/tls.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cable.h"
#include "pki.h"
#include "test.h"

enum { AWAIT_MS = 20000, TOTAL = 1 << 20, UNIT = 24 };
#define MARKER "in the clear, "

static struct pki_ca ca;
static struct dp_leaf *leaf;

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

struct end {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
};

struct two {                     /* the ends of one connection: a, b */
    struct end ends[2];
};

/* Which ends have their records in the kernel. */
enum kernels { NEITHER = 0, SENDER = 1, RECEIVER = 2, BOTH = 3 };

static void end_init(struct end *end, bool is_server, int version, const char *suite, bool kernel)
{
    end->ctx = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    CHECK_INT(SSL_CTX_use_certificate(end->ctx, leaf->cert), 1);
    CHECK_INT(SSL_CTX_use_PrivateKey(end->ctx, leaf->key), 1);
    CHECK_INT(SSL_CTX_set_min_proto_version(end->ctx, version), 1);
    CHECK_INT(SSL_CTX_set_max_proto_version(end->ctx, version), 1);
    CHECK_INT(SSL_CTX_set_num_tickets(end->ctx, 0), 1);
    if (version == TLS1_2_VERSION)
        CHECK_INT(SSL_CTX_set_cipher_list(end->ctx, suite), 1);
    SSL_CTX_set_options(end->ctx, kernel ? SSL_OP_ENABLE_KTLS : 0);
    SSL_CTX_set_mode(end->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    end->ssl = SSL_new(end->ctx);
    CHECK_INT(SSL_set_fd(end->ssl, end->fd), 1);
}

static bool shakes(struct two *two)
{
    int a = 0, b = 0;
    while (a != 1 || b != 1) {
        struct pollfd waits[] = {{.fd = two->ends[0].fd, .events = POLLIN},
                                 {.fd = two->ends[1].fd, .events = POLLIN}};
        a = a == 1 ? a : SSL_connect(two->ends[0].ssl);
        b = b == 1 ? b : SSL_accept(two->ends[1].ssl);
        if ((a != 1 && SSL_get_error(two->ends[0].ssl, a) != SSL_ERROR_WANT_READ) ||
            (b != 1 && SSL_get_error(two->ends[1].ssl, b) != SSL_ERROR_WANT_READ))
            return false;
        if ((a != 1 || b != 1) && poll(waits, 2, AWAIT_MS) <= 0)
            return false;
    }
    return true;
}

static void two_close(struct two *two)
{
    for (int i = 0; i < 2; i++) {
        SSL_free(two->ends[i].ssl);
        SSL_CTX_free(two->ends[i].ctx);
        close(two->ends[i].fd);
    }
    ERR_clear_error();
}

static bool waits_only(const struct end *end, int r)
{
    int error = SSL_get_error(end->ssl, r);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

/* total bytes from one end to the other, with what happens halfway. False: it failed; what arrived
 * until then was right. */
static bool carry(struct two *two, int from, size_t total, void (*halfway)(void))
{
    static char out[30011], in[1 << 16], want[1 << 16];
    const struct end *source = &two->ends[from], *sink = &two->ends[1 - from];
    size_t sent = 0, got = 0;
    while (got < total) {
        size_t len = total - sent < sizeof(out) ? total - sent : sizeof(out);
        content(sent, out, len);
        int wrote = len > 0 ? SSL_write(source->ssl, out, (int)len) : 0;
        if (wrote > 0)
            sent += (size_t)wrote;
        else if (len > 0 && !waits_only(source, wrote))
            return false;
        if (halfway != NULL && sent >= total / 2) {
            halfway();
            halfway = NULL;
        }
        int n = SSL_read(sink->ssl, in, sizeof(in));
        if (n <= 0 && !waits_only(sink, n))
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

static bool two_open(struct two *two, int family, int version, const char *suite,
                     enum kernels kernels)
{
    int fds[2];
    cable_pair(family, fds);
    for (int i = 0; i < 2; i++) {
        two->ends[i].fd = fds[i];
        end_init(&two->ends[i], i == 1, version, suite, (kernels & (i == 0 ? SENDER : RECEIVER)) != 0);
    }
    if (!CHECK(shakes(two)))
        return false;
    /* OpenSSL gives the keys to the kernel while Finished waits to be read, which the adapter has
     * not opened: it has to find its place first. */
    bool good = true;
    for (int i = 0; i < 4; i++)
        good &= carry(two, i % 2, UNIT, NULL);
    work_done();
    cable_hear(MARKER);
    return CHECK(good);
}

static void check_conf(struct two *two, int end, uint16_t tx, uint16_t rx)
{
    struct cable_conf conf = cable_conf(end, two->ends[end].fd);
    CHECK_INT(conf.tx, tx);
    CHECK_INT(conf.rx, rx);
}

static const char *const suites[] = {"ECDHE-ECDSA-AES128-GCM-SHA256",
                                     "ECDHE-ECDSA-AES256-GCM-SHA384"};

static bool two_open_usual(struct two *two, enum kernels kernels)
{
    return two_open(two, AF_INET, TLS1_2_VERSION, suites[0], kernels);
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
    static const int families[] = {AF_INET, AF_INET6};
    for (unsigned i = 0; i < 2 * 2 * 3; i++) {
        enum kernels kernels = SENDER + i % 3;
        int family = families[i / 3 % 2];
        long tx = cable_tls_stat(0, "TlsTxDevice"), rx = cable_tls_stat(1, "TlsRxDevice");
        struct two two;
        unsigned before = test_failures;
        if (two_open(&two, family, TLS1_2_VERSION, suites[i / 6], kernels)) {
            uint64_t records = cable_count(1, "rx_tls_records");
            CHECK_INT(cable_tls_stat(0, "TlsTxDevice") - tx, (kernels & SENDER) != 0);
            CHECK_INT(cable_tls_stat(1, "TlsRxDevice") - rx, (kernels & RECEIVER) != 0);
            if (family == AF_INET) {
                uint16_t a = kernels & SENDER ? TLS_CONF_HW : 0;
                uint16_t b = kernels & RECEIVER ? TLS_CONF_HW : 0;
                check_conf(&two, 0, a, a);
                check_conf(&two, 1, b, b);
            }
            CHECK(carry(&two, 0, TOTAL, NULL));
            CHECK(carry(&two, 1, TOTAL / 4, NULL));
            struct work work = work_done();
            CHECK((work.sealed[0] >= TOTAL) == ((kernels & SENDER) != 0));
            CHECK((work.sealed[1] >= TOTAL / 4) == ((kernels & RECEIVER) != 0));
            CHECK((work.opened[1] >= TOTAL) == ((kernels & RECEIVER) != 0));
            CHECK((work.opened[0] >= TOTAL / 4) == ((kernels & SENDER) != 0));
            if (kernels & RECEIVER)
                CHECK(cable_count(1, "rx_tls_records") - records >= TOTAL / 16384);
            struct cable_heard heard = cable_hear(MARKER);
            CHECK_INT(heard.with, 0);
            CHECK(heard.without > 10);
        }
        two_close(&two);
        if (test_failures != before)
            printf("# with suite %u, family %d, kernels %d\n", i / 6, family, kernels);
    }
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
    if (two_open(&two, AF_INET, TLS1_3_VERSION, NULL, SENDER)) {
        struct cable_conf conf = cable_conf(0, two.ends[0].fd);
        CHECK_INT(conf.tx, TLS_CONF_SW);
        CHECK(carry(&two, 0, TOTAL, NULL));
        CHECK_INT(work_done().sealed[0], 0);
    }
    two_close(&two);
}

static void a_feature_is_off(void)
{
    struct two two, older;
    REQUIRE(two_open_usual(&older, BOTH));
    for (int i = 0; i < 2; i++) {
        cable_feature(i, "tls-hw-tx-offload", false);
        cable_feature(i, "tls-hw-rx-offload", false);
    }
    if (two_open_usual(&two, BOTH))
        check_by_the_kernel(&two, TLS_CONF_SW, TLS_CONF_SW);
    two_close(&two);
    check_conf(&older, 0, TLS_CONF_HW, TLS_CONF_HW); /* it counts for new connections alone */
    CHECK(carry(&older, 0, TOTAL, NULL));
    CHECK(work_done().sealed[0] > TOTAL);
    two_close(&older);
    cable_feature(0, "tls-hw-tx-offload", true);
    if (two_open_usual(&two, BOTH)) {
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
    pki_ca_init(&ca, "the cable", NULL);
    leaf = pki_leaf_id(&ca, "spiffe://a.example/ns/default/sa/web");
    cable_init();
    int failed = test_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
    cable_fini();
    dp_leaf_free(leaf);
    pki_ca_fini(&ca);
    return failed;
}
