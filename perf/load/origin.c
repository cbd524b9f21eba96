/* origin.c: the server at the far end: discards bulk without copying it, answers requests. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct served {
    struct watch watch; /* first */
    uint8_t kind;       /* BULK_BYTE, REQUEST_BYTE, or 0: nothing has come yet */
    char tail[4];       /* the last bytes of the request that is coming in */
};

uint64_t origin_bulk_bytes;
uint64_t origin_bulk_streams;
static struct watch listener;
static const struct options *options;
static char scratch[SCRATCH_BYTES], reply[SCRATCH_BYTES];

static void end(struct served *served)
{
    close(served->watch.fd);
    free(served);
}

/* false = the connection is over */
static bool answer(struct served *served, size_t arrived)
{
    if (!http_request_ends(served->tail, scratch, arrived))
        return true;
    memset(served->tail, 0, sizeof(served->tail));
    /* Short for a client that does not read its replies. */
    return send(served->watch.fd, reply, options->reply_bytes, MSG_NOSIGNAL) ==
           (ssize_t)options->reply_bytes;
}

static void ready(struct watch *watch, uint32_t events)
{
    struct served *served = (struct served *)watch;
    (void)events;
    int flags = served->kind == BULK_BYTE ? MSG_TRUNC : 0;
    ssize_t n = recv(watch->fd, scratch, sizeof(scratch), flags);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        end(served);
        return;
    }
    if (served->kind == 0) {
        served->kind = (uint8_t)scratch[0];
        origin_bulk_streams += served->kind == BULK_BYTE;
    }
    if (served->kind == BULK_BYTE)
        origin_bulk_bytes += (uint64_t)n;
    else if (served->kind != REQUEST_BYTE || !answer(served, (size_t)n))
        end(served);
}

static void accept_all(struct watch *watch, uint32_t events)
{
    (void)events;
    for (int i = 0; i < 64; i++) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        struct served *served = calloc(1, sizeof(*served));
        if (served == NULL)
            die("no memory");
        served->watch = (struct watch){.fd = fd, .ready = ready};
        loop_add(&served->watch, EPOLLIN);
    }
}

void origin_start(const struct options *given)
{
    options = given;
    if (options->origin == 0)
        return;
    http_make_reply(reply, options->reply_bytes);
    listener = (struct watch){.fd = tcp_listen(options->origin), .ready = accept_all};
    loop_add(&listener, EPOLLIN);
}
