/* guest_ktls.c: our handling of a real kernel's TLS: every suite against every other layer, and a
 * peer who has the keys and no manners; by read and by splice; and each step of handing over
 * refused. Runs where the kernel has TLS: see guest.sh. */
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "record_control.h"
#include "record_ktls.h"
#include "relay.h"
#include "sys.h"
#include "test.h"
#include "tls_internal.h"
#include "tls_pair.h"
#include "wire_peer.h"

enum { AWAIT_MS = 5000, CARRIED = 1 << 18, TOTAL = 1 << 20, WIRE_ROOM = RECORD_WIRE_MAX + 64 };

static const uint16_t suites[] = {0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c};
static const uint8_t suite_bits[] = {1, 2, 4, 1, 2}; /* of dp_offload.ciphers */

/* Handshakes come to this suite. */
static void only_suite(size_t suite)
{
    bool tls12 = keys_is_tls12(suites[suite]);
    pair_client_offload = (dp_offload){.ciphers = suite_bits[suite],
                                       .tls12 = tls12 ? DP_TLS12_PREFER : DP_TLS12_NEVER};
    pair_server_offload = (dp_offload){.tls12 = DP_TLS12_ALLOW};
}

/* A counter of the kernel's. */
static long kernel_count(const char *name)
{
    char word[64];
    long value, found = -1;
    FILE *file = fopen("/proc/net/tls_stat", "r");
    while (file != NULL && fscanf(file, "%63s %ld", word, &value) == 2)
        if (strcmp(word, name) == 0)
            found = value;
    if (file != NULL)
        fclose(file);
    return found;
}

static uint8_t byte_at(size_t place)
{
    return (uint8_t)(place ^ place >> 8 ^ place >> 16);
}

static void await(int fd, short events)
{
    struct pollfd waits = {.fd = fd, .events = events};
    CHECK_INT(poll(&waits, 1, AWAIT_MS), 1);
}

/* read, once there is something. */
static ssize_t read_at_last(struct record *rec, void *buf, size_t len)
{
    unsigned before = test_failures;
    ssize_t n = rec->ops->read(rec, buf, len);
    while (n == -EAGAIN && test_failures == before) {
        await(rec->fd, POLLIN);
        n = rec->ops->read(rec, buf, len);
    }
    return n;
}

/* CARRIED bytes from one record layer to another, in pieces of many sizes; then the end. */
static void carry(struct record *from, struct record *to)
{
    static uint8_t out[40000], in[40000];
    size_t sent = 0, got = 0;
    unsigned before = test_failures;
    while (got < CARRIED && test_failures == before) {
        size_t len = 1 + (sent * 2654435761u >> 7) % sizeof(out);
        if (len > CARRIED - sent)
            len = CARRIED - sent;
        for (size_t i = 0; i < len; i++)
            out[i] = byte_at(sent + i);
        ssize_t n = len > 0 ? from->ops->write(from, out, len) : 0;
        if (n > 0)
            sent += (size_t)n;
        CHECK(n >= 0 || n == -EAGAIN);
        n = to->ops->read(to, in, sizeof(in));
        for (ssize_t i = 0; i < n; i++)
            CHECK(in[i] == byte_at(got + (size_t)i));
        if (n > 0)
            got += (size_t)n;
        CHECK(n > 0 || n == -EAGAIN);
        if (sent == CARRIED && n == -EAGAIN)
            await(to->fd, POLLIN);
    }
    CHECK_INT(got, CARRIED);
}

