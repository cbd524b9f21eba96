/* engine.c: the data plane as its host sees it: workers made, fed, counted and joined. Moves no
 * byte of a stream itself. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "endpoints.h"
#include "event.h"
#include "mailbox.h"
#include "sets.h"
#include "stats.h"
#include "sys.h"
#include "tls.h"
#include "worker.h"

enum {
    SNAPSHOTS_LIVE_MAX = 4,      /* the one in force, and those that some worker has not taken */
    PUBLISHES_PENDING_MAX = 4096,/* smaller ones that some worker has not taken */
    STREAMS_MAX = 1 << 20, EVENT_BYTES_MAX = 1 << 28,
};

enum engine_state { ENGINE_NEW, ENGINE_RUNNING, ENGINE_STOPPED };

struct dp_engine {
    dp_config config;
    struct tls_context *tls;     /* owned */
    struct worker *workers[DP_WORKERS_MAX]; /* owned; config.workers of them */
    struct message *stops[DP_WORKERS_MAX];  /* owned; made early, so that stopping cannot fail */
    int event_fd;                /* owned */
    atomic_uint_fast64_t published;

    pthread_mutex_t lock;        /* of what follows: publishers may be several */
    enum engine_state state;
    struct sets *sets;           /* owned; what was published last, to inherit from */
    uint64_t version;
    uint64_t snapshots[SNAPSHOTS_LIVE_MAX]; /* sequences of the last ones, a ring */
    uint32_t snapshot_count;
    struct stats *stats;         /* owned; the publisher's */
    uint32_t next_pipe;

    pthread_mutex_t read_lock;   /* of the events' reader */
};

uint32_t dp_abi_version(void)
{
    return DP_ABI_VERSION;
}

static bool config_is_good(const dp_config *c)
{
    return c->workers >= 1 && c->workers <= DP_WORKERS_MAX && c->streams_max >= 1 &&
           c->streams_max <= STREAMS_MAX && c->handshakes_per_turn >= 1 &&
           c->event_bytes <= EVENT_BYTES_MAX && c->handshake_timeout_ms >= 1 &&
           c->header_timeout_ms >= 1 &&
           (c->records == 0 ||
            (c->records >= DP_RECORD_OPENSSL && c->records <= DP_RECORD_KTLS)) &&
           c->link_version_max <= TLS_LINK_VERSION_MAX;
}

int dp_engine_new(const dp_config *config, dp_engine **ret)
{
    if (!config_is_good(config))
        return -EINVAL;
    dp_engine *engine = calloc(1, sizeof(*engine));
    if (engine == NULL)
        return -ENOMEM;
    engine->config = *config;
    pthread_mutex_init(&engine->lock, NULL);
    pthread_mutex_init(&engine->read_lock, NULL);
    int r = engine->event_fd = sys->eventfd(0);
    if (r >= 0)
        r = stats_new(&engine->stats);
    if (r >= 0)
        r = tls_context_new(&engine->tls);
    if (r >= 0 && config->link_version_max > 0)
        r = tls_context_set_link_version_max(engine->tls, config->link_version_max);
    for (uint32_t i = 0; r >= 0 && i < config->workers; i++) {
        engine->stops[i] = message_new(MESSAGE_STOP);
        r = engine->stops[i] == NULL ? -ENOMEM
                                     : worker_new(&engine->config, (uint16_t)i, engine->tls,
                                                  engine->event_fd, &engine->workers[i]);
    }
    if (r < 0) {
        dp_engine_free(engine);
        return r;
    }
    *ret = engine;
    return 0;
}

