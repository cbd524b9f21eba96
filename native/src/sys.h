/* sys.h: the system calls of the data path as a table, so that tests can swap it: short writes,
 * EAGAIN at every step, a full table of files. Each returns what the call returns, or -errno;
 * none sets errno for the caller to read. */
#ifndef SLUICE_SYS_H
#define SLUICE_SYS_H

#include <sys/epoll.h>
#include <sys/socket.h>

#include "base.h"

struct sys_table {
    int (*socket)(int domain, int type, int protocol);
    int (*bind)(int fd, const struct sockaddr *addr, socklen_t len);
    int (*connect)(int fd, const struct sockaddr *addr, socklen_t len);
    int (*accept4)(int fd, struct sockaddr *addr, socklen_t *len, int flags);
    int (*getsockname)(int fd, struct sockaddr *addr, socklen_t *len);
    int (*getpeername)(int fd, struct sockaddr *addr, socklen_t *len);
    int (*getsockopt)(int fd, int level, int name, void *value, socklen_t *len);
    int (*setsockopt)(int fd, int level, int name, const void *value, socklen_t len);
    ssize_t (*recv)(int fd, void *buf, size_t len, int flags);
    ssize_t (*send)(int fd, const void *buf, size_t len, int flags);
    ssize_t (*recvmsg)(int fd, struct msghdr *message, int flags);
    ssize_t (*sendmsg)(int fd, const struct msghdr *message, int flags);
    int (*shutdown)(int fd, int how);
    ssize_t (*splice)(int from_fd, int to_fd, size_t len, unsigned flags);
    ssize_t (*read)(int fd, void *buf, size_t len);
    ssize_t (*write)(int fd, const void *buf, size_t len);
    int (*dup)(int fd);                      /* close-on-exec */
    int (*open)(const char *path);           /* to read; close-on-exec */
    int (*close)(int fd);
    int (*close_range)(unsigned first, unsigned last, unsigned flags);
    int (*pipe)(int ret_fds[2]);             /* non-blocking, close-on-exec */
    int (*pipe_size)(int fd);
    int (*pipe_set_size)(int fd, int bytes); /* returns the size it became */
    int (*eventfd)(unsigned initial);        /* non-blocking, close-on-exec */
    int (*epoll_create)(void);
    int (*epoll_ctl)(int epoll_fd, int op, int fd, struct epoll_event *event);
    int (*epoll_wait)(int epoll_fd, struct epoll_event *events, int count, int timeout_ms);
    ssize_t (*getrandom)(void *buf, size_t len);
    void (*yield)(void);                     /* the processor, to whoever waits for it */
};

extern const struct sys_table sys_real;
extern const struct sys_table *sys; /* &sys_real; swapped by tests before threads start */

/* The two calls on a connected socket that a signal may interrupt: begun again then. */
DP_MUST_CHECK static inline ssize_t socket_send(int fd, const void *buf, size_t len)
{
    ssize_t n;
    do
        n = sys->send(fd, buf, len, MSG_NOSIGNAL);
    while (n == -EINTR);
    return n;
}

DP_MUST_CHECK static inline ssize_t socket_receive(int fd, void *buf, size_t len)
{
    ssize_t n;
    do
        n = sys->recv(fd, buf, len, 0);
    while (n == -EINTR);
    return n;
}

#endif
