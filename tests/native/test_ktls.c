/* test_ktls.c: kernel TLS with the kernel played by the test: what it is handed, each step refused,
 * and every control record that a peer may send. What a real kernel does is tried in tests/qemu. */
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "aead.h"
#include "keys.h"
#include "record_control.h"
#include "record_ktls.h"
#include "record_user.h"
#include "sys.h"
#include "test.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum { FD = 1000, STAT_FD = 1001, CALLS_MAX = 8, INSTALLING = 3, SCRIPT_MAX = 64, MESSAGE_MAX = 1024 };

/* The kernel's part. */
static struct call {
    int level, name;
    uint8_t value[64];
    socklen_t len;
} calls[CALLS_MAX];
static size_t call_count;
static int results[CALLS_MAX];   /* of the calls, in turn */
static const char *stat_before, *stat_after; /* /proc/net/tls_stat; NULL = there is none */
static size_t stat_off;

static struct step {             /* what recvmsg gives: bytes of a type, or an error */
    ssize_t result;
    uint8_t type;                /* 0 = none is told, as at a FIN */
    const uint8_t *bytes;
} script[SCRIPT_MAX];
static size_t script_len, script_at, step_off;

static uint8_t sent_type, sent[64];
static ssize_t sent_len;
static int send_result;          /* 0 = all of it */

static int fake_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    CHECK_INT(fd, FD);
    struct call *call = &calls[call_count];
    *call = (struct call){.level = level, .name = name, .len = len};
    memcpy(call->value, value, len);
    return results[call_count++];
}

static const char *stat_text(void)
{
    return call_count == 0 ? stat_before : stat_after;
}

static int fake_open(const char *path)
{
    CHECK_TEXT(path, "/proc/self/net/tls_stat");
    stat_off = 0;
    return stat_text() != NULL ? STAT_FD : -ENOENT;
}

static ssize_t fake_read(int fd, void *buf, size_t len)
{
    CHECK_INT(fd, STAT_FD);
    size_t n = strlen(stat_text() + stat_off);
    n = n < 7 ? n : 7; /* in pieces */
    n = n < len ? n : len;
    memcpy(buf, stat_text() + stat_off, n);
    stat_off += n;
    return (ssize_t)n;
}

static int fake_close(int fd)
{
    CHECK_INT(fd, STAT_FD);
    return 0;
}

static ssize_t fake_recvmsg(int fd, struct msghdr *message, int flags)
{
    CHECK_INT(fd, FD);
    CHECK_INT(flags, 0);
    if (script_at == script_len)
        return -EAGAIN;
    const struct step *step = &script[script_at];
    if (step->result < 0) {
        script_at++;
        return step->result;
    }
    size_t n = (size_t)step->result - step_off;
    if (n > message->msg_iov[0].iov_len)
        n = message->msg_iov[0].iov_len;
    if (n > 0)
        memcpy(message->msg_iov[0].iov_base, step->bytes + step_off, n);
    step_off += n;
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    head->cmsg_level = SOL_TLS;
    head->cmsg_type = TLS_GET_RECORD_TYPE;
    head->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(head) = step->type;
    message->msg_controllen = step->type != 0 ? CMSG_SPACE(1) : 0;
    if (step_off == (size_t)step->result) {
        script_at++;
        step_off = 0;
    }
    return (ssize_t)n;
}

static ssize_t fake_sendmsg(int fd, const struct msghdr *message, int flags)
{
    const struct cmsghdr *head = CMSG_FIRSTHDR(message);
    CHECK_INT(fd, FD);
    CHECK_INT(flags, MSG_NOSIGNAL);
    if (send_result < 0)
        return send_result;
    CHECK_INT(head->cmsg_level, SOL_TLS);
    CHECK_INT(head->cmsg_type, TLS_SET_RECORD_TYPE);
    CHECK_INT(head->cmsg_len, CMSG_LEN(1));
    sent_type = *CMSG_DATA(head);
    sent_len = (ssize_t)message->msg_iov[0].iov_len;
    memcpy(sent, message->msg_iov[0].iov_base, (size_t)sent_len);
    return sent_len;
}