void dp_engine_free(dp_engine *engine)
{
    if (engine == NULL)
        return;
    (void)dp_engine_stop(engine);
    for (uint32_t i = 0; i < engine->config.workers; i++) {
        message_free(engine->stops[i]);
        worker_free(engine->workers[i]);
    }
    sets_free(engine->sets);
    tls_context_free(engine->tls);
    stats_free(engine->stats);
    if (engine->event_fd >= 0)
        sys->close(engine->event_fd);
    pthread_mutex_destroy(&engine->read_lock);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

/* Set on the listener, where accepted sockets inherit it without a call each. */
static int prepare_listener(int fd)
{
    const int on = 1;
    int listening = 0;
    socklen_t len = sizeof(listening);
    int r = sys->getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len);
    if (r < 0 || !listening)
        return r < 0 ? r : -EINVAL;
    r = sys->setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (r == 0)
        r = sys->setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (r < 0)
        return r;
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int dp_engine_add_listener(dp_engine *engine, int fd, uint8_t kind, uint32_t worker)
{
    if (worker >= engine->config.workers || kind > DP_LISTEN_MESH)
        return -EINVAL;
    int r = prepare_listener(fd);
    if (r < 0)
        return r;
    pthread_mutex_lock(&engine->lock);
    r = engine->state == ENGINE_NEW ? sys->dup(fd) : -EBUSY;
    if (r >= 0)
        r = worker_add_listener_take(engine->workers[worker], r, kind);
    pthread_mutex_unlock(&engine->lock);
    return r;
}

int dp_engine_add_pipe(dp_engine *engine, int read_fd, int write_fd)
{
    pthread_mutex_lock(&engine->lock);
    int r = engine->state == ENGINE_NEW ? 0 : -EBUSY;
    int from = r == 0 ? r = sys->dup(read_fd) : -1;
    int to = r >= 0 ? r = sys->dup(write_fd) : -1;
    if (r >= 0)
        r = worker_add_pipe_take(engine->workers[engine->next_pipe++ % engine->config.workers],
                                 from, to);
    else if (from >= 0)
        sys->close(from);
    pthread_mutex_unlock(&engine->lock);
    return r;
}

int dp_engine_set_ticket_keys(dp_engine *engine, const uint8_t *keys, uint32_t count)
{
    return tls_context_set_ticket_keys(engine->tls, keys, count);
}

static void stop_workers(dp_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.workers; i++) {
        worker_put_take(engine->workers[i], engine->stops[i]);
        engine->stops[i] = NULL;
    }
    for (uint32_t i = 0; i < engine->config.workers; i++)
        worker_join(engine->workers[i]);
}

int dp_engine_start(dp_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    int r = engine->state == ENGINE_NEW ? 0 : -EBUSY;
    if (r == 0) {
        engine->state = ENGINE_RUNNING;
        for (uint32_t i = 0; r == 0 && i < engine->config.workers; i++)
            r = worker_start(engine->workers[i]);
        if (r < 0) {
            stop_workers(engine);
            engine->state = ENGINE_STOPPED;
        }
    }
    pthread_mutex_unlock(&engine->lock);
    return r;
}

/* Publishing. */

uint64_t dp_engine_published(const dp_engine *engine)
{
    return atomic_load_explicit(&engine->published, memory_order_acquire);
}

uint64_t dp_engine_applied(const dp_engine *engine)
{
    uint64_t lowest = UINT64_MAX;
    for (uint32_t i = 0; i < engine->config.workers; i++) {
        uint64_t applied = worker_applied(engine->workers[i]);
        if (applied < lowest)
            lowest = applied;
    }
    return lowest;
}

/* Of the last snapshots, those that some worker has yet to take, and the one in force. */
static uint32_t snapshots_live(const dp_engine *engine)
{
    uint64_t applied = dp_engine_applied(engine);
    uint32_t live = 1;
    for (uint32_t i = 0; i < SNAPSHOTS_LIVE_MAX; i++)
        live += engine->snapshots[i] > applied;
    return live;
}

void dp_engine_collect(dp_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.workers; i++)
        worker_collect(engine->workers[i]);
}

/* All messages of a publish are made before the first is sent, so that it happens whole or not. */
static int make_messages(dp_engine *engine, enum message_kind kind, struct message **ret)
{
    dp_engine_collect(engine); /* also where nobody else does */
    for (uint32_t i = 0; i < engine->config.workers; i++) {
        ret[i] = message_new(kind);
        if (ret[i] == NULL) {
            while (i > 0)
                message_free(ret[--i]);
            return -ENOMEM;
        }
    }
    return 0;
}

static void send_messages(dp_engine *engine, struct message **messages)
{
    uint64_t sequence = dp_engine_published(engine) + 1;
    atomic_store_explicit(&engine->published, sequence, memory_order_release);
    for (uint32_t i = 0; i < engine->config.workers; i++) {
        messages[i]->sequence = sequence;
        worker_put_take(engine->workers[i], messages[i]);
    }
}

