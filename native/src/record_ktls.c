/* record_ktls.c: reading and writing by the kernel's records. The kernel enforces nothing of the
 * protocol: a FIN without close_notify, an alert, too many empty records are ours to judge. */
#include "record_ktls.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "record_control.h"
#include "record_key.h"
#include "sys.h"

enum finish { FINISH_NOT = 0, FINISH_DONE };

/* OpenSSL makes a session of a ticket, but it takes records only, and the kernel has opened this
 * one. So it is sealed again, under the peer's key and the number that OpenSSL's side of the
 * connection stands at. It never leaves the process. */
struct resealer {
    struct record_key key;       /* zeroed = nothing is resealed */
    struct buffer *message;      /* owned; room for a header, then messages; NULL = none */
};

struct record_ktls {
    struct record rec;           /* first: ktls_of finds us by it */
    struct record_owner owner;
    struct record_control control;
    struct buffers *buffers;     /* borrowed from the worker */
    struct resealer resealer;    /* a client's, until settled */
    uint16_t cipher;
    uint8_t read_secret[KEYS_SECRET_MAX], write_secret[KEYS_SECRET_MAX]; /* TLS 1.3's, in use */
    uint8_t finish;              /* enum finish */
    bool unsettled;
    bool broken;                 /* an alert was fatal: nothing more is written */
    bool drained;                /* the kernel had no more when it was last asked */
    bool read_ended, read_end_told;
    bool met_key_update;
    bool suspect;                /* splice said EINVAL: a control record, or a malformed one */
    ssize_t read_end;            /* what every further read returns */
};

static struct record_ktls *ktls_of(const struct record *rec)
{
    return (struct record_ktls *)rec;
}

static void end_reading(struct record_ktls *ktls, ssize_t end)
{
    ktls->read_ended = true;
    ktls->read_end = end;
}

/* Breaks the connection. The alert is sent if the socket takes it at once. */
static void fail(struct record_ktls *ktls, uint8_t alert, const char *why)
{
    const uint8_t bytes[ALERT_SIZE] = {ALERT_FATAL, alert};
    if (!ktls->broken && ktls->finish == FINISH_NOT)
        (void)!ktls_send(ktls->rec.fd, RECORD_ALERT, bytes, sizeof(bytes));
    ktls->broken = true;
    end_reading(ktls, -EBADMSG);
    ktls->owner.failed(ktls->owner.arg, false, alert, why);
}

/* Tickets. */

static void resealer_fini(struct record_ktls *ktls)
{
    buffers_put(ktls->buffers, ktls->resealer.message);
    ktls->resealer.message = NULL;
    record_key_fini(&ktls->resealer.key);
}

static int hand_over(struct record_ktls *ktls)
{
    uint8_t *head = ktls->resealer.message->data;
    size_t len = ktls->resealer.message->len - RECORD_HEADER;
    int r = record_key_seal(&ktls->resealer.key, RECORD_HANDSHAKE, head + RECORD_HEADER, len, head);
    return r < 0 ? r : ktls->owner.ticket(ktls->owner.arg, head, record_key_size(head));
}

/* Handshake messages, already judged: whole ones go to the owner. One that is longer than a record
 * is not kept: that costs a resumption. */
static void keep_ticket(struct record_ktls *ktls, const uint8_t *data, size_t len)
{
    struct resealer *resealer = &ktls->resealer;
    if (resealer->message == NULL) {
        resealer->message = buffers_get(ktls->buffers, false);
        resealer->message->len = RECORD_HEADER;
    }
    struct buffer *message = resealer->message;
    size_t room = RECORD_HEADER + RECORD_PLAIN_MAX;
    bool fits = message->len + len <= room;
    if (fits)
        memcpy(message->data + message->len, data, len);
    message->len = fits ? message->len + (uint32_t)len : (uint32_t)room + 1;
    if (record_control_inside(&ktls->control))
        return;
    if (message->len <= room && hand_over(ktls) < 0)
        fail(ktls, ALERT_DECODE_ERROR, "malformed NewSessionTicket");
    buffers_put(ktls->buffers, message);
    resealer->message = NULL;
}

static void settle(struct record_ktls *ktls)
{
    if (!ktls->unsettled)
        return;
    ktls->unsettled = false;
    resealer_fini(ktls);
    ktls->owner.settled(ktls->owner.arg);
}

