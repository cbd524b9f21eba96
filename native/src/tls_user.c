/* tls_user.c: from OpenSSL's records to the kernel's or our own: secrets by tls_kdf.c or the key log
 * or, in TLS 1.2, of the master secret; sequence numbers by counting records; and the SSL freed as soon as
 * nothing of it is needed: at once for a server, which has sent its tickets, and in TLS 1.2, where
 * they are part of the handshake; else when a client's first data comes, behind which no ticket is
 * kept any more. Until then OpenSSL reads each ticket's record a second time, for it alone makes a
 * session of it. */
#include <openssl/crypto.h>
#include <openssl/err.h>

#include "clock.h"
#include "tls_internal.h"

static enum keys_side our_side(const struct tls *tls)
{
    return tls->is_server ? KEYS_SERVER : KEYS_CLIENT;
}

void tls_user_learn(struct tls *tls, enum keys_side side, const uint8_t *secret, size_t size)
{
    assert(size <= KEYS_SECRET_MAX);
    if (tls->buffers == NULL)
        return;
    memcpy(tls->secrets[side], secret, size);
    tls->secret_sizes[side] = (uint8_t)size;
    if (side == our_side(tls))
        tls->written = 0;
}

/* OpenSSL logs a secret when it begins to use it. */
static void on_secret(const SSL *ssl, const char *line)
{
    struct tls *tls = SSL_get_app_data(ssl);
    enum keys_side side;
    uint8_t secret[KEYS_SECRET_MAX];
    int size = tls != NULL ? keys_from_log(line, &side, secret) : 0;
    if (size > 0)
        tls_user_learn(tls, side, secret, (size_t)size);
    OPENSSL_cleanse(secret, sizeof(secret));
}

static void on_message(int is_write, int version, int type, const void *buf, size_t len, SSL *ssl,
                       void *arg)
{
    struct tls *tls = SSL_get_app_data(ssl);
    (void)version;
    (void)arg;
    if (type != SSL3_RT_HEADER || tls == NULL || len < 1)
        return;
    uint64_t *count = is_write ? &tls->written : &tls->read;
    /* In TLS 1.2 the keys are new behind it; in 1.3 it means nothing, before the first secret. */
    *count = *(const uint8_t *)buf == SSL3_RT_CHANGE_CIPHER_SPEC ? 0 : *count + 1;
}

void tls_user_attach(SSL_CTX *ctx)
{
    if (tls_library() == NULL) /* else tls_kdf.c tells */
        SSL_CTX_set_keylog_callback(ctx, on_secret);
    SSL_CTX_set_msg_callback(ctx, on_message);
}

static void drop_ssl(struct tls *tls)
{
    SSL_set_quiet_shutdown(tls->ssl, 1);
    SSL_free(tls->ssl);
    tls->ssl = NULL;
}

static void on_failed(void *arg, bool by_peer, uint8_t alert, const char *why)
{
    struct tls *tls = arg;
    if (by_peer)
        tls_refuse_from_alert(tls, alert);
    else
        tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "TLS failed while reading: %s", why);
}

static int on_ticket(void *arg, const uint8_t *record, size_t len)
{
    struct tls *tls = arg;
    uint8_t byte;
    size_t n;
    tls->ticket = record;
    tls->ticket_len = len;
    ERR_clear_error();
    int r = SSL_read_ex(tls->ssl, &byte, 1, &n);
    bool good = r == 0 && SSL_get_error(tls->ssl, 0) == SSL_ERROR_WANT_READ && tls->ticket_len == 0;
    ERR_clear_error();
    tls->ticket = NULL;
    return good ? 0 : -EBADMSG;
}

static void on_settled(void *arg)
{
    drop_ssl(arg);
}

/* Nothing of the SSL is needed once the handshake is done. */
static bool is_settled(const struct tls *tls)
{
    return tls->is_server || tls->info.version == TLS1_2_VERSION;
}

static struct record_owner owner_of(struct tls *tls)
{
    bool settled = is_settled(tls) || tls->ssl == NULL;
    return (struct record_owner){.arg = tls, .failed = on_failed,
                                 .ticket = settled ? NULL : on_ticket,
                                 .settled = settled ? NULL : on_settled};
}

/* In TLS 1.3 nothing was read under the last keys, as tls_user_take_over sees to. */
static uint64_t read_seq(const struct tls *tls)
{
    return tls->info.version == TLS1_2_VERSION ? tls->read : 0;
}

static int to_user(struct tls *tls, enum keys_side ours, enum keys_side theirs)
{
    const struct record_user_spec spec = {
        .fd = tls->rec.fd,
        .is_server = tls->is_server,
        .cipher = tls->info.cipher,
        .read_secret = tls->secrets[theirs],
        .write_secret = tls->secrets[ours],
        .read_seq = read_seq(tls),
        .write_seq = tls->written,
        .buffers = tls->buffers,
        .wire = tls->inbox,
        .owner = owner_of(tls),
    };
    int r = record_user_new(&spec, &tls->user);
    if (r == 0)
        tls->inbox = NULL;
    return r;
}

static int install(struct tls *tls, const struct ktls_direction *read,
                   const struct ktls_direction *write, bool device)
{
    const struct record_ktls_spec spec = {
        .fd = tls->rec.fd,
        .is_server = tls->is_server,
        .cipher = tls->info.cipher,
        .read = *read,
        .write = *write,
        .device = device,
        .buffers = tls->buffers,
        .owner = owner_of(tls),
    };
    enum dp_fallback why = DP_FALLBACK_NONE;
    tls->installed_ns = clock_ns();
    int r = record_ktls_new(&spec, &tls->ktls, &why);
    tls->fallback = (uint8_t)why;
    return r;
}

