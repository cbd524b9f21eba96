/* record_openssl.c: records by OpenSSL's SSL_read and SSL_write; the first implementation, the
 * oracle for the others and the fall-back. State is in struct tls. */
#include <openssl/err.h>

#include "tls_internal.h"

enum { CONTROLS_MAX = 32 }; /* tickets and key updates in a row, in one read */

static struct tls *tls_of(const struct record *rec)
{
    return (struct tls *)rec; /* rec is its first member */
}

/* Why the SSL call just made did not succeed, as record_ops.read returns it. OpenSSL meets a FIN
 * only when it needs more bytes, so it is a truncation, whatever else it then queues as errors. */
static ssize_t failure(struct tls *tls, const char *during, bool is_read)
{
    switch (SSL_get_error(tls->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        if (is_read && tls->io_eof)
            return -ENODATA;
        if (tls->io_error != 0)
            return -tls->io_error;
        tls_refuse_from_openssl(tls, during);
        return -EBADMSG;
    }
}

static ssize_t openssl_read(struct record *rec, void *buf, size_t len)
{
    struct tls *tls = tls_of(rec);
    if (tls->read_ended) {
        tls->read_end_told = true;
        return tls->read_end;
    }
    size_t total = 0;
    unsigned controls = 0;
    while (total < len) {
        size_t n = 0;
        ERR_clear_error();
        tls->io_error = 0;
        tls->io_starved = false;
        if (SSL_read_ex(tls->ssl, (uint8_t *)buf + total, len - total, &n)) {
            tls->drained = false;
            total += n;
            continue;
        }
        ssize_t r = failure(tls, "reading", true);
        /* After a control record OpenSSL asks for more before it has looked for it. Whether there
         * is none only the socket can say: it will not tell again of what it has told. */
        if (r == -EAGAIN && SSL_want_read(tls->ssl) && !tls->io_starved) {
            if (++controls <= CONTROLS_MAX)
                continue;
            tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE, "peer sends control records only");
            r = -EBADMSG;
        }
        ERR_clear_error();
        if (r == -EAGAIN) {
            tls->drained = true;
        } else { /* bytes before the end go first */
            tls->read_ended = true;
            tls->read_end = r;
            tls->read_end_told = total == 0;
        }
        return total > 0 ? (ssize_t)total : r;
    }
    return (ssize_t)total;
}

static ssize_t openssl_write(struct record *rec, const void *buf, size_t len)
{
    struct tls *tls = tls_of(rec);
    size_t total = 0;
    if (tls->finish != TLS_FINISH_NOT)
        return -EPIPE;
    while (total < len) {
        size_t n = 0;
        ERR_clear_error();
        tls->io_error = 0;
        if (SSL_write_ex(tls->ssl, (const uint8_t *)buf + total, len - total, &n)) {
            total += n;
            continue;
        }
        ssize_t r = failure(tls, "writing", false);
        ERR_clear_error();
        if (total > 0)
            break; /* a failure that is more than EAGAIN comes again */
        return r == 0 ? -EPIPE : r;
    }
    return (ssize_t)total;
}

/* Sends close_notify; the socket's own write side stays open, so that a KeyUpdate that the peer
 * asks for can still be answered. SSL_shutdown must not be called once more when it is out: it
 * would then read, and throw away what it reads. */
static int openssl_finish(struct record *rec)
{
    struct tls *tls = tls_of(rec);
    if (tls->finish == TLS_FINISH_DONE)
        return 0;
    ERR_clear_error();
    tls->io_error = 0;
    tls->finish = TLS_FINISH_SENDING;
    int r = SSL_shutdown(tls->ssl);
    if (r >= 0) {
        tls->finish = TLS_FINISH_DONE;
        return 0;
    }
    ssize_t why = failure(tls, "closing", false);
    ERR_clear_error();
    if (why == -EAGAIN)
        return -EAGAIN;
    tls->finish = TLS_FINISH_DONE;
    return why == 0 ? -EPIPE : (int)why;
}

static bool openssl_pending(const struct record *rec)
{
    const struct tls *tls = tls_of(rec);
    if (tls->read_ended)
        return !tls->read_end_told;
    /* What is left after a read that found no whole record waits for the socket. */
    return !tls->drained && (SSL_has_pending(tls->ssl) || tls->inbox != NULL);
}

static const struct record_ops openssl_ops = {
    .layer = DP_RECORD_OPENSSL,
    .read = openssl_read,
    .write = openssl_write,
    .finish = openssl_finish,
    .pending = openssl_pending,
};

void record_openssl_init(struct tls *tls)
{
    tls->rec.ops = &openssl_ops;
}
