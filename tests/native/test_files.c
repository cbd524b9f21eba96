/* test_files.c: what a thread with its own table of descriptors has, and what nobody has any
 * longer because of it. */
#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sys.h"
#include "test.h"

#ifdef __SANITIZE_THREAD__ /* knows one table a process */
enum { EXPECTED = -ENOTSUP };
#else
enum { EXPECTED = 0 };
#endif

struct case_ {
    int pipe[2], low, kept, high; /* opened in this order */
    int result, opened;
    bool has_pipe, has_low, has_kept, has_high, has_error;
    pthread_barrier_t barrier;
};

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void *own(void *arg)
{
    struct case_ *c = arg;
    int kept[] = {c->high, c->kept};
    c->result = files_own(kept, DP_COUNT(kept));
    c->has_pipe = is_open(c->pipe[1]);
    c->has_low = is_open(c->low);
    c->has_kept = is_open(c->kept);
    c->has_high = is_open(c->high);
    c->has_error = is_open(STDERR_FILENO);
    c->opened = eventfd(0, EFD_CLOEXEC);
    pthread_barrier_wait(&c->barrier);
    pthread_barrier_wait(&c->barrier);
    close(c->opened);
    return NULL;
}

static void case_open(struct case_ *c)
{
    REQUIRE_INT(pipe2(c->pipe, O_NONBLOCK | O_CLOEXEC), 0);
    c->low = eventfd(0, EFD_CLOEXEC);
    c->kept = eventfd(0, EFD_CLOEXEC);
    c->high = eventfd(0, EFD_CLOEXEC);
    pthread_barrier_init(&c->barrier, NULL, 2);
}

static void case_close(struct case_ *c)
{
    close(c->pipe[0]);
    close(c->low);
    close(c->kept);
    close(c->high);
    pthread_barrier_destroy(&c->barrier);
}

static void a_thread_has_what_it_kept_and_nothing_else(void)
{
    struct case_ c;
    pthread_t thread;
    char byte;
    case_open(&c);
    REQUIRE_INT(pthread_create(&thread, NULL, own, &c), 0);
    pthread_barrier_wait(&c.barrier);
    CHECK_INT(c.result, EXPECTED);
    bool own = c.result == 0;
    CHECK(c.has_pipe == !own && c.has_low == !own);
    CHECK((c.opened == c.pipe[0]) == own); /* a number that is free in its table alone */
    CHECK(c.has_kept && c.has_high && c.has_error);
    CHECK(is_open(c.low) && is_open(c.kept) && is_open(c.high));
    close(c.pipe[1]);
    CHECK_INT(read(c.pipe[0], &byte, 1), 0); /* the end: the thread does not keep it open */
    pthread_barrier_wait(&c.barrier);
    REQUIRE_INT(pthread_join(thread, NULL), 0);
    CHECK(is_open(c.kept) && is_open(c.high));
    case_close(&c);
}

static int no_close_range(unsigned first, unsigned last, unsigned flags)
{
    (void)first, (void)last, (void)flags;
    return -ENOSYS;
}

static void where_it_is_refused_it_shares(void)
{
    struct sys_table table = sys_real;
    struct case_ c;
    pthread_t thread;
    case_open(&c);
    table.close_range = no_close_range;
    sys = &table;
    REQUIRE_INT(pthread_create(&thread, NULL, own, &c), 0);
    pthread_barrier_wait(&c.barrier);
    CHECK(c.result < 0);
    CHECK(c.has_kept && c.has_high && c.has_pipe && c.has_low && is_open(c.opened));
    pthread_barrier_wait(&c.barrier);
    REQUIRE_INT(pthread_join(thread, NULL), 0);
    sys = &sys_real;
    close(c.pipe[1]);
    case_close(&c);
}

TEST_MAIN(TEST(a_thread_has_what_it_kept_and_nothing_else), TEST(where_it_is_refused_it_shares))
