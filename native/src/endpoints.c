/* endpoints.c: a set's endpoints, the order in which balancing visits them, and the shared state.
 * Opens no connection and reads no clock. */
#include "endpoints.h"

#include <stdlib.h>

#include "arena.h"
#include "sni.h"
#include "table.h"
#include "vector.h"

enum {
    WEIGHT_MAX = 1000000,
    DRAWS = 8, /* random or round robin draws before a search of the whole group */
};

struct endpoint_state {          /* a cache line of its own: every worker writes to it */
    DP_ALIGN_CACHE atomic_uint refs;
    atomic_uint connections;
    atomic_uint failures;        /* in a row */
    atomic_uint ejections;       /* not forgotten yet */
    atomic_int_fast64_t ejected_until_ms; /* 0 = never was */
};

struct endpoints_state {
    DP_ALIGN_CACHE atomic_uint refs;
    atomic_uint connections;
    atomic_uint_fast64_t position; /* of round robin, in draws */
};

struct item {
    struct endpoint endpoint;    /* first: a const struct endpoint * is one of these */
    const char **expected;       /* owned; the texts are the arena's */
    uint32_t expected_capacity;
};

struct group {                   /* the healthy endpoints of one priority */
    uint8_t priority;
    uint32_t *schedule;          /* owned: indexes, each as often as its weight, spread out */
    uint32_t length;
};

struct dp_endpoints {
    atomic_uint refs;
    bool sealed;
    dp_set_policy policy;
    struct arena arena;
    struct item *items;          /* owned */
    uint32_t count, capacity;
    struct table by_key;
    struct group *groups;        /* owned; lowest priority number first */
    uint32_t group_count, group_capacity;
    struct endpoints_state *state; /* counted */
};

/* A counted, zeroed object on cache lines of its own; NULL = out of memory. */
static void *new_state(size_t size)
{
    void *state = aligned_alloc(64, size);
    if (state != NULL) {
        memset(state, 0, size);
        atomic_init((atomic_uint *)state, 1);
    }
    return state;
}

static void ref(atomic_uint *refs)
{
    atomic_fetch_add_explicit(refs, 1, memory_order_relaxed);
}

/* True when it was the last. */
static bool unref(atomic_uint *refs)
{
    unsigned before = atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel);
    assert(before > 0);
    return before == 1;
}

static void unref_endpoint_state(struct endpoint_state *state)
{
    if (state != NULL && unref(&state->refs))
        free(state);
}

static void unref_set_state(struct endpoints_state *state)
{
    if (state != NULL && unref(&state->refs))
        free(state);
}

int dp_endpoints_new(const dp_set_policy *policy, dp_endpoints **ret)
{
    if (policy->balance > DP_BALANCE_LEAST_REQUEST || policy->ejection_percent_max > 100)
        return -EINVAL;
    struct dp_endpoints *set = calloc(1, sizeof(*set));
    if (set == NULL)
        return -ENOMEM;
    atomic_init(&set->refs, 1);
    set->policy = *policy;
    set->state = new_state(sizeof(*set->state));
    if (set->state == NULL) {
        free(set);
        return -ENOMEM;
    }
    *ret = set;
    return 0;
}

void dp_endpoints_free(dp_endpoints *set)
{
    endpoints_unref(set);
}

void endpoints_ref(const struct dp_endpoints *set)
{
    ref(&((struct dp_endpoints *)set)->refs);
}

void endpoints_unref(const struct dp_endpoints *const_set)
{
    struct dp_endpoints *set = (struct dp_endpoints *)const_set;
    if (set == NULL || !unref(&set->refs))
        return;
    for (uint32_t i = 0; i < set->count; i++) {
        unref_endpoint_state(set->items[i].endpoint.state);
        free(set->items[i].expected);
    }
    for (uint32_t i = 0; i < set->group_count; i++)
        free(set->groups[i].schedule);
    unref_set_state(set->state);
    free(set->groups);
    free(set->items);
    table_fini(&set->by_key);
    arena_fini(&set->arena);
    free(set);
}