static void every_suite_with_every_layer(void)
{
    static const uint8_t layers[][2] = {
        {DP_RECORD_KTLS, DP_RECORD_OPENSSL}, {DP_RECORD_OPENSSL, DP_RECORD_KTLS},
        {DP_RECORD_KTLS, DP_RECORD_USER},    {DP_RECORD_USER, DP_RECORD_KTLS},
        {DP_RECORD_KTLS, DP_RECORD_KTLS},
    };
    for (size_t i = 0; i < DP_COUNT(suites) * DP_COUNT(layers); i++) {
        struct sites sites;
        size_t suite = i % DP_COUNT(suites);
        pair_client_layer = layers[i / DP_COUNT(suites)][0];
        pair_server_layer = layers[i / DP_COUNT(suites)][1];
        int kernels = (pair_client_layer == DP_RECORD_KTLS) + (pair_server_layer == DP_RECORD_KTLS);
        sites_init(&sites);
        only_suite(suite);
        for (int resumed = 0; resumed < 2; resumed++) {
            struct pair pair;
            char byte;
            long tx = kernel_count("TlsTxSw"), rx = kernel_count("TlsRxSw");
            REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
            CHECK_INT(pair_is_resumed(&pair), resumed);
            struct tls_info info;
            tls_get_info(pair.client, &info);
            CHECK_INT(info.cipher, suites[suite]);
            CHECK_INT(kernel_count("TlsTxSw") - tx, kernels);
            CHECK_INT(kernel_count("TlsRxSw") - rx, kernels);
            struct record *client = tls_record(pair.client), *server = tls_record(pair.server);
            CHECK_INT(client->ops->layer, pair_client_layer);
            CHECK_INT(server->ops->layer, pair_server_layer);
            carry(client, server);
            carry(server, client);
            CHECK_INT(client->ops->finish(client), 0);
            CHECK_INT(read_at_last(server, &byte, 1), 0);
            CHECK_INT(server->ops->write(server, "x", 1), 1); /* half-closed */
            CHECK_INT(read_at_last(client, &byte, 1), 1);
            CHECK_INT(server->ops->finish(server), 0);
            CHECK_INT(read_at_last(client, &byte, 1), 0);
            pair_close(&pair);
        }
        sites_fini(&sites);
    }
    CHECK_INT(kernel_count("TlsDecryptError"), 0);
}