/* Reading. */

static int next_key(int fd, uint16_t cipher, bool sends, uint8_t *secret)
{
    int r = keys_update(cipher, secret);
    return r < 0 ? r : ktls_rekey(fd, cipher, sends, secret);
}

int record_ktls_update(int fd, uint16_t cipher, uint8_t *secret)
{
    ssize_t n = ktls_send(fd, RECORD_HANDSHAKE, record_key_update, KEY_UPDATE_SIZE);
    return n < 0 ? (int)n : next_key(fd, cipher, true, secret);
}

/* The peer's next record is under its next key; if it asks for ours, that is told under the last
 * one. A full socket has no room for that: then it is lost, as it was before there was rekeying. */
static int follow_key_update(struct record_ktls *ktls, bool update_requested)
{
    settle(ktls);
    int r = next_key(ktls->rec.fd, ktls->cipher, false, ktls->read_secret);
    if (r < 0 || !update_requested || ktls->finish != FINISH_NOT)
        return r;
    return record_ktls_update(ktls->rec.fd, ktls->cipher, ktls->write_secret);
}

static void on_control(struct record_ktls *ktls, uint8_t type, const uint8_t *data, size_t len)
{
    struct control_verdict verdict = len > 0
                                         ? record_control_take(&ktls->control, type, data, len)
                                         : record_control_empty(&ktls->control, type);
    switch (verdict.action) {
    case CONTROL_GO_ON:
        if (type == RECORD_HANDSHAKE && ktls->unsettled)
            keep_ticket(ktls, data, len);
        break;
    case CONTROL_END:
        end_reading(ktls, 0);
        break;
    case CONTROL_PEER_FAILED:
        ktls->broken = true;
        end_reading(ktls, -EBADMSG);
        ktls->owner.failed(ktls->owner.arg, true, verdict.alert, "");
        break;
    case CONTROL_KEY_UPDATE:
        if (follow_key_update(ktls, verdict.update_requested) == 0)
            break;
        ktls->met_key_update = true;
        fail(ktls, ALERT_INTERNAL_ERROR, "the peer changed its key, which the kernel cannot follow");
        break;
    default:
        fail(ktls, verdict.alert, verdict.why);
    }
}

/* What the kernel would not open, or could not read. It leaves its error on the socket, where it
 * would be in the way of the alert. */
static void on_error(struct record_ktls *ktls, ssize_t error)
{
    int left;
    socklen_t size = sizeof(left);
    (void)sys->getsockopt(ktls->rec.fd, SOL_SOCKET, SO_ERROR, &left, &size);
    switch (error) {
    case -EBADMSG:
        fail(ktls, ALERT_BAD_RECORD_MAC, "record is not authentic");
        break;
    case -EMSGSIZE:
        fail(ktls, ALERT_RECORD_OVERFLOW, "record is too long");
        break;
    case -EINVAL:
        fail(ktls, ALERT_DECODE_ERROR, "record has a malformed header");
        break;
    default:
        end_reading(ktls, error);
    }
}

static ssize_t ktls_read(struct record *rec, void *buf, size_t len)
{
    struct record_ktls *ktls = ktls_of(rec);
    while (!ktls->read_ended) {
        uint8_t type = 0;
        ssize_t n = ktls_receive(rec->fd, buf, len, &type);
        ktls->drained = n == -EAGAIN;
        if (n == -EAGAIN && ktls->suspect)
            n = -EINVAL; /* it was no control record: none is there */
        ktls->suspect = false;
        if (n == -EAGAIN)
            return n;
        if (n < 0) {
            on_error(ktls, n);
        } else if (type == 0) {
            end_reading(ktls, -ENODATA);
        } else {
            on_control(ktls, type, buf, (size_t)n);
            if (type == RECORD_DATA && n > 0 && !ktls->read_ended) {
                settle(ktls);
                return n;
            }
        }
    }
    ktls->read_end_told = true;
    return ktls->read_end;
}

/* Of its data only can there be a splice. An error is told once, so read would not see it. */
static void ktls_splice_failed(struct record *rec, ssize_t error)
{
    struct record_ktls *ktls = ktls_of(rec);
    if (error == -EINVAL)
        ktls->suspect = true;
    else if (error < 0 && !ktls->read_ended)
        on_error(ktls, error);
}