/* What makes it the same endpoint in the next version: address, port, kind and SNI. */
static size_t make_key(const dp_endpoint *endpoint, const char *sni, uint8_t *buf)
{
    size_t sni_len = sni != NULL ? strlen(sni) : 0;
    memcpy(buf, endpoint->addr, 16);
    buf[16] = (uint8_t)(endpoint->port >> 8);
    buf[17] = (uint8_t)endpoint->port;
    buf[18] = endpoint->kind;
    if (sni_len > 0)
        memcpy(buf + 19, sni, sni_len);
    return 19 + sni_len;
}

static bool given(const char *text)
{
    return text != NULL && text[0] != '\0';
}

static int check_endpoint(const dp_endpoint *endpoint)
{
    bool tls = endpoint->kind != DP_ENDPOINT_PLAIN;
    if (endpoint->kind > DP_ENDPOINT_MESH || endpoint->port == 0 || endpoint->weight == 0 ||
        endpoint->weight > WEIGHT_MAX || tls != given(endpoint->sni))
        return -EINVAL;
    if (tls && !sni_is_valid(endpoint->sni, strnlen(endpoint->sni, SNI_MAX + 1)))
        return -EINVAL;
    return endpoint->kind == DP_ENDPOINT_AGENT && endpoint->target_port == 0 ? -EINVAL : 0;
}

int dp_endpoints_add(dp_endpoints *set, const dp_endpoint *endpoint, uint32_t *ret_endpoint)
{
    if (set->sealed)
        return -EPERM;
    int r = check_endpoint(endpoint);
    if (r < 0)
        return r;
    char *name, *sni = NULL, *service = NULL;
    r = arena_text(&set->arena, endpoint->name, DP_NAME_MAX, &name);
    if (r == 0 && given(endpoint->sni))
        r = arena_text(&set->arena, endpoint->sni, DP_NAME_MAX, &sni);
    if (r == 0 && given(endpoint->service))
        r = arena_text(&set->arena, endpoint->service, DP_NAME_MAX, &service);
    if (r == 0)
        r = vector_reserve(&set->items, &set->capacity, set->count + 1, sizeof(*set->items));
    if (r < 0)
        return r;
    uint8_t buf[19 + DP_NAME_MAX];
    size_t key_len = make_key(endpoint, sni, buf);
    const void *key = arena_copy(&set->arena, buf, key_len);
    struct endpoint_state *state = new_state(sizeof(*state));
    r = key != NULL && state != NULL ? table_add(&set->by_key, key, key_len, set->count) : -ENOMEM;
    if (r < 0) {
        free(state);
        return r;
    }
    struct item *item = &set->items[set->count];
    *item = (struct item){.endpoint = {
        .port = endpoint->port,
        .target_port = endpoint->target_port,
        .kind = endpoint->kind,
        .priority = endpoint->priority,
        .healthy = endpoint->healthy != 0,
        .weight = endpoint->weight,
        .name = name,
        .sni = sni,
        .service = service,
        .state = state,
    }};
    memcpy(item->endpoint.addr, endpoint->addr, sizeof(item->endpoint.addr));
    *ret_endpoint = set->count++;
    return 0;
}

int dp_endpoints_add_expected(dp_endpoints *set, uint32_t endpoint, const char *spiffe_id)
{
    if (set->sealed)
        return -EPERM;
    if (endpoint >= set->count || spiffe_id == NULL || strncmp(spiffe_id, "spiffe://", 9) != 0)
        return -EINVAL;
    struct item *item = &set->items[endpoint];
    uint32_t count = item->endpoint.expected_count;
    if (count >= DP_EXPECTED_MAX)
        return -E2BIG;
    char *text;
    int r = arena_text(&set->arena, spiffe_id, DP_ID_MAX, &text);
    if (r == 0)
        r = vector_reserve(&item->expected, &item->expected_capacity, count + 1,
                           sizeof(*item->expected));
    if (r < 0)
        return r;
    item->expected[count] = text;
    item->endpoint.expected = item->expected;
    item->endpoint.expected_count = count + 1;
    return 0;
}

/* ---- the schedule: weighted round robin, written out once ---- */