static void a_key_update_ends_it_in_words(void)
{
    struct sites sites;
    struct pair pair;
    char buf[16];
    pair_client_layer = DP_RECORD_OPENSSL;
    pair_server_layer = DP_RECORD_KTLS;
    sites_init(&sites);
    REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    struct record *client = tls_record(pair.client), *server = tls_record(pair.server);
    CHECK_INT(client->ops->write(client, "before", 6), 6);
    CHECK_INT(SSL_key_update(pair.client->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    CHECK_INT(client->ops->write(client, "after", 5), 5);
    CHECK_INT(read_at_last(server, buf, sizeof(buf)), 6);
    CHECK(!tls_met_key_update(pair.server));
    CHECK_INT(read_at_last(server, buf, sizeof(buf)), -EBADMSG);
    CHECK(tls_met_key_update(pair.server));
    CHECK(strstr(tls_detail(pair.server), "changed its key") != NULL);
    CHECK_INT(read_at_last(client, buf, sizeof(buf)), -EBADMSG);
    CHECK(strstr(tls_detail(pair.client), "internal error") != NULL);
    pair_close(&pair);
    sites_fini(&sites);
}

/* A peer by hand. */
static struct {
    int failed;
    bool by_peer;
    uint8_t alert;
} owner;

static void on_failed(void *arg, bool by_peer, uint8_t alert, const char *why)
{
    (void)arg;
    (void)why;
    owner.failed++;
    owner.by_peer = by_peer;
    owner.alert = alert;
}

struct duel {
    int fds[2];                  /* ours, in the kernel's hands; the peer's, plain */
    struct wire_peer peer;
    struct record_ktls *ktls;
    struct record *rec;
    struct stats *stats;
    struct buffers *buffers;
    uint8_t wire[WIRE_ROOM];
};

static bool duel_begin(struct duel *duel, uint16_t cipher)
{
    uint8_t theirs[KEYS_SECRET_MAX], ours[KEYS_SECRET_MAX];
    enum dp_fallback why = DP_FALLBACK_NONE;
    memset(&owner, 0, sizeof(owner));
    pair_client_layer = DP_RECORD_KTLS;
    socket_pair(duel->fds);
    wire_secret(theirs, true);
    wire_secret(ours, false);
    wire_peer_init(&duel->peer, cipher);
    CHECK_INT(stats_new(&duel->stats), 0);
    CHECK_INT(buffers_new_sized(RECORD_SMALL, 4, RECORD_LARGE, 2, duel->stats, &duel->buffers), 0);
    const struct record_ktls_spec spec = {
        .fd = duel->fds[0], .is_server = true, .cipher = cipher, .buffers = duel->buffers,
        .read = {.secret = theirs}, .write = {.secret = ours}, .owner = {.failed = on_failed}};
    if (!CHECK_INT(record_ktls_new(&spec, &duel->ktls, &why), 0))
        return false;
    duel->rec = record_ktls_record(duel->ktls);
    return true;
}

static void duel_end(struct duel *duel)
{
    record_ktls_free(duel->ktls);
    wire_peer_fini(&duel->peer);
    buffers_free(duel->buffers);
    stats_free(duel->stats);
    close(duel->fds[0]);
    close(duel->fds[1]);
}

static void peer_raw(struct duel *duel, const void *bytes, size_t len)
{
    CHECK_INT(send(duel->fds[1], bytes, len, MSG_NOSIGNAL), len);
}

static void peer_says(struct duel *duel, uint8_t type, const void *content, size_t len,
                      size_t padding)
{
    peer_raw(duel, duel->wire, wire_seal(&duel->peer, type, content, len, padding, duel->wire));
}

/* The alert that we sent. */
static int peer_hears(struct duel *duel)
{
    uint8_t type = 0, content[WIRE_ROOM];
    size_t len = 0;
    await(duel->fds[1], POLLIN);
    ssize_t n = recv(duel->fds[1], duel->wire, sizeof(duel->wire), 0);
    if (n <= 0 || wire_open(&duel->peer, duel->wire, (size_t)n, &type, content, &len) != n)
        return -1;
    return type == RECORD_ALERT && len == 2 && content[0] == ALERT_FATAL ? content[1] : -1;
}

static void odd_but_legal(void)
{
    static struct duel duel;
    for (size_t i = 0; i < DP_COUNT(suites); i++) {
        char buf[64];
        REQUIRE(duel_begin(&duel, suites[i]));
        peer_says(&duel, RECORD_DATA, "padded", 6, 500);
        CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), 6);
        CHECK(memcmp(buf, "padded", 6) == 0);
        for (int empty = 0; empty < 100; empty++) /* the kernel itself passes over them */
            peer_says(&duel, RECORD_DATA, "", 0, empty % 2 == 0 ? 0 : 300);
        peer_says(&duel, RECORD_DATA, "after the empty", 15, 0);
        CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), 15);
        peer_says(&duel, RECORD_ALERT, "\x01\x5a", 2, 0); /* user_canceled */
        peer_says(&duel, RECORD_DATA, "on", 2, 0);
        CHECK_INT(read_at_last(duel.rec, buf, 1), 1);
        CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), 1);
        size_t n = wire_seal(&duel.peer, RECORD_DATA, "in two halves", 13, 0, duel.wire);
        peer_raw(&duel, duel.wire, 9);
        CHECK_INT(duel.rec->ops->read(duel.rec, buf, sizeof(buf)), -EAGAIN);
        peer_raw(&duel, duel.wire + 9, n - 9);
        CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), 13);
        peer_says(&duel, RECORD_ALERT, "\x01\x00", 2, 40);
        peer_says(&duel, RECORD_DATA, "too late", 8, 0);
        CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), 0);
        CHECK_INT(duel.rec->ops->read(duel.rec, buf, sizeof(buf)), 0);
        CHECK_INT(owner.failed, 0);
        duel_end(&duel);
    }
}

enum wrong {
    WRONG_TAG, WRONG_TYPE, WRONG_LENGTH, WRONG_VERSION, WRONG_ORDER, WRONG_EMPTY_ALERT,
    WRONG_HANDSHAKE, WRONG_KEY_UPDATE, WRONG_ONLY_PADDING, WRONG_COUNT
};

