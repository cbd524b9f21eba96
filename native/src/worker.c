/* worker.c: the thread: mailbox, then a turn of the loop, then the dead are buried. Accepts, and
 * walks its streams after a publish; what a stream does is stream.c's. */
#define _GNU_SOURCE
#include "worker.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "ejection.h"
#include "files.h"
#include "record_user.h"
#include "stream.h"
#include "sys.h"
#include "walk.h"

enum {
    ACCEPTS_PER_TURN = 64,       /* a listener */
    ACCEPT_PAUSE_MS = 100,       /* after the kernel had no descriptor or memory for one */
    SLICE_NS = 200 * 1000,
    GIVE_WAY_BYTES = 64 * 1024, GIVE_WAY_NS = 150 * 1000,
    WALK_SLICE = 64,             /* streams looked at in a turn: some 20 µs */
    CHAINS_MAX = 2048,           /* peers remembered: 15 MiB a worker, once so many came */
    LARGE_BUFFERS_MAX = 256,     /* 64 MiB a worker, touched only if that many ends are slow */
    STRANGERS_PART = 4,          /* of the streams: a quarter at most may be strangers' */
};

struct listener {
    struct loop_source source;
    struct worker *worker;       /* borrowed: the owner */
    struct timer resume;
    uint8_t kind;                /* enum dp_listener_kind */
    bool added;                  /* to the loop */
};

struct worker {
    struct stream_env env;
    struct mailbox mailbox;
    struct loop_source mail;     /* the mailbox's eventfd */
    struct loop_source walker;   /* no descriptor: work only */
    struct walk review, update, loss; /* over all streams, a slice a turn */
    struct lost_links *lost;     /* owned; what loss looks for */
    struct timer update_timer, drain_timer;
    struct listener listeners[WORKER_LISTENERS_MAX];
    uint32_t listener_count;
    int event_fd;                /* borrowed from the engine */
    pthread_t thread;
    pthread_barrier_t starting;  /* met twice: whoever starts it lets go of its descriptors between */
    bool files_are_own;          /* the thread's */
    uint64_t gave_way_ns;
    bool started, draining, stopping;
    DP_ALIGN_CACHE atomic_uint_fast64_t applied;
};


static void on_mail(struct loop_source *source, unsigned events)
{
    (void)events;
    struct worker *worker = (struct worker *)((char *)source - offsetof(struct worker, mail));
    mailbox_clear(&worker->mailbox); /* what is in it is taken at the top of the next turn */
}

/* Accepting. */

static void pause_listener(struct listener *listener)
{
    struct stream_env *env = &listener->worker->env;
    stats_add(env->stats, STAT_ACCEPT_ERRORS, 1);
    loop_remove(env->loop, &listener->source); /* level-triggered: else it would spin */
    listener->added = false;
    timer_arm(env->timers, &listener->resume, clock_ms() + ACCEPT_PAUSE_MS);
}

static void on_listener(struct loop_source *source, unsigned events)
{
    (void)events;
    struct listener *listener =
        (struct listener *)((char *)source - offsetof(struct listener, source));
    struct stream_env *env = &listener->worker->env;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
        socklen_t len = sizeof(peer);
        int fd = sys->accept4(source->fd, (struct sockaddr *)&peer, &len,
                              SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            stream_accept_take(env, fd, listener->kind, &peer);
            continue;
        }
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM)
            pause_listener(listener);
        if (fd != -ECONNABORTED && fd != -EINTR && fd != -EPROTO)
            return; /* -EAGAIN, mostly */
    }
}

static void resume_listener(struct listener *listener)
{
    struct worker *worker = listener->worker;
    if (listener->added || worker->draining || worker->env.snapshot == NULL)
        return;
    if (loop_add(worker->env.loop, &listener->source, true) < 0) {
        stats_add(worker->env.stats, STAT_ACCEPT_ERRORS, 1);
        timer_arm(worker->env.timers, &listener->resume, clock_ms() + ACCEPT_PAUSE_MS);
        return;
    }
    listener->added = true;
}

