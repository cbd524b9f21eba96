/* null.c: a relay that parses nothing and decides nothing: what any proxy has to beat or pay.
 *   null copy|splice LISTEN_PORT TARGET_PORT     both on 127.0.0.1
 * Edge-triggered epoll, one thread. Copying reads 256 KiB at most into one scratch buffer and keeps
 * a buffer only for what could not be sent; splicing takes a pipe of 1 MiB from a pool while bytes
 * are in it. Half-close is passed on. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER_BYTES = 256 * 1024, PIPE_BYTES = 1 << 20, POOL_MAX = 4096, BUDGET = 16 };

struct pipe {
    int read_end, write_end;
};

struct side { /* one direction: from fd, to the other side's fd */
    int fd;
    bool readable, hung_up, ended, finished, queued;
    char *kept; /* copy: what could not be sent yet */
    size_t off, len; /* of kept; or len bytes in the pipe */
    struct pipe pipe;
    struct conn *conn;
    struct side *other, *next;
};

struct conn {
    struct side side[2];
    bool dead;
    struct conn *next;
};

static bool splicing;
static int epoll_fd;
static char *scratch, *buffers[POOL_MAX];
static size_t buffer_count, pipe_count;
static struct pipe pipes[POOL_MAX];
static struct conn *dead;
static struct side *queue; /* sides that used up their budget with more to do */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static char *buffer_get(void)
{
    char *buffer = buffer_count > 0 ? buffers[--buffer_count] : malloc(BUFFER_BYTES);
    if (buffer == NULL)
        die("malloc");
    return buffer;
}

static void buffer_put(char *buffer)
{
    if (buffer_count < POOL_MAX)
        buffers[buffer_count++] = buffer;
    else
        free(buffer);
}

static bool pipe_get(struct side *side)
{
    if (pipe_count > 0) {
        side->pipe = pipes[--pipe_count];
        return true;
    }
    int ends[2];
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0)
        return false;
    (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES); /* the limit of a user may be reached */
    side->pipe = (struct pipe){ends[0], ends[1]};
    return true;
}

static void pipe_put(struct side *side)
{
    if (side->len == 0 && pipe_count < POOL_MAX) {
        pipes[pipe_count++] = side->pipe;
    } else {
        close(side->pipe.read_end);
        close(side->pipe.write_end);
    }
    side->pipe.read_end = -1;
}

static void kill_conn(struct conn *conn)
{
    if (conn->dead)
        return;
    conn->dead = true;
    for (int i = 0; i < 2; i++) {
        struct side *side = &conn->side[i];
        close(side->fd);
        if (side->kept != NULL)
            buffer_put(side->kept);
        if (side->pipe.read_end >= 0)
            pipe_put(side);
    }
    conn->next = dead; /* freed after the turn: an event or the queue may still name it */
    dead = conn;
}

