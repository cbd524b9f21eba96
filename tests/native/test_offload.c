/* test_offload.c: two sites under each offload profile: which layer a mesh link comes to have, why
 * not the one asked for, that its bytes arrive whichever, and that the ledger adds up. On a machine
 * whose kernel has TLS (TEST_RECORDS=kernel, see tests/qemu) streams move to it; on others not. */
#define _GNU_SOURCE
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "site.h"
#include "sys.h"
#include "test.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum { BULK = 1 << 20, LATE = 128 * 1024 };

static struct site a, b;         /* large, and their engines point into them */

static bool has_kernel_tls(void)
{
    const char *records = getenv("TEST_RECORDS");
    return records != NULL && strcmp(records, "kernel") == 0;
}

struct sending { int from, to; uint32_t seed; bool good; };

static uint8_t byte_of(uint32_t *state)
{
    return (uint8_t)((*state = *state * 1664525 + 1013904223) >> 24);
}

static void *send_bulk(void *arg)
{
    static const size_t pieces[] = {1, 100000, 16384, 70, 300000, 5};
    struct sending *sending = arg;
    uint8_t *bytes = malloc(300000);
    sending->good = true;
    for (size_t sent = 0, i = 0; sent < BULK && sending->good; i++) {
        size_t n = pieces[i % DP_COUNT(pieces)];
        n = n < BULK - sent ? n : BULK - sent;
        for (size_t b = 0; b < n; b++)
            bytes[b] = byte_of(&sending->seed);
        sending->good = site_send(sending->from, bytes, n);
        sent += n;
    }
    free(bytes);
    return NULL;
}

static void *receive_bulk(void *arg)
{
    struct sending *sending = arg;
    uint8_t *bytes = malloc(65536);
    sending->good = true;
    for (size_t got = 0; got < BULK && sending->good; got += 65536) {
        sending->good = site_receive(sending->to, bytes, 65536);
        for (size_t i = 0; i < 65536 && sending->good; i++)
            sending->good = bytes[i] == byte_of(&sending->seed);
    }
    free(bytes);
    return NULL;
}

/* BULK bytes from one to the other, and the other way, at once. */
static bool both_ways(int one, int other)
{
    struct sending jobs[] = {{one, other, 1, false}, {one, other, 1, false},
                             {other, one, 2, false}, {other, one, 2, false}};
    pthread_t threads[DP_COUNT(jobs)];
    bool good = true;
    for (size_t i = 0; i < DP_COUNT(jobs); i++)
        if (pthread_create(&threads[i], NULL, i % 2 ? receive_bulk : send_bulk, &jobs[i]) != 0)
            abort();
    for (size_t i = 0; i < DP_COUNT(jobs); i++) {
        pthread_join(threads[i], NULL);
        good &= jobs[i].good;
    }
    return good;
}

static uint64_t sum(const struct site *site, uint32_t first, uint32_t count)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += site_stat(site, first + i);
    return total;
}

struct outcome {
    uint8_t layer;               /* enum dp_record_layer */
    uint8_t fallback;            /* enum dp_fallback */
};

struct profile {
    const char *what;
    dp_offload at_a, at_b;
    bool bulky;
    uint16_t version;
    struct outcome want, on_kernel; /* of both ends; the latter where the kernel has TLS */
};

