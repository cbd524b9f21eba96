/* guest_cost.c: what a MiB costs by record layer: instructions of the whole guest while a source's
 * plain bytes pass through our relay and leave as TLS, for a sink that throws them away. Runs where
 * the emulator's clock counts instructions: T=cost. One thread does everything, so that nothing
 * waits and nothing else runs; a turn is a source's write, the relay's pump, the sink's reads.
 *
 *   [source] ── b, a ──> pump ── records ── a, b ──> [sink]      all across the adapter's cable
 */
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cable.h"
#include "must.h"
#include "stream.h"
#include "test.h"
#include "tls_pair.h"

enum {
    MIB = 1 << 20, WARM = 8 * MIB, MEASURED = 16 * MIB, RUNS = 3,
    STALLED = 1000,              /* turns in a row without a byte */
    LOOPS = 1 << 22,
};

struct way {
    const char *name;
    dp_offload offload;
    bool plain, copied;
    uint8_t layer;               /* enum dp_record_layer; what it must come to */
};

#define AES_128 .ciphers = 1
static const struct way ways[] = {
    {"plain-splice", {0}, true, false, DP_RECORD_PLAIN},
    {"plain-copy", {0}, true, true, DP_RECORD_PLAIN},
    {"user", {.records = DP_PREFER_USER, AES_128}, false, false, DP_RECORD_USER},
    {"openssl", {.records = DP_PREFER_OPENSSL, AES_128}, false, false, DP_RECORD_OPENSSL},
    {"ktls", {.records = DP_PREFER_KTLS, AES_128}, false, false, DP_RECORD_KTLS},
    {"ktls-copy", {.records = DP_PREFER_KTLS, AES_128}, false, true, DP_RECORD_KTLS},
    {"nic", {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_PREFER, AES_128}, false, false,
     DP_RECORD_NIC},
    {"auto", {.records = DP_PREFER_AUTO, AES_128}, false, false, 0},
};

static struct sites sites;
static struct stream_env env;
static const dp_config config;
static char bytes[MIB];

static void over_the_cable(int ret_fds[2])
{
    cable_pair(AF_INET, ret_fds);
    cable_enter(0); /* whether a device takes a flow is told where the flow is */
}

struct passage {
    struct pair pair;            /* unless it is plain */
    int in[2], out[2];           /* relay's end, other end */
    struct stream stream;
    uint64_t idle;               /* turns without a byte */
};

