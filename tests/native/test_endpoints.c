/* test_endpoints.c: who is picked, how often, and who is not: weights, priorities, limits,
 * ejection, and what survives a swap of the set. */
#include "endpoints.h"

#include <pthread.h>

#include "test.h"

static dp_set_policy policy_of(uint8_t balance)
{
    return (dp_set_policy){.balance = balance, .ejection_percent_max = 100,
                           .failures_consecutive = 3, .ejection_base_ms = 1000,
                           .ejection_max_ms = 5000};
}

static struct dp_endpoints *new_set(const dp_set_policy *policy)
{
    struct dp_endpoints *set = NULL;
    CHECK_INT(dp_endpoints_new(policy, &set), 0);
    return set;
}

/* Endpoint i has port 1000 + i. */
static void add(struct dp_endpoints *set, uint32_t i, uint32_t weight, uint8_t priority,
                bool healthy)
{
    uint32_t index;
    dp_endpoint endpoint = {.addr = {[10] = 0xff, 0xff, 198, 18, 0, 1}, .port = 1000 + i,
                            .kind = DP_ENDPOINT_PLAIN, .priority = priority, .healthy = healthy,
                            .weight = weight, .name = "host"};
    CHECK_INT(dp_endpoints_add(set, &endpoint, &index), 0);
    CHECK_INT(index, i);
}

static struct dp_endpoints *equal_set(uint8_t balance, uint32_t count)
{
    dp_set_policy policy = policy_of(balance);
    struct dp_endpoints *set = new_set(&policy);
    for (uint32_t i = 0; i < count; i++)
        add(set, i, 1, 0, true);
    CHECK_INT(endpoints_seal(set), 0);
    return set;
}

/* The picked one's index, released at once; negative = the error. */
static int pick(const struct dp_endpoints *set, int64_t now_ms, uint64_t *tried)
{
    static uint64_t rng = 42;
    uint64_t none = 0;
    const struct endpoint *endpoint;
    int r = endpoints_pick(set, now_ms, &rng, tried != NULL ? tried : &none, &endpoint);
    if (r < 0)
        return r;
    endpoints_release(set, endpoint);
    return endpoint->port - 1000;
}

static void round_robin_goes_round(void)
{
    struct dp_endpoints *set = equal_set(DP_BALANCE_ROUND_ROBIN, 3);
    for (int i = 0; i < 9; i++)
        CHECK_INT(pick(set, 0, NULL), i % 3);
    endpoints_unref(set);
}

static void weights_hold_and_are_spread(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_ROUND_ROBIN);
    struct dp_endpoints *set = new_set(&policy);
    add(set, 0, 50, 0, true);
    add(set, 1, 10, 0, true);
    add(set, 2, 20, 0, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    unsigned counts[3] = {0}, row = 0, longest_row = 0;
    for (int i = 0; i < 80; i++) {
        int index = pick(set, 0, NULL);
        REQUIRE(index >= 0);
        counts[index]++;
        row = index == 0 ? row + 1 : 0;
        longest_row = row > longest_row ? row : longest_row;
    }
    CHECK_INT(counts[0], 50);
    CHECK_INT(counts[1], 10);
    CHECK_INT(counts[2], 20);
    CHECK(longest_row <= 3); /* not all five in a row */
    endpoints_unref(set);
}

static void extreme_weights_keep_everybody(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_ROUND_ROBIN);
    struct dp_endpoints *set = new_set(&policy);
    add(set, 0, 1000000, 0, true);
    add(set, 1, 1, 0, true);
    add(set, 2, 999999, 0, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    unsigned counts[3] = {0};
    for (int i = 0; i < 20000; i++)
        counts[pick(set, 0, NULL)]++;
    CHECK(counts[1] > 0 && counts[1] < 200);
    CHECK(counts[0] > 9000 && counts[2] > 9000);
    endpoints_unref(set);
}

static void random_follows_the_weights(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_RANDOM);
    struct dp_endpoints *set = new_set(&policy);
    add(set, 0, 3, 0, true);
    add(set, 1, 1, 0, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    unsigned counts[2] = {0};
    for (int i = 0; i < 40000; i++)
        counts[pick(set, 0, NULL)]++;
    CHECK(counts[0] > 29000 && counts[0] < 31000);
    endpoints_unref(set);
}