static void peer_errs(struct duel *duel, enum wrong wrong)
{
    size_t n = wire_seal(&duel->peer, RECORD_DATA, "wrong", 5, 0, duel->wire);
    switch (wrong) {
    case WRONG_TAG:
        duel->wire[n - 1] ^= 1;
        peer_raw(duel, duel->wire, n);
        break;
    case WRONG_ORDER: /* that one is lost */
        peer_says(duel, RECORD_DATA, "next", 4, 0);
        break;
    case WRONG_LENGTH:
        peer_raw(duel, "\x17\x03\x03\xff\xff", 5);
        peer_raw(duel, duel->wire, n);
        break;
    case WRONG_VERSION:
        duel->wire[1] = 9;
        peer_raw(duel, duel->wire, n);
        break;
    default:
        duel->peer.out.seq--;
        if (wrong == WRONG_TYPE)
            peer_says(duel, 99, "what", 4, 0);
        else if (wrong == WRONG_EMPTY_ALERT)
            peer_says(duel, RECORD_ALERT, "", 0, 0);
        else if (wrong == WRONG_HANDSHAKE)
            peer_says(duel, RECORD_HANDSHAKE, "\x01\x00\x00\x00", 4, 0);
        else if (wrong == WRONG_KEY_UPDATE)
            peer_says(duel, RECORD_HANDSHAKE, "\x18\x00\x00\x01\x02", 5, 0);
        else if (wrong == WRONG_ONLY_PADDING)
            peer_says(duel, 0, "", 0, 10);
    }
}

/* Whether it is met by read or by splice, it ends the connection and the peer hears why. */
static void wrong_records(void)
{
    static struct duel duel;
    for (int n = 0; n < 2 * WRONG_COUNT; n++) {
        char buf[64];
        int i = n / 2;
        REQUIRE(duel_begin(&duel, suites[n % 2 == 0 ? i % 3 : 3 + i % 2]));
        peer_says(&duel, RECORD_DATA, "right", 5, 0);
        CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), 5);
        peer_errs(&duel, (enum wrong)i);
        bool good = CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), -EBADMSG);
        good &= CHECK_INT(duel.rec->ops->read(duel.rec, buf, sizeof(buf)), -EBADMSG);
        good &= CHECK_INT(duel.rec->ops->write(duel.rec, "x", 1), -EPIPE);
        good &= CHECK_INT(owner.failed, 1);
        good &= CHECK(!owner.by_peer);
        good &= CHECK_INT(peer_hears(&duel), owner.alert);
        if (!good)
            printf("# with wrong record %d in TLS 1.%d\n", i, 3 - n % 2);
        duel_end(&duel);
    }
}