static void passage_open(struct passage *p, const struct way *way)
{
    struct stream *s = &p->stream;
    memset(p, 0, sizeof(*p));
    over_the_cable(p->in);
    s->env = &env;
    record_plain_init(&s->down.plain, p->in[0]);
    s->down.record = &s->down.plain;
    if (way->plain) {
        over_the_cable(p->out);
        record_plain_init(&s->up.plain, p->out[0]);
        s->up.record = &s->up.plain;
    } else {
        struct dp_snapshot *snap = NULL;
        MUST(dp_snapshot_new(1, "a.example", &snap) == 0);
        MUST(dp_snapshot_set_offload(snap, &way->offload) == 0);
        pair_client_offload = way->offload;
        pair_server_offload.tls12 = way->offload.tls12 != DP_TLS12_NEVER ? DP_TLS12_ALLOW
                                                                         : DP_TLS12_NEVER;
        pair_open(&p->pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
        s->up.tls = p->pair.client;
        env.snapshot = snap;
        MUST(leg_prefer_records(s, &s->up) == 0);
        MUST(pair_shake(&p->pair, &sites));
        MUST(pair_carries(p->pair.server, p->pair.client, "as a link's reply: settles the client"));
        s->up.record = tls_record(s->up.tls);
        leg_got_records(s, &s->up);
        env.snapshot = NULL;
        dp_snapshot_free(snap);
        p->out[0] = p->pair.client_fd;
        p->out[1] = p->pair.server_fd;
    }
    s->to_up = (struct pump){.source = s->down.record, .target = s->up.record,
                             .splice_at = way->copied ? UINT64_MAX : 0};
    s->to_down = (struct pump){.source = s->up.record, .target = s->down.record};
}

static void passage_close(struct passage *p)
{
    pump_fini(&p->stream.to_up, &env.relay);
    pump_fini(&p->stream.to_down, &env.relay);
    if (p->stream.up.tls != NULL) {
        pair_close(&p->pair);
    } else {
        close(p->out[0]);
        close(p->out[1]);
    }
    close(p->in[0]);
    close(p->in[1]);
}

/* Until the relay has passed so many bytes more, and the sink has had all that was sealed. */
static void pass(struct passage *p, uint64_t count)
{
    struct stream *s = &p->stream;
    uint64_t sent = 0, until = s->to_up.bytes + count;
    for (unsigned stalled = 0; s->to_up.bytes < until; stalled++) {
        MUST(stalled < STALLED);
        size_t len = count - sent < sizeof(bytes) ? (size_t)(count - sent) : sizeof(bytes);
        ssize_t n = len > 0 ? send(p->in[1], bytes, len, MSG_NOSIGNAL) : 0;
        uint64_t before = s->to_up.bytes;
        sent += n > 0 ? (uint64_t)n : 0;
        MUST(pump_run(&s->to_up, &env.relay, false) >= 0);
        if (s->up.tls != NULL && !s->up.decided) {
            MUST(pump_run(&s->to_down, &env.relay, false) >= 0); /* tickets */
            MUST(leg_move_records(s, &s->up) >= 0);
        }
        ssize_t got, all = 0;
        while ((got = recv(p->out[1], bytes, sizeof(bytes), 0)) > 0)
            all += got;
        if (n > 0 || all > 0 || s->to_up.bytes > before)
            stalled = 0;
        else
            p->idle++;
    }
}

/* The clock's ticks; where one is an instruction, a loop of two takes twice its count. */
static bool ticks_are_instructions(void)
{
    uint64_t count = LOOPS, began = __builtin_ia32_rdtsc();
    __asm__ volatile("1: dec %0\n jnz 1b" : "+r"(count) : : "cc");
    uint64_t took = __builtin_ia32_rdtsc() - began;
    printf("# a loop of %u instructions took %" PRIu64 " ticks\n", 2 * LOOPS, took);
    return took >= 2 * LOOPS && took < 2 * LOOPS + LOOPS / 50;
}

static void measure(const struct way *way)
{
    static struct passage p;
    passage_open(&p, way);
    pass(&p, WARM);
    uint64_t card = cable_count(0, "tx_tls_encrypt_cycles");
    uint64_t sealed = cable_count(0, "tx_tls_encrypted_bytes");
    p.idle = 0;
    uint64_t began = __builtin_ia32_rdtsc();
    pass(&p, MEASURED);
    uint64_t took = __builtin_ia32_rdtsc() - began;
    card = cable_count(0, "tx_tls_encrypt_cycles") - card;
    sealed = cable_count(0, "tx_tls_encrypted_bytes") - sealed;
    uint8_t layer = p.stream.up.record->ops->layer;
    if (way->layer != 0 || way->plain)
        CHECK_INT(layer, way->layer);
    CHECK_INT(p.stream.to_up.spliced, !way->copied && (layer == DP_RECORD_PLAIN ||
                                                       layer == DP_RECORD_KTLS ||
                                                       layer == DP_RECORD_NIC));
    CHECK_INT(sealed >= MEASURED, layer == DP_RECORD_NIC);
    CHECK(way->plain || p.stream.up.decided);
    CHECK_INT(p.idle, 0); /* else it waited, and the ticks are time */
    printf("cost %s layer %u total %.4f card %.4f\n", way->name, layer,
           (double)took / (MEASURED / MIB) / 1e6, (double)card / (MEASURED / MIB) / 1e6);
    passage_close(&p);
}

static void every_layer(void)
{
    REQUIRE(ticks_are_instructions());
    for (unsigned run = 0; run < RUNS; run++)
        for (size_t i = 0; i < DP_COUNT(ways); i++)
            measure(&ways[i]);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(every_layer)};
    cable_init();
    cable_deafen();
    sites_init(&sites);
    pair_sockets = over_the_cable;
    env.config = &config;
    env.stats = env.relay.stats = sites.stats;
    env.records = sites.buffers;
    MUST(buffers_new(4, 2, sites.stats, &env.relay.buffers) == 0);
    MUST(pipes_new(2, &env.relay.pipes) == 0);
    int failed = test_run(argc, argv, cases, DP_COUNT(cases));
    pipes_free(env.relay.pipes);
    buffers_free(env.relay.buffers);
    sites_fini(&sites);
    cable_fini();
    return failed;
}