static int to_kernel(struct tls *tls, enum keys_side ours, enum keys_side theirs)
{
    const struct ktls_direction read = {.secret = tls->secrets[theirs], .seq = read_seq(tls)};
    const struct ktls_direction write = {.secret = tls->secrets[ours], .seq = tls->written};
    assert(tls->inbox == NULL);
    tls->fallback = tls->wants_device ? tls_device_refusal(tls) : DP_FALLBACK_NONE;
    if (tls->fallback != DP_FALLBACK_NONE)
        return -ENOTSUP;
    return install(tls, &read, &write, tls->wants_device);
}

int tls_move_to_kernel(struct tls *tls, bool device)
{
    enum dp_fallback why = DP_FALLBACK_NONE;
    assert(tls->user != NULL);
    int r = record_user_rest(tls->user, &why);
    if (r == -EAGAIN)
        return 0;
    if (r < 0) {
        tls->fallback = (uint8_t)why;
        return -ENOTSUP;
    }
    assert(tls->ssl == NULL); /* it rests only when that is settled */
    struct record_user_place read, write;
    record_user_places(tls->user, &read, &write);
    r = install(tls, &(struct ktls_direction){.secret = read.secret, .seq = read.seq},
                &(struct ktls_direction){.secret = write.secret, .seq = write.seq}, device);
    if (r == -EIO)
        record_user_let_kernel_seal(tls->user);
    if (r < 0) {
        record_user_resume(tls->user);
        return -ENOTSUP;
    }
    record_user_free(tls->user);
    tls->user = NULL;
    return 1;
}

uint64_t tls_installed_ns(const struct tls *tls)
{
    return tls->installed_ns;
}

void tls_lose_device(struct tls *tls)
{
    assert(tls->ktls != NULL);
    record_ktls_lose_device(tls->ktls);
    tls->fallback = DP_FALLBACK_LINK_CHANGED;
}

/* TLS 1.2's secrets. OpenSSL begins with an explicit nonce of its own liking; we go on from there,
 * so that no nonce is used twice. One record was written and one read under these keys. */
static void secrets_of_12(struct tls *tls, enum keys_side ours, enum keys_side theirs)
{
    static const uint8_t head[RECORD_HEADER] = {SSL3_RT_HANDSHAKE, 3, 3, 0,
                                                TLS_FINISHED_SIZE - RECORD_HEADER};
    uint8_t master[KEYS_MASTER_SIZE], client[KEYS_RANDOM_SIZE], server[KEYS_RANDOM_SIZE];
    uint64_t explicit = be64_get(tls->finished + RECORD_HEADER);
    uint16_t cipher = tls->info.cipher;
    if (tls->written != 1 || tls->read != 1 || memcmp(tls->finished, head, sizeof(head)) != 0 ||
        SSL_SESSION_get_master_key(SSL_get_session(tls->ssl), master, sizeof(master)) !=
            sizeof(master) ||
        SSL_get_client_random(tls->ssl, client, sizeof(client)) != sizeof(client) ||
        SSL_get_server_random(tls->ssl, server, sizeof(server)) != sizeof(server))
        return;
    if (keys_from_master(cipher, master, client, server, ours, explicit, tls->secrets[ours]) == 0)
        tls->secret_sizes[ours] = (uint8_t)keys_secret_size(cipher);
    if (keys_from_master(cipher, master, client, server, theirs, 0, tls->secrets[theirs]) == 0)
        tls->secret_sizes[theirs] = (uint8_t)keys_secret_size(cipher);
    OPENSSL_cleanse(master, sizeof(master));
}

int tls_user_take_over(struct tls *tls)
{
    enum keys_side ours = our_side(tls), theirs = ours == KEYS_SERVER ? KEYS_CLIENT : KEYS_SERVER;
    size_t size = keys_secret_size(tls->info.cipher);
    if (tls->info.version == TLS1_2_VERSION)
        secrets_of_12(tls, ours, theirs);
    bool keys = size > 0 && tls->secret_sizes[ours] == size && tls->secret_sizes[theirs] == size;
    int r = -ENOTSUP;
    if (!keys || SSL_has_pending(tls->ssl)) {
        if (tls->wants_kernel)
            tls->fallback = keys ? DP_FALLBACK_READ_AHEAD : DP_FALLBACK_CIPHER;
    } else {
        if (tls->wants_kernel)
            r = to_kernel(tls, ours, theirs);
        bool kernel_seals = r == -EIO;
        if (r < 0)
            r = to_user(tls, ours, theirs);
        if (kernel_seals && r < 0)
            r = -EIO;
        else if (kernel_seals)
            record_user_let_kernel_seal(tls->user);
    }
    OPENSSL_cleanse(tls->secrets, sizeof(tls->secrets));
    if (r == 0 && is_settled(tls))
        drop_ssl(tls);
    return r;
}

void tls_user_fini(struct tls *tls)
{
    record_user_free(tls->user);
    record_ktls_free(tls->ktls);
    buffers_put(tls->buffers, tls->inbox);
    OPENSSL_cleanse(tls->secrets, sizeof(tls->secrets));
}