static const struct profile profiles[] = {
    {"user", {.records = DP_PREFER_USER}, {.records = DP_PREFER_USER}, true, 0x0304,
     {DP_RECORD_USER, DP_FALLBACK_NONE}, {DP_RECORD_USER, DP_FALLBACK_NONE}},
    {"openssl", {.records = DP_PREFER_OPENSSL}, {.records = DP_PREFER_OPENSSL}, true, 0x0304,
     {DP_RECORD_OPENSSL, DP_FALLBACK_NONE}, {DP_RECORD_OPENSSL, DP_FALLBACK_NONE}},
    {"openssl, TLS 1.2", {.records = DP_PREFER_OPENSSL, .tls12 = DP_TLS12_PREFER},
     {.records = DP_PREFER_OPENSSL, .tls12 = DP_TLS12_ALLOW}, true, 0x0303,
     {DP_RECORD_OPENSSL, DP_FALLBACK_NONE}, {DP_RECORD_OPENSSL, DP_FALLBACK_NONE}},
    {"user, TLS 1.2", {.records = DP_PREFER_USER, .tls12 = DP_TLS12_PREFER},
     {.records = DP_PREFER_USER, .tls12 = DP_TLS12_ALLOW}, true, 0x0303,
     {DP_RECORD_USER, DP_FALLBACK_NONE}, {DP_RECORD_USER, DP_FALLBACK_NONE}},
    {"ktls at once", {.records = DP_PREFER_KTLS}, {.records = DP_PREFER_KTLS}, true, 0x0304,
     {DP_RECORD_USER, DP_FALLBACK_NO_KERNEL_TLS}, {DP_RECORD_KTLS, DP_FALLBACK_NONE}},
    {"ktls at once, TLS 1.2", {.records = DP_PREFER_KTLS, .tls12 = DP_TLS12_PREFER},
     {.records = DP_PREFER_KTLS, .tls12 = DP_TLS12_ALLOW}, true, 0x0303,
     {DP_RECORD_USER, DP_FALLBACK_NO_KERNEL_TLS}, {DP_RECORD_KTLS, DP_FALLBACK_NONE}},
    {"ktls later", {.records = DP_PREFER_KTLS, .bytes_min = LATE},
     {.records = DP_PREFER_KTLS, .bytes_min = LATE}, true, 0x0304,
     {DP_RECORD_USER, DP_FALLBACK_NO_KERNEL_TLS}, {DP_RECORD_KTLS, DP_FALLBACK_NONE}},
    {"ktls later, ChaCha20", {.records = DP_PREFER_KTLS, .bytes_min = LATE, .ciphers = 4},
     {.records = DP_PREFER_KTLS, .bytes_min = LATE}, true, 0x0304,
     {DP_RECORD_USER, DP_FALLBACK_NO_KERNEL_TLS}, {DP_RECORD_KTLS, DP_FALLBACK_NONE}},
    {"ktls later, TLS 1.2",
     {.records = DP_PREFER_KTLS, .bytes_min = LATE, .tls12 = DP_TLS12_PREFER, .ciphers = 2},
     {.records = DP_PREFER_KTLS, .bytes_min = LATE, .tls12 = DP_TLS12_ALLOW}, true, 0x0303,
     {DP_RECORD_USER, DP_FALLBACK_NO_KERNEL_TLS}, {DP_RECORD_KTLS, DP_FALLBACK_NONE}},
    {"ktls for the bulky only", {.records = DP_PREFER_KTLS, .bytes_min = LATE},
     {.records = DP_PREFER_KTLS, .bytes_min = LATE}, false, 0x0304,
     {DP_RECORD_USER, DP_FALLBACK_SMALL}, {DP_RECORD_USER, DP_FALLBACK_SMALL}},
    {"nic without TLS 1.2", {.records = DP_PREFER_NIC}, {.records = DP_PREFER_NIC}, true, 0x0304,
     {DP_RECORD_USER, DP_FALLBACK_VERSION}, {DP_RECORD_USER, DP_FALLBACK_VERSION}},
    {"nic that nobody offers TLS 1.2 for",
     {.records = DP_PREFER_NIC, .bytes_min = LATE}, {.records = DP_PREFER_NIC, .bytes_min = LATE},
     true, 0x0304,
     {DP_RECORD_USER, DP_FALLBACK_VERSION}, {DP_RECORD_USER, DP_FALLBACK_VERSION}},
    {"nic at once", {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_PREFER},
     {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_ALLOW}, true, 0x0303,
     {DP_RECORD_USER, DP_FALLBACK_NO_KERNEL_TLS}, {DP_RECORD_KTLS, DP_FALLBACK_NO_DEVICE}},
    {"nic later", {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_PREFER, .bytes_min = LATE},
     {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_ALLOW, .bytes_min = LATE}, true, 0x0303,
     {DP_RECORD_USER, DP_FALLBACK_NO_KERNEL_TLS}, {DP_RECORD_KTLS, DP_FALLBACK_NO_DEVICE}},
};

static void check_ledger(const struct site *site, const struct profile *profile,
                         const struct outcome *want)
{
    static const uint32_t stats[] = {
        [DP_RECORD_OPENSSL] = STAT_RECORDS_OPENSSL, [DP_RECORD_USER] = STAT_RECORDS_USER,
        [DP_RECORD_KTLS] = STAT_RECORDS_KTLS};
    uint64_t legs = site_stat(site, STAT_HANDSHAKES_SERVER) +
                    site_stat(site, STAT_HANDSHAKES_CLIENT);
    bool good = CHECK_INT(legs, 1);
    good &= CHECK_INT(sum(site, STAT_RECORDS_OPENSSL, 4), legs);
    good &= CHECK_INT(sum(site, STAT_FALLBACK_0, DP_FALLBACK_COUNT), legs);
    good &= CHECK_INT(site_stat(site, stats[want->layer]), legs);
    good &= CHECK_INT(site_stat(site, STAT_FALLBACK_0 + want->fallback), legs);
    if (!good)
        printf("# at %s under: %s\n", site->trust_domain, profile->what);
}

