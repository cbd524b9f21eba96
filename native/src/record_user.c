/* record_user.c: reading and writing. What came is opened from the ciphertext's buffer straight
 * into the reader's, what goes is sealed from the writer's straight into the one that is sent, so
 * nothing is copied but the odd piece of a record; and a connection holds a buffer only while
 * bytes wait in it. Sealed records are kept until sent: none is ever sealed twice. */
#include "record_user.h"

#include <openssl/crypto.h>
#include <stdlib.h>

#include "record_control.h"
#include "record_ktls.h"
#include "sys.h"

enum finish { FINISH_NOT = 0, FINISH_SENDING, FINISH_DONE };
enum { RESTLESS_MAX = 4096 };    /* records and sends until we no longer wait for a moment's rest */

struct direction {
    struct record_key key;
    uint8_t secret[KEYS_SECRET_MAX]; /* what key was made of */
};

struct record_user {
    struct record rec;           /* first: user_of finds us by it */
    struct record_owner owner;
    struct buffers *buffers;     /* borrowed from the worker */
    struct direction in, out;
    uint16_t cipher;
    uint8_t engine;              /* enum aead_engine */
    uint8_t finish;              /* enum finish */
    bool unsettled;
    bool broken;                 /* an alert was fatal: nothing more is written */
    bool update_owed;            /* the peer asked for a KeyUpdate of ours */
    bool drained;                /* the socket had no more when it was last asked */
    bool read_ended, read_end_told;
    bool kernel_seals;           /* what we write: record_user_let_kernel_seal */
    bool rests;                  /* as soon as it can: record_user_rest */
    uint16_t restless;           /* records and sends since it was asked to */
    struct record_control control; /* what the peer says beside data */
    ssize_t read_end;            /* what every further read returns */
    struct buffer *wire;         /* owned; ciphertext, from a record's start; NULL = none */
    struct buffer *plain;        /* owned; opened, not yet read; NULL = none */
    struct buffer *sealed;       /* owned; not yet sent; NULL = none */
    size_t sealed_payload;       /* bytes in sealed that write has not reported as taken */
    uint64_t key_limit;
};

static struct record_user *user_of(const struct record *rec)
{
    return (struct record_user *)rec;
}

/* Keys. */

static int direction_update(struct record_user *user, struct direction *direction, bool seals)
{
    int r = keys_update(user->cipher, direction->secret);
    if (r < 0)
        return r;
    record_key_fini(&direction->key);
    return record_key_init(&direction->key, user->cipher, direction->secret, 0, seals,
                           user->engine);
}

/* Rest. */

static bool is_at_rest(const struct record_user *user)
{
    return user->plain == NULL && user->sealed == NULL && !user->update_owed && !user->unsettled &&
           (user->wire == NULL || user->wire->off == user->wire->len) &&
           !record_control_inside(&user->control);
}

static bool stops_here(struct record_user *user)
{
    if (!user->rests)
        return false;
    user->restless++;
    return is_at_rest(user) || user->restless >= RESTLESS_MAX;
}

int record_user_rest(struct record_user *user, enum dp_fallback *ret_why)
{
    bool ends = user->read_ended || user->broken || user->finish != FINISH_NOT;
    if (ends || user->restless >= RESTLESS_MAX) {
        *ret_why = user->update_owed ? DP_FALLBACK_KEY_UPDATE : DP_FALLBACK_BUSY;
        record_user_resume(user);
        return -EBUSY;
    }
    user->rests = true;
    return is_at_rest(user) ? 0 : -EAGAIN;
}

void record_user_resume(struct record_user *user)
{
    user->rests = false;
    user->restless = 0;
    user->drained = false;       /* it may have stopped before the socket had no more */
}

void record_user_let_kernel_seal(struct record_user *user)
{
    assert(user->sealed == NULL && user->finish == FINISH_NOT);
    user->kernel_seals = true;
    record_key_fini(&user->out.key);
}

