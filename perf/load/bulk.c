/* bulk.c: streams that send as fast as they are taken, while they are let go. */
#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct options *options;
static struct watch *streams;
static uint32_t count;
static char data[SCRATCH_BYTES];
static size_t at_once;
static uint64_t sent;

static void ready(struct watch *watch, uint32_t events)
{
    (void)events;
    ssize_t n = send(watch->fd, data, at_once, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        die("a bulk stream broke: %s", strerror(errno));
    sent += n < 0 ? 0 : (uint64_t)n;
}

/* Turns until one of two numbers has come up to the other, or dies. */
static void wait_for(const char *what, const uint64_t *number, const uint64_t *wanted)
{
    uint64_t deadline_ns = now_ns() + (uint64_t)(options->patience * 1e9);
    while (*number < *wanted) {
        loop_turn(1);
        if (now_ns() > deadline_ns)
            die("%" PRIu64 " of %" PRIu64 " %s at the origin after %.0f s", *number, *wanted,
                what, options->patience);
    }
}

void bulk_go(void)
{
    for (uint32_t i = 0; i < count; i++)
        loop_add(&streams[i], EPOLLOUT);
}

void bulk_rest(void)
{
    for (uint32_t i = 0; i < count; i++)
        loop_remove(&streams[i]);
    wait_for("bytes arrived", &origin_bulk_bytes, &sent);
}

void bulk_open(const struct options *given, uint32_t connections, size_t bytes)
{
    options = given;
    at_once = bytes;
    count = connections;
    memset(data, BULK_BYTE, sizeof(data));
    streams = calloc(connections, sizeof(*streams));
    if (streams == NULL)
        die("no memory");
    for (uint32_t i = 0; i < connections; i++) {
        int fd = tcp_connect(&options->target);
        if (fd < 0)
            die("connect: %s", strerror(-fd));
        streams[i] = (struct watch){.fd = fd, .ready = ready};
    }
    bulk_go();
    wait_for("bulk streams are", &origin_bulk_streams, &(uint64_t){connections});
    bulk_rest();
}

static void run_for(double seconds)
{
    uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9);
    bulk_go();
    while (now_ns() < end_ns)
        loop_turn(10);
    bulk_rest();
}

static void slice(bool beside)
{
    (void)beside;
    struct window window;
    run_for(options->warmup);
    uint64_t before = origin_bulk_bytes;
    window_open(&window, options);
    run_for(options->seconds);
    window_close(&window);
    window_print(&window);
    printf(", \"bytes\": %" PRIu64 "}\n", origin_bulk_bytes - before);
}

int bulk_run(const struct options *given)
{
    bulk_open(given, given->connections, sizeof(data));
    return slices_run(given, slice);
}