static void the_peers_ends(void)
{
    static struct duel duel;
    char buf[64];
    REQUIRE(duel_begin(&duel, suites[0])); /* a FIN alone */
    peer_says(&duel, RECORD_DATA, "cut", 3, 0);
    shutdown(duel.fds[1], SHUT_WR);
    CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), 3);
    CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), -ENODATA);
    duel_end(&duel);
    REQUIRE(duel_begin(&duel, suites[0])); /* inside a record */
    peer_raw(&duel, "\x17\x03\x03\x00\x20half", 9);
    shutdown(duel.fds[1], SHUT_WR);
    ssize_t n = read_at_last(duel.rec, buf, sizeof(buf));
    CHECK(n == -ENODATA || n == -EBADMSG);
    duel_end(&duel);
    REQUIRE(duel_begin(&duel, suites[0])); /* its alert */
    peer_says(&duel, RECORD_ALERT, "\x02\x2d", 2, 0); /* certificate_expired */
    CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), -EBADMSG);
    CHECK(owner.failed == 1 && owner.by_peer && owner.alert == 45);
    duel_end(&duel);
    REQUIRE(duel_begin(&duel, suites[0])); /* a reset */
    const struct linger now = {.l_onoff = 1};
    setsockopt(duel.fds[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(duel.fds[1]);
    duel.fds[1] = dup(duel.fds[0]);
    CHECK_INT(read_at_last(duel.rec, buf, sizeof(buf)), -ECONNRESET);
    duel_end(&duel);
}

/* Splice. */
struct tube {                    /* a pump that splices at once */
    struct relay relay;
    struct pump pump;
    int plain[2];                /* our end, the outer end */
    struct record outer;
};

static void tube_begin(struct tube *tube, struct duel *duel, bool from_kernel)
{
    static struct record inner;
    *tube = (struct tube){.pump = {.splice_at = 1}};
    socket_pair(tube->plain);
    record_plain_init(&inner, tube->plain[0]);
    record_plain_init(&tube->outer, tube->plain[1]);
    tube->relay.stats = duel->stats;
    CHECK_INT(pipes_new(2, &tube->relay.pipes), 0);
    CHECK_INT(buffers_new(4, 2, duel->stats, &tube->relay.buffers), 0);
    tube->pump.source = from_kernel ? duel->rec : &inner;
    tube->pump.target = from_kernel ? &inner : duel->rec;
    /* A pump earns its pipe by a full read. */
    tube->pump.bytes = 1;
    tube->pump.splicing = true;
}

static void tube_end(struct tube *tube)
{
    pump_fini(&tube->pump, &tube->relay);
    pipes_free(tube->relay.pipes);
    buffers_free(tube->relay.buffers);
    close(tube->plain[0]);
    close(tube->plain[1]);
}

static void take_out(struct tube *tube, size_t *got)
{
    static uint8_t in[1 << 16];
    ssize_t n;
    while ((n = tube->outer.ops->read(&tube->outer, in, sizeof(in))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            CHECK(in[i] == byte_at(*got + (size_t)i));
        *got += (size_t)n;
    }
}

static void spliced_from_the_kernel(void)
{
    static struct duel duel;
    static uint8_t content[RECORD_PLAIN_MAX];
    for (size_t suite = 0; suite < DP_COUNT(suites); suite++) {
        struct tube tube;
        size_t sent = 0, got = 0;
        int r = PUMP_WAIT;
        REQUIRE(duel_begin(&duel, suites[suite]));
        tube_begin(&tube, &duel, true);
        unsigned before = test_failures;
        for (unsigned i = 0; sent < TOTAL && test_failures == before; i++) {
            size_t len = i % 3 == 0 ? RECORD_PLAIN_MAX : 1 + i * 2654435761u % RECORD_PLAIN_MAX;
            if (len > TOTAL - sent)
                len = TOTAL - sent;
            for (size_t k = 0; k < len; k++)
                content[k] = byte_at(sent + k);
            if (i % 5 == 1)
                peer_says(&duel, RECORD_DATA, "", 0, 0); /* splice takes it for the end */
            if (i % 7 == 2)
                peer_says(&duel, RECORD_ALERT, "\x01\x5a", 2, 0); /* and is refused this */
            peer_says(&duel, RECORD_DATA, content, len, i % 4 == 1 && len < 16000 ? 20 : 0);
            sent += len;
            while (got < sent && test_failures == before) {
                await(duel.fds[0], POLLIN);
                r = pump_run(&tube.pump, &tube.relay, false);
                CHECK(r == PUMP_WAIT || r == PUMP_AGAIN);
                take_out(&tube, &got);
            }
        }
        CHECK(stats_get(duel.stats, STAT_SPLICED_BYTES) > TOTAL / 2);
        CHECK(tube.pump.spliced);
        peer_says(&duel, RECORD_ALERT, "\x01\x00", 2, 0);
        await(duel.fds[0], POLLIN);
        CHECK_INT(pump_run(&tube.pump, &tube.relay, false), PUMP_DONE);
        CHECK_INT(tube.pump.bytes, TOTAL + 1);
        tube_end(&tube);
        duel_end(&duel);
    }
}

static void wrong_records_met_by_splice(void)
{
    static struct duel duel;
    for (int n = 0; n < 2 * WRONG_COUNT; n++) {
        unsigned before = test_failures;
        struct tube tube;
        int r, i = n / 2;
        REQUIRE(duel_begin(&duel, n % 2 == 0 ? 0x1301 : 0xc02b));
        tube_begin(&tube, &duel, true);
        peer_errs(&duel, (enum wrong)i);
        do {
            await(duel.fds[0], POLLIN);
            r = pump_run(&tube.pump, &tube.relay, false);
        } while (r == PUMP_WAIT && test_failures == before);
        if (!CHECK_INT(r, -EBADMSG) || !CHECK_INT(owner.failed, 1))
            printf("# with wrong record %d in TLS 1.%d\n", i, 3 - n % 2);
        CHECK_INT(peer_hears(&duel), owner.alert);
        tube_end(&tube);
        duel_end(&duel);
    }
    struct tube tube; /* and a FIN that is no end */
    REQUIRE(duel_begin(&duel, suites[0]));
    tube_begin(&tube, &duel, true);
    shutdown(duel.fds[1], SHUT_WR);
    await(duel.fds[0], POLLIN);
    CHECK_INT(pump_run(&tube.pump, &tube.relay, false), -ENODATA);
    tube_end(&tube);
    duel_end(&duel);
}

/* Bytes come faster than the peer takes them: the pump waits, and not one is lost. */
static void spliced_into_the_kernel(void)
{
    static struct duel duel;
    static uint8_t out[1 << 16], wire[1 << 18], content[WIRE_ROOM];
    for (size_t suite = 0; suite < DP_COUNT(suites); suite++) {
        struct tube tube;
        size_t sent = 0, got = 0, have = 0, turns = 0;
        bool full = false, ended = false;
        const int little = 16384;
        REQUIRE(duel_begin(&duel, suites[suite]));
        setsockopt(duel.fds[0], SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
        setsockopt(duel.fds[1], SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
        tube_begin(&tube, &duel, false);
        unsigned before = test_failures;
        while (!ended && test_failures == before) {
            size_t len = TOTAL - sent < sizeof(out) ? TOTAL - sent : sizeof(out);
            for (size_t i = 0; i < len; i++)
                out[i] = byte_at(sent + i);
            ssize_t n = len > 0 ? send(tube.plain[1], out, len, MSG_NOSIGNAL) : 0;
            sent += n > 0 ? (size_t)n : 0;
            if (sent == TOTAL)
                shutdown(tube.plain[1], SHUT_WR);
            int r = pump_run(&tube.pump, &tube.relay, sent == TOTAL);
            CHECK(r >= 0);
            full |= pump_blocked(&tube.pump);
            if (++turns % 8 != 0 && r != PUMP_DONE && sent < TOTAL)
                continue; /* the peer is slow */
            n = recv(duel.fds[1], wire + have, sizeof(wire) - have, 0);
            have += n > 0 ? (size_t)n : 0;
            size_t at = 0, size = 0;
            uint8_t type = 0;
            int used;
            while ((used = wire_open(&duel.peer, wire + at, have - at, &type, content, &size)) > 0) {
                at += (size_t)used;
                ended |= type == RECORD_ALERT && size == 2 && content[1] == ALERT_CLOSE_NOTIFY;
                for (size_t i = 0; type == RECORD_DATA && i < size; i++)
                    CHECK(content[i] == byte_at(got + i));
                got += type == RECORD_DATA ? size : 0;
            }
            CHECK(used == 0);
            memmove(wire, wire + at, have - at);
            have -= at;
        }
        CHECK_INT(got, TOTAL);
        CHECK(stats_get(duel.stats, STAT_SPLICED_BYTES) > TOTAL / 2);
        CHECK(full);
        tube_end(&tube);
        duel_end(&duel);
    }
}

/* Steps refused, with the others real. */
static int refused_level, refused_name, refused_with;

static int refusing_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    if (level == refused_level && name == refused_name)
        return refused_with;
    return sys_real.setsockopt(fd, level, name, value, len);
}

static void a_refused_step_loses_nothing(void)
{
    static const struct {
        int level, name, error;
        enum dp_fallback why;
    } cases[] = {
        {IPPROTO_TCP, TCP_ULP, -ENOENT, DP_FALLBACK_NO_KERNEL_TLS},
        {SOL_TLS, TLS_TX, -EINVAL, DP_FALLBACK_KERNEL_CIPHER}, /* in the kernel's hands half-way */
        {SOL_TLS, TLS_TX, -ENOMEM, DP_FALLBACK_MEMORY},
        {SOL_TLS, TLS_RX, -EINVAL, DP_FALLBACK_HALF},
    };
    static struct sys_table table;
    table = sys_real;
    table.setsockopt = refusing_setsockopt;
    pair_client_layer = pair_server_layer = DP_RECORD_KTLS;
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        struct sites sites;
        struct pair pair;
        char byte;
        refused_level = cases[i].level;
        refused_name = cases[i].name;
        refused_with = cases[i].error;
        sites_init(&sites);
        pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
        sys = &table;
        pair.client_result = pair.server_result = 0;
        for (int turn = 0; turn < 100 && pair.client_result == 0; turn++) {
            pair.client_result = tls_handshake(pair.client, sites.snap_a);
            if (pair.server_result == 0)
                pair.server_result = tls_handshake(pair.server, sites.snap_b);
        }
        CHECK_INT(tls_fallback(pair.client), cases[i].why);
        if (CHECK_INT(pair.client_result, 1)) {
            if (pair.server_result == 0) {
                await(pair.server_fd, POLLIN);
                pair.server_result = tls_handshake(pair.server, sites.snap_b);
            }
            REQUIRE_INT(pair.server_result, 1);
            CHECK_INT(tls_fallback(pair.server), cases[i].why);
            struct record *client = tls_record(pair.client), *server = tls_record(pair.server);
            CHECK_INT(client->ops->layer, DP_RECORD_USER);
            CHECK_INT(server->ops->layer, DP_RECORD_USER);
            carry(client, server);
            carry(server, client);
            CHECK_INT(client->ops->finish(client), 0);
            CHECK_INT(read_at_last(server, &byte, 1), 0);
        }
        sys = &sys_real;
        pair_close(&pair);
        sites_fini(&sites);
    }
}

/* A stream moves while bytes go both ways, one end, the other or both, in every suite; or is refused
 * in the middle of it. */
static int move(struct tls *tls, bool *moves)
{
    int r = *moves ? tls_move_to_kernel(tls, false) : 0;
    if (r != 0)
        *moves = false;
    return r;
}

static void carry_moving(struct pair *pair, bool client_moves, bool server_moves)
{
    enum { PIECE = 30000 };
    static uint8_t out[PIECE], in[PIECE];
    struct tls *ends[] = {pair->client, pair->server};
    bool moves[] = {client_moves, server_moves};
    size_t sent[2] = {0}, got[2] = {0};
    unsigned before = test_failures;
    while ((got[0] < CARRIED || got[1] < CARRIED) && test_failures == before) {
        bool idle = true;
        for (int i = 0; i < 2; i++) {
            size_t len = 1 + (sent[i] * 2654435761u >> 9) % PIECE;
            len = len < CARRIED - sent[i] ? len : CARRIED - sent[i];
            for (size_t b = 0; b < len; b++)
                out[b] = byte_at(sent[i] + b);
            struct record *rec = tls_record(ends[i]);
            ssize_t n = len > 0 ? rec->ops->write(rec, out, len) : -EAGAIN;
            CHECK(n > 0 || n == -EAGAIN);
            sent[i] += n > 0 ? (size_t)n : 0;
            idle &= n < 0;
            n = rec->ops->read(rec, in, 1 + (got[i] * 40503u >> 3) % PIECE);
            CHECK(n > 0 || n == -EAGAIN);
            for (ssize_t b = 0; b < n; b++)
                CHECK(in[b] == byte_at(got[i] + (size_t)b));
            got[i] += n > 0 ? (size_t)n : 0;
            idle &= n < 0;
            if (sent[i] > CARRIED / 4)
                idle &= move(ends[i], &moves[i]) == 0;
        }
        if (idle && (got[0] < CARRIED || got[1] < CARRIED)) {
            struct pollfd waits[] = {{pair->client_fd, POLLIN, 0}, {pair->server_fd, POLLIN, 0}};
            CHECK(poll(waits, 2, AWAIT_MS) > 0);
        }
    }
    CHECK(!moves[0] && !moves[1]);
}

static void streams_move(void)
{
    for (size_t i = 0; i < 3 * DP_COUNT(suites); i++) {
        struct sites sites;
        struct pair pair;
        bool client = i % 3 != 0, server = i % 3 != 1;
        char byte;
        pair_client_layer = pair_server_layer = DP_RECORD_KTLS; /* for a TCP socket */
        sites_init(&sites);
        only_suite(i / 3);
        pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
        tls_want_user_records(pair.client, sites.buffers);
        tls_want_user_records(pair.server, sites.buffers);
        pair.client->wants_kernel = pair.server->wants_kernel = false;
        REQUIRE(pair_shake(&pair, &sites));
        CHECK_INT(tls_record(pair.client)->ops->layer, DP_RECORD_USER);
        carry_moving(&pair, client, server);
        CHECK_INT(tls_record(pair.client)->ops->layer, client ? DP_RECORD_KTLS : DP_RECORD_USER);
        CHECK_INT(tls_record(pair.server)->ops->layer, server ? DP_RECORD_KTLS : DP_RECORD_USER);
        struct record *from = tls_record(pair.client), *to = tls_record(pair.server);
        CHECK_INT(from->ops->finish(from), 0);
        CHECK_INT(read_at_last(to, &byte, 1), 0);
        CHECK_INT(to->ops->finish(to), 0);
        CHECK_INT(read_at_last(from, &byte, 1), 0);
        pair_close(&pair);
        sites_fini(&sites);
    }
    CHECK_INT(kernel_count("TlsDecryptError"), 0);
    only_suite(0);
}

static void a_refused_move_loses_nothing(void)
{
    static const struct {
        int level, name, error;
        enum dp_fallback why;
    } cases[] = {
        {IPPROTO_TCP, TCP_ULP, -ENOENT, DP_FALLBACK_NO_KERNEL_TLS},
        {SOL_TLS, TLS_TX, -EINVAL, DP_FALLBACK_KERNEL_CIPHER},
        {SOL_TLS, TLS_TX, -ENOMEM, DP_FALLBACK_MEMORY},
        {SOL_TLS, TLS_RX, -EINVAL, DP_FALLBACK_HALF},
    };
    static struct sys_table table;
    table = sys_real;
    table.setsockopt = refusing_setsockopt;
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        struct sites sites;
        struct pair pair;
        pair_client_layer = pair_server_layer = DP_RECORD_KTLS;
        refused_level = cases[i].level;
        refused_name = cases[i].name;
        refused_with = cases[i].error;
        sites_init(&sites);
        pair_open(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
        pair.client->wants_kernel = pair.server->wants_kernel = false;
        REQUIRE(pair_shake(&pair, &sites));
        sys = &table;
        carry_moving(&pair, true, true);
        CHECK_INT(tls_record(pair.client)->ops->layer, DP_RECORD_USER);
        CHECK_INT(tls_record(pair.server)->ops->layer, DP_RECORD_USER);
        CHECK_INT(tls_fallback(pair.client), cases[i].why);
        CHECK_INT(tls_fallback(pair.server), cases[i].why);
        struct record *from = tls_record(pair.client), *to = tls_record(pair.server);
        char byte;
        CHECK_INT(from->ops->finish(from), 0);
        CHECK_INT(read_at_last(to, &byte, 1), 0);
        CHECK_INT(to->ops->finish(to), 0);
        CHECK_INT(read_at_last(from, &byte, 1), 0);
        sys = &sys_real;
        pair_close(&pair);
        sites_fini(&sites);
    }
}

TEST_MAIN(TEST(every_suite_with_every_layer), TEST(streams_move),
          TEST(a_refused_move_loses_nothing), TEST(a_key_update_ends_it_in_words),
          TEST(odd_but_legal), TEST(wrong_records), TEST(the_peers_ends),
          TEST(spliced_from_the_kernel), TEST(wrong_records_met_by_splice),
          TEST(spliced_into_the_kernel), TEST(a_refused_step_loses_nothing))