void record_user_places(const struct record_user *user, struct record_user_place *ret_read,
                        struct record_user_place *ret_write)
{
    *ret_read = (struct record_user_place){.secret = user->in.secret, .seq = user->in.key.seq};
    *ret_write = (struct record_user_place){.secret = user->out.secret, .seq = user->out.key.seq};
}

/* Writing. */

/* One record behind what is in user->sealed, which has room. */
static int seal(struct record_user *user, uint8_t type, const uint8_t *data, size_t len)
{
    struct buffer *to = user->sealed;
    size_t size = len + record_key_overhead(&user->out.key);
    assert(to->cap - to->len >= size);
    int r = record_key_seal(&user->out.key, type, data, len, to->data + to->len);
    if (r == 0)
        to->len += (uint32_t)size;
    return r;
}

/* 0 = nothing waits; -EAGAIN; -errno. */
static int send_sealed(struct record_user *user)
{
    struct buffer *sealed = user->sealed;
    if (sealed == NULL)
        return 0;
    while (sealed->off < sealed->len) {
        ssize_t n = socket_send(user->rec.fd, sealed->data + sealed->off,
                                sealed->len - sealed->off);
        if (n < 0)
            return (int)n;
        sealed->off += (uint32_t)n;
    }
    buffers_put(user->buffers, sealed);
    user->sealed = NULL;
    return 0;
}

/* A record that is no data, with nothing before it that waits. 0; -EAGAIN, after which it is sealed,
 * unless the kernel seals; -errno. */
static int say(struct record_user *user, uint8_t type, const uint8_t *data, size_t len)
{
    if (user->kernel_seals) {
        ssize_t n = ktls_send(user->rec.fd, type, data, len);
        return n < 0 ? (int)n : 0;
    }
    user->sealed = buffers_get(user->buffers, false);
    int r = seal(user, type, data, len);
    return r < 0 ? r : send_sealed(user);
}

/* Our own KeyUpdate: when the peer asked for it, or the key has sealed enough. */
static int seal_key_update(struct record_user *user)
{
    user->update_owed = false;
    int r = seal(user, RECORD_HANDSHAKE, record_key_update, KEY_UPDATE_SIZE);
    return r < 0 ? r : direction_update(user, &user->out, true);
}

/* As many records as fit one buffer; *ret_taken = payload bytes in them. */
static int seal_slice(struct record_user *user, const uint8_t *data, size_t len, size_t *ret_taken)
{
    int r = 0;
    size_t taken = 0;
    user->sealed = buffers_get(user->buffers, len > RECORD_PLAIN_MAX);
    bool is_old = !user->out.key.tls12 && user->out.key.seq + RECORD_SLICE > user->key_limit;
    if (user->update_owed || is_old)
        r = seal_key_update(user);
    while (r == 0 && taken < len) {
        size_t n = len - taken < RECORD_PLAIN_MAX ? len - taken : RECORD_PLAIN_MAX;
        if (user->sealed->cap - user->sealed->len < n + record_key_overhead(&user->out.key))
            break;
        r = seal(user, RECORD_DATA, data + taken, n);
        taken += n;
    }
    *ret_taken = taken;
    return r;
}

static int change_kernels_key(struct record_user *user)
{
    int r = record_ktls_update(user->rec.fd, user->cipher, user->out.secret);
    if (r == -EAGAIN)
        return r;
    user->update_owed = false;
    user->broken = r < 0;        /* what was said holds for the next record, alerts too */
    return r;
}

static ssize_t write_by_kernel(struct record_user *user, const void *buf, size_t len)
{
    ssize_t n = user->update_owed ? change_kernels_key(user) : 0;
    return n < 0 ? n : socket_send(user->rec.fd, buf, len);
}