static void on_resume(struct timer *timer)
{
    resume_listener((struct listener *)((char *)timer - offsetof(struct listener, resume)));
}

static void close_listeners(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->listener_count; i++) {
        struct listener *listener = &worker->listeners[i];
        timer_cancel(worker->env.timers, &listener->resume);
        if (listener->added) /* the socket lives on in other processes: closing is not enough */
            loop_remove(worker->env.loop, &listener->source);
        sys->close(listener->source.fd);
    }
    worker->listener_count = 0;
}

/* Walking. */

static void walk_slice(struct worker *worker, struct walk *walk, void (*fn)(struct stream *))
{
    const struct pool *streams = worker->env.streams;
    uint32_t count = pool_count(streams), streams_left = WALK_SLICE, slot = 0;
    while (streams_left > 0 && walk_next(walk, count, &slot)) {
        struct stream *s = pool_at(streams, slot);
        if (s == NULL) {
            walk_skip(walk, count, pool_next(streams, walk->at) - walk->at);
            continue;
        }
        fn(s);
        streams_left--;
    }
    if (walk->left > 0)
        loop_requeue(worker->env.loop, &worker->walker);
}

static void on_walk(struct loop_source *source, unsigned events)
{
    (void)events;
    struct worker *worker = (struct worker *)((char *)source - offsetof(struct worker, walker));
    walk_slice(worker, &worker->review, stream_reauthorize);
    walk_slice(worker, &worker->update, stream_post_update);
    walk_slice(worker, &worker->loss, stream_lose_links);
}

static void start_walk(struct worker *worker, struct walk *walk)
{
    walk_start(walk, pool_count(worker->env.streams));
    loop_requeue(worker->env.loop, &worker->walker);
}

static void on_update(struct timer *timer)
{
    struct worker *worker =
        (struct worker *)((char *)timer - offsetof(struct worker, update_timer));
    if (worker->update.left == 0)
        start_walk(worker, &worker->update);
    timer_arm(worker->env.timers, timer, clock_ms() + worker->env.config->update_interval_ms);
}

static void kill_all(struct worker *worker, const char *detail)
{
    for (uint32_t i = 0; i < pool_count(worker->env.streams); i++) {
        struct stream *s = pool_at(worker->env.streams, i);
        if (s == NULL || s->state == STREAM_CLOSED)
            continue;
        stats_add(worker->env.stats, STAT_DRAINED_CLOSED, 1);
        stream_kill(s, DP_REASON_DRAIN, detail);
    }
}

static void on_drain_deadline(struct timer *timer)
{
    struct worker *worker = (struct worker *)((char *)timer - offsetof(struct worker, drain_timer));
    kill_all(worker, "the drain deadline has passed");
}

/* Messages. */

static void take_snapshot(struct worker *worker, struct message *message)
{
    struct stream_env *env = &worker->env;
    bool first = env->snapshot == NULL;
    const struct dp_snapshot *snapshot = env->snapshot;
    struct sets *sets = env->sets;
    env->snapshot = message->snapshot;
    env->sets = message->sets;
    message->snapshot = snapshot;
    message->sets = sets;
    stats_add(env->stats, STAT_SNAPSHOTS_TAKEN, 1);
    if (!first)
        start_walk(worker, &worker->review);
    /* Until there is a snapshot, connections wait in the listeners' queues. */
    for (uint32_t i = 0; first && i < worker->listener_count; i++)
        resume_listener(&worker->listeners[i]);
}

static void take_lost(struct worker *worker, struct message *message)
{
    while (worker->loss.left > 0) /* of those before: this is rare */
        walk_slice(worker, &worker->loss, stream_lose_links);
    free(worker->lost);
    worker->env.lost = worker->lost = message->lost;
    message->lost = NULL;
    start_walk(worker, &worker->loss);
}

