/* test_sandbox.c: what the process can no longer do, each in a child of its own, and what it still
 * can. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base.h"
#include "test.h"

/* Runs body behind the sandbox and takes over the verdict. */
static void in_child(void (*body)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        test_failures = 0;
        if (CHECK_INT(dp_sandbox_enter(), 0))
            body();
        fflush(stdout);
        _exit(test_failures > 0);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#define CHECK_REFUSED(call, want) \
    do { \
        errno = 0; \
        CHECK_INT((call), -1); \
        CHECK_INT(errno, want); \
    } while (0)

static void body_sockets(void)
{
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
    for (size_t i = 0; i < DP_COUNT(families); i++) {
        int fd = socket(families[i], SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK(fd >= 0 || errno == EAFNOSUPPORT); /* a machine without IPv6 */
        close(fd);
        fd = socket(families[i], SOCK_DGRAM, 0);
        CHECK(fd >= 0 || errno == EAFNOSUPPORT);
        close(fd);
        CHECK_REFUSED(socket(families[i], SOCK_RAW, IPPROTO_TCP), ENOSYS);
    }
    for (int family = 0; family < 48; family++)
        if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
            CHECK_REFUSED(socket(family, SOCK_RAW, 0), ENOSYS);
    CHECK_REFUSED(socket(AF_NETLINK, SOCK_DGRAM, 0), ENOSYS);
    CHECK_REFUSED(socket(AF_PACKET, SOCK_DGRAM, 0), ENOSYS);
    int pair[2];
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
}

static void sockets_of_three_families(void)
{
    in_child(body_sockets);
}

static void body_programs(void)
{
    char *argv[] = {"true", NULL};
    CHECK_REFUSED(execve("/bin/true", argv, NULL), EPERM);
    CHECK_REFUSED(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, NULL, 0), EPERM);
    CHECK_REFUSED(fork(), EPERM);
    CHECK_REFUSED(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), EPERM);
    CHECK_REFUSED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0), EPERM);
    CHECK_REFUSED(
        syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWNET, 0, 0, 0, 0),
        ENOSYS);
    struct clone_args args = {.exit_signal = SIGCHLD};
    CHECK_REFUSED(syscall(SYS_clone3, &args, sizeof(args)), ENOSYS);
    CHECK_REFUSED(unshare(CLONE_NEWNS), EPERM);
    CHECK_REFUSED(setns(0, CLONE_NEWNET), EPERM);
    CHECK_REFUSED(kill(1, 0), EPERM);
    CHECK_REFUSED(kill(-1, 0), EPERM);
    CHECK_INT(kill(getpid(), 0), 0);
}

static void no_program_and_no_process(void)
{
    in_child(body_programs);
}

static void body_kernel(void)
{
    static const long numbers[] = {
        SYS_ptrace, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_kexec_load,
        SYS_kexec_file_load, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_mount,
        SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_keyctl, SYS_add_key, SYS_request_key,
        SYS_process_vm_readv, SYS_process_vm_writev, SYS_setuid, SYS_setgid, SYS_capset,
        SYS_memfd_create, SYS_reboot, SYS_open_by_handle_at, SYS_pidfd_getfd,
    };
    for (size_t i = 0; i < DP_COUNT(numbers); i++)
        if (!CHECK(syscall(numbers[i], -1, -1, -1, -1, -1) == -1 && errno == EPERM))
            printf("# call %ld: %s\n", numbers[i], strerror(errno));
    CHECK_REFUSED(syscall(SYS_io_uring_setup, 1, NULL), ENOSYS);
    CHECK_REFUSED(syscall(SYS_io_uring_enter, 0, 0, 0, 0, NULL, 0), ENOSYS);
    CHECK_REFUSED(syscall(SYS_pidfd_open, getpid(), 0), ENOSYS);
    CHECK_REFUSED(syscall(9999), ENOSYS);
}

static void no_way_into_the_kernel(void)
{
    in_child(body_kernel);
}

static int kept_fd; /* open for writing before, as the state files are */

