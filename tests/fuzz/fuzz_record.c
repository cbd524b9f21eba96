/* fuzz_record.c: a peer with the right keys and no manners. The input is a script: which suite and
 * side, how the socket hands the bytes out, then chunks: sealed as they are, padding and type
 * included, or put on the wire raw. What is read must be what was sealed, in order, up to the first
 * wrong; and the end, once told, must stay. */
#include <stdlib.h>

#include "record_user.h"
#include "sys.h"
#include "wire_peer.h"

enum { CHUNK_RAW = 0, CHUNK_SEALED = 1, CHUNK_NEXT_KEY = 2 /* after it */ };
enum { WIRE_MAX = 1 << 20, READS_MAX = 1 << 22 };

static struct {
    uint8_t bytes[WIRE_MAX];
    size_t len, off;
    uint32_t pieces;             /* state of how they are handed out */
} wire;
static uint8_t expected[WIRE_MAX];
static int failures, settled;

static ssize_t script_recv(int fd, void *buf, size_t len, int flags)
{
    (void)fd;
    (void)flags;
    wire.pieces = wire.pieces * 1664525 + 1013904223;
    if (wire.pieces >> 30 == 0)
        return -EAGAIN;
    size_t n = wire.len - wire.off, piece = 1 + (wire.pieces >> 8) % 70000;
    n = n < len ? n : len;
    n = n < piece ? n : piece;
    memcpy(buf, wire.bytes + wire.off, n);
    wire.off += n;
    return (ssize_t)n;
}

static ssize_t script_send(int fd, const void *buf, size_t len, int flags)
{
    (void)fd;
    (void)buf;
    (void)flags;
    return (ssize_t)len;
}

static void on_failed(void *arg, bool by_peer, uint8_t alert, const char *why)
{
    (void)arg;
    (void)by_peer;
    (void)alert;
    if (why == NULL || ++failures > 1)
        abort();
}

static int on_ticket(void *arg, const uint8_t *record, size_t len)
{
    (void)arg;
    if (settled > 0 || len < 5 || record[0] != 23 || len != 5 + ((size_t)record[3] << 8 | record[4]))
        abort();
    return 0;
}

static void on_settled(void *arg)
{
    (void)arg;
    if (++settled > 1)
        abort();
}

/* Puts the script on the wire; how many bytes of data a reader may get. */
static size_t prepare(struct wire_peer *peer, const uint8_t *data, size_t size)
{
    size_t bytes = 0;
    bool good = true;
    wire.len = wire.off = 0;
    while (size >= 3) {
        uint8_t op = data[0];
        size_t len = (size_t)data[1] | (size_t)data[2] << 8;
        data += 3;
        size -= 3;
        len = len < size ? len : size;
        if (wire.len + len + RECORD_OVERHEAD_MAX > sizeof(wire.bytes))
            break;
        bool tls12 = keys_is_tls12(peer->cipher);
        if ((op & CHUNK_SEALED) && len > 0 && tls12) { /* its type in front, where it is sent */
            wire.len += wire_seal(peer, data[len - 1], data, len - 1, 0, wire.bytes + wire.len);
            if (good && data[len - 1] == 23) {
                memcpy(expected + bytes, data, len - 1);
                bytes += len - 1;
            }
        } else if ((op & CHUNK_SEALED) && len > 0) {
            wire.len += wire_seal(peer, data[len - 1], data, len - 1, 0, wire.bytes + wire.len);
            size_t inner = len;
            while (inner > 0 && data[inner - 1] == 0)
                inner--;
            if (good && inner > 0 && data[inner - 1] == 23) {
                memcpy(expected + bytes, data, inner - 1);
                bytes += inner - 1;
            }
        } else {
            memcpy(wire.bytes + wire.len, data, len);
            wire.len += len;
            good &= len == 0;
        }
        if ((op & CHUNK_NEXT_KEY) && !tls12)
            wire_peer_update(peer, &peer->out, true);
        data += len;
        size -= len;
    }
    return bytes;
}

static void read_all(struct record *rec, size_t room, size_t bytes)
{
    uint8_t *buf = malloc(room);
    size_t got = 0;
    ssize_t n = -EAGAIN;
    for (int i = 0; i < READS_MAX && (n > 0 || n == -EAGAIN); i++) {
        n = rec->ops->read(rec, buf, room);
        if (n > 0 && ((size_t)n > room || got + (size_t)n > bytes ||
                      memcmp(buf, expected + got, (size_t)n) != 0))
            abort();
        got += n > 0 ? (size_t)n : 0;
    }
    if ((n != 0 && n != -EBADMSG && n != -ENODATA) || (n == -EBADMSG) != (failures == 1))
        abort();
    if (rec->ops->pending(rec) || rec->ops->read(rec, buf, room) != n)
        abort();
    ssize_t written = rec->ops->write(rec, "answer", 6);
    if (written != (n == -EBADMSG ? -EPIPE : 6))
        abort();
    free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sys_table script;
    static struct stats *stats;
    static struct buffers *buffers;
    if (stats == NULL && (stats_new(&stats) < 0 ||
                          buffers_new_sized(RECORD_SMALL, RECORD_BUFFERS_A_LEG, RECORD_LARGE, 1,
                                            stats, &buffers) < 0))
        abort();
    if (size < 4)
        return 0;
    script = sys_real;
    script.recv = script_recv;
    script.send = script_send;
    sys = &script;

    struct wire_peer peer;
    struct record_user *user;
    uint8_t ours[KEYS_SECRET_MAX], theirs[KEYS_SECRET_MAX];
    static const uint16_t ciphers[] = {0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c};
    uint16_t cipher = data[0] & 0x20 ? ciphers[3 + data[0] % 2] : ciphers[data[0] % 3];
    bool is_server = data[0] & 0x40;
    size_t room = 1 + ((size_t)data[1] << 8 | data[2]) * ((data[3] & 3) + 1);
    wire.pieces = data[3];
    failures = settled = 0;
    wire_secret(ours, false);
    wire_secret(theirs, true);
    wire_peer_init(&peer, cipher);
    size_t bytes = prepare(&peer, data + 4, size - 4);
    const struct record_user_spec spec = {
        .fd = -1, .is_server = is_server, .cipher = cipher, .read_secret = theirs,
        .write_secret = ours, .engine = data[0] & 0x80 ? AEAD_EVP : AEAD_BEST, .buffers = buffers,
        .owner = {.failed = on_failed, .ticket = is_server ? NULL : on_ticket,
                  .settled = is_server ? NULL : on_settled},
    };
    if (record_user_new(&spec, &user) < 0)
        abort();
    read_all(record_user_record(user), room, bytes);
    record_user_free(user);
    wire_peer_fini(&peer);
    sys = &sys_real;
    return 0;
}
