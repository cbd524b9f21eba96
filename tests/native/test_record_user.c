/* test_record_user.c: our own records: RFC 8448's trace byte for byte; OpenSSL as the peer with
 * every cipher, both roles and both ways to shake hands; random streams of records in random
 * pieces; and everything that a peer can get wrong. SEED=n replays a run. */
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hex.h"
#include "record_user.h"
#include "sys.h"
#include "test.h"
#include "tls_internal.h"
#include "tls_pair.h"
#include "wire_peer.h"

enum { DATA = 23, HANDSHAKE = 22, ALERT = 21 };

static const uint16_t ciphers[] = {0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c};

/* One record_user and the far end of its socket. It has exactly the buffers that it is allowed. */
struct end {
    struct wire_peer peer;
    struct record_user *user;
    struct record *rec;
    struct stats *stats;
    struct buffers *buffers;
    int fd, far_fd;
    int failures, tickets, settled, ticket_result;
    bool by_peer;
    uint8_t alert;
};

static void on_failed(void *arg, bool by_peer, uint8_t alert, const char *why)
{
    struct end *end = arg;
    end->failures++;
    end->by_peer = by_peer;
    end->alert = alert;
    CHECK(why != NULL);
}

static int on_ticket(void *arg, const uint8_t *record, size_t len)
{
    struct end *end = arg;
    end->tickets++;
    CHECK(record[0] == DATA && len == 5 + ((size_t)record[3] << 8 | record[4]));
    return end->ticket_result;
}

static void on_settled(void *arg)
{
    struct end *end = arg;
    end->settled++;
}

static void end_open(struct end *end, uint16_t cipher, bool is_server, enum aead_engine engine)
{
    int fds[2];
    uint8_t ours[KEYS_SECRET_MAX], theirs[KEYS_SECRET_MAX];
    *end = (struct end){0};
    socket_pair(fds);
    end->fd = fds[0];
    end->far_fd = fds[1];
    wire_peer_init(&end->peer, cipher);
    wire_secret(ours, false);
    wire_secret(theirs, true);
    CHECK_INT(stats_new(&end->stats), 0);
    CHECK_INT(buffers_new_sized(RECORD_SMALL, RECORD_BUFFERS_A_LEG, RECORD_LARGE, 1, end->stats,
                                &end->buffers), 0);
    const struct record_user_spec spec = {
        .fd = end->fd, .is_server = is_server, .cipher = cipher, .read_secret = theirs,
        .write_secret = ours, .engine = engine, .buffers = end->buffers,
        .owner = {.arg = end, .failed = on_failed, .ticket = is_server ? NULL : on_ticket,
                  .settled = is_server ? NULL : on_settled},
    };
    CHECK_INT(record_user_new(&spec, &end->user), 0);
    end->rec = record_user_record(end->user);
}

static void end_close(struct end *end)
{
    record_user_free(end->user);
    wire_peer_fini(&end->peer);
    buffers_free(end->buffers);
    stats_free(end->stats);
    close(end->fd);
    close(end->far_fd);
}

/* Aborts, in buffers_get, if the record layer still holds one. */
static void holds_no_buffer(struct end *end)
{
    struct buffer *all[RECORD_BUFFERS_A_LEG];
    for (size_t i = 0; i < DP_COUNT(all); i++)
        all[i] = buffers_get(end->buffers, false);
    for (size_t i = 0; i < DP_COUNT(all); i++)
        buffers_put(end->buffers, all[i]);
    struct buffer *large = buffers_get(end->buffers, true);
    CHECK_INT(large->cap, RECORD_LARGE);
    buffers_put(end->buffers, large);
}

static void far_send(struct end *end, const uint8_t *data, size_t len)
{
    CHECK_INT(send(end->far_fd, data, len, 0), len);
}

static void far_record(struct end *end, uint8_t type, const void *content, size_t len)
{
    uint8_t wire[RECORD_WIRE_MAX + 64];
    far_send(end, wire, wire_seal(&end->peer, type, content, len, 0, wire));
}

static ssize_t near_read(struct end *end, void *buf, size_t len)
{
    return end->rec->ops->read(end->rec, buf, len);
}

/* The one record that the far end has got, which is to be an alert: its code, or -1. */
static int far_alert(struct end *end)
{
    uint8_t wire[256], content[256], type;
    size_t len;
    ssize_t n = recv(end->far_fd, wire, sizeof(wire), 0);
    if (n <= 0 || wire_open(&end->peer, wire, (size_t)n, &type, content, &len) != n)
        return -1;
    return type == ALERT && len == 2 && content[0] == 2 ? content[1] : -1;
}

/* RFC 8448, section 3. */
static void the_trace_of_rfc_8448(void)
{
    static const char client_secret[] =
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
    static const char server_secret[] =
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
    static const char client_data[] =
        "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20"
        "441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
    static const char server_data[] =
        "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb50"
        "1a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
    static const char client_alert[] = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
    static const char server_alert[] = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";
    static const enum aead_engine engines[] = {AEAD_BEST, AEAD_EVP};
    for (size_t i = 0; i < DP_COUNT(engines); i++) {
        struct end end;
        uint8_t read_secret[32], write_secret[32], wire[128], payload[50], buf[64];
        end_open(&end, 0x1301, false, engines[i]);
        record_user_free(end.user);
        (void)hex_bytes(client_secret, write_secret, sizeof(write_secret));
        (void)hex_bytes(server_secret, read_secret, sizeof(read_secret));
        const struct record_user_spec spec = {
            .fd = end.fd, .cipher = 0x1301, .read_secret = read_secret,
            .write_secret = write_secret, .read_seq = 1 /* its ticket was 0 */,
            .engine = engines[i], .buffers = end.buffers,
            .owner = {.arg = &end, .failed = on_failed},
        };
        REQUIRE_INT(record_user_new(&spec, &end.user), 0);
        end.rec = record_user_record(end.user);
        CHECK_INT(end.rec->ops->layer, DP_RECORD_USER);
        for (size_t b = 0; b < sizeof(payload); b++)
            payload[b] = (uint8_t)b;
        CHECK_INT(end.rec->ops->write(end.rec, payload, sizeof(payload)), sizeof(payload));
        ssize_t n = recv(end.far_fd, wire, sizeof(wire), 0);
        CHECK(n == 72 && hex_is(client_data, wire, (size_t)n));
        far_send(&end, wire, hex_bytes(server_data, wire, sizeof(wire)));
        CHECK_INT(near_read(&end, buf, sizeof(buf)), 50);
        CHECK(memcmp(buf, payload, sizeof(payload)) == 0);
        CHECK_INT(end.rec->ops->finish(end.rec), 0);
        n = recv(end.far_fd, wire, sizeof(wire), 0);
        CHECK(n == 24 && hex_is(client_alert, wire, (size_t)n));
        far_send(&end, wire, hex_bytes(server_alert, wire, sizeof(wire)));
        CHECK_INT(near_read(&end, buf, sizeof(buf)), 0);
        CHECK_INT(end.failures, 0);
        end_close(&end);
    }
}

