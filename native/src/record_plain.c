/* record_plain.c: bytes as they are, over a socket. */
#include "record.h"
#include "sys.h"

static ssize_t plain_read(struct record *rec, void *buf, size_t len)
{
    return socket_receive(rec->fd, buf, len);
}

static ssize_t plain_write(struct record *rec, const void *buf, size_t len)
{
    return socket_send(rec->fd, buf, len);
}

static int plain_finish(struct record *rec)
{
    int r = sys->shutdown(rec->fd, SHUT_WR);
    return r == -ENOTCONN ? 0 : r; /* the peer is gone: reading tells how */
}

static bool plain_pending(const struct record *rec)
{
    (void)rec;
    return false;
}

static const struct record_ops plain_ops = {
    .layer = DP_RECORD_PLAIN,
    .read = plain_read,
    .write = plain_write,
    .finish = plain_finish,
    .pending = plain_pending,
};

void record_plain_init(struct record *rec, int fd)
{
    *rec = (struct record){.ops = &plain_ops, .fd = fd};
}