static void run_profile(const struct profile *profile, bool twice)
{
    const struct outcome *want = has_kernel_tls() ? &profile->on_kernel : &profile->want;
    uint16_t port;
    site_init_pair(&a, &b);
    a.offload = &profile->at_a;
    b.offload = &profile->at_b;
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    site_start_pair(&a, &b);
    int client = site_connect(&a, "127.0.1.1");
    int accepted = client >= 0 ? site_accept(service) : -1;
    if (CHECK(accepted >= 0) && CHECK(site_echo(client, accepted))) {
        if (profile->bulky)
            CHECK(both_ways(client, accepted));
        if (profile->bulky && twice)
            CHECK(both_ways(accepted, client));
        CHECK(site_echo(client, accepted));
        shutdown(client, SHUT_WR);
        CHECK(site_ended(accepted));
        CHECK(site_send(accepted, "late", 4));
        char late[4];
        CHECK(site_receive(client, late, 4));
        close(accepted);
        accepted = -1;
        CHECK(site_ended(client));
        const struct site_event *event = site_wait_event(&a, DP_EVENT_CLOSE);
        bool good = CHECK(event != NULL);
        if (good) {
            good &= CHECK_INT(event->head.up_layer, want->layer);
            good &= CHECK_INT(event->head.up_fallback, want->fallback);
            good &= CHECK_INT(event->head.down_fallback, DP_FALLBACK_NONE);
            good &= CHECK_INT(event->head.up_tls, profile->version);
            good &= CHECK_INT(event->head.reason, DP_REASON_NONE);
        }
        event = site_wait_event(&b, DP_EVENT_CLOSE);
        good &= CHECK(event != NULL);
        if (event != NULL) {
            good &= CHECK_INT(event->head.down_layer, want->layer);
            good &= CHECK_INT(event->head.down_fallback, want->fallback);
            good &= CHECK_INT(event->head.reason, DP_REASON_NONE);
        }
        if (!good)
            printf("# under: %s\n", profile->what);
        CHECK(site_wait_idle(&a) && site_wait_idle(&b));
        check_ledger(&a, profile, want);
        check_ledger(&b, profile, want);
    }
    close(client);
    close(accepted);
    close(service);
    site_fini(&a);
    site_fini(&b);
}

static void every_profile(void)
{
    for (size_t i = 0; i < DP_COUNT(profiles); i++)
        run_profile(&profiles[i], false);
}

/* The reason is each side's own. */
static void a_peer_that_does_not_agree(void)
{
    static const struct profile profile = {
        "nic, and the peer never",
        {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_PREFER}, {.records = DP_PREFER_USER},
        true, 0x0304, {0, 0}, {0, 0}};
    uint16_t port;
    site_init_pair(&a, &b);
    a.offload = &profile.at_a;
    b.offload = &profile.at_b;
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    site_start_pair(&a, &b);
    int client = site_connect(&a, "127.0.1.1"), accepted = client >= 0 ? site_accept(service) : -1;
    CHECK(accepted >= 0 && site_echo(client, accepted));
    close(client);
    close(accepted);
    CHECK(site_wait_idle(&a) && site_wait_idle(&b));
    check_ledger(&a, &profile, &(struct outcome){DP_RECORD_USER, DP_FALLBACK_PEER});
    check_ledger(&b, &profile, &(struct outcome){DP_RECORD_USER, DP_FALLBACK_NONE});
    close(service);
    site_fini(&a);
    site_fini(&b);
}

/* Our own records are the cheaper ones: a bulky stream stays with them, and that is said. */
static void auto_takes_the_cheaper(void)
{
    static const struct profile profile = {
        "auto", {.records = DP_PREFER_AUTO}, {.records = DP_PREFER_AUTO}, true, 0x0304,
        {DP_RECORD_USER, DP_FALLBACK_DEARER}, {DP_RECORD_USER, DP_FALLBACK_DEARER}};
    run_profile(&profile, true);
}

/* A kernel with a NIC, played by the test: it takes every key, counts, and leaves bytes as they are
 * at both ends. */
