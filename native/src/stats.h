/* stats.h: counters and log-linear histograms, one block a worker, one writer a cache line,
 * relaxed atomics; the reader sums. The table in stats.c names them. */
#ifndef SLUICE_STATS_H
#define SLUICE_STATS_H

#include "base.h"

enum stat_id {                   /* names: the same in lower case, see stats.c */
    STAT_ACCEPTED_TRANSPARENT, STAT_ACCEPTED_MESH, STAT_STREAMS_OPENED, STAT_STREAMS_CLOSED,
    STAT_STREAMS_NOW, STAT_BYTES_UP, STAT_BYTES_DOWN, STAT_HANDSHAKES_SERVER,
    STAT_HANDSHAKES_CLIENT, STAT_HANDSHAKES_RESUMED, STAT_HANDSHAKES_FAILED,
    STAT_CHAINS_REMEMBERED, STAT_CHAINS_EVICTED, STAT_CONNECTS,
    STAT_CONNECT_FAILURES, STAT_RETRIES, STAT_EJECTIONS, STAT_EVENTS_DROPPED,
    STAT_POOL_STREAMS_FULL, STAT_POOL_PIPES_FULL, STAT_POOL_BUFFERS_FULL, STAT_HANDSHAKES_DEFERRED,
    STAT_STRANGERS_FULL, STAT_STRANGERS_SOURCE_FULL,
    STAT_SPLICED_BYTES, STAT_COPIED_BYTES, STAT_SNAPSHOTS_TAKEN, STAT_SNAPSHOTS_REFUSED,
    STAT_SETS_TAKEN, STAT_REAUTHORIZED_CLOSED, STAT_DRAINED_CLOSED, STAT_ACCEPT_ERRORS,
    STAT_EARLY_RETRY_IMPOSSIBLE, STAT_RECORDS_OPENSSL, STAT_RECORDS_USER,
    STAT_RECORDS_KTLS, STAT_RECORDS_NIC,
    STAT_SEALS_ONLY_LOST,        /* those of LINK_CHANGED that began as SEALS_ONLY */
    STAT_KTLS_KEY_UPDATES,
    STAT_FALLBACK_0,             /* + enum dp_fallback: legs whose records are not in the kernel */
    STAT_REASON_0 = STAT_FALLBACK_0 + DP_FALLBACK_COUNT, /* + enum dp_reason: streams refused or
                                  * ended for it */
    STAT_COUNT = STAT_REASON_0 + DP_REASON_COUNT
};
enum histogram { HISTOGRAM_CONNECT_NS, HISTOGRAM_HANDSHAKE_NS, HISTOGRAM_DURATION_NS,
                 HISTOGRAM_COUNT };
enum { HISTOGRAM_BUCKETS = 256 };

struct stats;                    /* a worker's block */
DP_MUST_CHECK int stats_new(struct stats **ret);
void stats_free(struct stats *stats);
void stats_add(struct stats *stats, enum stat_id stat, int64_t delta); /* owner's thread */
void stats_record(struct stats *stats, enum histogram histogram, uint64_t value);
uint64_t stats_get(const struct stats *stats, uint32_t stat);       /* any thread */
uint64_t stats_bucket(const struct stats *stats, uint32_t histogram, uint32_t bucket);
uint64_t stats_sum(const struct stats *stats, uint32_t histogram);

#endif