static void take_message(struct worker *worker, struct message *message)
{
    struct stream_env *env = &worker->env;
    switch (message->kind) {
    case MESSAGE_SNAPSHOT:
        take_snapshot(worker, message);
        break;
    case MESSAGE_SET: {
        int r = sets_swap(env->sets, message->set, &message->endpoints);
        assert(r == 0); /* the publisher checked it against the same snapshot */
        stats_add(env->stats, STAT_SETS_TAKEN, 1);
        break;
    }
    case MESSAGE_LOST:
        take_lost(worker, message);
        break;
    case MESSAGE_DRAIN:
        close_listeners(worker);
        worker->draining = true;
        timer_arm(env->timers, &worker->drain_timer, clock_ms() + message->deadline_ms);
        break;
    case MESSAGE_STOP:
        worker->stopping = true;
        break;
    }
}

static void take_mail(struct worker *worker)
{
    struct message *message = mailbox_take(&worker->mailbox);
    while (message != NULL) {
        struct message *next = message->next;
        uint64_t sequence = message->sequence;
        take_message(worker, message);
        /* What it replaced takes long to free: that is not for a thread that others wait for. */
        mailbox_return_take(&worker->mailbox, message);
        if (sequence > 0)
            atomic_store_explicit(&worker->applied, sequence, memory_order_release);
        message = next;
    }
}

/* Short turns on the processor (SLICE_NS), so that others on it, our own process's among them, give
 * way at once when bytes come. Since Linux 6.12; before, it changes nothing. */
static void ask_for_short_slices(void)
{
    const struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {.size = sizeof(attributes), .policy = SCHED_OTHER,
                    .nice = getpriority(PRIO_PROCESS, 0), .runtime = SLICE_NS};
    (void)!syscall(SYS_sched_setattr, 0, &attributes, 0);
}

/* A worker with bulk to move may never sleep, and the kernel looks at its slice only when its clock
 * ticks, up to 10 ms apart: so long would others on the processor, as the next worker on a request's
 * way, wait with bytes in hand. So where few bytes go beside bulk it offers them its place; alone
 * there it goes on at once. */
static void give_way(struct worker *worker)
{
    if (worker->env.moved_beside < GIVE_WAY_BYTES)
        return;
    worker->env.moved_beside = 0;
    if (clock_ns() - worker->gave_way_ns < GIVE_WAY_NS)
        return;
    sys->yield();
    worker->gave_way_ns = clock_ns();
}

/* The descriptors that only the thread uses: listeners and pipes. NULL = they are only counted. */
static size_t list_files(const struct worker *worker, int *ret)
{
    size_t count = 0;
    struct pipe_pair pipe;
    for (uint32_t i = 0; i < worker->listener_count; i++, count++)
        if (ret != NULL)
            ret[count] = worker->listeners[i].source.fd;
    for (uint32_t i = 0; pipes_at(worker->env.relay.pipes, i, &pipe); i++, count += 2)
        if (ret != NULL) {
            ret[count] = pipe.read_fd;
            ret[count + 1] = pipe.write_fd;
        }
    return count;
}

/* By the thread, before it does anything: it goes on with these and those that others use too. */
static bool own_files(const struct worker *worker)
{
    const int common[] = {loop_fd(worker->env.loop), worker->mailbox.fd, worker->event_fd};
    size_t count = list_files(worker, NULL);
    int *kept = calloc(count + DP_COUNT(common), sizeof(*kept));
    if (kept == NULL)
        return false;
    memcpy(kept + list_files(worker, kept), common, sizeof(common));
    int r = files_own(kept, count + DP_COUNT(common));
    free(kept);
    return r == 0;
}

/* By who started the thread: what is its own now is to end with it. */
static void let_go_of_files(const struct worker *worker)
{
    struct pipe_pair pipe;
    for (uint32_t i = 0; i < worker->listener_count; i++)
        sys->close(worker->listeners[i].source.fd);
    for (uint32_t i = 0; pipes_at(worker->env.relay.pipes, i, &pipe); i++) {
        sys->close(pipe.read_fd);
        sys->close(pipe.write_fd);
    }
}