static atomic_uint on_the_card, opened_beside;
static bool card_opens;          /* or leaves that to the kernel */

static int card_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    if (level == SOL_TLS && name == TLS_TX)
        atomic_fetch_add(&on_the_card, 1);
    if (level == SOL_TLS && name == TLS_RX)
        atomic_fetch_add(&opened_beside, 1);
    return level == SOL_TLS || (level == IPPROTO_TCP && name == TCP_ULP)
               ? 0
               : sys_real.setsockopt(fd, level, name, value, len);
}

static int card_open(const char *path)
{
    if (!CHECK_TEXT(path, "/proc/self/net/tls_stat"))
        return -ENOENT;
    char text[64];
    int len = snprintf(text, sizeof(text), "TlsTxDevice %u\n%s %u\n", atomic_load(&on_the_card),
                       card_opens ? "TlsRxDevice" : "TlsRxSw", atomic_load(&opened_beside));
    int fd = memfd_create("tls_stat", 0);
    if (fd < 0 || write(fd, text, (size_t)len) != len || lseek(fd, 0, SEEK_SET) != 0)
        abort();
    return fd;
}

static ssize_t card_recvmsg(int fd, struct msghdr *message, int flags)
{
    size_t room = message->msg_controllen;
    ssize_t n = sys_real.recvmsg(fd, message, flags);
    if (n <= 0)
        return n;
    message->msg_controllen = room;
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    head->cmsg_level = SOL_TLS;
    head->cmsg_type = TLS_GET_RECORD_TYPE;
    head->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(head) = 23; /* data */
    return n;
}

static struct sys_table with_a_card(bool opens)
{
    struct sys_table table = sys_real;
    table.setsockopt = card_setsockopt;
    table.open = card_open;
    table.recvmsg = card_recvmsg;
    card_opens = opens;
    return table;
}

/* Says it behind another, so that the first has been looked after when the second is taken. */
static void lose(const struct site *site, const char *address, uint64_t seen_ns)
{
    uint8_t addrs[2][16];
    site_address("198.18.0.9", addrs[0]);
    site_address(address, addrs[1]);
    CHECK_INT(dp_engine_lose_links(site->engine, addrs[0], 2, seen_ns), 0);
    CHECK_INT(dp_engine_lose_links(site->engine, addrs[0], 1, seen_ns), 0);
    int64_t until_ms = clock_ms() + SITE_WAIT_MS;
    while (dp_engine_applied(site->engine) < dp_engine_published(site->engine) &&
           CHECK(clock_ms() < until_ms))
        poll(NULL, 0, 1);
}

/* What the card has is the kernel's own once its link is lost, for good, and that is told and
 * counted; other links' and later legs are not concerned. */
