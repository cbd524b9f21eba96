/* bulk.c: streams that send as fast as they are taken. */
#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char data[SCRATCH_BYTES];
static size_t at_once;

static void ready(struct watch *watch, uint32_t events)
{
    (void)events;
    ssize_t n = send(watch->fd, data, at_once, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        die("a bulk stream broke: %s", strerror(errno));
}

void bulk_start(const struct sockaddr_in *target, uint32_t connections, size_t bytes)
{
    at_once = bytes;
    memset(data, BULK_BYTE, sizeof(data));
    for (uint32_t i = 0; i < connections; i++) {
        struct watch *watch = calloc(1, sizeof(*watch));
        int fd = tcp_connect(target);
        if (watch == NULL || fd < 0)
            die("connect: %s", strerror(watch == NULL ? ENOMEM : -fd));
        *watch = (struct watch){.fd = fd, .ready = ready};
        loop_add(watch, EPOLLOUT);
    }
}

static void run_until(uint64_t end_ns)
{
    while (now_ns() < end_ns)
        loop_turn(10);
}

int bulk_run(const struct options *options)
{
    struct window window;
    bulk_start(&options->target, options->connections, sizeof(data));
    run_until(now_ns() + (uint64_t)(options->warmup * 1e9));
    uint64_t before = origin_bulk_bytes;
    if (before == 0)
        die("nothing arrived at the origin within %.1f s", options->warmup);
    window_open(&window, options);
    run_until(window.begin_ns + (uint64_t)(options->seconds * 1e9));
    window_close(&window);
    window_print(&window);
    printf(", \"bytes\": %" PRIu64 "}\n", origin_bulk_bytes - before);
    return 0;
}