static void least_request_evens_out(void)
{
    struct dp_endpoints *set = equal_set(DP_BALANCE_LEAST_REQUEST, 4);
    const struct endpoint *held[400];
    uint64_t rng = 7;
    for (int i = 0; i < 400; i++) {
        uint64_t tried = 0;
        REQUIRE_INT(endpoints_pick(set, 0, &rng, &tried, &held[i]), 0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t connections = endpoint_connections(endpoints_at(set, i));
        CHECK(connections >= 95 && connections <= 105);
    }
    CHECK_INT(endpoints_connections(set), 400);
    for (int i = 0; i < 400; i++)
        endpoints_release(set, held[i]);
    CHECK_INT(endpoints_connections(set), 0);
    endpoints_unref(set);
}

static void only_healthy_ones_of_the_lowest_priority(void)
{
    for (uint8_t balance = 0; balance <= DP_BALANCE_LEAST_REQUEST; balance++) {
        dp_set_policy policy = policy_of(balance);
        struct dp_endpoints *set = new_set(&policy);
        uint64_t tried = 0;
        add(set, 0, 1, 200, true);
        add(set, 1, 1, 3, true);
        add(set, 2, 1, 3, false);
        REQUIRE_INT(endpoints_seal(set), 0);
        CHECK_INT(pick(set, 0, &tried), 1);
        CHECK_INT(pick(set, 0, &tried), 0);
        CHECK_INT(pick(set, 0, &tried), -ENOENT);
        CHECK_INT(tried, 3);
        endpoints_unref(set);
    }
}

static void an_empty_set_has_none(void)
{
    struct dp_endpoints *set = equal_set(DP_BALANCE_RANDOM, 0);
    CHECK_INT(pick(set, 0, NULL), -ENOENT);
    CHECK(endpoints_at(set, 0) == NULL);
    endpoints_unref(set);
    endpoints_unref(NULL);
}

static void every_one_is_tried_once(void)
{
    for (uint8_t balance = 0; balance <= DP_BALANCE_LEAST_REQUEST; balance++) {
        struct dp_endpoints *set = equal_set(balance, 64);
        uint64_t tried = 0;
        for (int i = 0; i < 64; i++) {
            uint64_t before = tried;
            int index = pick(set, 0, &tried);
            REQUIRE(index >= 0 && index < 64);
            CHECK((before >> index & 1) == 0);
        }
        CHECK_INT(pick(set, 0, &tried), -ENOENT);
        endpoints_unref(set);
    }
}

static void the_limit_is_the_sets(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_ROUND_ROBIN);
    policy.connections_max = 2;
    struct dp_endpoints *set = new_set(&policy);
    add(set, 0, 1, 0, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    const struct endpoint *a, *b, *c = NULL;
    uint64_t rng = 1, tried = 0;
    CHECK_INT(endpoints_pick(set, 0, &rng, &tried, &a), 0);
    tried = 0;
    CHECK_INT(endpoints_pick(set, 0, &rng, &tried, &b), 0);
    tried = 0;
    CHECK_INT(endpoints_pick(set, 0, &rng, &tried, &c), -EDQUOT);
    CHECK(c == NULL && tried == 0);
    endpoints_release(set, a);
    CHECK_INT(endpoints_pick(set, 0, &rng, &tried, &c), 0);
    endpoints_release(set, b);
    endpoints_release(set, c);
    endpoints_unref(set);
}

static uint32_t fail_times(struct dp_endpoints *set, uint32_t index, unsigned times, int64_t now_ms)
{
    uint32_t ms = 0;
    for (unsigned i = 0; i < times; i++)
        ms = endpoint_failed(set, endpoints_at(set, index), now_ms);
    return ms;
}

static void failures_in_a_row_eject_for_longer_each_time(void)
{
    struct dp_endpoints *set = equal_set(DP_BALANCE_ROUND_ROBIN, 2);
    const struct endpoint *first = endpoints_at(set, 0);
    CHECK_INT(fail_times(set, 0, 2, 10000), 0);
    endpoint_succeeded(set, first);
    CHECK_INT(fail_times(set, 0, 2, 10000), 0);
    CHECK_INT(fail_times(set, 0, 1, 10000), 1000);
    CHECK(endpoint_is_ejected(first, 10999));
    CHECK(!endpoint_is_ejected(first, 11000));
    for (int i = 0; i < 6; i++)
        CHECK_INT(pick(set, 10500, NULL), 1);
    CHECK_INT(fail_times(set, 0, 3, 10500), 0); /* it is ejected already */
    CHECK_INT(fail_times(set, 0, 3, 11000), 2000);
    CHECK_INT(fail_times(set, 0, 3, 13000), 3000);
    CHECK_INT(fail_times(set, 0, 3, 16000), 4000);
    CHECK_INT(fail_times(set, 0, 3, 20000), 5000);
    CHECK_INT(fail_times(set, 0, 3, 25000), 5000); /* the maximum */
    CHECK_INT(fail_times(set, 0, 3, 30000 + 4 * 1000), 3000); /* four forgotten of six */
    CHECK_INT(fail_times(set, 0, 3, 10000000), 1000);
    endpoints_unref(set);
}

static void when_all_are_ejected_one_is_tried_still(void)
{
    struct dp_endpoints *set = equal_set(DP_BALANCE_LEAST_REQUEST, 2);
    uint64_t tried = 0;
    CHECK_INT(fail_times(set, 0, 3, 0), 1000);
    CHECK_INT(pick(set, 10, &tried), 1);
    CHECK_INT(pick(set, 10, &tried), 0);
    CHECK_INT(fail_times(set, 1, 3, 0), 1000);
    CHECK(pick(set, 10, NULL) >= 0);
    endpoints_unref(set);
}

static void ejected_local_ones_lose_to_remote_ones(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_ROUND_ROBIN);
    struct dp_endpoints *set = new_set(&policy);
    add(set, 0, 1, 0, true);
    add(set, 1, 1, 1, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    CHECK_INT(pick(set, 0, NULL), 0);
    CHECK_INT(fail_times(set, 0, 3, 0), 1000);
    CHECK_INT(pick(set, 0, NULL), 1);
    CHECK_INT(pick(set, 1000, NULL), 0);
    endpoints_unref(set);
}

static void not_more_than_the_percentage_is_ejected(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_ROUND_ROBIN);
    policy.ejection_percent_max = 50;
    struct dp_endpoints *set = new_set(&policy);
    for (uint32_t i = 0; i < 5; i++)
        add(set, i, 1, 0, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    CHECK_INT(fail_times(set, 0, 3, 0), 1000);
    CHECK_INT(fail_times(set, 1, 3, 0), 1000);
    CHECK_INT(fail_times(set, 2, 3, 0), 0);
    CHECK_INT(fail_times(set, 2, 1, 1000), 1000); /* those before are back */
    endpoints_unref(set);

    policy.ejection_percent_max = 10;
    set = new_set(&policy);
    add(set, 0, 1, 0, true);
    add(set, 1, 1, 0, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    CHECK_INT(fail_times(set, 0, 3, 0), 1000); /* one may always be */
    CHECK_INT(fail_times(set, 1, 3, 0), 0);
    endpoints_unref(set);

    policy.ejection_percent_max = 0;
    set = new_set(&policy);
    add(set, 0, 1, 0, true);
    REQUIRE_INT(endpoints_seal(set), 0);
    CHECK_INT(fail_times(set, 0, 9, 0), 0);
    endpoints_unref(set);
}

static void state_survives_a_swap(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_ROUND_ROBIN);
    struct dp_endpoints *earlier = equal_set(DP_BALANCE_ROUND_ROBIN, 3);
    const struct endpoint *held;
    uint64_t rng = 1, tried = 0;
    CHECK_INT(endpoints_pick(earlier, 0, &rng, &tried, &held), 0);
    CHECK_INT(fail_times(earlier, 1, 3, 0), 1000);

    struct dp_endpoints *later = new_set(&policy);
    uint32_t index;
    for (uint32_t i = 0; i < 2; i++) { /* in another order: 1, then 0 */
        dp_endpoint endpoint = {.addr = {[10] = 0xff, 0xff, 198, 18, 0, 1}, .port = 1001 - i,
                                .healthy = 1, .weight = 5, .name = "renamed"};
        CHECK_INT(dp_endpoints_add(later, &endpoint, &index), 0);
    }
    dp_endpoint fresh = {.addr = {1}, .port = 1000, .healthy = 1, .weight = 1, .name = "new"};
    CHECK_INT(dp_endpoints_add(later, &fresh, &index), 0);
    REQUIRE_INT(endpoints_seal(later), 0);
    endpoints_inherit(later, earlier);
    endpoints_inherit(later, NULL);
    CHECK(endpoint_is_ejected(endpoints_at(later, 0), 500));
    CHECK_INT(endpoint_connections(endpoints_at(later, 1)), 1);
    CHECK_INT(endpoint_connections(endpoints_at(later, 2)), 0);
    CHECK_INT(endpoints_connections(later), 1);
    endpoints_release(earlier, held);
    endpoints_unref(earlier);
    CHECK_INT(endpoint_connections(endpoints_at(later, 1)), 0);
    endpoints_ref(later);
    endpoints_unref(later);
    endpoints_unref(later);
}

static void bad_sets_are_refused(void)
{
    dp_set_policy policy = policy_of(3);
    struct dp_endpoints *set = NULL;
    CHECK_INT(dp_endpoints_new(&policy, &set), -EINVAL);
    policy = policy_of(0);
    policy.ejection_percent_max = 101;
    CHECK_INT(dp_endpoints_new(&policy, &set), -EINVAL);
    CHECK(set == NULL);

    set = equal_set(DP_BALANCE_RANDOM, 0);
    endpoints_unref(set);
    policy = policy_of(0);
    set = new_set(&policy);
    const dp_endpoint good = {.port = 1, .weight = 1, .name = "a", .kind = DP_ENDPOINT_AGENT,
                              .target_port = 2, .sni = "a.b", .service = ""};
    uint32_t index = 77;
    dp_endpoint bad = good;
    bad.port = 0;
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad = good;
    bad.weight = 0;
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad.weight = 1000001;
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad = good;
    bad.name = NULL;
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad = good;
    bad.sni = "";
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad = good;
    bad.sni = "-.b";
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad = good;
    bad.kind = DP_ENDPOINT_PLAIN; /* has an SNI */
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad.kind = 3;
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    bad = good;
    bad.target_port = 0;
    CHECK_INT(dp_endpoints_add(set, &bad, &index), -EINVAL);
    CHECK_INT(index, 77);
    CHECK_INT(dp_endpoints_add(set, &good, &index), 0);
    CHECK_INT(dp_endpoints_add(set, &good, &index), -EEXIST);
    CHECK_INT(endpoints_seal(set), -EINVAL); /* expects nobody */
    CHECK_INT(dp_endpoints_add_expected(set, 1, "spiffe://a/b"), -EINVAL);
    CHECK_INT(dp_endpoints_add_expected(set, 0, "a/b"), -EINVAL);
    for (int i = 0; i < DP_EXPECTED_MAX; i++)
        CHECK_INT(dp_endpoints_add_expected(set, 0, "spiffe://a/b"), 0);
    CHECK_INT(dp_endpoints_add_expected(set, 0, "spiffe://a/b"), -E2BIG);
    CHECK_INT(endpoints_seal(set), 0);
    CHECK_INT(endpoints_seal(set), 0);
    CHECK_TEXT(endpoints_at(set, 0)->expected[DP_EXPECTED_MAX - 1], "spiffe://a/b");
    CHECK_INT(dp_endpoints_add(set, &good, &index), -EPERM);
    CHECK_INT(dp_endpoints_add_expected(set, 0, "spiffe://a/b"), -EPERM);
    endpoints_unref(set);
}

enum { THREADS = 3, ROUNDS = 20000, LIMIT = 5 };
static struct dp_endpoints *shared;
static atomic_uint highest;

static void *pick_and_release(void *arg)
{
    uint64_t rng = (uintptr_t)arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        const struct endpoint *endpoint;
        uint64_t tried = 0;
        if (endpoints_pick(shared, i, &rng, &tried, &endpoint) < 0)
            continue;
        unsigned now = endpoints_connections(shared), seen = atomic_load(&highest);
        while (now > seen && !atomic_compare_exchange_weak(&highest, &seen, now))
            ;
        if (rng % 3 == 0)
            endpoint_failed(shared, endpoint, i);
        else
            endpoint_succeeded(shared, endpoint);
        endpoints_release(shared, endpoint);
    }
    return NULL;
}