static void *thread_main(void *arg)
{
    struct worker *worker = arg;
    struct stream_env *env = &worker->env;
    worker->files_are_own = own_files(worker);
    pthread_barrier_wait(&worker->starting);
    pthread_barrier_wait(&worker->starting);
    tls_thread_init();
    char name[16];
    snprintf(name, sizeof(name), "dp-worker-%u", env->worker);
    pthread_setname_np(pthread_self(), name); /* by itself: others' names are files to write */
    ask_for_short_slices();
    if (env->config->update_interval_ms > 0)
        timer_arm(env->timers, &worker->update_timer,
                  clock_ms() + env->config->update_interval_ms);
    while (!worker->stopping) {
        env->handshakes_left = env->config->handshakes_per_turn;
        int r = loop_turn(env->loop, -1);
        assert(r >= 0); /* epoll_wait fails for our bugs only */
        take_mail(worker);
        stream_free_dead(env);
        give_way(worker);
    }
    close_listeners(worker);
    kill_all(worker, "the data plane stops");
    stream_free_dead(env);
    ejection_cancel_all(env);
    pipes_free(env->relay.pipes);
    env->relay.pipes = NULL;
    return NULL;
}

/* Life. */

static int env_init(struct stream_env *env, const dp_config *config, uint16_t number,
                    struct tls_context *tls, int event_fd)
{
    env->config = config;
    env->worker = number;
    env->tls = tls;
    int r = loop_new(&env->loop);
    if (r == 0)
        r = stats_new(&env->stats);
    if (r == 0)
        r = event_ring_new(config->event_bytes, event_fd, &env->events);
    if (r == 0)
        r = pipes_new(config->pipes_max, &env->relay.pipes);
    if (r == 0) /* a stream holds at most two; one more is in hand */
        r = buffers_new(2 * config->streams_max + 1, LARGE_BUFFERS_MAX, env->stats,
                        &env->relay.buffers);
    if (r == 0)
        r = buffers_new_sized(RECORD_SMALL, 2 * RECORD_BUFFERS_A_LEG * config->streams_max,
                              RECORD_LARGE, LARGE_BUFFERS_MAX, env->stats, &env->records);
    if (r == 0)
        r = pool_new(sizeof(struct stream), config->streams_max, &env->streams);
    if (r == 0)
        r = pool_new(DP_DETAIL_MAX + 1, config->streams_max, &env->details);
    if (r == 0)
        r = pool_new(ejection_size(), EJECTIONS_MAX, &env->ejections);
    if (r == 0)
        r = tls_sessions_new(tls, config->sessions_max, &env->sessions);
    if (r == 0)
        r = tls_chains_new(CHAINS_MAX, env->stats, &env->chains);
    if (r < 0)
        return r;
    env->timers = loop_timers(env->loop);
    env->relay.stats = env->stats;
    uint64_t seeds[2];
    ssize_t n = sys->getrandom(seeds, sizeof(seeds));
    if (n < 0)
        return (int)n;
    env->rng = seeds[0];
    uint32_t strangers_max = config->streams_max / STRANGERS_PART;
    return strangers_new(strangers_max > 0 ? strangers_max : 1, seeds[1], &env->strangers);
}

static void env_fini(struct stream_env *env)
{
    tls_chains_free(env->chains);
    tls_sessions_free(env->sessions);
    sets_free(env->sets);
    snapshot_unref(env->snapshot);
    pool_free(env->ejections);
    pool_free(env->details);
    pool_free(env->streams);
    strangers_free(env->strangers);
    buffers_free(env->records);
    buffers_free(env->relay.buffers);
    pipes_free(env->relay.pipes);
    event_ring_free(env->events);
    stats_free(env->stats);
    loop_free(env->loop);
}

