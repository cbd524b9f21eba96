/* test_stats.c: names, buckets and sums. */
#include "stats.h"

#include "clock.h"
#include "test.h"

static void every_counter_has_a_name_of_its_own(void)
{
    for (uint32_t i = 0; i < dp_stat_count(); i++) {
        REQUIRE(dp_stat_name(i) != NULL);
        for (uint32_t k = 0; k < i; k++)
            CHECK(strcmp(dp_stat_name(i), dp_stat_name(k)) != 0);
    }
    CHECK(dp_stat_name(dp_stat_count()) == NULL);
    CHECK_TEXT(dp_stat_name(STAT_STREAMS_NOW), "streams_now");
    CHECK_TEXT(dp_stat_name(STAT_REASON_0 + DP_REASON_DENIED), "reason_denied");
    CHECK_TEXT(dp_reason_name(DP_REASON_DENIED), "denied");
    CHECK_TEXT(dp_reason_name(DP_REASON_COUNT), "unknown");
    CHECK_TEXT(dp_fallback_name(DP_FALLBACK_HALF), "half");
    CHECK_TEXT(dp_fallback_name(DP_FALLBACK_COUNT), "unknown");
    for (uint32_t i = 0; i < dp_histogram_count(); i++)
        CHECK(dp_histogram_name(i) != NULL);
    CHECK(dp_histogram_name(dp_histogram_count()) == NULL);
}

static void bounds_grow(void)
{
    for (uint32_t b = 1; b < dp_histogram_buckets(); b++)
        CHECK(dp_histogram_bound(b) > dp_histogram_bound(b - 1) ||
              dp_histogram_bound(b) == UINT64_MAX);
    CHECK(dp_histogram_bound(UINT32_MAX) == UINT64_MAX);
}

static void a_value_is_in_the_bucket_that_bounds_it(void)
{
    struct stats *stats;
    uint64_t sum = 0;
    REQUIRE_INT(stats_new(&stats), 0);
    for (unsigned shift = 0; shift < 64; shift++) {
        for (int off = -1; off <= 1; off++) {
            uint64_t value = (UINT64_C(1) << shift) + (uint64_t)off;
            uint32_t want = 0;
            while (value >= dp_histogram_bound(want) && dp_histogram_bound(want) != UINT64_MAX)
                want++;
            uint64_t before = stats_bucket(stats, HISTOGRAM_CONNECT_NS, want);
            stats_record(stats, HISTOGRAM_CONNECT_NS, value);
            CHECK_INT(stats_bucket(stats, HISTOGRAM_CONNECT_NS, want), before + 1);
            sum += value;
        }
    }
    stats_record(stats, HISTOGRAM_CONNECT_NS, UINT64_MAX);
    CHECK(stats_sum(stats, HISTOGRAM_CONNECT_NS) == sum + UINT64_MAX);
    CHECK_INT(stats_sum(stats, HISTOGRAM_HANDSHAKE_NS), 0);
    stats_free(stats);
}

static void counters_go_up_and_down(void)
{
    struct stats *stats;
    REQUIRE_INT(stats_new(&stats), 0);
    stats_add(stats, STAT_STREAMS_NOW, 3);
    stats_add(stats, STAT_STREAMS_NOW, -1);
    CHECK_INT(stats_get(stats, STAT_STREAMS_NOW), 2);
    CHECK_INT(stats_get(stats, STAT_BYTES_UP), 0);
    stats_free(stats);
    stats_free(NULL);
}

static void the_clock_can_be_moved(void)
{
    uint64_t before = clock_ns();
    CHECK(clock_ns() >= before);
    clock_test_set(5000000, 7000000000u);
    CHECK_INT(clock_ms(), 5);
    CHECK_INT(clock_real_s(), 7);
    clock_test_advance(900000000000u);
    CHECK_INT(clock_ms(), 900005);
    CHECK_INT(clock_real_s(), 907);
    clock_test_reset();
    CHECK(clock_ns() >= before);
}

TEST_MAIN(TEST(every_counter_has_a_name_of_its_own), TEST(bounds_grow),
          TEST(a_value_is_in_the_bucket_that_bounds_it), TEST(counters_go_up_and_down),
          TEST(the_clock_can_be_moved))