static ssize_t user_write(struct record *rec, const void *buf, size_t len)
{
    struct record_user *user = user_of(rec);
    if (user->broken || user->finish != FINISH_NOT)
        return -EPIPE;
    if (user->kernel_seals)
        return write_by_kernel(user, buf, len);
    int r = send_sealed(user);
    if (r < 0)
        return r;
    size_t total = user->sealed_payload; /* out at last: these are the first of buf */
    assert(total <= len);
    user->sealed_payload = 0;
    while (total < len) {
        size_t taken;
        if (stops_here(user)) {
            r = -EAGAIN;
            break;
        }
        r = seal_slice(user, (const uint8_t *)buf + total, len - total, &taken);
        if (r < 0) { /* OpenSSL or memory failed: what is half sealed must not go out */
            user->broken = true;
            break;
        }
        r = send_sealed(user);
        if (r < 0) {
            user->sealed_payload = taken;
            break;
        }
        total += taken;
    }
    return total > 0 ? (ssize_t)total : r;
}

static int say_alert(struct record_user *user, uint8_t level, uint8_t alert)
{
    return say(user, RECORD_ALERT, (const uint8_t[]){level, alert}, ALERT_SIZE);
}

/* Sends close_notify; the socket stays open for writing, as record_openssl's does. */
static int user_finish(struct record *rec)
{
    struct record_user *user = user_of(rec);
    if (user->finish == FINISH_DONE)
        return 0;
    int r = user->broken ? -EPIPE : send_sealed(user);
    user->sealed_payload = 0;
    if (r == 0 && user->finish == FINISH_NOT) {
        user->finish = user->kernel_seals ? FINISH_NOT : FINISH_SENDING;
        r = say_alert(user, ALERT_WARNING, ALERT_CLOSE_NOTIFY);
    }
    if (r != -EAGAIN)
        user->finish = FINISH_DONE;
    return r;
}

/* Reading. */

static void end_reading(struct record_user *user, ssize_t end)
{
    user->read_ended = true;
    user->read_end = end;
}

/* Breaks the connection. The alert is sent if the socket takes it at once and nothing waits. */
static int fail(struct record_user *user, uint8_t alert, const char *why)
{
    if (!user->broken && user->finish == FINISH_NOT && user->sealed == NULL)
        (void)!say_alert(user, ALERT_FATAL, alert);
    user->broken = true;
    end_reading(user, -EBADMSG);
    user->owner.failed(user->owner.arg, false, alert, why);
    return -EBADMSG;
}

static void settle(struct record_user *user)
{
    if (!user->unsettled)
        return;
    user->unsettled = false;
    user->owner.settled(user->owner.arg);
}

static int on_key_update(struct record_user *user, bool update_requested)
{
    settle(user);
    if (direction_update(user, &user->in, false) < 0)
        return fail(user, ALERT_INTERNAL_ERROR, "no memory for the next key");
    user->update_owed |= update_requested;
    return 0;
}

/* Wire bytes of the record in front, as its header says; 0 = no whole header yet. */
static size_t record_size(const struct record_user *user)
{
    const struct buffer *wire = user->wire;
    if (wire == NULL || wire->len - wire->off < RECORD_HEADER)
        return 0;
    return record_key_size(wire->data + wire->off);
}

/* The record of size bytes in front, whose plaintext is in out. 0, or -EBADMSG. */
static int dispatch(struct record_user *user, size_t size, uint8_t type, const uint8_t *out,
                    size_t len)
{
    if (type == RECORD_ALERT && len != ALERT_SIZE)
        return fail(user, ALERT_DECODE_ERROR, "malformed alert");
    struct control_verdict verdict = len > 0 ? record_control_take(&user->control, type, out, len)
                                             : record_control_empty(&user->control, type);
    switch (verdict.action) {
    case CONTROL_GO_ON:
        break;
    case CONTROL_END:
        end_reading(user, 0);
        return 0;
    case CONTROL_KEY_UPDATE:
        return on_key_update(user, verdict.update_requested);
    case CONTROL_PEER_FAILED:
        user->broken = true;
        end_reading(user, -EBADMSG);
        user->owner.failed(user->owner.arg, true, verdict.alert, "");
        return -EBADMSG;
    default:
        return fail(user, verdict.alert, verdict.why);
    }
    if (type == RECORD_HANDSHAKE && user->unsettled &&
        user->owner.ticket(user->owner.arg, user->wire->data + user->wire->off, size) < 0)
        return fail(user, ALERT_DECODE_ERROR, "malformed NewSessionTicket");
    if (type == RECORD_DATA) /* even an empty one: OpenSSL has not counted it */
        settle(user);
    return 0;
}