static bool ktls_pending(const struct record *rec)
{
    const struct record_ktls *ktls = ktls_of(rec);
    return ktls->read_ended ? !ktls->read_end_told : !ktls->drained;
}

/* Writing. */

static ssize_t ktls_write(struct record *rec, const void *buf, size_t len)
{
    const struct record_ktls *ktls = ktls_of(rec);
    if (ktls->broken || ktls->finish != FINISH_NOT)
        return -EPIPE;
    return socket_send(rec->fd, buf, len);
}

/* Sends close_notify; the socket stays open for writing, as with the other records. */
static int ktls_finish(struct record *rec)
{
    static const uint8_t close_notify[ALERT_SIZE] = {ALERT_WARNING, ALERT_CLOSE_NOTIFY};
    struct record_ktls *ktls = ktls_of(rec);
    if (ktls->finish == FINISH_DONE)
        return 0;
    ssize_t n = ktls->broken ? -EPIPE
                             : ktls_send(rec->fd, RECORD_ALERT, close_notify, sizeof(close_notify));
    if (n != -EAGAIN)
        ktls->finish = FINISH_DONE;
    return n < 0 ? (int)n : 0;
}

/* Life. */

/* The NIC's differ in nothing but their name: the kernel hides who seals and opens. */
#define OPS(layer_) \
    { \
        .layer = (layer_), .read = ktls_read, .write = ktls_write, .finish = ktls_finish, \
        .pending = ktls_pending, .splice_failed = ktls_splice_failed, \
    }
static const struct record_ops ktls_ops = OPS(DP_RECORD_KTLS), nic_ops = OPS(DP_RECORD_NIC);

static int install(struct record_ktls *ktls, const struct record_ktls_spec *spec,
                   enum dp_fallback *ret_why)
{
    if (!spec->device)
        return ktls_install(spec->fd, spec->cipher, &spec->write, &spec->read, ret_why);
    int r = ktls_install_seen(spec->fd, spec->cipher, &spec->write, &spec->read, ret_why);
    if (r == 0 && (*ret_why == DP_FALLBACK_NONE || *ret_why == DP_FALLBACK_SEALS_ONLY))
        ktls->rec.ops = &nic_ops;
    return r;
}

int record_ktls_new(const struct record_ktls_spec *spec, struct record_ktls **ret,
                    enum dp_fallback *ret_why)
{
    struct record_ktls *ktls = calloc(1, sizeof(*ktls));
    if (ktls == NULL) {
        *ret_why = DP_FALLBACK_MEMORY;
        return -ENOTSUP;
    }
    ktls->rec = (struct record){.ops = &ktls_ops, .fd = spec->fd};
    ktls->owner = spec->owner;
    ktls->buffers = spec->buffers;
    ktls->cipher = spec->cipher;
    memcpy(ktls->read_secret, spec->read.secret, keys_secret_size(spec->cipher));
    memcpy(ktls->write_secret, spec->write.secret, keys_secret_size(spec->cipher));
    ktls->control.is_server = spec->is_server;
    ktls->control.tls12 = keys_is_tls12(spec->cipher);
    ktls->unsettled = spec->owner.ticket != NULL;
    int r = 0;
    if (ktls->unsettled)
        r = record_key_init(&ktls->resealer.key, spec->cipher, spec->read.secret, spec->read.seq,
                            true, AEAD_EVP);
    if (r < 0) {
        *ret_why = r == -EINVAL ? DP_FALLBACK_CIPHER : DP_FALLBACK_MEMORY;
        r = -ENOTSUP;
    } else {
        r = install(ktls, spec, ret_why);
    }
    if (r < 0) {
        record_ktls_free(ktls);
        return r;
    }
    *ret = ktls;
    return 0;
}

void record_ktls_free(struct record_ktls *ktls)
{
    if (ktls == NULL)
        return;
    resealer_fini(ktls);
    OPENSSL_cleanse(ktls, sizeof(*ktls));
    free(ktls);
}

struct record *record_ktls_record(struct record_ktls *ktls)
{
    return &ktls->rec;
}

void record_ktls_lose_device(struct record_ktls *ktls)
{
    ktls->rec.ops = &ktls_ops;
}

bool record_ktls_met_key_update(const struct record_ktls *ktls)
{
    return ktls->met_key_update;
}
