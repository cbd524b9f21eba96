/* test_pipe.c: the pool of pipes: ours, the supervisor's, dirty ones, and a kernel that refuses. */
#define _GNU_SOURCE
#include "pipe.h"

#include <fcntl.h>
#include <unistd.h>

#include "clock.h"
#include "sys.h"
#include "test.h"

static struct sys_table table;
static int opened, closed, open_result, small_size;

static int counting_pipe(int ret_fds[2])
{
    if (open_result < 0)
        return open_result;
    opened++;
    return sys_real.pipe(ret_fds);
}

static int counting_close(int fd)
{
    closed++;
    return sys_real.close(fd);
}

static int refused_size(int fd, int bytes)
{
    (void)fd, (void)bytes;
    return -EPERM;
}

static int some_size(int fd)
{
    return small_size > 0 ? small_size : sys_real.pipe_size(fd);
}

static void begin(void)
{
    table = sys_real;
    table.pipe = counting_pipe;
    table.close = counting_close;
    table.pipe_size = some_size;
    sys = &table;
    opened = closed = open_result = small_size = 0;
    clock_test_set(0, 0);
}

static void end(void)
{
    sys = &sys_real;
    clock_test_reset();
}

static void own_pipes_up_to_the_limit(void)
{
    begin();
    struct pipes *pipes;
    struct pipe_pair a, b, c;
    REQUIRE_INT(pipes_new(2, &pipes), 0);
    CHECK_INT(pipes_get(pipes, &a), 0);
    CHECK_INT(pipes_get(pipes, &b), 0);
    CHECK_INT(pipes_get(pipes, &c), -ENOBUFS);
    CHECK_INT(a.size, PIPE_SIZE);
    pipes_put(pipes, a, true);
    CHECK_INT(pipes_get(pipes, &c), 0);
    CHECK_INT(c.read_fd, a.read_fd);
    CHECK_INT(opened, 2);
    pipes_put(pipes, b, true);
    pipes_put(pipes, c, true);
    pipes_free(pipes);
    CHECK_INT(closed, 4);
    end();
}

static void a_dirty_pipe_comes_back_empty(void)
{
    begin();
    struct pipes *pipes;
    struct pipe_pair pair;
    static char bytes[300000];
    REQUIRE_INT(pipes_new(1, &pipes), 0);
    REQUIRE_INT(pipes_get(pipes, &pair), 0);
    CHECK_INT(write(pair.write_fd, bytes, sizeof(bytes)), sizeof(bytes));
    pipes_put(pipes, pair, false);
    REQUIRE_INT(pipes_get(pipes, &pair), 0);
    CHECK_INT(sys->read(pair.read_fd, bytes, sizeof(bytes)), -EAGAIN);
    CHECK_INT(opened, 1);
    pipes_put(pipes, pair, true);
    pipes_free(pipes);
    end();
}

static void a_broken_pipe_is_replaced(void)
{
    begin();
    struct pipes *pipes;
    struct pipe_pair pair;
    int fds[2];
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    REQUIRE_INT(pipes_new(0, &pipes), 0);
    REQUIRE_INT(pipes_add_take(pipes, fds[0], fds[1]), 0);
    REQUIRE_INT(pipes_get(pipes, &pair), 0);
    CHECK_INT(pipes_get(pipes, &(struct pipe_pair){0}), -ENOBUFS);
    close(pair.write_fd); /* now the read end says EOF, not EAGAIN */
    pair.write_fd = dup(pair.read_fd);
    pipes_put(pipes, pair, false);
    CHECK_INT(closed, 2);
    REQUIRE_INT(pipes_get(pipes, &pair), 0); /* ours, in its place */
    CHECK_INT(opened, 1);
    pipes_put(pipes, pair, true);
    pipes_free(pipes);
    end();
}

static void given_pipes_are_emptied_and_come_first(void)
{
    begin();
    struct pipes *pipes;
    struct pipe_pair pair;
    int fds[2];
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    CHECK_INT(write(fds[1], "left over", 9), 9);
    REQUIRE_INT(pipes_new(1, &pipes), 0);
    REQUIRE_INT(pipes_add_take(pipes, fds[0], fds[1]), 0);
    REQUIRE_INT(pipes_get(pipes, &pair), 0);
    CHECK_INT(pair.read_fd, fds[0]);
    char byte;
    CHECK_INT(sys->read(pair.read_fd, &byte, 1), -EAGAIN);
    CHECK_INT(opened, 0);
    pipes_put(pipes, pair, true);
    pipes_free(pipes);
    end();
}

static void what_is_no_pipe_is_refused_and_closed(void)
{
    begin();
    struct pipes *pipes;
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    int other_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    REQUIRE_INT(pipes_new(0, &pipes), 0);
    CHECK(pipes_add_take(pipes, null_fd, other_fd) < 0);
    CHECK_INT(closed, 2);
    int fds[2];
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    small_size = 8192;
    CHECK_INT(pipes_add_take(pipes, fds[0], fds[1]), -EINVAL);
    CHECK_INT(closed, 4);
    pipes_free(pipes);
    end();
}

static void a_kernel_that_refuses_is_asked_again_later(void)
{
    begin();
    struct pipes *pipes;
    struct pipe_pair pair;
    REQUIRE_INT(pipes_new(4, &pipes), 0);
    open_result = -EMFILE;
    CHECK_INT(pipes_get(pipes, &pair), -ENOBUFS);
    open_result = 0;
    CHECK_INT(pipes_get(pipes, &pair), -ENOBUFS);
    clock_test_advance(2000000000u);
    table.pipe_set_size = refused_size;
    small_size = 8192; /* what the kernel gives once the user's share is used up */
    CHECK_INT(pipes_get(pipes, &pair), -ENOBUFS);
    CHECK_INT(closed, 2);
    clock_test_advance(2000000000u);
    small_size = 0;
    REQUIRE_INT(pipes_get(pipes, &pair), 0);
    CHECK_INT(pair.size, 65536);
    pipes_put(pipes, pair, true);
    pipes_free(pipes);
    end();
}

TEST_MAIN(TEST(own_pipes_up_to_the_limit), TEST(a_dirty_pipe_comes_back_empty),
          TEST(a_broken_pipe_is_replaced), TEST(given_pipes_are_emptied_and_come_first),
          TEST(what_is_no_pipe_is_refused_and_closed),
          TEST(a_kernel_that_refuses_is_asked_again_later))