/* Sends what waits. 1 = nothing waits, 0 = the target is full, -1 = broken. */
static int flush(struct side *side)
{
    while (side->len > 0) {
        ssize_t n = splicing ? splice(side->pipe.read_end, NULL, side->other->fd, NULL, side->len,
                                      SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
                             : send(side->other->fd, side->kept + side->off, side->len,
                                    MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        side->off += (size_t)n;
        side->len -= (size_t)n;
    }
    if (side->kept != NULL)
        buffer_put(side->kept);
    if (side->pipe.read_end >= 0)
        pipe_put(side);
    side->kept = NULL;
    return 1;
}

/* One read, and when copying the first attempt to send it. Bytes read, 0 at the end, -1 with
 * errno. */
static ssize_t fill(struct side *side)
{
    if (splicing) {
        if (!pipe_get(side))
            return -1;
        ssize_t n = splice(side->fd, NULL, side->pipe.write_end, NULL, PIPE_BYTES,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        int error = errno;
        if (n > 0)
            side->len = (size_t)n;
        else
            pipe_put(side);
        errno = error;
        return n;
    }
    ssize_t n = recv(side->fd, scratch, BUFFER_BYTES, 0);
    if (n <= 0)
        return n;
    if (n < BUFFER_BYTES && !side->hung_up)
        side->readable = false; /* a short read: drained */
    ssize_t sent = send(side->other->fd, scratch, (size_t)n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return -1;
    if (sent < n) {
        side->off = sent > 0 ? (size_t)sent : 0;
        side->len = (size_t)n - side->off;
        side->kept = scratch;
        scratch = buffer_get();
    }
    return n;
}

/* -1 = broken, 1 = more to do than the budget allows, 0 = waits for an event */
static int pump(struct side *side)
{
    for (int budget = BUDGET; budget > 0; budget--) {
        int r = flush(side);
        if (r <= 0)
            return r;
        if (side->ended) {
            if (!side->finished)
                shutdown(side->other->fd, SHUT_WR);
            side->finished = true;
            return 0;
        }
        if (!side->readable)
            return 0;
        ssize_t n = fill(side);
        if (n < 0 && errno == EAGAIN)
            side->readable = false;
        else if (n < 0)
            return -1;
        side->ended = n == 0;
    }
    return 1;
}

static void run(struct side *side)
{
    struct conn *conn = side->conn;
    if (conn->dead)
        return;
    int r = pump(side);
    if (r < 0 || (conn->side[0].finished && conn->side[1].finished)) {
        kill_conn(conn);
    } else if (r > 0 && !side->queued) {
        side->queued = true;
        side->next = queue;
        queue = side;
    }
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
}

static int tcp_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

static void accept_all(int listener, const struct sockaddr_in *target)
{
    for (int i = 0; i < 64; i++) {
        int down = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (down < 0)
            return;
        int up = tcp_socket();
        struct conn *conn = calloc(1, sizeof(*conn));
        if (up < 0 || conn == NULL)
            die("new connection");
        for (int side = 0; side < 2; side++)
            conn->side[side] = (struct side){.fd = side == 0 ? down : up, .conn = conn,
                                             .pipe.read_end = -1, .other = &conn->side[!side]};
        if (connect(up, (const struct sockaddr *)target, sizeof(*target)) < 0 &&
            errno != EINPROGRESS) {
            kill_conn(conn);
            continue;
        }
        for (int side = 0; side < 2; side++) {
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                        .data.ptr = &conn->side[side]};
            if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, conn->side[side].fd, &event) < 0)
                die("epoll_ctl");
        }
    }
}

static void on_event(struct side *side, uint32_t events)
{
    if (side->conn->dead)
        return;
    if (events & EPOLLERR) {
        kill_conn(side->conn);
        return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) {
        side->readable = true;
        side->hung_up |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
        run(side);
    }
    if (events & EPOLLOUT && side->other->len > 0)
        run(side->other);
}

int main(int argc, char **argv)
{
    if (argc != 4 || (strcmp(argv[1], "copy") != 0 && strcmp(argv[1], "splice") != 0)) {
        fprintf(stderr, "usage: null copy|splice LISTEN_PORT TARGET_PORT\n");
        return 2;
    }
    splicing = strcmp(argv[1], "splice") == 0;
    signal(SIGPIPE, SIG_IGN);
    scratch = buffer_get();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = tcp_socket(), on = 1;
    struct sockaddr_in at = loopback(atoi(argv[2])), target = loopback(atoi(argv[3]));
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 65535) < 0 ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0)
        die("listen");
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(epoll_fd, events, 256, queue != NULL ? 0 : -1);
        struct side *again = queue;
        queue = NULL;
        while (again != NULL) {
            struct side *side = again;
            again = side->next;
            side->queued = false;
            run(side);
        }
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL)
                accept_all(listener, &target);
            else
                on_event(events[i].data.ptr, events[i].events);
        }
        while (dead != NULL && queue == NULL) {
            struct conn *conn = dead;
            dead = conn->next;
            free(conn);
        }
    }
}