static void body_files(void)
{
    static const int flags[] = {O_WRONLY, O_RDWR, O_RDONLY | O_CREAT, O_RDONLY | O_TRUNC,
                                O_WRONLY | O_CREAT | O_EXCL, O_RDWR | O_TMPFILE, O_ACCMODE,
                                O_WRONLY | O_APPEND};
    for (size_t i = 0; i < DP_COUNT(flags); i++) {
        CHECK_REFUSED(open("/dev/null", flags[i], 0600), EPERM);
        CHECK_REFUSED(openat(AT_FDCWD, "/dev/null", flags[i], 0600), EPERM);
#ifdef SYS_open
        CHECK_REFUSED(syscall(SYS_open, "/dev/null", flags[i], 0600), EPERM);
#endif
    }
#ifdef SYS_creat
    CHECK_REFUSED(syscall(SYS_creat, "/dev/null", 0600), EPERM);
#endif
    struct { uint64_t flags, mode, resolve; } how = {.flags = O_WRONLY};
    CHECK_REFUSED(syscall(SYS_openat2, AT_FDCWD, "/dev/null", &how, sizeof(how)), ENOSYS);
    CHECK_REFUSED(unlink("/nonexistent"), EPERM);
    CHECK_REFUSED(rename("/nonexistent", "/nonexistent2"), EPERM);
    CHECK_REFUSED(mkdir("/nonexistent", 0700), EPERM);
    CHECK_REFUSED(chmod("/nonexistent", 0700), EPERM);
    CHECK_REFUSED(symlink("/nonexistent", "/nonexistent2"), EPERM);
    CHECK_REFUSED(truncate("/nonexistent", 0), EPERM);

    char buf[16];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_INT(read(fd, buf, sizeof(buf)), sizeof(buf));
    close(fd);
    CHECK_INT(pwrite(kept_fd, "state", 5, 0), 5);
    CHECK_INT(ftruncate(kept_fd, 3), 0);
    CHECK_INT(fsync(kept_fd), 0);
    CHECK_INT(pread(kept_fd, buf, sizeof(buf), 0), 3);
}

static void files_are_read_only_but_those_kept(void)
{
    char path[] = "/tmp/sandbox-XXXXXX";
    kept_fd = mkstemp(path);
    REQUIRE(kept_fd >= 0);
    unlink(path);
    in_child(body_files);
    close(kept_fd);
}

static void *try_netlink(void *arg)
{
    (void)arg;
    return socket(AF_NETLINK, SOCK_DGRAM, 0) == -1 && errno == ENOSYS ? NULL : (void *)1;
}

static void body_threads(void)
{
    pthread_t thread;
    void *verdict = (void *)1;
    CHECK_INT(pthread_create(&thread, NULL, try_netlink, NULL), 0); /* clone3 is not there */
    CHECK_INT(pthread_join(thread, &verdict), 0);
    CHECK(verdict == NULL);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event;
    CHECK_INT(epoll_wait(epoll_fd, &event, 1, 0), 0);
    void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK_INT(munmap(memory, 1 << 20), 0);
    CHECK_INT(raise(0), 0);
    int fds[2];
    CHECK_INT(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    CHECK(fcntl(fds[0], F_SETPIPE_SZ, 65536) >= 65536);
}

static void threads_and_loops_go_on(void)
{
    in_child(body_threads);
}

static pthread_barrier_t barrier;
static void *earlier_thread(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return try_netlink(NULL);
}

/* Not by in_child: the thread must be there before the sandbox is. */
static void threads_made_before_are_bound_too(void)
{
    fflush(stdout);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        pthread_t thread;
        void *verdict = (void *)1;
        test_failures = 0;
        pthread_barrier_init(&barrier, NULL, 2);
        CHECK_INT(pthread_create(&thread, NULL, earlier_thread, NULL), 0);
        pthread_barrier_wait(&barrier);
        CHECK_INT(dp_sandbox_enter(), 0);
        pthread_barrier_wait(&barrier);
        CHECK_INT(pthread_join(thread, &verdict), 0);
        CHECK(verdict == NULL);
        fflush(stdout);
        _exit(test_failures > 0);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_MAIN(TEST(sockets_of_three_families), TEST(no_program_and_no_process),
          TEST(no_way_into_the_kernel), TEST(files_are_read_only_but_those_kept),
          TEST(threads_and_loops_go_on), TEST(threads_made_before_are_bound_too))