/* In TLS 1.2 the explicit nonce goes on from OpenSSL's, in step with the sequence number. */
static void nonces_of_12_go_on(void)
{
    static const uint64_t starts[] = {0, UINT64_C(0xfedcba9876543210), UINT64_MAX - 1};
    for (size_t i = 0; i < DP_COUNT(starts); i++) {
        struct end end;
        uint8_t write_secret[KEYS_SECRET_MAX], read_secret[KEYS_SECRET_MAX], wire[256];
        end_open(&end, 0xc02b, false, AEAD_BEST);
        record_user_free(end.user);
        wire_peer_fini(&end.peer);
        wire_secret(write_secret, false);
        wire_secret(read_secret, true);
        for (int b = 0; b < 8; b++)
            write_secret[16 + 4 + b] = (uint8_t)(starts[i] >> (56 - 8 * b));
        const struct record_user_spec spec = {
            .fd = end.fd, .cipher = 0xc02b, .read_secret = read_secret,
            .write_secret = write_secret, .read_seq = 1, .write_seq = 1, .buffers = end.buffers,
            .owner = {.arg = &end, .failed = on_failed},
        };
        REQUIRE_INT(record_user_new(&spec, &end.user), 0);
        end.rec = record_user_record(end.user);
        wire_peer_init_as(&end.peer, 0xc02b, read_secret, write_secret);
        end.peer.in.seq = end.peer.out.seq = 1; /* behind the Finished */
        for (uint64_t seq = 1; seq < 4; seq++) {
            uint8_t type, content[16];
            size_t len;
            CHECK_INT(end.rec->ops->write(end.rec, "data", 4), 4);
            ssize_t n = recv(end.far_fd, wire, sizeof(wire), 0);
            REQUIRE_INT(n, 5 + 8 + 4 + 16);
            uint64_t explicit = 0;
            for (int b = 0; b < 8; b++)
                explicit = explicit << 8 | wire[5 + b];
            CHECK(explicit == starts[i] + seq);
            CHECK_INT(wire_open(&end.peer, wire, (size_t)n, &type, content, &len), n);
            CHECK(type == DATA && len == 4);
            far_record(&end, DATA, "answer", 6);
            CHECK_INT(near_read(&end, content, sizeof(content)), 6);
        }
        end_close(&end);
    }
}

/* OpenSSL as the peer. */