static ssize_t fake_send(int fd, const void *buf, size_t len, int flags)
{
    (void)buf;
    CHECK_INT(fd, FD);
    CHECK_INT(flags, MSG_NOSIGNAL);
    return send_result < 0 ? send_result : (ssize_t)len;
}

static struct sys_table fake;

static void kernel_begin(void)
{
    memset(results, 0, sizeof(results));
    results[INSTALLING] = -EBUSY; /* of a kernel before 6.14: there are keys already */
    call_count = script_len = script_at = step_off = 0;
    sent_type = 0;
    sent_len = 0;
    send_result = 0;
    fake = sys_real;
    fake.setsockopt = fake_setsockopt;
    fake.recvmsg = fake_recvmsg;
    fake.sendmsg = fake_sendmsg;
    fake.send = fake_send;
    fake.open = fake_open;
    fake.read = fake_read;
    fake.close = fake_close;
    sys = &fake;
}

static void then(uint8_t type, const void *bytes, size_t len)
{
    script[script_len++] = (struct step){.result = (ssize_t)len, .type = type, .bytes = bytes};
}

static void then_error(int error)
{
    script[script_len++] = (struct step){.result = error};
}

/* The owner's part. */
static struct {
    int failed, settled, tickets;
    bool by_peer;
    uint8_t alert;
    uint8_t record[MESSAGE_MAX]; /* the last ticket */
    size_t record_len;
    int ticket_result;
} owner;

static void on_failed(void *arg, bool by_peer, uint8_t alert, const char *why)
{
    CHECK(arg == &owner);
    CHECK(by_peer == (why[0] == '\0'));
    owner.failed++;
    owner.by_peer = by_peer;
    owner.alert = alert;
}

static int on_ticket(void *arg, const uint8_t *record, size_t len)
{
    CHECK(arg == &owner);
    owner.tickets++;
    if (CHECK(len <= sizeof(owner.record)))
        memcpy(owner.record, record, len);
    owner.record_len = len;
    return owner.ticket_result;
}

static void on_settled(void *arg)
{
    CHECK(arg == &owner);
    owner.settled++;
}

static uint8_t tx_secret[KEYS_SECRET_MAX], rx_secret[KEYS_SECRET_MAX];
static struct stats *stats;
static struct buffers *buffers;

static struct record_ktls *open_as(bool is_server)
{
    struct record_ktls *ktls = NULL;
    enum dp_fallback why;
    memset(tx_secret, 0x17, sizeof(tx_secret));
    memset(rx_secret, 0x71, sizeof(rx_secret));
    kernel_begin();
    memset(&owner, 0, sizeof(owner));
    CHECK_INT(stats_new(&stats), 0);
    CHECK_INT(buffers_new_sized(RECORD_SMALL, 2, RECORD_LARGE, 1, stats, &buffers), 0);
    const struct record_ktls_spec spec = {
        .fd = FD, .is_server = is_server, .cipher = 0x1301, .buffers = buffers,
        .read = {.secret = rx_secret}, .write = {.secret = tx_secret, .seq = 2},
        .owner = {.arg = &owner, .failed = on_failed, .ticket = is_server ? NULL : on_ticket,
                  .settled = is_server ? NULL : on_settled}};
    CHECK_INT(record_ktls_new(&spec, &ktls, &why), 0);
    return ktls;
}

static void close_it(struct record_ktls *ktls)
{
    record_ktls_free(ktls);
    buffers_free(buffers);
    stats_free(stats);
    sys = &sys_real;
}

static ssize_t read_of(struct record_ktls *ktls, void *buf, size_t len)
{
    struct record *rec = record_ktls_record(ktls);
    return rec->ops->read(rec, buf, len);
}

static bool pending(const struct record_ktls *ktls)
{
    const struct record *rec = record_ktls_record((struct record_ktls *)ktls);
    return rec->ops->pending(rec);
}

/* Handing over. */

