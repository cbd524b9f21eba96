/* stats.c: the counters' block and the one table of their names. */
#include "stats.h"

#include <stdlib.h>

/* Four buckets an octave: 0, 1, 2, 3, then [4, 5), … [8, 10), [10, 12) … up to 2^64. */
enum { SUB_BITS = 2, SUB = 1 << SUB_BITS };
static_assert((64 - SUB_BITS + 1) * SUB <= HISTOGRAM_BUCKETS, "every value has a bucket");

struct stats {
    DP_ALIGN_CACHE atomic_uint_fast64_t counters[STAT_COUNT];
    DP_ALIGN_CACHE atomic_uint_fast64_t buckets[HISTOGRAM_COUNT][HISTOGRAM_BUCKETS];
    DP_ALIGN_CACHE atomic_uint_fast64_t sums[HISTOGRAM_COUNT];
};

#define FALLBACK(name) [STAT_FALLBACK_0 + DP_FALLBACK_##name]
#define REASON(name) [STAT_REASON_0 + DP_REASON_##name]

static const char *const stat_names[STAT_COUNT] = {
    [STAT_ACCEPTED_TRANSPARENT] = "accepted_transparent",
    [STAT_ACCEPTED_MESH] = "accepted_mesh",
    [STAT_STREAMS_OPENED] = "streams_opened",
    [STAT_STREAMS_CLOSED] = "streams_closed",
    [STAT_STREAMS_NOW] = "streams_now",
    [STAT_BYTES_UP] = "bytes_up",
    [STAT_BYTES_DOWN] = "bytes_down",
    [STAT_HANDSHAKES_SERVER] = "handshakes_server",
    [STAT_HANDSHAKES_CLIENT] = "handshakes_client",
    [STAT_HANDSHAKES_RESUMED] = "handshakes_resumed",
    [STAT_HANDSHAKES_FAILED] = "handshakes_failed",
    [STAT_CHAINS_REMEMBERED] = "chains_remembered",
    [STAT_CHAINS_EVICTED] = "chains_evicted",
    [STAT_CONNECTS] = "connects",
    [STAT_CONNECT_FAILURES] = "connect_failures",
    [STAT_RETRIES] = "retries",
    [STAT_EJECTIONS] = "ejections",
    [STAT_EVENTS_DROPPED] = "events_dropped",
    [STAT_POOL_STREAMS_FULL] = "pool_streams_full",
    [STAT_POOL_PIPES_FULL] = "pool_pipes_full",
    [STAT_POOL_BUFFERS_FULL] = "pool_buffers_full",
    [STAT_STRANGERS_FULL] = "strangers_full",
    [STAT_STRANGERS_SOURCE_FULL] = "strangers_source_full",
    [STAT_HANDSHAKES_DEFERRED] = "handshakes_deferred",
    [STAT_SPLICED_BYTES] = "spliced_bytes",
    [STAT_COPIED_BYTES] = "copied_bytes",
    [STAT_SNAPSHOTS_TAKEN] = "snapshots_taken",
    [STAT_SNAPSHOTS_REFUSED] = "snapshots_refused",
    [STAT_SETS_TAKEN] = "sets_taken",
    [STAT_REAUTHORIZED_CLOSED] = "reauthorized_closed",
    [STAT_DRAINED_CLOSED] = "drained_closed",
    [STAT_ACCEPT_ERRORS] = "accept_errors",
    [STAT_EARLY_RETRY_IMPOSSIBLE] = "early_retry_impossible",
    [STAT_RECORDS_OPENSSL] = "records_openssl",
    [STAT_RECORDS_USER] = "records_user",
    [STAT_RECORDS_KTLS] = "records_ktls",
    [STAT_RECORDS_NIC] = "records_nic",
    [STAT_SEALS_ONLY_LOST] = "seals_only_lost",
    [STAT_KTLS_KEY_UPDATES] = "ktls_key_updates",
    FALLBACK(NONE) = "fallback_none",
    FALLBACK(NO_KERNEL_TLS) = "fallback_no_kernel_tls",
    FALLBACK(SOCKET) = "fallback_socket",
    FALLBACK(KERNEL_CIPHER) = "fallback_kernel_cipher",
    FALLBACK(CIPHER) = "fallback_cipher",
    FALLBACK(READ_AHEAD) = "fallback_read_ahead",
    FALLBACK(MEMORY) = "fallback_memory",
    FALLBACK(HALF) = "fallback_half",
    FALLBACK(VERSION) = "fallback_version",
    FALLBACK(PEER) = "fallback_peer",
    FALLBACK(NO_DEVICE) = "fallback_no_device",
    FALLBACK(KEY_UPDATE) = "fallback_key_update",
    FALLBACK(SMALL) = "fallback_small",
    FALLBACK(DEARER) = "fallback_dearer",
    FALLBACK(BUSY) = "fallback_busy",
    FALLBACK(LINK_CHANGED) = "fallback_link_changed",
    FALLBACK(SEALS_ONLY) = "fallback_seals_only",
    FALLBACK(IN_DOUBT) = "fallback_in_doubt",
    REASON(NONE) = "reason_none",
    REASON(NO_ROUTE) = "reason_no_route",
    REASON(OWN_ADDRESS) = "reason_own_address",
    REASON(UNIDENTIFIED) = "reason_unidentified",
    REASON(GRADE) = "reason_grade",
    REASON(DENIED) = "reason_denied",
    REASON(NO_ENDPOINT) = "reason_no_endpoint",
    REASON(CONNECT_FAILED) = "reason_connect_failed",
    REASON(CONNECT_TIMEOUT) = "reason_connect_timeout",
    REASON(LIMIT) = "reason_limit",
    REASON(POOL_FULL) = "reason_pool_full",
    REASON(HANDSHAKE) = "reason_handshake",
    REASON(HANDSHAKE_TIMEOUT) = "reason_handshake_timeout",
    REASON(PEER_IDENTITY) = "reason_peer_identity",
    REASON(REVOKED) = "reason_revoked",
    REASON(EXPIRED) = "reason_expired",
    REASON(BAD_HEADER) = "reason_bad_header",
    REASON(FORGED_HEADER) = "reason_forged_header",
    REASON(BAD_REPLY) = "reason_bad_reply",
    REASON(REMOTE) = "reason_remote",
    REASON(IDLE_TIMEOUT) = "reason_idle_timeout",
    REASON(DURATION) = "reason_duration",
    REASON(DRAIN) = "reason_drain",
    REASON(RESET) = "reason_reset",
    REASON(TRUNCATED) = "reason_truncated",
    REASON(REAUTHORIZED) = "reason_reauthorized",
    REASON(INTERNAL) = "reason_internal",
    REASON(NO_IDENTITY) = "reason_no_identity",
};

