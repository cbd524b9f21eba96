/* tls_bio.c: the socket under a TLS leg, as an OpenSSL BIO. Differs from OpenSSL's own in that it
 * uses the table of system calls, never raises SIGPIPE, and remembers errno and EOF for the leg,
 * so that a truncated stream is told from a reset one. */
#include <openssl/crypto.h>

#include "sys.h"
#include "tls_internal.h"

static int bio_write(BIO *bio, const char *buf, int len)
{
    struct tls *tls = BIO_get_data(bio);
    ssize_t n;
    BIO_clear_retry_flags(bio);
    do
        n = sys->send(tls->rec.fd, buf, (size_t)len, MSG_NOSIGNAL);
    while (n == -EINTR);
    if (n >= 0)
        return (int)n;
    if (n == -EAGAIN)
        BIO_set_retry_write(bio);
    else
        tls->io_error = (int)-n;
    return -1;
}

static int bio_read(BIO *bio, char *buf, int len)
{
    struct tls *tls = BIO_get_data(bio);
    ssize_t n;
    BIO_clear_retry_flags(bio);
    do
        n = sys->recv(tls->rec.fd, buf, (size_t)len, 0);
    while (n == -EINTR);
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