static void what_the_kernel_is_handed(void)
{
    static const struct {
        uint16_t cipher, type;
        size_t key, salt, iv;    /* offsets into its structure, as linux/tls.h has them */
        size_t seq, size;
    } cases[] = {
        {0x1301, TLS_CIPHER_AES_GCM_128, offsetof(struct tls12_crypto_info_aes_gcm_128, key),
         offsetof(struct tls12_crypto_info_aes_gcm_128, salt),
         offsetof(struct tls12_crypto_info_aes_gcm_128, iv),
         offsetof(struct tls12_crypto_info_aes_gcm_128, rec_seq),
         sizeof(struct tls12_crypto_info_aes_gcm_128)},
        {0x1302, TLS_CIPHER_AES_GCM_256, offsetof(struct tls12_crypto_info_aes_gcm_256, key),
         offsetof(struct tls12_crypto_info_aes_gcm_256, salt),
         offsetof(struct tls12_crypto_info_aes_gcm_256, iv),
         offsetof(struct tls12_crypto_info_aes_gcm_256, rec_seq),
         sizeof(struct tls12_crypto_info_aes_gcm_256)},
        {0x1303, TLS_CIPHER_CHACHA20_POLY1305,
         offsetof(struct tls12_crypto_info_chacha20_poly1305, key), 0,
         offsetof(struct tls12_crypto_info_chacha20_poly1305, iv),
         offsetof(struct tls12_crypto_info_chacha20_poly1305, rec_seq),
         sizeof(struct tls12_crypto_info_chacha20_poly1305)},
        {0xc02b, TLS_CIPHER_AES_GCM_128, offsetof(struct tls12_crypto_info_aes_gcm_128, key),
         offsetof(struct tls12_crypto_info_aes_gcm_128, salt),
         offsetof(struct tls12_crypto_info_aes_gcm_128, iv),
         offsetof(struct tls12_crypto_info_aes_gcm_128, rec_seq),
         sizeof(struct tls12_crypto_info_aes_gcm_128)},
        {0xc02c, TLS_CIPHER_AES_GCM_256, offsetof(struct tls12_crypto_info_aes_gcm_256, key),
         offsetof(struct tls12_crypto_info_aes_gcm_256, salt),
         offsetof(struct tls12_crypto_info_aes_gcm_256, iv),
         offsetof(struct tls12_crypto_info_aes_gcm_256, rec_seq),
         sizeof(struct tls12_crypto_info_aes_gcm_256)},
    };
    static const uint8_t seq[] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        uint8_t key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE];
        enum dp_fallback why;
        memset(tx_secret, 0x17, sizeof(tx_secret));
        memset(rx_secret, 0x71, sizeof(rx_secret));
        const struct ktls_direction tx = {.secret = tx_secret, .seq = UINT64_C(0x0102030405060708)};
        const struct ktls_direction rx = {.secret = rx_secret};
        kernel_begin();
        CHECK_INT(ktls_install(FD, cases[i].cipher, &tx, &rx, &why), 0);
        REQUIRE_INT(call_count, 3);
        CHECK_INT(calls[0].level, IPPROTO_TCP);
        CHECK_INT(calls[0].name, TCP_ULP);
        CHECK(calls[0].len == 3 && memcmp(calls[0].value, "tls", 3) == 0);
        CHECK_INT(calls[1].name, TLS_TX);
        CHECK_INT(calls[2].name, TLS_RX);
        for (size_t c = 1; c <= 2; c++) {
            const uint8_t *value = calls[c].value;
            struct tls_crypto_info head;
            memcpy(&head, value, sizeof(head));
            CHECK_INT(calls[c].level, SOL_TLS);
            CHECK_INT(calls[c].len, cases[i].size);
            bool tls12 = keys_is_tls12(cases[i].cipher);
            CHECK_INT(head.version, tls12 ? TLS_1_2_VERSION : TLS_1_3_VERSION);
            CHECK_INT(head.cipher_type, cases[i].type);
            REQUIRE_INT(keys_derive(cases[i].cipher, c == 1 ? tx_secret : rx_secret, key, iv), 0);
            CHECK(memcmp(value + cases[i].key, key, keys_key_size(cases[i].cipher)) == 0);
            size_t salt = cases[i].salt != 0 ? 4 : 0;
            if (tls12 && c == 1) /* the next explicit nonce: 0x1717171717171717 and the number */
                memcpy(iv + 4, (uint8_t[]){0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f}, 8);
            CHECK(memcmp(value + cases[i].salt, iv, salt) == 0);
            CHECK(memcmp(value + cases[i].iv, iv + salt, sizeof(iv) - salt) == 0);
            static const uint8_t zero[8];
            CHECK(memcmp(value + cases[i].seq, c == 1 ? seq : zero, 8) == 0);
        }
    }
    sys = &sys_real;
}