struct visit {
    double at; /* the middle of its part of the round, so that equal weights alternate */
    uint32_t index;
};

static int compare_visits(const void *a, const void *b)
{
    const struct visit *x = a, *y = b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* How often an endpoint comes in a round: its weight over the weights' divisor, scaled down when
 * the round would be longer than length_max. */
static uint32_t visits_of(const struct endpoint *endpoint, uint32_t divisor, uint64_t total,
                          uint64_t length_max)
{
    uint64_t visits = endpoint->weight / divisor;
    if (total > length_max)
        visits = visits * length_max / total;
    return visits > 0 ? (uint32_t)visits : 1;
}

static bool in_group(const struct endpoint *endpoint, const struct group *group)
{
    return endpoint->healthy && endpoint->priority == group->priority;
}

static int build_schedule(struct dp_endpoints *set, struct group *group)
{
    uint32_t members = 0, divisor = 0;
    uint64_t total = 0, length = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        const struct endpoint *endpoint = &set->items[i].endpoint;
        if (in_group(endpoint, group)) {
            members++;
            divisor = gcd(endpoint->weight, divisor);
            total += endpoint->weight;
        }
    }
    total /= divisor;
    uint64_t length_max = 16 * (uint64_t)members + 1024;
    for (uint32_t i = 0; i < set->count; i++)
        if (in_group(&set->items[i].endpoint, group))
            length += visits_of(&set->items[i].endpoint, divisor, total, length_max);

    struct visit *visits = malloc(length * sizeof(*visits));
    group->schedule = malloc(length * sizeof(*group->schedule));
    if (visits == NULL || group->schedule == NULL) {
        free(visits);
        return -ENOMEM;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        const struct endpoint *endpoint = &set->items[i].endpoint;
        if (!in_group(endpoint, group))
            continue;
        uint32_t own = visits_of(endpoint, divisor, total, length_max);
        for (uint32_t k = 0; k < own; k++)
            visits[n++] = (struct visit){.at = (k + 0.5) / own, .index = i};
    }
    if (length > members) /* else all weights are the same: one visit each, in order */
        qsort(visits, n, sizeof(*visits), compare_visits);
    for (uint32_t i = 0; i < n; i++)
        group->schedule[i] = visits[i].index;
    group->length = n;
    free(visits);
    return 0;
}

static int add_group(struct dp_endpoints *set, uint8_t priority)
{
    int r = vector_reserve(&set->groups, &set->group_capacity, set->group_count + 1,
                           sizeof(*set->groups));
    if (r < 0)
        return r;
    set->groups[set->group_count] = (struct group){.priority = priority};
    return build_schedule(set, &set->groups[set->group_count++]);
}

int endpoints_seal(struct dp_endpoints *set)
{
    if (set->sealed)
        return 0;
    uint64_t priorities[4] = {0}; /* a bit each */
    for (uint32_t i = 0; i < set->count; i++) {
        const struct endpoint *endpoint = &set->items[i].endpoint;
        if (endpoint->kind != DP_ENDPOINT_PLAIN && endpoint->expected_count == 0)
            return -EINVAL;
        if (endpoint->healthy)
            priorities[endpoint->priority / 64] |= UINT64_C(1) << (endpoint->priority % 64);
    }
    for (uint32_t i = 0; i < set->group_count; i++) /* of an attempt that ran out of memory */
        free(set->groups[i].schedule);
    set->group_count = 0;
    for (unsigned word = 0; word < 4; word++) {
        for (uint64_t bits = priorities[word]; bits != 0; bits &= bits - 1) {
            int r = add_group(set, (uint8_t)(word * 64 + (unsigned)__builtin_ctzll(bits)));
            if (r < 0)
                return r;
        }
    }
    set->sealed = true;
    return 0;
}

