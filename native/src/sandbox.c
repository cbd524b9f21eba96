/* sandbox.c: the system calls that the process still needs once it serves; all others fail with
 * an error that its libraries know how to take (never a kill: an unknown call is ENOSYS, as on an
 * older kernel). Owns no descriptor; state files are to be open before. The interpreter, gRPC and
 * OpenSSL run on: threads are made, files are read, sockets of three families opened. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base.h"

/* Allowed whatever their arguments are. A name that this architecture lacks is passed over. */
static const char *const allowed[] = {
    /* descriptors */
    "close", "close_range", "dup", "dup2", "dup3", "fallocate", "fcntl", "fcntl64", "fdatasync",
    "flock", "fstat", "fstat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64",
    "getdents64", "lseek", "_llseek", "pipe", "pipe2", "pread64", "preadv", "pwrite64", "pwritev",
    "read", "readv", "sendfile", "sendfile64", "splice", "tee", "write", "writev",
    /* names, for reading */
    "access", "faccessat", "faccessat2", "fstatat64", "getcwd", "lstat", "newfstatat", "readlink",
    "readlinkat", "stat", "statfs", "statx", "umask",
    /* readiness */
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "eventfd", "eventfd2", "poll", "ppoll", "pselect6", "select", "signalfd", "signalfd4",
    "timerfd_create", "timerfd_gettime", "timerfd_settime",
    /* sockets that exist */
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    /* memory */
    "brk", "madvise", "mincore", "mlock", "mmap", "mprotect", "mremap", "msync", "munlock",
    "munmap", "membarrier",
    /* threads and time */
    "clock_getres", "clock_gettime", "clock_nanosleep", "exit", "exit_group", "futex",
    "futex_waitv", "get_robust_list", "getcpu", "gettimeofday", "nanosleep", "restart_syscall",
    "rseq", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getparam", "sched_getscheduler", "sched_setaffinity", "sched_yield", "set_robust_list",
    "set_tid_address", "time", "arch_prctl",
    /* signals */
    "pause", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "setitimer", "getitimer", "alarm", "sigaltstack", "wait4", "waitid",
    /* questions */
    "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid",
    "gettid", "getuid", "capget", "sysinfo", "times", "uname",
};

/* Known, wanted by nobody here, and worth a clear EPERM. */
static const char *const refused[] = {
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev",
    "kcmp", "pidfd_getfd", "bpf", "perf_event_open", "userfaultfd", "kexec_load",
    "kexec_file_load", "init_module", "finit_module", "delete_module", "mount", "umount2",
    "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "pivot_root",
    "chroot", "setns", "unshare", "keyctl", "add_key", "request_key", "personality", "reboot",
    "swapon", "swapoff", "acct", "quotactl", "syslog", "iopl", "ioperm", "modify_ldt",
    "open_by_handle_at", "name_to_handle_at", "creat", "mknod", "mknodat", "mkdir", "mkdirat",
    "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
    "symlinkat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown",
    "fchownat", "truncate", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "utimensat",
    "memfd_create", "memfd_secret", "setuid", "setgid", "setreuid", "setregid", "setresuid",
    "setresgid", "setgroups", "setfsuid", "setfsgid", "capset", "setpgid", "setsid",
    "setpriority", "setrlimit", "sched_setscheduler", "sched_setparam", "sched_setattr",
    "clock_settime", "settimeofday", "adjtimex", "clock_adjtime", "sethostname", "setdomainname",
    "fanotify_init", "inotify_init", "inotify_init1", "lookup_dcookie", "vmsplice",
    "process_madvise", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
};

static int rule(scmp_filter_ctx ctx, uint32_t action, const char *name, unsigned count,
                const struct scmp_arg_cmp *args)
{
    int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR)
        return 0; /* newer than the library: it stays ENOSYS */
    int r = seccomp_rule_add_array(ctx, action, number, count, args);
    return r == -EDOM ? 0 : r; /* not on this architecture */
}

static struct scmp_arg_cmp equal(unsigned arg, uint64_t value)
{
    return (struct scmp_arg_cmp){.arg = arg, .op = SCMP_CMP_EQ, .datum_a = value};
}

static struct scmp_arg_cmp not_equal(unsigned arg, uint64_t value)
{
    return (struct scmp_arg_cmp){.arg = arg, .op = SCMP_CMP_NE, .datum_a = value};
}

static struct scmp_arg_cmp masked(unsigned arg, uint64_t mask, uint64_t value)
{
    return (struct scmp_arg_cmp){
        .arg = arg, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value};
}