static void each_step_refused(void)
{
    static const struct {
        int step, error, result;
        enum dp_fallback why;
    } cases[] = {
        {0, -ENOENT, -ENOTSUP, DP_FALLBACK_NO_KERNEL_TLS},
        {0, -ENOTCONN, -ENOTSUP, DP_FALLBACK_SOCKET},
        {0, -EEXIST, -ENOTSUP, DP_FALLBACK_SOCKET},
        {1, -EINVAL, -ENOTSUP, DP_FALLBACK_KERNEL_CIPHER},
        {1, -ENOENT, -ENOTSUP, DP_FALLBACK_KERNEL_CIPHER},
        {1, -ENOMEM, -ENOTSUP, DP_FALLBACK_MEMORY},
        {2, -EINVAL, -EIO, DP_FALLBACK_HALF},
        {2, -ENOMEM, -EIO, DP_FALLBACK_HALF},
    };
    const struct ktls_direction direction = {.secret = tx_secret};
    enum dp_fallback why;
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        kernel_begin();
        results[cases[i].step] = cases[i].error;
        why = DP_FALLBACK_NONE;
        CHECK_INT(ktls_install(FD, 0x1301, &direction, &direction, &why), cases[i].result);
        CHECK_INT(why, cases[i].why);
        CHECK_INT(call_count, cases[i].step + 1); /* nothing is tried after a refusal */
    }
    kernel_begin();
    CHECK_INT(ktls_install(FD, 0xc02f, &direction, &direction, &why), -ENOTSUP);
    CHECK_INT(why, DP_FALLBACK_CIPHER);
    CHECK_INT(call_count, 0);
    sys = &sys_real;
}

static void the_device_is_seen_by_its_count(void)
{
#define FLOWS(tx_sw, rx_sw, tx_device, rx_device) \
    "TlsCurrTxSw " #tx_sw "\nTlsCurrRxDevice 9\nTlsTxSw " #tx_sw "\nTlsRxSw " #rx_sw \
    "\nTlsTxDevice " #tx_device "\nTlsRxDevice " #rx_device "\n"
    static const char before[] = FLOWS(5, 6, 7, 8);
    static const struct {
        const char *before, *after;
        int result;              /* of TLS_TX */
        enum dp_fallback why;
    } cases[] = {
        {before, FLOWS(5, 6, 8, 9), 0, DP_FALLBACK_NONE},
        {before, FLOWS(5, 7, 8, 8), 0, DP_FALLBACK_SEALS_ONLY},
        {before, FLOWS(6, 6, 7, 9), 0, DP_FALLBACK_NO_DEVICE},
        {before, FLOWS(6, 7, 7, 8), 0, DP_FALLBACK_NO_DEVICE},
        {before, FLOWS(5, 6, 8, 9), -EINVAL, DP_FALLBACK_KERNEL_CIPHER},
        {before, FLOWS(5, 6, 9, 10), 0, DP_FALLBACK_NONE}, /* another process's too */
        {before, FLOWS(5, 8, 9, 8), 0, DP_FALLBACK_SEALS_ONLY},
        {before, FLOWS(6, 7, 8, 9), 0, DP_FALLBACK_IN_DOUBT}, /* which of them is ours? */
        {before, FLOWS(5, 7, 8, 9), 0, DP_FALLBACK_IN_DOUBT},
        {before, FLOWS(6, 6, 8, 9), 0, DP_FALLBACK_IN_DOUBT},
        {before, before, 0, DP_FALLBACK_IN_DOUBT},
        {before, NULL, 0, DP_FALLBACK_IN_DOUBT},
        {NULL, before, 0, DP_FALLBACK_IN_DOUBT},
        {NULL, NULL, 0, DP_FALLBACK_IN_DOUBT},
        {"", "", 0, DP_FALLBACK_IN_DOUBT},
    };
#undef FLOWS
    const struct ktls_direction direction = {.secret = tx_secret};
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        enum dp_fallback why = DP_FALLBACK_NONE;
        kernel_begin();
        stat_before = cases[i].before;
        stat_after = cases[i].after;
        results[1] = cases[i].result;
        CHECK_INT(ktls_install_seen(FD, 0xc02b, &direction, &direction, &why),
                  cases[i].result < 0 ? -ENOTSUP : 0);
        CHECK_INT(why, cases[i].why);
    }
    sys = &sys_real;
}