/* Takes the record in front: its data goes to out if there is surely room, else to user->plain.
 * Bytes in out; -EAGAIN = it is not whole yet; -EBADMSG. */
static ssize_t take_record(struct record_user *user, uint8_t *out, size_t room)
{
    struct buffer *wire = user->wire;
    size_t size = record_size(user), len = 0;
    struct record_fault fault = {0};
    if (size > 0)
        fault = record_key_check(&user->in.key, wire->data + wire->off);
    if (fault.why != NULL)
        return fail(user, fault.alert, fault.why);
    if (size == 0 || wire->len - wire->off < size)
        return -EAGAIN;
    struct buffer *spare = NULL;
    if (size - record_key_overhead(&user->in.key) > room) {
        spare = buffers_get(user->buffers, false);
        out = spare->data;
    }
    uint8_t type = 0;
    fault = record_key_open(&user->in.key, wire->data + wire->off, out, &type, &len);
    int r = fault.why != NULL ? fail(user, fault.alert, fault.why)
                              : dispatch(user, size, type, out, len);
    wire->off += (uint32_t)size;
    bool has_data = r == 0 && type == RECORD_DATA && len > 0;
    if (spare != NULL && has_data) {
        spare->len = (uint32_t)len;
        user->plain = spare;
        return 0;
    }
    buffers_put(user->buffers, spare);
    return r < 0 ? r : has_data ? (ssize_t)len : 0;
}

static size_t take_plain(struct record_user *user, uint8_t *out, size_t room)
{
    struct buffer *plain = user->plain;
    size_t n = plain->len - plain->off;
    if (n > room)
        n = room;
    memcpy(out, plain->data + plain->off, n);
    plain->off += (uint32_t)n;
    if (plain->off == plain->len) {
        buffers_put(user->buffers, plain);
        user->plain = NULL;
    }
    return n;
}

/* Puts what waits into a buffer of the other size, or gives an empty one back. */
static void move_wire(struct record_user *user, bool large)
{
    struct buffer *from = user->wire, *to = NULL;
    uint32_t len = from->len - from->off;
    if (len > 0) {
        to = buffers_get(user->buffers, large);
        memcpy(to->data, from->data + from->off, len);
        to->len = len;
    }
    buffers_put(user->buffers, from);
    user->wire = to;
}

/* Reads from the socket as much as surely fits room once opened, and at least the rest of the
 * record in front. 0; -EAGAIN; -errno; -ENODATA = the peer's FIN. */
static int fill_wire(struct record_user *user, size_t room)
{
    size_t have = user->wire != NULL ? user->wire->len - user->wire->off : 0;
    size_t size = record_size(user);
    size_t want = room + record_key_overhead(&user->in.key) * (room / RECORD_PLAIN_MAX + 1);
    if (want > RECORD_LARGE)
        want = RECORD_LARGE;
    if (user->rests || want < (size > 0 ? size : RECORD_HEADER))
        want = size > 0 ? size : RECORD_HEADER;
    bool large = want > RECORD_SMALL;
    if (user->wire == NULL) {
        user->wire = buffers_get(user->buffers, large);
    } else if (large && user->wire->cap < want) {
        move_wire(user, true);
        if (user->wire == NULL)
            user->wire = buffers_get(user->buffers, true);
    } else if (user->wire->off > 0) {
        memmove(user->wire->data, user->wire->data + user->wire->off, have);
        user->wire->off = 0;
        user->wire->len = (uint32_t)have;
    }
    struct buffer *wire = user->wire;
    if (want > wire->cap)
        want = wire->cap;
    ssize_t n = socket_receive(user->rec.fd, wire->data + have, want - have);
    user->drained = n < (ssize_t)(want - have);
    if (n <= 0)
        return n == 0 ? -ENODATA : (int)n;
    wire->len += (uint32_t)n;
    return 0;
}