static const char *const histogram_names[HISTOGRAM_COUNT] = {
    [HISTOGRAM_CONNECT_NS] = "connect_ns",
    [HISTOGRAM_HANDSHAKE_NS] = "handshake_ns",
    [HISTOGRAM_DURATION_NS] = "duration_ns",
};

uint32_t dp_stat_count(void)
{
    return STAT_COUNT;
}

const char *dp_stat_name(uint32_t stat)
{
    return stat < STAT_COUNT ? stat_names[stat] : NULL;
}

const char *dp_reason_name(uint32_t reason)
{
    return reason < DP_REASON_COUNT ? stat_names[STAT_REASON_0 + reason] + strlen("reason_")
                                    : "unknown";
}

const char *dp_fallback_name(uint32_t fallback)
{
    return fallback < DP_FALLBACK_COUNT
               ? stat_names[STAT_FALLBACK_0 + fallback] + strlen("fallback_")
               : "unknown";
}

uint32_t dp_histogram_count(void)
{
    return HISTOGRAM_COUNT;
}

const char *dp_histogram_name(uint32_t histogram)
{
    return histogram < HISTOGRAM_COUNT ? histogram_names[histogram] : NULL;
}

uint32_t dp_histogram_buckets(void)
{
    return HISTOGRAM_BUCKETS;
}

static unsigned bucket_of(uint64_t value)
{
    if (value < SUB)
        return (unsigned)value;
    unsigned octave = 63 - (unsigned)__builtin_clzll(value);
    unsigned sub = (unsigned)(value >> (octave - SUB_BITS)) % SUB;
    return (octave - SUB_BITS + 1) * SUB + sub;
}

uint64_t dp_histogram_bound(uint32_t bucket)
{
    if (bucket < SUB)
        return bucket + 1;
    unsigned shift = bucket / SUB - 1;
    uint64_t next = SUB + bucket % SUB + 1; /* in units of 1 << shift */
    return shift > 63 || next > UINT64_MAX >> shift ? UINT64_MAX : next << shift;
}

int stats_new(struct stats **ret)
{
    struct stats *stats = aligned_alloc(64, sizeof(*stats));
    if (stats == NULL)
        return -ENOMEM;
    memset(stats, 0, sizeof(*stats));
    *ret = stats;
    return 0;
}

void stats_free(struct stats *stats)
{
    free(stats);
}

/* One writer, so no locked instruction is needed. */
static void add(atomic_uint_fast64_t *counter, uint64_t delta)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + delta, memory_order_relaxed);
}

void stats_add(struct stats *stats, enum stat_id stat, int64_t delta)
{
    assert((unsigned)stat < STAT_COUNT);
    add(&stats->counters[stat], (uint64_t)delta);
}

void stats_record(struct stats *stats, enum histogram histogram, uint64_t value)
{
    assert((unsigned)histogram < HISTOGRAM_COUNT);
    add(&stats->buckets[histogram][bucket_of(value)], 1);
    add(&stats->sums[histogram], value);
}

uint64_t stats_get(const struct stats *stats, uint32_t stat)
{
    assert(stat < STAT_COUNT);
    return atomic_load_explicit(&stats->counters[stat], memory_order_relaxed);
}

uint64_t stats_bucket(const struct stats *stats, uint32_t histogram, uint32_t bucket)
{
    assert(histogram < HISTOGRAM_COUNT && bucket < HISTOGRAM_BUCKETS);
    return atomic_load_explicit(&stats->buckets[histogram][bucket], memory_order_relaxed);
}

uint64_t stats_sum(const struct stats *stats, uint32_t histogram)
{
    assert(histogram < HISTOGRAM_COUNT);
    return atomic_load_explicit(&stats->sums[histogram], memory_order_relaxed);
}