/* Reading. */

static void data_and_its_ends(void)
{
    static const struct {
        uint8_t type;
        const char *bytes;
        ssize_t len;             /* or error */
        ssize_t end;             /* what read says then */
        int sent_alert;          /* -1 = none */
    } cases[] = {
        {RECORD_ALERT, "\x01\x00", 2, 0, -1},
        {RECORD_ALERT, "\x02\x2e", 2, -EBADMSG, -1},
        {RECORD_ALERT, "\x01\x2e", 2, -EBADMSG, -1}, /* a level means nothing */
        {RECORD_ALERT, "\x01\x5a\x01\x00", 4, 0, -1}, /* user_canceled, then close_notify */
        {0, "", 0, -ENODATA, -1},
        {0, NULL, -ECONNRESET, -ECONNRESET, -1},
        {0, NULL, -EBADMSG, -EBADMSG, ALERT_BAD_RECORD_MAC},
        {0, NULL, -EMSGSIZE, -EBADMSG, ALERT_RECORD_OVERFLOW},
        {0, NULL, -EINVAL, -EBADMSG, ALERT_DECODE_ERROR},
        {99, "what", 4, -EBADMSG, ALERT_UNEXPECTED_MESSAGE},
        {RECORD_ALERT, "", 0, -EBADMSG, ALERT_UNEXPECTED_MESSAGE},
        {RECORD_HANDSHAKE, "", 0, -EBADMSG, ALERT_UNEXPECTED_MESSAGE},
        {RECORD_HANDSHAKE, "\x01\x00\x00\x00", 4, -EBADMSG, ALERT_UNEXPECTED_MESSAGE},
        {RECORD_HANDSHAKE, "\x18\x00\x00\x01\x00", 5, -EBADMSG, ALERT_INTERNAL_ERROR},
        {RECORD_HANDSHAKE, "\x18\x00\x00\x01\x02", 5, -EBADMSG, ALERT_ILLEGAL_PARAMETER},
        {RECORD_HANDSHAKE, "\x18\x00\x00\x02\x00\x00", 6, -EBADMSG, ALERT_DECODE_ERROR},
    };
    for (size_t i = 0; i < 2 * DP_COUNT(cases); i++) {
        const __typeof__(cases[0]) *c = &cases[i / 2];
        size_t room = i % 2 == 0 ? 64 : 1; /* a control record in one piece, or byte by byte */
        struct record_ktls *ktls = open_as(true);
        struct record *rec = record_ktls_record(ktls);
        uint8_t buf[64];
        then(RECORD_DATA, "hello", 5);
        if (c->len < 0)
            then_error((int)c->len);
        else
            then(c->type, c->bytes, (size_t)c->len);
        CHECK_INT(read_of(ktls, buf, sizeof(buf)), 5);
        CHECK(memcmp(buf, "hello", 5) == 0);
        CHECK(pending(ktls));
        CHECK_INT(read_of(ktls, buf, room), c->end);
        CHECK(!pending(ktls));
        CHECK_INT(read_of(ktls, buf, room), c->end);
        CHECK_INT(sent_len, c->sent_alert < 0 ? 0 : 2);
        if (c->sent_alert >= 0)
            CHECK(sent_type == RECORD_ALERT && sent[0] == 2 && sent[1] == c->sent_alert);
        CHECK_INT(owner.failed, c->end == -EBADMSG);
        CHECK_INT(owner.by_peer, c->end == -EBADMSG && c->sent_alert < 0);
        CHECK_INT(record_ktls_met_key_update(ktls), c->sent_alert == ALERT_INTERNAL_ERROR);
        CHECK_INT(rec->ops->write(rec, "x", 1), c->end == -EBADMSG ? -EPIPE : 1);
        close_it(ktls);
    }
}