static void lose_a_link(uint8_t why)
{
    static const dp_offload at_a = {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_PREFER},
                            at_b = {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_ALLOW};
    static const char a_end[] = "127.0.0.1", b_end[] = "127.0.2.1";
    const uint32_t lost = STAT_FALLBACK_0 + DP_FALLBACK_LINK_CHANGED;
    struct sys_table table = with_a_card(why == DP_FALLBACK_NONE);
    sys = &table;
    uint16_t port;
    int clients[2] = {-1, -1}, accepted[2] = {-1, -1};
    site_init(&a, "a.test", 1);
    site_init(&b, "b.test", 1);
    site_trust(&a, &b);
    site_trust(&b, &a);
    a.offload = &at_a;
    b.offload = &at_b;
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    site_start(&b);
    site_add_mesh(&a, &b);
    uint8_t address[16] = {0};
    site_open(&a);
    CHECK_INT(dp_engine_lose_links(a.engine, address, 1, 0), 0); /* it does not run yet */
    site_start(&a);
    CHECK_INT(dp_engine_lose_links(a.engine, address, 0, 0), -EINVAL);
    CHECK_INT(dp_engine_lose_links(a.engine, address, DP_LOST_MAX + 1, 0), -EINVAL);
    uint64_t before_ns = clock_ns(), seen_ns = 0;
    for (int i = 0; i < 2; i++) {
        clients[i] = site_connect(&a, "127.0.1.1");
        accepted[i] = clients[i] >= 0 ? site_accept(service) : -1;
        if (!CHECK(accepted[i] >= 0) || !CHECK(site_echo(clients[i], accepted[i])))
            break;
        const struct site_event *event = site_wait_event(&a, DP_EVENT_OPEN);
        if (CHECK(event != NULL)) {
            CHECK_INT(event->head.up_layer, DP_RECORD_NIC);
            CHECK_INT(event->head.up_fallback, why);
        }
        if (i == 1)
            break;
        seen_ns = clock_ns();
        lose(&a, b_end, seen_ns);
        lose(&a, a_end, before_ns);
        CHECK_INT(site_stat(&a, lost), 0);
        lose(&a, a_end, seen_ns);
        lose(&b, b_end, seen_ns);
        event = site_wait_event(&a, DP_EVENT_UPDATE);
        if (CHECK(event != NULL)) {
            CHECK_INT(event->head.up_layer, DP_RECORD_KTLS);
            CHECK_INT(event->head.up_fallback, DP_FALLBACK_LINK_CHANGED);
        }
        event = site_wait_event(&b, DP_EVENT_UPDATE);
        if (CHECK(event != NULL)) {
            CHECK_INT(event->head.down_layer, DP_RECORD_KTLS);
            CHECK_INT(event->head.down_fallback, DP_FALLBACK_LINK_CHANGED);
        }
        CHECK(site_echo(clients[0], accepted[0]));
    }
    lose(&a, a_end, seen_ns);
    CHECK_INT(site_stat(&a, lost), 1);
    CHECK_INT(site_stat(&b, lost), 1);
    CHECK_INT(site_stat(&a, STAT_RECORDS_NIC), 2);
    CHECK_INT(site_stat(&a, STAT_FALLBACK_0 + why), 2);
    CHECK_INT(site_stat(&a, STAT_SEALS_ONLY_LOST), why == DP_FALLBACK_SEALS_ONLY);
    CHECK_INT(sum(&a, STAT_RECORDS_OPENSSL, 4), 2);
    CHECK_INT(sum(&a, STAT_FALLBACK_0, DP_FALLBACK_COUNT), 2 + 1);
    CHECK(site_echo(clients[1], accepted[1]));
    for (int i = 0; i < 2; i++) {
        close(clients[i]);
        close(accepted[i]);
    }
    close(service);
    site_fini(&a);
    site_fini(&b);
    sys = &sys_real;
}

static void a_link_is_lost(void)
{
    lose_a_link(DP_FALLBACK_NONE);
}

static void a_link_of_a_card_that_only_seals_is_lost(void)
{
    lose_a_link(DP_FALLBACK_SEALS_ONLY);
}

/* The loss was before the card had the leg, though the leg was there: told again, as to a process
 * that connects anew, it is none of the leg's. */
static void a_link_was_lost_before_the_card_had_the_leg(void)
{
    static const dp_offload at_a = {.records = DP_PREFER_NIC, .tls12 = DP_TLS12_PREFER,
                                    .bytes_min = LATE},
                            at_b = {.records = DP_PREFER_USER, .tls12 = DP_TLS12_ALLOW};
    static const uint8_t bulk[LATE];
    static uint8_t got[LATE];
    const uint32_t lost = STAT_FALLBACK_0 + DP_FALLBACK_LINK_CHANGED;
    struct sys_table table = with_a_card(true);
    sys = &table;
    uint16_t port;
    site_init_pair(&a, &b);
    a.offload = &at_a;
    b.offload = &at_b;
    int service = site_listen(&port);
    site_add_plain(&b.inbound, port);
    site_start_pair(&a, &b);
    int client = site_connect(&a, "127.0.1.1"), accepted = client >= 0 ? site_accept(service) : -1;
    CHECK(accepted >= 0 && site_echo(client, accepted));
    uint64_t seen_ns = clock_ns();
    lose(&a, "127.0.0.1", seen_ns);
    CHECK(site_send(client, bulk, sizeof(bulk)) && site_receive(accepted, got, sizeof(got)));
    CHECK(site_wait_stat(&a, STAT_RECORDS_NIC, 1));
    lose(&a, "127.0.0.1", seen_ns);
    CHECK_INT(site_stat(&a, lost), 0);
    lose(&a, "127.0.0.1", clock_ns());
    CHECK_INT(site_stat(&a, lost), 1);
    close(client); /* the other end has keys, and the card leaves bytes as they are */
    close(accepted);
    close(service);
    site_fini(&a);
    site_fini(&b);
    sys = &sys_real;
}

SITE_TEST_MAIN(TEST(every_profile), TEST(a_peer_that_does_not_agree), TEST(auto_takes_the_cheaper),
               TEST(a_link_is_lost), TEST(a_link_of_a_card_that_only_seals_is_lost),
               TEST(a_link_was_lost_before_the_card_had_the_leg))