static void workers_share_one_limit(void)
{
    dp_set_policy policy = policy_of(DP_BALANCE_LEAST_REQUEST);
    policy.connections_max = LIMIT;
    shared = new_set(&policy);
    for (uint32_t i = 0; i < 4; i++)
        add(shared, i, 1 + i, 0, true);
    REQUIRE_INT(endpoints_seal(shared), 0);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, pick_and_release, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    /* A refused attempt counts itself for a moment. */
    CHECK(atomic_load(&highest) >= 1 && atomic_load(&highest) <= LIMIT + THREADS);
    CHECK_INT(endpoints_connections(shared), 0);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_INT(endpoint_connections(endpoints_at(shared, i)), 0);
    endpoints_unref(shared);
}

TEST_MAIN(TEST(round_robin_goes_round), TEST(weights_hold_and_are_spread),
          TEST(extreme_weights_keep_everybody), TEST(random_follows_the_weights),
          TEST(least_request_evens_out), TEST(only_healthy_ones_of_the_lowest_priority),
          TEST(an_empty_set_has_none), TEST(every_one_is_tried_once), TEST(the_limit_is_the_sets),
          TEST(failures_in_a_row_eject_for_longer_each_time),
          TEST(when_all_are_ejected_one_is_tried_still),
          TEST(ejected_local_ones_lose_to_remote_ones),
          TEST(not_more_than_the_percentage_is_ejected), TEST(state_survives_a_swap),
          TEST(bad_sets_are_refused), TEST(workers_share_one_limit))
