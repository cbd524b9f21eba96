/* tls_bio.c: the socket under a TLS leg, as an OpenSSL BIO. Differs from OpenSSL's own in that it
 * uses the table of system calls, never raises SIGPIPE, and remembers errno and EOF for the leg,
 * so that a truncated stream is told from a reset one. */
#include <openssl/crypto.h>

#include "sys.h"
#include "tls_internal.h"

static void keep_last(struct tls *tls, const uint8_t *buf, size_t len)
{
    size_t size = sizeof(tls->finished);
    if (len < size)
        memmove(tls->finished, tls->finished + len, size - len);
    else
        buf += len - size;
    size_t n = len < size ? len : size;
    memcpy(tls->finished + size - n, buf, n);
}

static int bio_write(BIO *bio, const char *buf, int len)
{
    struct tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (tls_is_taken_over(tls)) /* an alert about a ticket: the records are ours now, so is that */
        return len;
    ssize_t n = socket_send(tls->rec.fd, buf, (size_t)len);
    if (n > 0 && tls->takes_12 && !tls->established)
        keep_last(tls, (const uint8_t *)buf, (size_t)n);
    if (n >= 0)
        return (int)n;
    if (n == -EAGAIN)
        BIO_set_retry_write(bio);
    else
        tls->io_error = (int)-n;
    return -1;
}

/* By way of the inbox, whose rest OpenSSL never sees. */
static ssize_t receive_by_inbox(struct tls *tls, void *buf, size_t len)
{
    if (tls->inbox == NULL) {
        struct buffer *inbox = buffers_get(tls->buffers, false);
        ssize_t n = socket_receive(tls->rec.fd, inbox->data, inbox->cap);
        if (n <= 0) {
            buffers_put(tls->buffers, inbox);
            return n;
        }
        inbox->len = (uint32_t)n;
        tls->inbox = inbox;
    }
    struct buffer *inbox = tls->inbox;
    if (len > inbox->len - inbox->off)
        len = inbox->len - inbox->off;
    memcpy(buf, inbox->data + inbox->off, len);
    inbox->off += (uint32_t)len;
    if (inbox->off == inbox->len) {
        buffers_put(tls->buffers, inbox);
        tls->inbox = NULL;
    }
    return (ssize_t)len;
}

/* A ticket's record, that we have read and opened already. */
static ssize_t receive_ticket(struct tls *tls, void *buf, size_t len)
{
    if (tls->ticket_len == 0)
        return -EAGAIN;
    if (len > tls->ticket_len)
        len = tls->ticket_len;
    memcpy(buf, tls->ticket, len);
    tls->ticket += len;
    tls->ticket_len -= len;
    return (ssize_t)len;
}

static int bio_read(BIO *bio, char *buf, int len)
{
    struct tls *tls = BIO_get_data(bio);
    ssize_t n;
    BIO_clear_retry_flags(bio);
    if (tls_is_taken_over(tls))
        n = receive_ticket(tls, buf, (size_t)len);
    else if (tls->buffers != NULL && !tls->wants_kernel)
        n = receive_by_inbox(tls, buf, (size_t)len);
    else
        n = socket_receive(tls->rec.fd, buf, (size_t)len);
    tls->io_starved = n == -EAGAIN;
    if (n > 0)
        return (int)n;
    if (n == 0) {
        tls->io_eof = true;
        return 0;
    }
    if (n == -EAGAIN)
        BIO_set_retry_read(bio);
    else
        tls->io_error = (int)-n;
    return -1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    const struct tls *tls = BIO_get_data(bio);
    (void)number;
    (void)pointer;
    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_EOF:
        return tls->io_eof;
    default:
        return 0;
    }
}

static CRYPTO_ONCE method_once = CRYPTO_ONCE_STATIC_INIT;
static BIO_METHOD *method; /* made once a process: OpenSSL has few type numbers */

static void method_make(void)
{
    BIO_METHOD *made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sluice");
    if (made != NULL && BIO_meth_set_write(made, bio_write) && BIO_meth_set_read(made, bio_read) &&
        BIO_meth_set_ctrl(made, bio_ctrl))
        method = made;
    else
        BIO_meth_free(made);
}

int tls_bio_attach(struct tls *tls)
{
    if (!CRYPTO_THREAD_run_once(&method_once, method_make) || method == NULL)
        return -ENOMEM;
    BIO *bio = BIO_new(method);
    if (bio == NULL)
        return -ENOMEM;
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio); /* takes it */
    return 0;
}