void endpoints_inherit(struct dp_endpoints *set, const struct dp_endpoints *earlier)
{
    assert(set->sealed && set != earlier);
    if (earlier == NULL)
        return;
    ref(&earlier->state->refs);
    unref_set_state(set->state);
    set->state = earlier->state;
    for (uint32_t i = 0; i < set->by_key.capacity; i++) {
        const struct table_slot *slot = &set->by_key.slots[i];
        uint32_t index;
        if (slot->key == NULL || !table_get(&earlier->by_key, slot->key, slot->key_len, &index))
            continue;
        struct endpoint *endpoint = &set->items[slot->value].endpoint;
        struct endpoint_state *state = earlier->items[index].endpoint.state;
        ref(&state->refs);
        unref_endpoint_state(endpoint->state);
        endpoint->state = state;
    }
}

uint32_t endpoints_count(const struct dp_endpoints *set)
{
    return set->count;
}

const struct endpoint *endpoints_at(const struct dp_endpoints *set, uint32_t i)
{
    return i < set->count ? &set->items[i].endpoint : NULL;
}

uint32_t endpoints_connections(const struct dp_endpoints *set)
{
    return atomic_load_explicit(&set->state->connections, memory_order_relaxed);
}

uint32_t endpoint_connections(const struct endpoint *endpoint)
{
    return atomic_load_explicit(&endpoint->state->connections, memory_order_relaxed);
}

bool endpoint_is_ejected(const struct endpoint *endpoint, int64_t now_ms)
{
    return atomic_load_explicit(&endpoint->state->ejected_until_ms, memory_order_relaxed) > now_ms;
}

/* ---- balancing ---- */

struct choice { /* one call of endpoints_pick */
    const struct dp_endpoints *set;
    const struct group *group;
    int64_t now_ms;
    uint64_t tried;
    bool accept_ejected;
    uint64_t *rng;
};

/* splitmix64: any state will do to start with. */
static uint64_t next_random(uint64_t *rng)
{
    uint64_t z = *rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool eligible(const struct choice *choice, uint32_t index)
{
    if (index < 64 && (choice->tried >> index & 1) != 0)
        return false;
    return choice->accept_ejected ||
           !endpoint_is_ejected(&choice->set->items[index].endpoint, choice->now_ms);
}

static uint32_t draw_position(const struct choice *choice)
{
    if (choice->set->policy.balance == DP_BALANCE_ROUND_ROBIN)
        return (uint32_t)(atomic_fetch_add_explicit(&choice->set->state->position, 1,
                                                    memory_order_relaxed) %
                          choice->group->length);
    return (uint32_t)(next_random(choice->rng) % choice->group->length);
}

/* An eligible endpoint's index, or DP_NONE. Passing over one draws again rather than stepping on,
 * or the one after it would get the share of both. */
static uint32_t draw(const struct choice *choice)
{
    const struct group *group = choice->group;
    uint32_t position = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        position = draw_position(choice);
        if (eligible(choice, group->schedule[position]))
            return group->schedule[position];
    }
    for (uint32_t i = 0; i < group->length; i++) {
        uint32_t index = group->schedule[(position + i) % group->length];
        if (eligible(choice, index))
            return index;
    }
    return DP_NONE;
}

/* Of two drawn by weight, the one with fewer connections for its weight. */
static uint32_t draw_least(const struct choice *choice)
{
    uint32_t first = draw(choice), second = first;
    for (uint32_t i = 0; i < DRAWS && second == first && first != DP_NONE; i++)
        second = draw(choice);
    if (second == first || second == DP_NONE) /* NONE: another worker ejected the last just now */
        return first;
    const struct endpoint *a = &choice->set->items[first].endpoint;
    const struct endpoint *b = &choice->set->items[second].endpoint;
    uint64_t load_a = (uint64_t)endpoint_connections(a) * b->weight;
    uint64_t load_b = (uint64_t)endpoint_connections(b) * a->weight;
    return load_a <= load_b ? first : second;
}

static uint32_t choose(struct choice *choice)
{
    const struct dp_endpoints *set = choice->set;
    bool least = set->policy.balance == DP_BALANCE_LEAST_REQUEST;
    for (unsigned pass = 0; pass < 2; pass++) {
        choice->accept_ejected = pass == 1;
        for (uint32_t i = 0; i < set->group_count; i++) {
            choice->group = &set->groups[i];
            uint32_t index = least && choice->group->length > 1 ? draw_least(choice) : draw(choice);
            if (index != DP_NONE)
                return index;
        }
    }
    return DP_NONE;
}

