/* test_tls_threads.c: one context, its leaves and snapshots shared by workers that shake hands
 * while a third thread rotates the ticket keys. Meant for ThreadSanitizer. */
#include <pthread.h>

#include "test.h"
#include "tls_pair.h"

enum { WORKERS = 2, CONNECTIONS = 40 };

static struct sites sites;
static atomic_uint working;

struct worker {
    pthread_t thread;
    struct tls_sessions *sessions; /* its own */
    struct stats *stats;
    struct buffers *buffers;
    struct tls_chains *chains;
    unsigned connected, resumed;
};

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct sites mine = sites; /* shares everything but sessions, chains and buffers */
    mine.sessions = worker->sessions;
    mine.chains = worker->chains;
    mine.buffers = worker->buffers;
    for (int i = 0; i < CONNECTIONS; i++) {
        struct pair pair;
        const struct dp_leaf *leaf = i % 2 ? mine.web : mine.batch;
        if (pair_connect(&pair, &mine, leaf, PAYMENTS_SNI, PAYMENTS_ID) &&
            strcmp(tls_peer(pair.server)->id, leaf->id) == 0 &&
            pair_carries(pair.client, pair.server, "ping")) {
            worker->connected++;
            worker->resumed += pair_is_resumed(&pair);
        }
        pair_close(&pair);
    }
    atomic_fetch_sub(&working, 1);
    return NULL;
}

static void *rotate(void *arg)
{
    uint8_t keys[2 * DP_TICKET_KEY_SIZE] = {0};
    (void)arg;
    for (uint8_t round = 0; atomic_load(&working) > 0; round++) {
        memset(keys + DP_TICKET_KEY_SIZE, keys[0], DP_TICKET_KEY_SIZE);
        memset(keys, round, DP_TICKET_KEY_SIZE);
        if (tls_context_set_ticket_keys(sites.ctx_b, keys, 2) != 0)
            return arg;
    }
    return &working;
}

static void workers_share_a_context(void)
{
    struct worker workers[WORKERS] = {0};
    pthread_t rotator;
    void *rotated = NULL;
    sites_init(&sites);
    atomic_store(&working, WORKERS);
    for (int i = 0; i < WORKERS; i++) {
        REQUIRE_INT(tls_sessions_new(sites.ctx_a, 8, &workers[i].sessions), 0);
        REQUIRE_INT(stats_new(&workers[i].stats), 0);
        workers[i].buffers = sites_buffers(workers[i].stats);
        REQUIRE_INT(tls_chains_new(SITES_CHAINS_MAX, workers[i].stats, &workers[i].chains), 0);
        REQUIRE_INT(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    REQUIRE_INT(pthread_create(&rotator, NULL, rotate, NULL), 0);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        CHECK_INT(workers[i].connected, CONNECTIONS);
    }
    pthread_join(rotator, &rotated);
    CHECK(rotated == &working);
    /* With the keys at rest again a worker's sessions are good for it. */
    for (int i = 0; i < WORKERS; i++) {
        workers[i].resumed = 0;
        atomic_store(&working, 1);
        (void)work(&workers[i]);
        CHECK(workers[i].resumed >= CONNECTIONS - 2);
        tls_sessions_free(workers[i].sessions);
        tls_chains_free(workers[i].chains);
        buffers_free(workers[i].buffers);
        stats_free(workers[i].stats);
    }
    sites_fini(&sites);
}

TLS_TEST_MAIN(TEST(workers_share_a_context))