static void waiting_is_no_end(void)
{
    struct record_ktls *ktls = open_as(true);
    uint8_t buf[8];
    CHECK(pending(ktls)); /* nobody has asked the kernel yet */
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), -EAGAIN);
    CHECK(!pending(ktls));
    then(RECORD_DATA, "0123456789", 10);
    CHECK_INT(read_of(ktls, buf, 8), 8);
    CHECK(pending(ktls));
    CHECK_INT(read_of(ktls, buf, 8), 2);
    CHECK(pending(ktls)); /* a short read says nothing: an alert may be next */
    CHECK_INT(read_of(ktls, buf, 8), -EAGAIN);
    CHECK(!pending(ktls));
    close_it(ktls);
}

static void empty_records_are_few(void)
{
    enum { SILENT_MAX = 32 };
    struct record_ktls *ktls = open_as(true);
    uint8_t buf[8];
    for (int i = 0; i < SILENT_MAX; i++)
        then(RECORD_DATA, "", 0);
    then(RECORD_DATA, "x", 1);
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), 1);
    script_len = script_at = 0;
    for (int i = 0; i <= SILENT_MAX; i++)
        then(RECORD_DATA, "", 0);
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(owner.alert, ALERT_UNEXPECTED_MESSAGE);
    close_it(ktls);
}

/* What splice met is judged by read, though the kernel tells an error once. */
static void what_splice_stopped_at(void)
{
    static const struct {
        ssize_t splice;          /* what it said */
        uint8_t type;            /* of the record that recvmsg then gives; 0 = none */
        ssize_t read;
        uint8_t alert;
    } cases[] = {
        {-EINVAL, RECORD_ALERT, 0, 0},
        {-EINVAL, 0, -EBADMSG, ALERT_DECODE_ERROR},
        {-EBADMSG, 0, -EBADMSG, ALERT_BAD_RECORD_MAC},
        {-EMSGSIZE, 0, -EBADMSG, ALERT_RECORD_OVERFLOW},
        {-ECONNRESET, 0, -ECONNRESET, 0},
        {0, 0, -EAGAIN, 0},      /* an empty record, gone */
        {0, RECORD_DATA, 2, 0},
    };
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        struct record_ktls *ktls = open_as(true);
        struct record *rec = record_ktls_record(ktls);
        uint8_t buf[8];
        if (cases[i].type != 0)
            then(cases[i].type, "\x01\x00", 2);
        rec->ops->splice_failed(rec, cases[i].splice);
        CHECK_INT(read_of(ktls, buf, sizeof(buf)), cases[i].read);
        CHECK_INT(owner.alert, cases[i].alert);
        CHECK_INT(owner.failed, cases[i].read == -EBADMSG);
        close_it(ktls);
    }
}

/* From Linux 6.14 on the kernel takes the next keys. */

static bool handed(const struct call *call, int name, const uint8_t *secret, int updates)
{
    uint8_t next[KEYS_SECRET_MAX], key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE];
    struct tls12_crypto_info_aes_gcm_128 info;
    static const uint8_t zero[8];
    memcpy(next, secret, sizeof(next));
    for (int i = 0; i < updates; i++)
        CHECK_INT(keys_update(0x1301, next), 0);
    CHECK_INT(keys_derive(0x1301, next, key, iv), 0);
    memcpy(&info, call->value, sizeof(info));
    return call->level == SOL_TLS && call->name == name && call->len == sizeof(info) &&
           info.info.version == TLS_1_3_VERSION && memcmp(info.key, key, sizeof(info.key)) == 0 &&
           memcmp(info.salt, iv, 4) == 0 && memcmp(info.iv, iv + 4, 8) == 0 &&
           memcmp(info.rec_seq, zero, 8) == 0;
}