static void free_messages(const dp_engine *engine, struct message **messages)
{
    for (uint32_t i = 0; i < engine->config.workers; i++)
        message_free(messages[i]);
}

static void inherit_all(const dp_engine *engine, const struct dp_snapshot *snap)
{
    for (uint32_t i = 0; i < snapshot_set_count(snap); i++) {
        uint32_t id;
        struct dp_endpoints *set = snapshot_set_at(snap, i, &id);
        endpoints_inherit(set, engine->sets != NULL ? sets_get(engine->sets, id) : NULL);
    }
}

static int publish_snapshot(dp_engine *engine, struct dp_snapshot *snap)
{
    if (engine->state == ENGINE_STOPPED)
        return -ESHUTDOWN;
    if (!snapshot_is_sealed(snap))
        return -EINVAL;
    if (snapshot_version(snap) <= engine->version)
        return -ESTALE;
    if (snapshots_live(engine) >= SNAPSHOTS_LIVE_MAX) {
        stats_add(engine->stats, STAT_SNAPSHOTS_REFUSED, 1);
        return -EBUSY;
    }
    struct message *messages[DP_WORKERS_MAX];
    int r = make_messages(engine, MESSAGE_SNAPSHOT, messages);
    if (r < 0)
        return r;
    struct sets *sets = NULL;
    r = sets_new(snap, &sets);
    for (uint32_t i = 0; r == 0 && i < engine->config.workers; i++) {
        r = sets_new(snap, &messages[i]->sets);
        snapshot_ref(snap);
        messages[i]->snapshot = snap;
    }
    if (r < 0) {
        free_messages(engine, messages);
        sets_free(sets);
        return r;
    }
    inherit_all(engine, snap);
    sets_free(engine->sets);
    engine->sets = sets;
    engine->version = snapshot_version(snap);
    engine->snapshots[engine->snapshot_count++ % SNAPSHOTS_LIVE_MAX] =
        dp_engine_published(engine) + 1;
    send_messages(engine, messages);
    return 0;
}

int dp_engine_publish_take(dp_engine *engine, dp_snapshot *snap)
{
    pthread_mutex_lock(&engine->lock);
    int r = publish_snapshot(engine, snap);
    pthread_mutex_unlock(&engine->lock);
    dp_snapshot_free(snap);
    return r;
}

static int publish_set(dp_engine *engine, uint32_t id, struct dp_endpoints *set)
{
    if (engine->state == ENGINE_STOPPED)
        return -ESHUTDOWN;
    struct dp_endpoints *earlier = engine->sets != NULL ? sets_get(engine->sets, id) : NULL;
    if (earlier == NULL)
        return -ENOENT;
    if (dp_engine_published(engine) - dp_engine_applied(engine) >= PUBLISHES_PENDING_MAX)
        return -EBUSY;
    int r = endpoints_seal(set);
    if (r < 0)
        return r;
    struct message *messages[DP_WORKERS_MAX];
    r = make_messages(engine, MESSAGE_SET, messages);
    if (r < 0)
        return r;
    endpoints_inherit(set, earlier);
    struct dp_endpoints *swapped = set;
    endpoints_ref(set);
    r = sets_swap(engine->sets, id, &swapped);
    assert(r == 0);
    endpoints_unref(swapped);
    for (uint32_t i = 0; i < engine->config.workers; i++) {
        endpoints_ref(set);
        messages[i]->endpoints = set;
        messages[i]->set = id;
    }
    send_messages(engine, messages);
    return 0;
}

int dp_engine_publish_set_take(dp_engine *engine, uint32_t set, dp_endpoints *endpoints)
{
    pthread_mutex_lock(&engine->lock);
    int r = publish_set(engine, set, endpoints);
    pthread_mutex_unlock(&engine->lock);
    dp_endpoints_free(endpoints);
    return r;
}

static int publish_lost(dp_engine *engine, const struct lost_links *lost)
{
    if (engine->state != ENGINE_RUNNING)
        return engine->state == ENGINE_NEW ? 0 : -ESHUTDOWN; /* before it runs nothing can be lost */
    if (dp_engine_published(engine) - dp_engine_applied(engine) >= PUBLISHES_PENDING_MAX)
        return -EBUSY;
    struct message *messages[DP_WORKERS_MAX];
    int r = make_messages(engine, MESSAGE_LOST, messages);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < engine->config.workers; i++) {
        messages[i]->lost = malloc(sizeof(*lost));
        if (messages[i]->lost == NULL) {
            free_messages(engine, messages);
            return -ENOMEM;
        }
        *messages[i]->lost = *lost;
    }
    send_messages(engine, messages);
    return 0;
}