static bool carries_much(struct tls *from, struct tls *to)
{
    enum { TOTAL = 300 * 1024 };
    struct record *source = tls_record(from), *sink = tls_record(to);
    uint8_t *out = malloc(TOTAL), *in = malloc(TOTAL);
    for (size_t i = 0; i < TOTAL; i++)
        out[i] = (uint8_t)(i * 2654435761u >> 13);
    size_t sent = 0, got = 0;
    for (int turn = 0; turn < 10000 && got < TOTAL; turn++) {
        ssize_t n = source->ops->write(source, out + sent, TOTAL - sent);
        sent += n > 0 ? (size_t)n : 0;
        n = sink->ops->read(sink, in + got, TOTAL - got);
        if (n <= 0 && n != -EAGAIN)
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    bool good = got == TOTAL && memcmp(out, in, TOTAL) == 0;
    free(out);
    free(in);
    return good;
}

static const struct {
    const char *name;
    uint8_t bit;                 /* of dp_offload.ciphers */
    bool tls12;
} suites[] = {
    {"TLS_AES_128_GCM_SHA256", 1, false},
    {"TLS_AES_256_GCM_SHA384", 2, false},
    {"TLS_CHACHA20_POLY1305_SHA256", 4, false},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 1, true},
    {"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 2, true},
};
static const uint8_t layers[] = {DP_RECORD_OPENSSL, DP_RECORD_USER};

/* Every cipher, who is ours, full and resumed; after much data both ways, key updates that OpenSSL
 * starts, with and without asking for ours, and an end from either side. */
static void openssl_is_content(void)
{
    for (size_t i = 0; i < DP_COUNT(suites) * 4; i++) {
        struct sites sites;
        sites_init(&sites);
        bool tls12 = suites[i / 4].tls12;
        pair_client_offload = (dp_offload){.ciphers = suites[i / 4].bit,
                                           .tls12 = tls12 ? DP_TLS12_PREFER : DP_TLS12_NEVER};
        pair_server_offload = (dp_offload){.tls12 = DP_TLS12_ALLOW};
        pair_client_layer = layers[i / 2 % 2];
        pair_server_layer = layers[i % 2];
        for (int resumed = 0; resumed < 3; resumed++) {
            struct pair pair;
            REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
            CHECK_INT(pair_is_resumed(&pair), resumed > 0);
            struct tls_info info;
            tls_get_info(pair.client, &info);
            CHECK_TEXT(dp_cipher_name(info.cipher), suites[i / 4].name);
            CHECK_INT(tls_record(pair.client)->ops->layer, pair_client_layer);
            CHECK_INT(tls_record(pair.server)->ops->layer, pair_server_layer);
            CHECK(pair_carries(pair.server, pair.client, "server first"));
            CHECK(carries_much(pair.client, pair.server));
            CHECK(carries_much(pair.server, pair.client));
            struct tls *ends[] = {pair.client, pair.server};
            for (int update = 0; update < 6 && !tls12; update++) {
                struct tls *from = ends[update % 2], *to = ends[1 - update % 2];
                if (from->ssl != NULL)
                    CHECK(SSL_key_update(from->ssl, update < 4 ? SSL_KEY_UPDATE_REQUESTED
                                                               : SSL_KEY_UPDATE_NOT_REQUESTED));
                CHECK(pair_carries(from, to, "under the next key"));
                CHECK(pair_carries(to, from, "and the answer"));
            }
            struct record *a = tls_record(ends[i % 2]), *b = tls_record(ends[1 - i % 2]);
            char buf[8];
            CHECK_INT(a->ops->finish(a), 0);
            CHECK_INT(b->ops->read(b, buf, sizeof(buf)), 0);
            CHECK_INT(b->ops->finish(b), 0);
            CHECK_INT(a->ops->read(a, buf, sizeof(buf)), 0);
            CHECK_INT(tls_reason(pair.client), DP_REASON_NONE);
            CHECK_INT(tls_reason(pair.server), DP_REASON_NONE);
            pair_close(&pair);
        }
        sites_fini(&sites);
    }
    pair_client_offload = pair_server_offload = (dp_offload){0};
}

/* Our key limit, lowered, makes us change keys all the time: OpenSSL follows. */
static void openssl_follows_our_key_updates(void)
{
    for (size_t i = 0; i < 2; i++) {
        struct sites sites;
        struct pair pair;
        sites_init(&sites);
        pair_client_layer = layers[i];
        pair_server_layer = layers[1 - i];
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        struct tls *ours = i == 1 ? pair.client : pair.server;
        struct tls *theirs = i == 1 ? pair.server : pair.client;
        REQUIRE(ours->user != NULL && theirs->ssl != NULL);
        record_user_set_key_limit(ours->user, 10);
        CHECK(carries_much(ours, theirs));
        CHECK(carries_much(theirs, ours));
        for (int n = 0; n < 40; n++)
            CHECK(pair_carries(ours, theirs, "small"));
        pair_close(&pair);
        sites_fini(&sites);
    }
}

/* The SSL goes when nothing of it is needed, and a session is kept all the same. */
static void the_ssl_is_freed(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    pair_client_layer = pair_server_layer = DP_RECORD_USER;
    for (int resumed = 0; resumed < 2; resumed++) {
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        CHECK_INT(pair_is_resumed(&pair), resumed);
        CHECK(pair.server->ssl == NULL);
        CHECK(pair.client->ssl != NULL); /* more tickets could come */
        CHECK(pair_carries(pair.client, pair.server, "ping"));
        CHECK(pair.client->ssl != NULL);
        CHECK(pair_carries(pair.server, pair.client, "pong"));
        CHECK(pair.client->ssl == NULL);
        struct tls_info info;
        tls_get_info(pair.client, &info);
        CHECK_INT(info.version, 0x0304);
        CHECK_INT(info.link_version, TLS_LINK_VERSION_MAX);
        static const uint8_t wiped[2][KEYS_SECRET_MAX];
        CHECK(memcmp(pair.client->secrets, wiped, sizeof(wiped)) == 0);
        CHECK(memcmp(pair.server->secrets, wiped, sizeof(wiped)) == 0);
        pair_close(&pair);
    }
    sites_fini(&sites);
}

/* OpenSSL's default is two tickets, and a server may send more at any time. */
static void many_tickets(void)
{
    struct sites sites;
    struct pair pair;
    sites_init(&sites);
    pair_client_layer = DP_RECORD_USER;
    pair_server_layer = DP_RECORD_OPENSSL;
    REQUIRE(SSL_CTX_set_num_tickets(sites.ctx_b->server, 5));
    REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK(pair_carries(pair.server, pair.client, "pong"));
    CHECK(pair.client->ssl == NULL);
    REQUIRE(SSL_new_session_ticket(pair.server->ssl));
    CHECK(pair_carries(pair.server, pair.client, "a late ticket is skipped"));
    pair_close(&pair);
    REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
    CHECK(pair_is_resumed(&pair));
    pair_close(&pair);
    /* The other way round: our server counts what OpenSSL sent for it. */
    pair_client_layer = DP_RECORD_OPENSSL;
    pair_server_layer = DP_RECORD_USER;
    tls_sessions_clear(sites.sessions);
    for (int resumed = 0; resumed < 2; resumed++) {
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        CHECK_INT(pair_is_resumed(&pair), resumed);
        CHECK(pair_carries(pair.server, pair.client, "pong"));
        CHECK(pair_carries(pair.client, pair.server, "ping"));
        pair_close(&pair);
    }
    sites_fini(&sites);
}

/* Random streams in random pieces. */

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % limit;
}

static void random_start(void)
{
    const char *seed = getenv("SEED");
    random_state = seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    printf("# SEED=%" PRIu64 "\n", random_state);
}

static struct sys_table unkind;

static ssize_t unkind_recv(int fd, void *buf, size_t len, int flags)
{
    if (random_below(4) == 0)
        return -EAGAIN;
    return sys_real.recv(fd, buf, random_below(2) ? len : 1 + random_below((uint32_t)len), flags);
}

static ssize_t unkind_send(int fd, const void *buf, size_t len, int flags)
{
    CHECK(flags & MSG_NOSIGNAL);
    if (random_below(4) == 0)
        return -EAGAIN;
    return sys_real.send(fd, buf, random_below(2) ? len : 1 + random_below((uint32_t)len), flags);
}

static uint8_t byte_at(size_t place)
{
    return (uint8_t)(place ^ place >> 8 ^ place >> 16);
}

static size_t random_size(size_t max)
{
    switch (random_below(4)) {
    case 0: return random_below(8);
    case 1: return max - random_below(3);
    default: return random_below((uint32_t)max + 1);
    }
}

/* A stream as a strict peer may send it: records of any size, padded, some empty, tickets and
 * KeyUpdates between them. *ret_wire is the caller's to free. */
static size_t random_stream(struct wire_peer *peer, bool tickets, uint8_t **ret_wire,
                            size_t *ret_bytes)
{
    enum { RECORDS = 60 };
    uint8_t *wire = malloc((RECORDS + 1) * 2 * (RECORD_WIRE_MAX + 64)), *content = malloc(20000);
    size_t len = 0, place = 0;
    for (int i = 0; i < RECORDS; i++) {
        uint32_t kind = keys_is_tls12(peer->cipher) ? 9 : random_below(10);
        if (kind == 0) {
            uint8_t update[] = {24, 0, 0, 1, (uint8_t)random_below(2)};
            len += wire_seal(peer, HANDSHAKE, update, 5, random_below(20), wire + len);
            wire_peer_update(peer, &peer->out, true);
        } else if (kind == 1 && tickets) { /* two tickets over as many records as it takes */
            uint8_t two[2 * 104] = {4, 0, 0, 100};
            memcpy(two + 104, two, 4);
            for (size_t at = 0, n; at < sizeof(two); at += n) {
                n = 20 + random_below(sizeof(two));
                n = n < sizeof(two) - at ? n : sizeof(two) - at;
                len += wire_seal(peer, HANDSHAKE, two + at, n, 0, wire + len);
            }
        } else {
            size_t n = random_size(RECORD_PLAIN_MAX);
            size_t padding = random_below(3) ? 0 : random_below((uint32_t)(RECORD_PLAIN_MAX - n) + 1);
            for (size_t b = 0; b < n; b++)
                content[b] = byte_at(place + b);
            len += wire_seal(peer, DATA, content, n, padding, wire + len);
            place += n;
        }
    }
    len += wire_seal(peer, ALERT, (uint8_t[]){1, 0}, 2, 0, wire + len);
    free(content);
    *ret_wire = wire;
    *ret_bytes = place;
    return len;
}