static void a_key_update_is_followed(void)
{
    struct record_ktls *ktls = open_as(true);
    uint8_t buf[64];
    results[INSTALLING] = 0;
    then(RECORD_HANDSHAKE, "\x18\x00\x00\x01\x00", 5);
    then(RECORD_DATA, "one", 3);
    then(RECORD_HANDSHAKE, "\x18\x00\x00\x01\x01", 5); /* and ours is asked for */
    then(RECORD_DATA, "two", 3);
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), 3);
    REQUIRE_INT(call_count, INSTALLING + 1);
    CHECK(handed(&calls[3], TLS_RX, rx_secret, 1));
    CHECK_INT(sent_len, 0);
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), 3);
    REQUIRE_INT(call_count, INSTALLING + 3);
    CHECK(handed(&calls[4], TLS_RX, rx_secret, 2));
    CHECK(handed(&calls[5], TLS_TX, tx_secret, 1));
    CHECK_INT(sent_type, RECORD_HANDSHAKE);
    CHECK(sent_len == 5 && memcmp(sent, "\x18\x00\x00\x01\x00", 5) == 0);
    CHECK(!record_ktls_met_key_update(ktls));
    CHECK_INT(owner.failed, 0);
    close_it(ktls);
}

/* Each step of that refused ends the connection, and is counted. */
static void a_key_update_is_refused(void)
{
    for (int step = 0; step < 3; step++) {
        struct record_ktls *ktls = open_as(true);
        uint8_t buf[64];
        results[INSTALLING] = step == 0 ? -EBUSY : 0;
        results[INSTALLING + 1] = step == 1 ? -ENOMEM : 0;
        send_result = step == 2 ? -EAGAIN : 0;
        then(RECORD_HANDSHAKE, "\x18\x00\x00\x01\x01", 5);
        CHECK_INT(read_of(ktls, buf, sizeof(buf)), -EBADMSG);
        CHECK(record_ktls_met_key_update(ktls));
        CHECK_INT(owner.alert, ALERT_INTERNAL_ERROR);
        close_it(ktls);
    }
}

/* Tickets. */

static size_t ticket_make(uint8_t *ret, size_t body, uint8_t filler)
{
    const uint8_t head[] = {4, (uint8_t)(body >> 16), (uint8_t)(body >> 8), (uint8_t)body};
    memcpy(ret, head, sizeof(head));
    memset(ret + sizeof(head), filler, body);
    return sizeof(head) + body;
}

/* The owner's last record is the peer's record number seq, with this content. */
static void check_resealed(uint8_t seq, const uint8_t *content, size_t len)
{
    struct aead aead = {0};
    uint8_t key[KEYS_KEY_MAX], nonce[KEYS_IV_SIZE], plain[MESSAGE_MAX], type = 0;
    REQUIRE_INT(owner.record_len, 5 + len + 1 + AEAD_TAG_SIZE);
    REQUIRE_INT(keys_derive(0x1301, rx_secret, key, nonce), 0);
    REQUIRE_INT(aead_init(&aead, 0x1301, key, false, AEAD_EVP), 0);
    nonce[sizeof(nonce) - 1] ^= seq;
    CHECK(memcmp(owner.record, "\x17\x03\x03", 3) == 0);
    CHECK_INT(owner.record[3] << 8 | owner.record[4], owner.record_len - 5);
    CHECK_INT(aead_open(&aead, nonce, owner.record, 5, owner.record + 5, owner.record_len - 5,
                        plain, &type), 0);
    CHECK_INT(type, RECORD_HANDSHAKE);
    CHECK(memcmp(plain, content, len) == 0);
    aead_fini(&aead);
}