int dp_engine_lose_links(dp_engine *engine, const uint8_t *addrs, uint32_t count, uint64_t seen_ns)
{
    if (count < 1 || count > DP_LOST_MAX)
        return -EINVAL;
    struct lost_links lost = {.seen_ns = seen_ns, .count = count};
    memcpy(lost.addrs, addrs, count * sizeof(lost.addrs[0]));
    pthread_mutex_lock(&engine->lock);
    int r = publish_lost(engine, &lost);
    pthread_mutex_unlock(&engine->lock);
    return r;
}

/* The end. */

int dp_engine_drain(dp_engine *engine, uint32_t deadline_ms)
{
    pthread_mutex_lock(&engine->lock);
    struct message *messages[DP_WORKERS_MAX];
    int r = engine->state == ENGINE_RUNNING ? 0 : -ESHUTDOWN;
    if (r == 0)
        r = make_messages(engine, MESSAGE_DRAIN, messages);
    for (uint32_t i = 0; r == 0 && i < engine->config.workers; i++) {
        messages[i]->deadline_ms = deadline_ms;
        worker_put_take(engine->workers[i], messages[i]);
    }
    pthread_mutex_unlock(&engine->lock);
    return r;
}

int dp_engine_stop(dp_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    if (engine->state == ENGINE_RUNNING)
        stop_workers(engine);
    engine->state = ENGINE_STOPPED;
    pthread_mutex_unlock(&engine->lock);
    return 0;
}

/* Reading. */

static uint64_t sum_stat(const dp_engine *engine, uint32_t stat)
{
    uint64_t sum = stats_get(engine->stats, stat);
    for (uint32_t i = 0; i < engine->config.workers; i++)
        sum += stats_get(worker_stats(engine->workers[i]), stat);
    return sum;
}

uint32_t dp_engine_live(const dp_engine *engine)
{
    return (uint32_t)sum_stat(engine, STAT_STREAMS_NOW);
}

int dp_engine_event_fd(const dp_engine *engine)
{
    return engine->event_fd;
}

int64_t dp_engine_read_events(dp_engine *engine, uint8_t *buf, size_t len)
{
    if (len < EVENT_SIZE_MAX)
        return -EINVAL;
    pthread_mutex_lock(&engine->read_lock);
    uint64_t count;
    (void)!sys->read(engine->event_fd, &count, sizeof(count)); /* cleared before looking */
    size_t done = 0;
    for (uint32_t i = 0; i < engine->config.workers && len - done >= EVENT_SIZE_MAX; i++)
        done += event_ring_read(worker_events(engine->workers[i]), buf + done, len - done);
    if (len - done < EVENT_SIZE_MAX) { /* there may be more than fits: come again */
        const uint64_t one = 1;
        (void)!sys->write(engine->event_fd, &one, sizeof(one));
    }
    pthread_mutex_unlock(&engine->read_lock);
    return (int64_t)done;
}

int dp_engine_read_stats(const dp_engine *engine, uint64_t *ret_values, uint32_t count)
{
    if (count > STAT_COUNT)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        ret_values[i] = sum_stat(engine, i);
    return 0;
}

int dp_engine_read_histogram(const dp_engine *engine, uint32_t histogram, uint64_t *ret_counts,
                             uint32_t buckets, uint64_t *ret_sum)
{
    if (histogram >= HISTOGRAM_COUNT || buckets > HISTOGRAM_BUCKETS)
        return -EINVAL;
    for (uint32_t b = 0; b < buckets; b++) {
        ret_counts[b] = 0;
        for (uint32_t i = 0; i < engine->config.workers; i++)
            ret_counts[b] += stats_bucket(worker_stats(engine->workers[i]), histogram, b);
    }
    *ret_sum = 0;
    for (uint32_t i = 0; i < engine->config.workers; i++)
        *ret_sum += stats_sum(worker_stats(engine->workers[i]), histogram);
    return 0;
}