static void reads_any_pieces(void)
{
    random_start();
    unkind = sys_real;
    unkind.recv = unkind_recv;
    for (int round = 0; round < 36; round++) {
        struct end end;
        uint8_t *wire, *buf = malloc(300000);
        size_t bytes, sent = 0, got = 0;
        bool is_server = round % 2, good = true, ended = false;
        end_open(&end, ciphers[(size_t)round % DP_COUNT(ciphers)], is_server,
                 round % 4 < 2 ? AEAD_BEST : AEAD_EVP);
        size_t len = random_stream(&end.peer, !is_server, &wire, &bytes);
        sys = &unkind;
        for (int turn = 0; turn < 1000000 && good && !ended; turn++) {
            size_t piece = random_below(3) ? random_below(40000) : random_below(30);
            piece = piece < len - sent ? piece : len - sent;
            ssize_t n = piece > 0 ? send(end.far_fd, wire + sent, piece, 0) : 0;
            sent += n > 0 ? (size_t)n : 0;
            size_t room = 1 + random_size(random_below(5) ? 20000 : 299999);
            n = near_read(&end, buf, room);
            good = n > 0 || n == -EAGAIN || (n == 0 && got == bytes);
            for (ssize_t i = 0; i < n && good; i++)
                good = buf[i] == byte_at(got + (size_t)i);
            got += n > 0 ? (size_t)n : 0;
            ended = n == 0;
        }
        sys = &sys_real;
        CHECK(good && ended);
        CHECK_INT(got, bytes);
        CHECK_INT(end.failures, 0);
        CHECK(end.settled <= 1);
        holds_no_buffer(&end);
        free(wire);
        free(buf);
        end_close(&end);
    }
}

/* A low key limit, asked-for KeyUpdates, and a socket that takes little: what comes out is whole,
 * in order, under the right keys, and no nonce is used twice (the opener counts). */
static void writes_any_pieces(void)
{
    enum { TOTAL = 700000 };
    random_start();
    unkind = sys_real;
    unkind.send = unkind_send;
    for (int round = 0; round < 18; round++) {
        struct end end;
        uint8_t *far = malloc(1 << 21), *content = malloc(RECORD_WIRE_MAX), buf[8];
        size_t sent = 0, got = 0, have = 0;
        bool good = true, closed = false;
        end_open(&end, ciphers[(size_t)round % DP_COUNT(ciphers)], round % 2, AEAD_BEST);
        record_user_set_key_limit(end.user, 5 + random_below(30));
        sys = &unkind;
        for (int turn = 0; turn < 1000000 && good && !closed; turn++) {
            if (random_below(20) == 0) {
                if (!keys_is_tls12(end.peer.cipher)) {
                    far_record(&end, HANDSHAKE, (uint8_t[]){24, 0, 0, 1, 1}, 5);
                    wire_peer_update(&end.peer, &end.peer.out, true);
                }
                far_record(&end, DATA, "x", 1);
                good = near_read(&end, buf, sizeof(buf)) == 1;
            }
            size_t offer = TOTAL - sent < 150000 ? TOTAL - sent : 150000;
            uint8_t *moving = malloc(offer + 1);
            for (size_t i = 0; i < offer; i++)
                moving[i] = byte_at(sent + i);
            ssize_t n = offer > 0 ? end.rec->ops->write(end.rec, moving, offer)
                                  : end.rec->ops->finish(end.rec);
            free(moving);
            good = n >= 0 || n == -EAGAIN;
            sent += n > 0 ? (size_t)n : 0;
            n = recv(end.far_fd, far + have, (1 << 21) - have, 0);
            have += n > 0 ? (size_t)n : 0;
            size_t off = 0, len;
            uint8_t type;
            int used;
            while (good && (used = wire_open(&end.peer, far + off, have - off, &type, content,
                                             &len)) != 0) {
                good = used > 0;
                for (size_t i = 0; good && type == DATA && i < len; i++)
                    good = content[i] == byte_at(got + i);
                got += good && type == DATA ? len : 0;
                closed |= good && type == ALERT && content[1] == 0;
                off += used > 0 ? (size_t)used : 0;
            }
            memmove(far, far + off, have - off);
            have -= off;
        }
        sys = &sys_real;
        CHECK(good && closed);
        CHECK_INT(sent, TOTAL);
        CHECK_INT(got, TOTAL);
        CHECK_INT(end.rec->ops->finish(end.rec), 0);
        CHECK(!record_user_wants_write(end.user));
        holds_no_buffer(&end);
        free(far);
        free(content);
        end_close(&end);
    }
}

/* Somebody else goes on where we rest, at a random moment and under traffic both ways: here another
 * of our own kind, with nothing but the secrets and the numbers. Every byte arrives once. */