int endpoints_pick(const struct dp_endpoints *set, int64_t now_ms, uint64_t *rng, uint64_t *tried,
                   const struct endpoint **ret)
{
    assert(set->sealed);
    struct choice choice = {.set = set, .now_ms = now_ms, .tried = *tried, .rng = rng};
    uint32_t index = choose(&choice);
    if (index == DP_NONE)
        return -ENOENT;
    uint32_t max = set->policy.connections_max;
    atomic_uint *connections = &set->state->connections;
    if (atomic_fetch_add_explicit(connections, 1, memory_order_relaxed) >= max && max > 0) {
        atomic_fetch_sub_explicit(connections, 1, memory_order_relaxed);
        return -EDQUOT;
    }
    const struct endpoint *endpoint = &set->items[index].endpoint;
    atomic_fetch_add_explicit(&endpoint->state->connections, 1, memory_order_relaxed);
    if (index < 64)
        *tried |= UINT64_C(1) << index;
    *ret = endpoint;
    return 0;
}

void endpoints_release(const struct dp_endpoints *set, const struct endpoint *endpoint)
{
    unsigned before = atomic_fetch_sub_explicit(&set->state->connections, 1, memory_order_relaxed);
    assert(before > 0);
    before = atomic_fetch_sub_explicit(&endpoint->state->connections, 1, memory_order_relaxed);
    assert(before > 0);
}

/* ---- ejection ---- */

void endpoint_succeeded(const struct dp_endpoints *set, const struct endpoint *endpoint)
{
    (void)set;
    /* Only when it changes something: the line is shared by all workers. */
    if (atomic_load_explicit(&endpoint->state->failures, memory_order_relaxed) != 0)
        atomic_store_explicit(&endpoint->state->failures, 0, memory_order_relaxed);
}

static bool may_eject_another(const struct dp_endpoints *set, int64_t now_ms)
{
    uint64_t ejected = 0;
    for (uint32_t i = 0; i < set->count; i++)
        ejected += endpoint_is_ejected(&set->items[i].endpoint, now_ms);
    uint64_t percent = set->policy.ejection_percent_max;
    return percent > 0 && (ejected == 0 || (ejected + 1) * 100 <= percent * set->count);
}

uint32_t endpoint_failed(const struct dp_endpoints *set, const struct endpoint *endpoint,
                         int64_t now_ms)
{
    const dp_set_policy *policy = &set->policy;
    struct endpoint_state *state = endpoint->state;
    int_fast64_t until_ms = atomic_load_explicit(&state->ejected_until_ms, memory_order_relaxed);
    if (until_ms > now_ms)
        return 0; /* what was under way when it was ejected does not count against it again */
    unsigned failures = atomic_fetch_add_explicit(&state->failures, 1, memory_order_relaxed) + 1;
    if (policy->failures_consecutive == 0 || failures < policy->failures_consecutive ||
        policy->ejection_base_ms == 0 || !may_eject_another(set, now_ms))
        return 0;
    uint64_t forgotten = (uint64_t)(now_ms - until_ms) / policy->ejection_base_ms;
    uint64_t ejections = atomic_load_explicit(&state->ejections, memory_order_relaxed);
    ejections = (ejections > forgotten ? ejections - forgotten : 0) + 1;
    uint64_t ms = policy->ejection_base_ms * ejections;
    if (ms > policy->ejection_max_ms)
        ms = policy->ejection_max_ms > policy->ejection_base_ms ? policy->ejection_max_ms
                                                                : policy->ejection_base_ms;
    /* Of several workers that come here at once, one ejects. */
    if (!atomic_compare_exchange_strong_explicit(&state->ejected_until_ms, &until_ms,
                                                 now_ms + (int64_t)ms, memory_order_relaxed,
                                                 memory_order_relaxed))
        return 0;
    atomic_store_explicit(&state->ejections, (unsigned)ejections, memory_order_relaxed);
    atomic_store_explicit(&state->failures, 0, memory_order_relaxed);
    return (uint32_t)ms;
}
