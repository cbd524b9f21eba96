/* hold.c: opens connections, uses each once, and keeps them until standard input ends. */
#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { AT_ONCE = 64 };

struct held {
    struct watch watch; /* first */
    struct reply reply;
    bool asked, answered;
};

static const struct options *options;
static uint32_t held_now, lost;
static bool over;
static char scratch[SCRATCH_BYTES];

static void ready(struct watch *watch, uint32_t events)
{
    struct held *held = (struct held *)watch;
    (void)events;
    if (!held->asked) {
        ssize_t n = send(watch->fd, scratch, options->request_bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n != (ssize_t)options->request_bytes)
            die("a connection broke: %s", strerror(errno));
        held->asked = true;
    }
    char reply[4096];
    for (ssize_t n; (n = recv(watch->fd, reply, sizeof(reply), 0)) >= 0;) {
        if (n == 0) {
            lost++;
            close(watch->fd);
            return;
        }
        int whole = held->answered ? -EPROTO : reply_take(&held->reply, reply, (size_t)n);
        if (whole < 0)
            die("not the reply that was asked for");
        held->answered = whole > 0;
        held_now += held->answered;
    }
    if (errno != EAGAIN)
        die("a connection broke: %s", strerror(errno));
}

static void input_ready(struct watch *watch, uint32_t events)
{
    char byte;
    (void)events;
    over = read(watch->fd, &byte, 1) <= 0;
}

int hold_run(const struct options *given)
{
    options = given;
    http_make_request(scratch, options->request_bytes);
    struct held *all = calloc(options->connections, sizeof(*all));
    if (all == NULL)
        die("no memory");
    uint64_t deadline_ns = now_ns() + (uint64_t)(options->patience * 1e9);
    for (uint32_t opened = 0; held_now < options->connections;) {
        for (; opened < options->connections && opened < held_now + AT_ONCE; opened++) {
            int fd = tcp_connect(&options->target);
            if (fd < 0)
                die("connect: %s", strerror(-fd));
            all[opened].watch = (struct watch){.fd = fd, .ready = ready};
            loop_add(&all[opened].watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
        }
        loop_turn(100);
        if (now_ns() > deadline_ns)
            die("%u of %u connections after %.0f s", held_now, options->connections,
                options->patience);
    }
    printf("{\"held\": %u}\n", held_now);
    fflush(stdout);
    struct watch input = {.fd = STDIN_FILENO, .ready = input_ready};
    loop_add(&input, EPOLLIN);
    while (!over)
        loop_turn(-1);
    printf("{\"lost\": %u}\n", lost);
    return 0;
}