static void another_goes_on(void)
{
    enum { TOTAL = 1 << 20, FAR_ROOM = 1 << 22 };
    size_t moves = 0;
    random_start();
    unkind = sys_real;
    unkind.send = unkind_send;
    for (size_t round = 0; round < 4 * DP_COUNT(ciphers); round++) {
        struct end end;
        uint8_t *far = malloc(FAR_ROOM), *buf = malloc(150000), *content = malloc(RECORD_WIRE_MAX);
        uint8_t *wire = NULL;
        size_t sent = 0, got = 0, have = 0, bytes = 0, off = 0, read = 0;
        bool good = true, tried = false, ended = false;
        uint32_t when = random_below(TOTAL / 16);
        end_open(&end, ciphers[round % DP_COUNT(ciphers)], true, AEAD_BEST);
        size_t len = random_stream(&end.peer, false, &wire, &bytes);
        sys = &unkind;
        for (int turn = 0; turn < 1000000 && good && !(ended && got == TOTAL); turn++) {
            ssize_t n = off < len ? send(end.far_fd, wire + off, len - off, MSG_DONTWAIT) : 0;
            off += n > 0 ? (size_t)n : 0;
            n = near_read(&end, buf, 1 + random_size(100000));
            for (ssize_t i = 0; i < n; i++)
                good &= buf[i] == byte_at(read + (size_t)i);
            read += n > 0 ? (size_t)n : 0;
            ended |= n == 0;
            good &= n >= 0 || n == -EAGAIN;
            size_t offer = TOTAL - sent < 150000 ? TOTAL - sent : 150000;
            for (size_t i = 0; i < offer; i++)
                buf[i] = byte_at(sent + i);
            n = offer > 0 ? end.rec->ops->write(end.rec, buf, offer) : 0;
            sent += n > 0 ? (size_t)n : 0;
            good &= n >= 0 || n == -EAGAIN;
            enum dp_fallback why = DP_FALLBACK_NONE;
            int r = !tried && !ended && sent >= when ? record_user_rest(end.user, &why) : -EAGAIN;
            if (r == 0) {
                struct record_user_place in, out;
                struct record_user *old = end.user;
                record_user_places(old, &in, &out);
                const struct record_user_spec spec = {
                    .fd = end.fd, .is_server = true, .cipher = end.peer.cipher,
                    .read_secret = in.secret, .write_secret = out.secret, .read_seq = in.seq,
                    .write_seq = out.seq, .buffers = end.buffers,
                    .owner = {.arg = &end, .failed = on_failed}};
                good &= record_user_new(&spec, &end.user) == 0;
                record_user_free(old);
                end.rec = record_user_record(end.user);
                moves++;
            }
            tried |= r != -EAGAIN; /* -EBUSY: the peer's end came first */
            n = recv(end.far_fd, far + have, FAR_ROOM - have, MSG_DONTWAIT);
            have += n > 0 ? (size_t)n : 0;
            size_t at = 0, n_content;
            uint8_t type;
            int used;
            while (good && (used = wire_open(&end.peer, far + at, have - at, &type, content,
                                             &n_content)) != 0) {
                good = used > 0;
                for (size_t i = 0; good && type == DATA && i < n_content; i++)
                    good = content[i] == byte_at(got + i);
                got += good && type == DATA ? n_content : 0;
                at += used > 0 ? (size_t)used : 0;
            }
            memmove(far, far + at, have - at);
            have -= at;
        }
        sys = &sys_real;
        CHECK(good && ended);
        CHECK_INT(read, bytes);
        CHECK_INT(got, TOTAL);
        free(far);
        free(buf);
        free(content);
        free(wire);
        end_close(&end);
    }
    printf("# %zu moves\n", moves);
    CHECK(moves >= DP_COUNT(ciphers));
}

static void rest_is_not_waited_for_forever(void)
{
    struct end end;
    enum dp_fallback why = DP_FALLBACK_NONE;
    uint8_t buf[64], wire[64];
    end_open(&end, 0x1301, true, AEAD_BEST);
    CHECK_INT(record_user_rest(end.user, &why), 0);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN);
    CHECK_INT(end.rec->ops->write(end.rec, "x", 1), -EAGAIN);
    record_user_resume(end.user);
    CHECK(end.rec->ops->pending(end.rec));
    CHECK_INT(end.rec->ops->write(end.rec, "x", 1), 1);
    /* Half a record in hand, its other half and the next one never behind it alone. */
    size_t len = wire_seal(&end.peer, DATA, "a", 1, 0, wire), off = 10;
    far_send(&end, wire, off);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN);
    CHECK_INT(record_user_rest(end.user, &why), -EAGAIN);
    CHECK_INT(end.rec->ops->write(end.rec, "y", 1), 1); /* which does not wait for that */
    far_send(&end, wire + off, len - off);
    far_record(&end, DATA, "b", 1);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), 1);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN); /* nothing beyond it */
    CHECK_INT(record_user_rest(end.user, &why), 0);
    record_user_resume(end.user);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), 1);
    /* A KeyUpdate of ours is owed, and there is nothing to send it with. */
    far_record(&end, HANDSHAKE, (uint8_t[]){24, 0, 0, 1, 1}, 5);
    wire_peer_update(&end.peer, &end.peer.out, true);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN);
    int r = record_user_rest(end.user, &why);
    for (int i = 0; i < 10000 && r == -EAGAIN; i++) {
        far_record(&end, DATA, "c", 1);
        ssize_t n = near_read(&end, buf, 1);
        r = record_user_rest(end.user, &why);
        CHECK(n == 1 || (n == -EAGAIN && r == -EBUSY));
    }
    CHECK_INT(r, -EBUSY);
    CHECK_INT(why, DP_FALLBACK_KEY_UPDATE);
    CHECK_INT(end.rec->ops->write(end.rec, "z", 1), 1);
    CHECK_INT(end.rec->ops->finish(end.rec), 0);
    CHECK_INT(record_user_rest(end.user, &why), -EBUSY);
    CHECK_INT(why, DP_FALLBACK_BUSY);
    end_close(&end);
}

/* What a peer can get wrong. */

struct wrong {
    const char *name;
    uint8_t type;                /* of content; 0 = raw: content goes on the wire as it is */
    uint8_t content[8];
    size_t len;
    uint8_t alert;               /* ours */
    bool to_server;
};

static const struct wrong wrongs[] = {
    {"not encrypted", 0, {22, 3, 3, 0, 1, 0}, 6, 10, false},
    {"change_cipher_spec", 0, {20, 3, 3, 0, 1, 1}, 6, 10, false},
    {"an alert in the clear", 0, {21, 3, 3, 0, 2, 1, 0}, 7, 10, true},
    {"HTTP", 0, "GET / H", 7, 10, true},
    {"too long", 0, {23, 3, 3, 0x41, 1}, 5, 22, false},
    {"longest", 0, {23, 3, 3, 0xff, 0xff}, 5, 22, true},
    {"empty", 0, {23, 3, 3, 0, 0}, 5, 20, false},
    {"shorter than a tag", 0, {23, 3, 3, 0, 16}, 5, 20, false},
    {"unknown type", 99, {1}, 1, 10, false},
    {"change_cipher_spec inside", 20, {1}, 1, 10, true},
    {"empty alert", ALERT, {0}, 0, 50, false},
    {"short alert", ALERT, {1}, 1, 50, true},
    {"two alerts in one", ALERT, {1, 0, 1, 0}, 4, 50, false},
    {"empty handshake", HANDSHAKE, {0}, 0, 10, false},
    {"ClientHello", HANDSHAKE, {1, 0, 0, 1, 0}, 5, 10, true},
    {"CertificateRequest", HANDSHAKE, {13, 0, 0, 1, 0}, 5, 10, false},
    {"Finished", HANDSHAKE, {20, 0, 0, 32}, 4, 10, false},
    {"a ticket to a server", HANDSHAKE, {4, 0, 0, 100}, 4, 10, true},
    {"a short ticket", HANDSHAKE, {4, 0, 0, 13}, 4, 50, false},
    {"a long ticket", HANDSHAKE, {4, 2, 0, 1}, 4, 50, false},
    {"KeyUpdate of no byte", HANDSHAKE, {24, 0, 0, 0}, 4, 50, false},
    {"KeyUpdate of two bytes", HANDSHAKE, {24, 0, 0, 2, 0, 0}, 6, 50, true},
    {"KeyUpdate asks for nothing known", HANDSHAKE, {24, 0, 0, 1, 2}, 5, 47, true},
    {"KeyUpdate and more", HANDSHAKE, {24, 0, 0, 1, 0, 24}, 6, 10, false},
};