int worker_new(const dp_config *config, uint16_t number, struct tls_context *tls, int event_fd,
               struct worker **ret)
{
    struct worker *worker = aligned_alloc(64, sizeof(*worker));
    if (worker == NULL)
        return -ENOMEM;
    memset(worker, 0, sizeof(*worker));
    int r = env_init(&worker->env, config, number, tls, event_fd);
    if (r < 0)
        goto err_env;
    r = mailbox_init(&worker->mailbox);
    if (r < 0)
        goto err_env;
    worker->mail = (struct loop_source){.fn = on_mail, .fd = worker->mailbox.fd};
    worker->walker = (struct loop_source){.fn = on_walk, .fd = -1};
    worker->update_timer.fn = on_update;
    worker->drain_timer.fn = on_drain_deadline;
    worker->event_fd = event_fd;
    r = loop_add(worker->env.loop, &worker->mail, true);
    if (r < 0)
        goto err_mailbox;
    *ret = worker;
    return 0;

err_mailbox:
    mailbox_fini(&worker->mailbox);
err_env:
    env_fini(&worker->env);
    free(worker);
    return r;
}

void worker_free(struct worker *worker)
{
    if (worker == NULL)
        return;
    assert(!worker->started);
    close_listeners(worker); /* of one that never ran */
    loop_remove(worker->env.loop, &worker->mail);
    mailbox_fini(&worker->mailbox);
    env_fini(&worker->env);
    free(worker->lost);
    free(worker);
}

int worker_add_listener_take(struct worker *worker, int fd, uint8_t kind)
{
    if (worker->listener_count == WORKER_LISTENERS_MAX) {
        sys->close(fd);
        return -ENOSPC;
    }
    struct listener *listener = &worker->listeners[worker->listener_count++];
    *listener = (struct listener){
        .source = {.fn = on_listener, .fd = fd},
        .worker = worker,
        .resume = {.fn = on_resume},
        .kind = kind,
    };
    return 0;
}

int worker_add_pipe_take(struct worker *worker, int read_fd, int write_fd)
{
    return pipes_add_take(worker->env.relay.pipes, read_fd, write_fd);
}

/* The number-th processor that this process may use; workers beyond them share. */
static void choose_processor(uint16_t number, cpu_set_t *ret)
{
    cpu_set_t allowed;
    CPU_ZERO(ret);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
        return;
    int skip = number % CPU_COUNT(&allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && skip-- == 0) {
            CPU_SET(cpu, ret);
            return;
        }
    }
}

int worker_start(struct worker *worker)
{
    pthread_attr_t attr;
    int r = pthread_attr_init(&attr);
    if (r != 0)
        return -r;
    cpu_set_t cpus;
    choose_processor(worker->env.worker, &cpus);
    if (worker->env.config->pin && CPU_COUNT(&cpus) > 0)
        r = pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    /* Signals are the host process's. SIGPIPE comes from splice, which cannot be told not to. */
    sigset_t all, before;
    sigfillset(&all);
    if (r == 0)
        r = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (r == 0) {
        pthread_barrier_init(&worker->starting, NULL, 2);
        r = pthread_create(&worker->thread, &attr, thread_main, worker);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attr);
    if (r != 0)
        return -r;
    worker->started = true;
    pthread_barrier_wait(&worker->starting);
    if (worker->files_are_own)
        let_go_of_files(worker);
    pthread_barrier_wait(&worker->starting);
    return 0;
}

void worker_join(struct worker *worker)
{
    if (!worker->started)
        return;
    pthread_join(worker->thread, NULL);
    pthread_barrier_destroy(&worker->starting);
    worker->started = false;
}

void worker_put_take(struct worker *worker, struct message *message)
{
    mailbox_put_take(&worker->mailbox, message);
}

void worker_collect(struct worker *worker)
{
    mailbox_collect(&worker->mailbox);
}

uint64_t worker_applied(const struct worker *worker)
{
    return atomic_load_explicit(&worker->applied, memory_order_acquire);
}

const struct stats *worker_stats(const struct worker *worker)
{
    return worker->env.stats;
}

struct event_ring *worker_events(struct worker *worker)
{
    return worker->env.events;
}