static void tickets_reach_the_owner_sealed(void)
{
    uint8_t first[300], second[40], buf[64];
    size_t first_len = ticket_make(first, 200, 1), second_len = ticket_make(second, 30, 2);
    for (size_t room = 1; room <= sizeof(buf); room *= 8) {
        struct record_ktls *ktls = open_as(false);
        then(RECORD_HANDSHAKE, first, 150); /* one message over two records */
        then(RECORD_HANDSHAKE, first + 150, first_len - 150);
        CHECK_INT(read_of(ktls, buf, room), -EAGAIN);
        CHECK_INT(owner.tickets, 1);
        check_resealed(0, first, first_len);
        then(RECORD_HANDSHAKE, second, second_len);
        CHECK_INT(read_of(ktls, buf, room), -EAGAIN);
        CHECK_INT(owner.tickets, 2);
        check_resealed(1, second, second_len);
        CHECK_INT(owner.settled, 0);
        then(RECORD_DATA, "d", 1);
        CHECK_INT(read_of(ktls, buf, room), 1);
        CHECK_INT(owner.settled, 1);
        then(RECORD_HANDSHAKE, second, second_len); /* too late to be kept, and no harm */
        then(RECORD_DATA, "e", 1);
        CHECK_INT(read_of(ktls, buf, room), 1);
        CHECK_INT(owner.tickets, 2);
        CHECK_INT(owner.settled, 1);
        close_it(ktls);
    }
}

static void bad_tickets(void)
{
    static uint8_t big[1 << 15];
    uint8_t ticket[64], buf[64];
    /* One that OpenSSL refuses. */
    struct record_ktls *ktls = open_as(false);
    then(RECORD_HANDSHAKE, ticket, ticket_make(ticket, 20, 0));
    owner.ticket_result = -EBADMSG;
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(owner.alert, ALERT_DECODE_ERROR);
    close_it(ktls);
    /* Data inside one. */
    ktls = open_as(false);
    ticket_make(ticket, 20, 0);
    then(RECORD_HANDSHAKE, ticket, 10);
    then(RECORD_DATA, "x", 1);
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(owner.alert, ALERT_UNEXPECTED_MESSAGE);
    close_it(ktls);
    /* Longer than a record: passed over. */
    ktls = open_as(false);
    size_t len = ticket_make(big, 20000, 0);
    for (size_t at = 0; at < len; at += 1000)
        then(RECORD_HANDSHAKE, big + at, len - at < 1000 ? len - at : 1000);
    then(RECORD_DATA, "x", 1);
    uint8_t large[1000];
    CHECK_INT(read_of(ktls, large, sizeof(large)), 1);
    CHECK_INT(owner.tickets, 0);
    close_it(ktls);
    /* A server gets none. */
    ktls = open_as(true);
    then(RECORD_HANDSHAKE, ticket, ticket_make(ticket, 20, 0));
    CHECK_INT(read_of(ktls, buf, sizeof(buf)), -EBADMSG);
    CHECK_INT(owner.alert, ALERT_UNEXPECTED_MESSAGE);
    close_it(ktls);
}

/* Writing. */

static void writing_and_finishing(void)
{
    struct record_ktls *ktls = open_as(true);
    struct record *rec = record_ktls_record(ktls);
    CHECK_INT(rec->ops->layer, DP_RECORD_KTLS);
    CHECK_INT(rec->ops->write(rec, "abc", 3), 3);
    send_result = -EAGAIN;
    CHECK_INT(rec->ops->write(rec, "abc", 3), -EAGAIN);
    CHECK_INT(rec->ops->finish(rec), -EAGAIN);
    send_result = 0;
    CHECK_INT(rec->ops->write(rec, "abc", 3), 3);
    CHECK_INT(rec->ops->finish(rec), 0);
    CHECK(sent_type == RECORD_ALERT && sent_len == 2 && memcmp(sent, "\x01\x00", 2) == 0);
    sent_len = 0;
    CHECK_INT(rec->ops->finish(rec), 0); /* once is enough */
    CHECK_INT(sent_len, 0);
    CHECK_INT(rec->ops->write(rec, "abc", 3), -EPIPE);
    close_it(ktls);
    ktls = open_as(true);
    rec = record_ktls_record(ktls);
    send_result = -EPIPE;
    CHECK_INT(rec->ops->finish(rec), -EPIPE);
    close_it(ktls);
}

TEST_MAIN(TEST(what_the_kernel_is_handed), TEST(each_step_refused),
          TEST(the_device_is_seen_by_its_count), TEST(a_key_update_is_followed),
          TEST(a_key_update_is_refused), TEST(data_and_its_ends),
          TEST(waiting_is_no_end), TEST(empty_records_are_few), TEST(what_splice_stopped_at),
          TEST(tickets_reach_the_owner_sealed), TEST(bad_tickets), TEST(writing_and_finishing))