static const struct wrong wrongs_12[] = {
    {"an alert in the clear", 0, {21, 3, 3, 0, 2, 1, 0}, 7, 20, true},
    {"change_cipher_spec", 0, {20, 3, 3, 0, 1, 1}, 6, 10, false},
    {"HTTP", 0, "GET / H", 7, 10, true},
    {"another version", 0, {23, 3, 1, 0, 40}, 5, 50, false},
    {"too long", 0, {23, 3, 3, 0x40, 25}, 5, 22, false},
    {"longest", 0, {23, 3, 3, 0xff, 0xff}, 5, 22, true},
    {"empty", 0, {23, 3, 3, 0, 0}, 5, 20, false},
    {"shorter than nonce and tag", 0, {23, 3, 3, 0, 23}, 5, 20, false},
    {"empty alert", ALERT, {0}, 0, 50, false},
    {"short alert", ALERT, {1}, 1, 50, true},
    {"two alerts in one", ALERT, {1, 0, 1, 0}, 4, 50, false},
    {"empty handshake", HANDSHAKE, {0}, 0, 10, false},
    {"ClientHello: renegotiation", HANDSHAKE, {1, 0, 0, 1, 0}, 5, 10, true},
    {"HelloRequest: renegotiation", HANDSHAKE, {0, 0, 0, 0}, 4, 10, false},
    {"a ticket", HANDSHAKE, {4, 0, 0, 100}, 4, 10, false},
    {"TLS 1.3's KeyUpdate", HANDSHAKE, {24, 0, 0, 1, 0}, 5, 10, true},
};

static void what_is_wrong_is_refused(void)
{
    for (size_t i = 0; i < DP_COUNT(wrongs) + DP_COUNT(wrongs_12); i++) {
        bool tls12 = i >= DP_COUNT(wrongs);
        const struct wrong *wrong = tls12 ? &wrongs_12[i - DP_COUNT(wrongs)] : &wrongs[i];
        struct end end;
        uint8_t buf[64];
        unsigned before = test_failures;
        end_open(&end, tls12 ? 0xc02b : 0x1301, wrong->to_server, AEAD_BEST);
        far_record(&end, DATA, "good", 4); /* what came before is still good */
        if (wrong->type == 0)
            far_send(&end, wrong->content, wrong->len);
        else
            far_record(&end, wrong->type, wrong->content, wrong->len);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), 4);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), -EBADMSG);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), -EBADMSG);
        CHECK(!end.rec->ops->pending(end.rec));
        CHECK_INT(end.failures, 1);
        CHECK(!end.by_peer);
        CHECK_INT(end.alert, wrong->alert);
        CHECK_INT(far_alert(&end), wrong->alert);
        CHECK_INT(end.rec->ops->write(end.rec, "x", 1), -EPIPE);
        CHECK_INT(end.rec->ops->finish(end.rec), -EPIPE);
        end_close(&end);
        if (test_failures != before)
            printf("# above: %s\n", wrong->name);
    }
}

/* Sealed as they should be, but not what is expected next. */
static void order_and_authenticity(void)
{
    uint8_t first[64], second[64], buf[64];
    for (size_t n = 0; n < 4 * DP_COUNT(ciphers); n++) {
        struct end end;
        size_t i = n % 4;
        end_open(&end, ciphers[n / 4], false, AEAD_BEST);
        size_t len = wire_seal(&end.peer, DATA, "first", 5, 0, first);
        size_t second_len = wire_seal(&end.peer, DATA, "second", 6, 0, second);
        if (i == 0) { /* left out */
            far_send(&end, second, second_len);
        } else if (i == 1) { /* twice */
            far_send(&end, first, len);
            CHECK_INT(near_read(&end, buf, sizeof(buf)), 5);
            far_send(&end, first, len);
        } else if (i == 2) { /* changed */
            first[len - 1] ^= 0x80;
            far_send(&end, first, len);
        } else { /* a longer header */
            first[4]++;
            far_send(&end, first, len);
            far_send(&end, second, second_len);
        }
        memset(buf, 0, sizeof(buf));
        CHECK_INT(near_read(&end, buf, sizeof(buf)), -EBADMSG);
        CHECK(memcmp(buf, (uint8_t[64]){0}, sizeof(buf)) == 0); /* nothing was given away */
        CHECK_INT(end.alert, 20);
        CHECK_INT(far_alert(&end), 20);
        end_close(&end);
    }
}