static int allow_when(scmp_filter_ctx ctx, const char *name, struct scmp_arg_cmp arg)
{
    return rule(ctx, SCMP_ACT_ALLOW, name, 1, &arg);
}

static int refuse_when(scmp_filter_ctx ctx, const char *name, struct scmp_arg_cmp arg)
{
    return rule(ctx, SCMP_ACT_ERRNO(EPERM), name, 1, &arg);
}

/* Stream and datagram sockets of three families: no netlink, no packet and no raw sockets, which
 * CAP_NET_RAW would otherwise give. */
static int add_sockets(scmp_filter_ctx ctx)
{
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
    const uint64_t type_bits = ~(uint64_t)(SOCK_NONBLOCK | SOCK_CLOEXEC) & UINT32_MAX;
    for (size_t i = 0; i < DP_COUNT(families); i++) {
        for (size_t k = 0; k < DP_COUNT(types); k++) {
            const struct scmp_arg_cmp args[] = {
                equal(0, (uint64_t)families[i]),
                masked(1, type_bits, (uint64_t)types[k]),
            };
            int r = rule(ctx, SCMP_ACT_ALLOW, "socket", 2, args);
            if (r < 0)
                return r;
        }
    }
    return allow_when(ctx, "socketpair", equal(0, AF_UNIX));
}

/* Reading only. openat2 and clone3 hide their flags behind a pointer, so they do not exist, and
 * the C library goes back to the older calls. */
static int add_open(scmp_filter_ctx ctx, const char *name, unsigned flags_arg)
{
    static const uint64_t writing[] = {O_CREAT, O_TRUNC, O_APPEND};
    const uint64_t mask = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY);
    int r = allow_when(ctx, name, masked(flags_arg, mask, O_RDONLY));
    for (uint64_t mode = 1; mode <= O_ACCMODE && r == 0; mode++)
        r = refuse_when(ctx, name, masked(flags_arg, O_ACCMODE, mode));
    for (size_t i = 0; i < DP_COUNT(writing) && r == 0; i++)
        r = refuse_when(ctx, name, masked(flags_arg, writing[i], writing[i]));
    return r;
}

/* Threads of this process, in its namespaces. */
static int add_clone(scmp_filter_ctx ctx)
{
    const uint64_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    int r = allow_when(ctx, "clone", masked(0, CLONE_THREAD | namespaces, CLONE_THREAD));
    if (r == 0)
        r = refuse_when(ctx, "clone", masked(0, CLONE_THREAD, 0));
    return r;
}

static int add_filtered(scmp_filter_ctx ctx)
{
    static const uint64_t ioctls[] = {FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, TCGETS, TIOCGWINSZ,
                                      SIOCGIFNAME, SIOCGIFINDEX};
    static const uint64_t prctls[] = {PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE,
                                      PR_GET_NO_NEW_PRIVS, PR_CAPBSET_READ, PR_SET_VMA};
    int r = 0;
    for (size_t i = 0; i < DP_COUNT(ioctls) && r == 0; i++)
        r = allow_when(ctx, "ioctl", equal(1, ioctls[i]));
    for (size_t i = 0; i < DP_COUNT(prctls) && r == 0; i++)
        r = allow_when(ctx, "prctl", equal(0, prctls[i]));
    if (r == 0) /* asks, does not set */
        r = allow_when(ctx, "prlimit64", equal(2, 0));
    /* Signals to ourselves: abort, raise, the interpreter's own. */
    static const char *const signals[] = {"kill", "tgkill"};
    for (size_t i = 0; i < DP_COUNT(signals) && r == 0; i++) {
        r = allow_when(ctx, signals[i], equal(0, (uint64_t)getpid()));
        if (r == 0)
            r = refuse_when(ctx, signals[i], not_equal(0, (uint64_t)getpid()));
    }
    return r;
}

int dp_sandbox_enter(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (ctx == NULL)
        return -ENOMEM;
    /* Every thread, now: those of the interpreter, of gRPC and of the engine. */
    int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
    for (size_t i = 0; i < DP_COUNT(allowed) && r == 0; i++)
        r = rule(ctx, SCMP_ACT_ALLOW, allowed[i], 0, NULL);
    for (size_t i = 0; i < DP_COUNT(refused) && r == 0; i++)
        r = rule(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0, NULL);
    if (r == 0)
        r = add_sockets(ctx);
    if (r == 0)
        r = add_open(ctx, "open", 1);
    if (r == 0)
        r = add_open(ctx, "openat", 2);
    if (r == 0)
        r = add_clone(ctx);
    if (r == 0)
        r = add_filtered(ctx);
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    return r;
}