static ssize_t read_some(struct record_user *user, uint8_t *buf, size_t len)
{
    size_t total = 0;
    while (total < len && !user->read_ended) {
        if (user->plain != NULL) {
            total += take_plain(user, buf + total, len - total);
            continue;
        }
        if (stops_here(user))
            break;
        ssize_t n = take_record(user, buf + total, len - total);
        if (n >= 0) {
            total += (size_t)n;
            continue;
        }
        if (n != -EAGAIN || (total > 0 && user->drained))
            break;
        int r = fill_wire(user, len - total);
        if (r == -EAGAIN)
            break;
        if (r < 0)
            end_reading(user, r);
    }
    return (ssize_t)total;
}

static ssize_t user_read(struct record *rec, void *buf, size_t len)
{
    struct record_user *user = user_of(rec);
    ssize_t total = read_some(user, buf, len);
    /* An idle connection holds nothing, a waiting one no more than it needs. */
    if (user->wire != NULL) {
        uint32_t rest = user->wire->len - user->wire->off;
        if (rest == 0 || (user->wire->cap > RECORD_SMALL && rest <= RECORD_SMALL))
            move_wire(user, false);
    }
    if (total > 0 || len == 0) /* bytes before the end go first */
        return total;
    if (!user->read_ended)
        return -EAGAIN;
    user->read_end_told = true;
    return user->read_end;
}

static bool user_pending(const struct record *rec)
{
    const struct record_user *user = user_of(rec);
    if (user->plain != NULL)
        return true;
    if (user->read_ended)
        return !user->read_end_told;
    size_t size = record_size(user);
    return !user->drained || (size > 0 && user->wire->len - user->wire->off >= size);
}

/* Life. */

static const struct record_ops user_ops = {
    .layer = DP_RECORD_USER,
    .read = user_read,
    .write = user_write,
    .finish = user_finish,
    .pending = user_pending,
};

int record_user_new(const struct record_user_spec *spec, struct record_user **ret)
{
    size_t secret_size = keys_secret_size(spec->cipher);
    if (secret_size == 0)
        return -EINVAL;
    struct record_user *user = calloc(1, sizeof(*user));
    if (user == NULL)
        return -ENOMEM;
    user->rec = (struct record){.ops = &user_ops, .fd = spec->fd};
    user->owner = spec->owner;
    user->buffers = spec->buffers;
    user->cipher = spec->cipher;
    user->engine = (uint8_t)spec->engine;
    user->control.is_server = spec->is_server;
    user->control.tls12 = keys_is_tls12(spec->cipher);
    user->unsettled = spec->owner.ticket != NULL;
    user->drained = true;
    user->key_limit = RECORD_KEY_LIMIT;
    memcpy(user->in.secret, spec->read_secret, secret_size);
    memcpy(user->out.secret, spec->write_secret, secret_size);
    int r = record_key_init(&user->in.key, spec->cipher, spec->read_secret, spec->read_seq, false,
                            spec->engine);
    if (r == 0)
        r = record_key_init(&user->out.key, spec->cipher, spec->write_secret, spec->write_seq, true,
                            spec->engine);
    if (r < 0) {
        record_user_free(user);
        return r;
    }
    user->wire = spec->wire;
    *ret = user;
    return 0;
}

void record_user_free(struct record_user *user)
{
    if (user == NULL)
        return;
    buffers_put(user->buffers, user->wire);
    buffers_put(user->buffers, user->plain);
    buffers_put(user->buffers, user->sealed);
    record_key_fini(&user->in.key);
    record_key_fini(&user->out.key);
    OPENSSL_cleanse(user, sizeof(*user));
    free(user);
}

struct record *record_user_record(struct record_user *user)
{
    return &user->rec;
}

bool record_user_wants_write(const struct record_user *user)
{
    return user->sealed != NULL;
}

void record_user_set_key_limit(struct record_user *user, uint64_t records)
{
    user->key_limit = records;
}