static void sizes_at_the_edge(void)
{
    uint8_t *wire = malloc(RECORD_WIRE_MAX + 1000), *content = calloc(1, RECORD_PLAIN_MAX + 300);
    uint8_t *buf = malloc(RECORD_PLAIN_MAX + 300);
    static const struct {
        uint16_t cipher;
        size_t len, padding;
        uint8_t type;
        ssize_t want;
        uint8_t alert;
    } cases[] = {
        {0x1302, RECORD_PLAIN_MAX, 0, DATA, RECORD_PLAIN_MAX, 0},
        {0x1302, 0, RECORD_PLAIN_MAX, DATA, -EAGAIN, 0},
        {0x1302, 1, RECORD_PLAIN_MAX - 1, DATA, 1, 0},
        {0x1302, RECORD_PLAIN_MAX + 1, 0, DATA, -EBADMSG, 22},
        {0x1302, RECORD_PLAIN_MAX, 1, DATA, -EBADMSG, 22},
        {0x1302, RECORD_PLAIN_MAX + 239, 0, DATA, -EBADMSG, 22},
        {0x1302, 0, 0, 0, -EBADMSG, 10},    /* padding alone */
        {0x1302, 0, 50, 0, -EBADMSG, 10},
        {0x1302, 0, RECORD_PLAIN_MAX, 0, -EBADMSG, 10},
        {0xc02c, RECORD_PLAIN_MAX, 0, DATA, RECORD_PLAIN_MAX, 0},
        {0xc02c, 1, 0, DATA, 1, 0},
        {0xc02c, 0, 0, DATA, -EAGAIN, 0},
        {0xc02c, RECORD_PLAIN_MAX + 1, 0, DATA, -EBADMSG, 22},
    };
    memset(content, 1, RECORD_PLAIN_MAX + 300);
    for (size_t i = 0; i < 2 * DP_COUNT(cases); i++) { /* with and without room for all of it */
        size_t c = i / 2, room = i % 2 ? 1000 : RECORD_PLAIN_MAX + 300;
        struct end end;
        end_open(&end, cases[c].cipher, true, AEAD_BEST);
        size_t len = wire_seal(&end.peer, cases[c].type, content, cases[c].len, cases[c].padding,
                               wire);
        far_send(&end, wire, len);
        ssize_t want = cases[c].want > (ssize_t)room ? (ssize_t)room : cases[c].want;
        CHECK_INT(near_read(&end, buf, room), want);
        CHECK_INT(end.alert, cases[c].alert);
        end_close(&end);
    }
    free(wire);
    free(content);
    free(buf);
}

static void silence_has_a_limit(void)
{
    struct end end;
    uint8_t buf[8];
    end_open(&end, 0xc02b, true, AEAD_BEST);
    for (int i = 0; i < 33; i++)
        far_record(&end, DATA, "", 0);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(far_alert(&end), 10);
    end_close(&end);
    end_open(&end, 0x1301, false, AEAD_BEST);
    for (int round = 0; round < 3; round++) { /* a byte of data makes up for it */
        for (int i = 0; i < 32; i++)
            far_record(&end, DATA, "", 0);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN);
        far_record(&end, DATA, "x", 1);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), 1);
    }
    for (int i = 0; i < 33; i++) {
        far_record(&end, HANDSHAKE, (uint8_t[]){24, 0, 0, 1, 0}, 5);
        wire_peer_update(&end.peer, &end.peer.out, true);
    }
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(far_alert(&end), 10);
    end_close(&end);
}

/* Messages are whole before anything else comes, and a KeyUpdate may come byte by byte. */
static void messages_in_pieces(void)
{
    static const uint8_t update[] = {24, 0, 0, 1, 0};
    struct end end;
    uint8_t buf[8];
    end_open(&end, 0x1301, true, AEAD_BEST);
    for (size_t i = 0; i < sizeof(update); i++)
        far_record(&end, HANDSHAKE, update + i, 1);
    wire_peer_update(&end.peer, &end.peer.out, true);
    far_record(&end, DATA, "new key", 7);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), 7);
    far_record(&end, HANDSHAKE, update, 3);
    far_record(&end, DATA, "between", 7);
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(far_alert(&end), 10);
    end_close(&end);
}

static void a_key_update_that_is_asked_for(void)
{
    struct end end;
    uint8_t buf[64], wire[256], content[256], type;
    size_t len;
    end_open(&end, 0x1303, false, AEAD_BEST);
    for (int i = 0; i < 3; i++) { /* three requests, one answer: RFC 8446, 4.6.3 */
        far_record(&end, HANDSHAKE, (uint8_t[]){24, 0, 0, 1, 1}, 5);
        wire_peer_update(&end.peer, &end.peer.out, true);
    }
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN);
    CHECK_INT(end.settled, 1);
    CHECK_INT(recv(end.far_fd, wire, sizeof(wire), 0), -1); /* with the next data is soon enough */
    CHECK_INT(end.rec->ops->write(end.rec, "data", 4), 4);
    ssize_t n = recv(end.far_fd, wire, sizeof(wire), 0);
    int used = wire_open(&end.peer, wire, (size_t)n, &type, content, &len);
    REQUIRE(used > 0 && type == HANDSHAKE);
    CHECK(len == 5 && memcmp(content, (uint8_t[]){24, 0, 0, 1, 0}, 5) == 0);
    int rest = wire_open(&end.peer, wire + used, (size_t)(n - used), &type, content, &len);
    CHECK(rest == n - used && type == DATA && len == 4);
    end_close(&end);
}

static void tickets_are_for_the_owner(void)
{
    static const uint8_t ticket[104] = {4, 0, 0, 100};
    struct end end;
    uint8_t buf[8];
    end_open(&end, 0x1301, false, AEAD_BEST);
    far_record(&end, HANDSHAKE, ticket, sizeof(ticket));
    far_record(&end, HANDSHAKE, ticket, sizeof(ticket));
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN);
    CHECK_INT(end.tickets, 2);
    CHECK_INT(end.settled, 0);
    far_record(&end, DATA, "", 0); /* even an empty one: OpenSSL will not have seen it */
    far_record(&end, HANDSHAKE, ticket, sizeof(ticket));
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EAGAIN);
    CHECK_INT(end.tickets, 2);
    CHECK_INT(end.settled, 1);
    end_close(&end);

    end_open(&end, 0x1301, false, AEAD_BEST);
    end.ticket_result = -EBADMSG;
    far_record(&end, HANDSHAKE, ticket, sizeof(ticket));
    CHECK_INT(near_read(&end, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(far_alert(&end), 50);
    end_close(&end);
}

static uint8_t logged[2][KEYS_SECRET_MAX];

static void log_secret(const SSL *ssl, const char *line)
{
    enum keys_side side;
    uint8_t secret[KEYS_SECRET_MAX];
    (void)ssl;
    int size = keys_from_log(line, &side, secret);
    CHECK(size >= 0);
    if (size > 0)
        memcpy(logged[side], secret, (size_t)size);
}

/* Our check is shallow; OpenSSL's is not. The server's part is taken over by hand. */
static void a_malformed_ticket_breaks_the_connection(void)
{
    static const uint8_t good[] = {4, 0, 0, 15, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 2, 't', 't', 0, 0};
    static const uint8_t bad[] = {4, 0, 0, 14, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0};
    for (int i = 0; i < 2; i++) {
        struct sites sites;
        struct pair pair;
        struct wire_peer peer;
        uint8_t wire[64], buf[8], last;
        size_t len;
        sites_init(&sites);
        pair_client_layer = DP_RECORD_USER;
        pair_server_layer = DP_RECORD_OPENSSL;
        SSL_CTX_set_keylog_callback(sites.ctx_b->server, log_secret);
        REQUIRE(pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID));
        wire_peer_init_as(&peer, 0x1301, logged[KEYS_SERVER], logged[KEYS_CLIENT]);
        peer.out.seq = 1; /* one ticket went before */
        len = i == 0 ? wire_seal(&peer, HANDSHAKE, good, sizeof(good), 0, wire)
                     : wire_seal(&peer, HANDSHAKE, bad, sizeof(bad), 0, wire);
        CHECK_INT(send(pair.server_fd, wire, len, 0), len);
        struct record *client = tls_record(pair.client);
        CHECK_INT(client->ops->read(client, buf, sizeof(buf)), i == 0 ? -EAGAIN : -EBADMSG);
        if (i == 1) {
            CHECK_TEXT(tls_detail(pair.client),
                       "TLS failed while reading: malformed NewSessionTicket");
            ssize_t n = recv(pair.server_fd, wire, sizeof(wire), 0);
            REQUIRE(n > 0 && wire_open(&peer, wire, (size_t)n, &last, buf, &len) == n);
            CHECK(last == ALERT && len == 2 && buf[1] == 50);
        }
        wire_peer_fini(&peer);
        pair_close(&pair);
        sites_fini(&sites);
    }
}

