/* pipe.c: the free pipes as a stack. Never moves a stream's bytes; it only throws away those of
 * streams that are gone. */
#define _GNU_SOURCE
#include "pipe.h"

#include <fcntl.h>
#include <stdlib.h>

#include "clock.h"
#include "sys.h"
#include "vector.h"

enum { RETRY_MS = 1000 }; /* after the kernel refused one, ask again only then */

struct pipes {
    struct pipe_pair *free; /* owned; room for every pipe there can be */
    uint32_t free_count, capacity;
    uint32_t added;         /* given to us */
    uint32_t own, own_max;  /* made by us, in use or free */
    int64_t retry_at_ms;
};

int pipes_new(uint32_t own_max, struct pipes **ret)
{
    struct pipes *pipes = calloc(1, sizeof(*pipes));
    if (pipes == NULL)
        return -ENOMEM;
    pipes->own_max = own_max;
    int r = vector_reserve(&pipes->free, &pipes->capacity, own_max, sizeof(*pipes->free));
    if (r < 0) {
        free(pipes);
        return r;
    }
    *ret = pipes;
    return 0;
}

static void close_pair(const struct pipe_pair *pair)
{
    sys->close(pair->read_fd);
    sys->close(pair->write_fd);
}

void pipes_free(struct pipes *pipes)
{
    if (pipes == NULL)
        return;
    for (uint32_t i = 0; i < pipes->free_count; i++)
        close_pair(&pipes->free[i]);
    free(pipes->free);
    free(pipes);
}

/* False when it cannot be emptied: an error, or somebody else writes to it. */
static bool drained(const struct pipe_pair *pair)
{
    uint8_t scratch[64 << 10];
    for (size_t left = (size_t)pair->size + sizeof(scratch); left >= sizeof(scratch);) {
        ssize_t n = sys->read(pair->read_fd, scratch, sizeof(scratch));
        if (n == -EAGAIN)
            return true;
        if (n <= 0)
            return false;
        left -= (size_t)n;
    }
    return false;
}

static int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int pipes_add_take(struct pipes *pipes, int read_fd, int write_fd)
{
    struct pipe_pair pair = {.read_fd = read_fd, .write_fd = write_fd};
    int r = sys->pipe_size(read_fd);
    if (r < 0)
        goto err_close;
    pair.size = (uint32_t)r;
    r = -EINVAL;
    if (pair.size < PIPE_SIZE_MIN || sys->pipe_size(write_fd) != (int)pair.size)
        goto err_close;
    r = set_nonblocking(read_fd);
    if (r == 0)
        r = set_nonblocking(write_fd);
    if (r < 0)
        goto err_close;
    r = -EINVAL;
    if (!drained(&pair))
        goto err_close;
    r = vector_reserve(&pipes->free, &pipes->capacity, pipes->own_max + pipes->added + 1,
                       sizeof(*pipes->free));
    if (r < 0)
        goto err_close;
    pipes->added++;
    pipes->free[pipes->free_count++] = pair;
    return 0;

err_close:
    close_pair(&pair);
    return r;
}

static int make_own(struct pipes *pipes, struct pipe_pair *ret)
{
    if (pipes->own >= pipes->own_max)
        return -ENOBUFS;
    int64_t now_ms = clock_ms();
    if (now_ms < pipes->retry_at_ms)
        return -ENOBUFS;
    int fds[2];
    if (sys->pipe(fds) < 0) {
        pipes->retry_at_ms = now_ms + RETRY_MS;
        return -ENOBUFS;
    }
    int size = sys->pipe_set_size(fds[1], PIPE_SIZE);
    if (size < 0)
        size = sys->pipe_size(fds[1]); /* what there is, if it is enough */
    struct pipe_pair pair = {.read_fd = fds[0], .write_fd = fds[1], .size = (uint32_t)size};
    if (size < PIPE_SIZE_MIN) {
        close_pair(&pair);
        pipes->retry_at_ms = now_ms + RETRY_MS;
        return -ENOBUFS;
    }
    pipes->own++;
    *ret = pair;
    return 0;
}

bool pipes_at(const struct pipes *pipes, uint32_t number, struct pipe_pair *ret)
{
    if (number >= pipes->free_count)
        return false;
    *ret = pipes->free[number];
    return true;
}

int pipes_get(struct pipes *pipes, struct pipe_pair *ret)
{
    if (pipes->free_count == 0)
        return make_own(pipes, ret);
    *ret = pipes->free[--pipes->free_count];
    return 0;
}

void pipes_put(struct pipes *pipes, struct pipe_pair pair, bool empty)
{
    if (empty || drained(&pair)) {
        assert(pipes->free_count < pipes->capacity);
        pipes->free[pipes->free_count++] = pair;
        return;
    }
    /* Lost: whoever made it, one of our own may take its place. */
    close_pair(&pair);
    if (pipes->own > 0) {
        pipes->own--;
    } else {
        assert(pipes->added > 0);
        pipes->added--;
        pipes->own_max++;
    }
}
