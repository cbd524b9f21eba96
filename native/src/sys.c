/* sys.c: the real system calls behind sys.h. Decides nothing and retries nothing. */
#define _GNU_SOURCE
#include "sys.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define RESULT(call) \
    __extension__({ \
        __typeof__(call) result_ = (call); \
        result_ < 0 ? -errno : result_; \
    })

static int sys_socket(int domain, int type, int protocol)
{
    return RESULT(socket(domain, type, protocol));
}

static int sys_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
    return RESULT(bind(fd, addr, len));
}

static int sys_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    return RESULT(connect(fd, addr, len));
}

static int sys_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    return RESULT(accept4(fd, addr, len, flags));
}

static int sys_getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
    return RESULT(getsockname(fd, addr, len));
}

static int sys_getpeername(int fd, struct sockaddr *addr, socklen_t *len)
{
    return RESULT(getpeername(fd, addr, len));
}

static int sys_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    return RESULT(getsockopt(fd, level, name, value, len));
}

static int sys_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    return RESULT(setsockopt(fd, level, name, value, len));
}

static ssize_t sys_recv(int fd, void *buf, size_t len, int flags)
{
    return RESULT(recv(fd, buf, len, flags));
}

static ssize_t sys_send(int fd, const void *buf, size_t len, int flags)
{
    return RESULT(send(fd, buf, len, flags));
}

static ssize_t sys_recvmsg(int fd, struct msghdr *message, int flags)
{
    return RESULT(recvmsg(fd, message, flags));
}

static ssize_t sys_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return RESULT(sendmsg(fd, message, flags));
}

static int sys_shutdown(int fd, int how)
{
    return RESULT(shutdown(fd, how));
}

static ssize_t sys_splice(int from_fd, int to_fd, size_t len, unsigned flags)
{
    return RESULT(splice(from_fd, NULL, to_fd, NULL, len, flags));
}

static ssize_t sys_read(int fd, void *buf, size_t len)
{
    return RESULT(read(fd, buf, len));
}

static ssize_t sys_write(int fd, const void *buf, size_t len)
{
    return RESULT(write(fd, buf, len));
}

static int sys_dup(int fd)
{
    return RESULT(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

static int sys_open(const char *path)
{
    return RESULT(open(path, O_RDONLY | O_CLOEXEC));
}

static int sys_close(int fd)
{
    return RESULT(close(fd));
}

static int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
    return RESULT(close_range(first, last, (int)flags));
}

static int sys_pipe(int ret_fds[2])
{
    return RESULT(pipe2(ret_fds, O_NONBLOCK | O_CLOEXEC));
}

static int sys_pipe_size(int fd)
{
    return RESULT(fcntl(fd, F_GETPIPE_SZ));
}

static int sys_pipe_set_size(int fd, int bytes)
{
    return RESULT(fcntl(fd, F_SETPIPE_SZ, bytes));
}

static int sys_eventfd(unsigned initial)
{
    return RESULT(eventfd(initial, EFD_NONBLOCK | EFD_CLOEXEC));
}

static int sys_epoll_create(void)
{
    return RESULT(epoll_create1(EPOLL_CLOEXEC));
}

static int sys_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
    return RESULT(epoll_ctl(epoll_fd, op, fd, event));
}

static int sys_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
    return RESULT(epoll_wait(epoll_fd, events, count, timeout_ms));
}

static ssize_t sys_getrandom(void *buf, size_t len)
{
    return RESULT(getrandom(buf, len, 0));
}

static void sys_yield(void)
{
    sched_yield();
}

const struct sys_table sys_real = {
    .socket = sys_socket,
    .bind = sys_bind,
    .connect = sys_connect,
    .accept4 = sys_accept4,
    .getsockname = sys_getsockname,
    .getpeername = sys_getpeername,
    .getsockopt = sys_getsockopt,
    .setsockopt = sys_setsockopt,
    .recv = sys_recv,
    .send = sys_send,
    .recvmsg = sys_recvmsg,
    .sendmsg = sys_sendmsg,
    .shutdown = sys_shutdown,
    .splice = sys_splice,
    .read = sys_read,
    .write = sys_write,
    .dup = sys_dup,
    .open = sys_open,
    .close = sys_close,
    .close_range = sys_close_range,
    .pipe = sys_pipe,
    .pipe_size = sys_pipe_size,
    .pipe_set_size = sys_pipe_set_size,
    .eventfd = sys_eventfd,
    .epoll_create = sys_epoll_create,
    .epoll_ctl = sys_epoll_ctl,
    .epoll_wait = sys_epoll_wait,
    .getrandom = sys_getrandom,
    .yield = sys_yield,
};

const struct sys_table *sys = &sys_real;