static void alerts_of_the_peer(void)
{
    static const struct {
        uint8_t alert[2];
        ssize_t want;
    } cases[] = {
        {{1, 0}, 0}, {{2, 0}, 0}, /* close_notify, whatever its level */
        {{1, 90}, -EAGAIN},       /* user_canceled says nothing by itself */
        {{2, 42}, -EBADMSG}, {{1, 42}, -EBADMSG}, {{2, 255}, -EBADMSG},
    };
    for (size_t n = 0; n < 2 * DP_COUNT(cases); n++) {
        struct end end;
        uint8_t buf[8];
        size_t i = n / 2;
        end_open(&end, n % 2 ? 0xc02b : 0x1301, i % 2, AEAD_BEST);
        far_record(&end, ALERT, cases[i].alert, 2);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), cases[i].want);
        if (cases[i].want == -EBADMSG) {
            CHECK(end.by_peer);
            CHECK_INT(end.alert, cases[i].alert[1]);
            CHECK_INT(recv(end.far_fd, buf, sizeof(buf), 0), -1); /* no alert for an alert */
            CHECK_INT(end.rec->ops->write(end.rec, "x", 1), -EPIPE);
        } else {
            CHECK_INT(end.rec->ops->write(end.rec, "x", 1), 1); /* the other half goes on */
        }
        end_close(&end);
    }
}

static void cut_at_every_byte(void)
{
    enum { LEN_13 = 27, LEN_12 = 34 };
    uint8_t wire[64], buf[64];
    for (size_t i = 0; i <= LEN_13 + 1 + LEN_12; i++) {
        struct end end;
        bool tls12 = i > LEN_13;
        size_t cut = tls12 ? i - LEN_13 - 1 : i;
        end_open(&end, tls12 ? 0xc02b : 0x1301, true, AEAD_BEST);
        size_t len = wire_seal(&end.peer, DATA, "hello", 5, 0, wire);
        REQUIRE_INT(len, tls12 ? LEN_12 : LEN_13);
        if (cut > 0)
            far_send(&end, wire, cut);
        shutdown(end.far_fd, SHUT_WR);
        if (cut == len)
            CHECK_INT(near_read(&end, buf, sizeof(buf)), 5);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), -ENODATA);
        CHECK_INT(near_read(&end, buf, sizeof(buf)), -ENODATA);
        CHECK(!end.rec->ops->pending(end.rec));
        end_close(&end);
    }
}

/* An idle connection holds no buffer; half a record costs one small one. */
static void buffers_are_held_while_bytes_wait(void)
{
    struct end end;
    uint8_t wire[RECORD_WIRE_MAX], *buf = malloc(300000), *content = calloc(1, RECORD_PLAIN_MAX);
    end_open(&end, 0x1301, true, AEAD_BEST);
    holds_no_buffer(&end);
    CHECK_INT(near_read(&end, buf, 300000), -EAGAIN);
    holds_no_buffer(&end);
    for (int i = 0; i < 8; i++)
        far_record(&end, DATA, content, RECORD_PLAIN_MAX);
    size_t len = wire_seal(&end.peer, DATA, content, RECORD_PLAIN_MAX, 0, wire);
    far_send(&end, wire, len - 1);
    CHECK_INT(near_read(&end, buf, 300000), 8 * RECORD_PLAIN_MAX);
    CHECK(!end.rec->ops->pending(end.rec));
    struct buffer *large = buffers_get(end.buffers, true); /* was given back */
    CHECK_INT(large->cap, RECORD_LARGE);
    far_send(&end, wire + len - 1, 1);
    CHECK_INT(near_read(&end, buf, 300000), RECORD_PLAIN_MAX); /* none left: it does without */
    buffers_put(end.buffers, large);
    holds_no_buffer(&end);
    CHECK_INT(end.rec->ops->write(end.rec, content, 5000), 5000);
    holds_no_buffer(&end);
    free(buf);
    free(content);
    end_close(&end);
}

static void other_suites_are_not_taken(void)
{
    uint8_t secret[KEYS_SECRET_MAX] = {0};
    struct record_user *user;
    const struct record_user_spec spec = {
        .fd = -1, .cipher = 0xc02f, .read_secret = secret, .write_secret = secret};
    CHECK_INT(record_user_new(&spec, &user), -EINVAL);
    record_user_free(NULL);
}

TEST_MAIN(TEST(the_trace_of_rfc_8448), TEST(nonces_of_12_go_on), TEST(openssl_is_content),
          TEST(openssl_follows_our_key_updates), TEST(the_ssl_is_freed), TEST(many_tickets),
          TEST(reads_any_pieces), TEST(writes_any_pieces), TEST(another_goes_on),
          TEST(rest_is_not_waited_for_forever), TEST(what_is_wrong_is_refused),
          TEST(order_and_authenticity), TEST(sizes_at_the_edge), TEST(silence_has_a_limit),
          TEST(messages_in_pieces), TEST(a_key_update_that_is_asked_for),
          TEST(tickets_are_for_the_owner), TEST(a_malformed_ticket_breaks_the_connection),
          TEST(alerts_of_the_peer), TEST(cut_at_every_byte),
          TEST(buffers_are_held_while_bytes_wait), TEST(other_suites_are_not_taken))
