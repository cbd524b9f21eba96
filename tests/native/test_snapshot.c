/* test_snapshot.c: what is built is found again; what refers to nothing is refused with a
 * sentence; references are counted. */
#include "snapshot.h"

#include <pthread.h>

#include "endpoints.h"
#include "pki.h"
#include "test.h"

#define ANN "spiffe://site-a/ns/shop/sa/ann"
#define BOB "spiffe://site-b/ns/shop/sa/bob"

static const uint8_t vip[16] = {[10] = 0xff, 0xff, 198, 18, 0, 7};
static const uint8_t host_addr[16] = {[10] = 0xff, 0xff, 198, 18, 1, 9};
static char detail[DP_DETAIL_MAX + 1];

static dp_service service_spec(void)
{
    return (dp_service){.name = "db.shop", .namespace_ = "shop", .port = 5432, .leaf = DP_NONE,
                        .outbound_set = DP_NONE, .connect_timeout_ms = 1000, .attempts_max = 2,
                        .mtls = DP_MTLS_STRICT, .grade_min = DP_GRADE_L2,
                        .source_address = DP_SOURCE_PROXY, .idle_timeout_ms = 5,
                        .duration_max_ms = 6};
}

static struct dp_snapshot *new_snapshot(uint64_t version)
{
    struct dp_snapshot *snap = NULL;
    CHECK_INT(dp_snapshot_new(version, "site-a", &snap), 0);
    return snap;
}

static struct dp_endpoints *one_endpoint(uint8_t kind)
{
    dp_set_policy policy = {0};
    struct dp_endpoints *set = NULL;
    uint32_t index;
    bool tls = kind != DP_ENDPOINT_PLAIN;
    dp_endpoint endpoint = {.port = 1, .target_port = 2, .kind = kind, .healthy = 1, .weight = 1,
                            .name = "h", .sni = tls ? "a.b" : NULL};
    CHECK_INT(dp_endpoints_new(&policy, &set), 0);
    CHECK_INT(dp_endpoints_add(set, &endpoint, &index), 0);
    if (tls)
        CHECK_INT(dp_endpoints_add_expected(set, index, ANN), 0);
    return set;
}

static void everything_is_found_again(void)
{
    struct pki_ca ca;
    pki_ca_init(&ca, "site-a", NULL);
    struct dp_leaf *ann = pki_leaf_id(&ca, ANN), *box = pki_leaf_id(&ca, "spiffe://site-a/box");
    struct dp_bundle *bundle = pki_bundle("site-a", &ca, NULL);
    struct dp_snapshot *snap = new_snapshot(42);
    uint32_t ann_leaf, box_leaf, service, set_id = 0;
    REQUIRE_INT(dp_snapshot_add_leaf(snap, ann, &ann_leaf), 0);
    REQUIRE_INT(dp_snapshot_add_leaf(snap, box, &box_leaf), 0);
    REQUIRE_INT(dp_snapshot_add_bundle(snap, bundle), 0);
    dp_leaf_free(ann);
    dp_leaf_free(box);
    dp_bundle_free(bundle);
    dp_service spec = service_spec();
    spec.leaf = ann_leaf;
    spec.outbound_set = 9;
    CHECK_INT(dp_snapshot_set_appliance_leaf(snap, box_leaf), 0);
    CHECK_INT(dp_snapshot_add_own_address(snap, host_addr), 0);
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &service), 0);
    CHECK_INT(dp_snapshot_add_vip(snap, vip, 5432, service), 0);
    CHECK_INT(dp_snapshot_add_sni(snap, "_.5432.db.shop.site-a", service, 9), 0);
    CHECK_INT(dp_snapshot_add_host(snap, host_addr, DP_GRADE_L2, ann_leaf, "web1"), 0);
    CHECK_INT(dp_snapshot_add_agent(snap, ANN, DP_NONE, "web2"), 0);
    CHECK_INT(dp_snapshot_add_denied_id(snap, BOB), 0);
    CHECK_INT(dp_snapshot_add_denied_serial(snap, "site-b", (const uint8_t *)"\0\x12\x34", 3), 0);
    struct dp_endpoints *set = one_endpoint(DP_ENDPOINT_PLAIN);
    CHECK_INT(dp_snapshot_add_set_take(snap, 9, set), 0);
    REQUIRE_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), 0);
    CHECK(snapshot_is_sealed(snap));

    CHECK_INT(snapshot_version(snap), 42);
    CHECK_TEXT(snapshot_trust_domain(snap), "site-a");
    CHECK(snapshot_is_own_address(snap, host_addr) && !snapshot_is_own_address(snap, vip));
    const struct service *found = snapshot_vip(snap, vip, 5432);
    REQUIRE(found != NULL);
    CHECK_TEXT(found->name, "db.shop");
    CHECK_TEXT(found->namespace_, "shop");
    CHECK_TEXT(found->leaf->id, ANN);
    CHECK_INT(found->grade_min, DP_GRADE_L2);
    CHECK_INT(found->source_address, DP_SOURCE_PROXY);
    CHECK_INT(found->outbound_set, 9);
    CHECK_INT(found->attempts_max, 2);
    CHECK_INT(found->duration_max_ms, 6);
    CHECK(snapshot_vip(snap, vip, 5433) == NULL);
    CHECK(snapshot_vip(snap, host_addr, 5432) == NULL);
    CHECK(snapshot_sni(snap, "_.5432.db.shop.site-a", &set_id) == found);
    CHECK_INT(set_id, 9);
    CHECK(snapshot_sni(snap, "", NULL) == NULL);
    CHECK(snapshot_service(snap, "db.shop", 5432) == found);
    CHECK(snapshot_service(snap, "db.shop", 5431) == NULL);
    char long_name[DP_NAME_MAX + 10];
    memset(long_name, 'a', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    CHECK(snapshot_service(snap, long_name, 5432) == NULL);
    CHECK_TEXT(snapshot_host(snap, host_addr)->name, "web1");
    CHECK_TEXT(snapshot_host(snap, host_addr)->leaf->id, ANN);
    CHECK(snapshot_host(snap, vip) == NULL);
    CHECK_INT(snapshot_agent(snap, ANN)->grade, DP_GRADE_KEY);
    CHECK(snapshot_agent(snap, ANN)->leaf == NULL);
    CHECK(snapshot_agent(snap, BOB) == NULL);
    CHECK_TEXT(snapshot_appliance_leaf(snap)->id, "spiffe://site-a/box");
    CHECK(snapshot_bundle(snap, "site-a/and more", 6) == bundle);
    CHECK(snapshot_bundle(snap, "site-b", 6) == NULL);

    CHECK(snapshot_is_denied(snap, BOB, "site-b", (const uint8_t *)"\1", 1));
    CHECK(snapshot_is_denied(snap, ANN, "site-b", (const uint8_t *)"\x12\x34", 2));
    CHECK(snapshot_is_denied(snap, ANN, "site-b", (const uint8_t *)"\0\0\x12\x34", 4));
    CHECK(!snapshot_is_denied(snap, ANN, "site-a", (const uint8_t *)"\x12\x34", 2));
    CHECK(!snapshot_is_denied(snap, ANN, "site-b", (const uint8_t *)"\x12", 1));
    CHECK(!snapshot_is_denied(snap, ANN, "site-b", (const uint8_t *)"", 0));
    CHECK_INT(snapshot_set_count(snap), 1);
    CHECK(snapshot_set_at(snap, 0, &set_id) == set);
    CHECK_INT(set_id, 9);
    dp_snapshot_free(snap);
    pki_ca_fini(&ca);
}

static void references_are_counted(void)
{
    uint32_t before = snapshot_alive();
    struct dp_snapshot *snap = new_snapshot(1);
    CHECK_INT(dp_snapshot_seal(snap, NULL, 0), 0); /* an empty one is good */
    CHECK_INT(snapshot_alive(), before + 1);
    snapshot_ref(snap);
    snapshot_unref(snap);
    CHECK_INT(snapshot_alive(), before + 1);
    CHECK(snapshot_appliance_leaf(snap) == NULL);
    snapshot_unref(snap);
    CHECK_INT(snapshot_alive(), before);
    snapshot_unref(NULL);
}

static void the_same_key_twice_is_refused(void)
{
    struct pki_ca ca;
    pki_ca_init(&ca, "site-a", NULL);
    struct dp_bundle *bundle = pki_bundle("site-a", &ca, NULL);
    struct dp_snapshot *snap = new_snapshot(1);
    dp_service spec = service_spec();
    uint32_t service = 77;
    for (int i = 0; i < 2; i++) {
        int want = i == 0 ? 0 : -EEXIST;
        CHECK_INT(dp_snapshot_add_bundle(snap, bundle), want);
        CHECK_INT(dp_snapshot_add_service(snap, &spec, &service), want);
        CHECK_INT(service, 0);
        CHECK_INT(dp_snapshot_add_vip(snap, vip, 1, 0), want);
        CHECK_INT(dp_snapshot_add_sni(snap, "a.b", 0, 1), want);
        CHECK_INT(dp_snapshot_add_host(snap, vip, DP_GRADE_L3, DP_NONE, "h"), want);
        CHECK_INT(dp_snapshot_add_agent(snap, ANN, DP_NONE, "h"), want);
        CHECK_INT(dp_snapshot_add_own_address(snap, vip), want);
        CHECK_INT(dp_snapshot_add_denied_id(snap, BOB), want);
        CHECK_INT(dp_snapshot_add_denied_serial(snap, "a", (const uint8_t *)"\1", 1), want);
        CHECK_INT(dp_snapshot_add_set_take(snap, 1, one_endpoint(DP_ENDPOINT_PLAIN)), want);
    }
    spec.port++;
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &service), 0); /* another port, another service */
    dp_bundle_free(bundle);
    dp_snapshot_free(snap);
    pki_ca_fini(&ca);
}

static void bad_values_are_refused(void)
{
    struct dp_snapshot *snap = new_snapshot(1), *none = NULL;
    uint32_t index = 77;
    CHECK_INT(dp_snapshot_new(1, "", &none), -EINVAL);
    CHECK_INT(dp_snapshot_new(1, NULL, &none), -EINVAL);
    CHECK(none == NULL);
    dp_service bad[9];
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        bad[i] = service_spec();
    bad[0].port = 0;
    bad[1].name = NULL;
    bad[2].namespace_ = "";
    bad[3].mtls = 3;
    bad[4].grade_min = DP_GRADE_KEY + 1;
    bad[5].source_address = 3;
    bad[6].attempts_max = 0;
    bad[7].connect_timeout_ms = 0;
    bad[8].name = "with\nnewline";
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        CHECK_INT(dp_snapshot_add_service(snap, &bad[i], &index), -EINVAL);
    CHECK_INT(index, 77);
    CHECK_INT(dp_snapshot_add_vip(snap, vip, 1, 0), -EINVAL);
    CHECK_INT(dp_snapshot_add_sni(snap, "a.b", 0, 1), -EINVAL);
    dp_service good = service_spec();
    CHECK_INT(dp_snapshot_add_service(snap, &good, &index), 0);
    CHECK_INT(dp_snapshot_add_vip(snap, vip, 0, 0), -EINVAL);
    CHECK_INT(dp_snapshot_add_sni(snap, "A.b", 0, 1), -EINVAL);
    CHECK_INT(dp_snapshot_add_sni(snap, NULL, 0, 1), -EINVAL);
    CHECK_INT(dp_snapshot_add_host(snap, vip, DP_GRADE_KEY + 1, DP_NONE, "h"), -EINVAL);
    CHECK_INT(dp_snapshot_add_host(snap, vip, DP_GRADE_L2, DP_NONE, NULL), -EINVAL);
    CHECK_INT(dp_snapshot_add_agent(snap, "spiffe://site-a", DP_NONE, "h"), -EINVAL);
    CHECK_INT(dp_snapshot_add_denied_id(snap, "site-a/ns"), -EINVAL);
    CHECK_INT(dp_snapshot_add_denied_id(snap, NULL), -EINVAL);
    CHECK_INT(dp_snapshot_add_denied_serial(snap, "a", vip, 0), -EINVAL);
    uint8_t serial[21] = {1};
    CHECK_INT(dp_snapshot_add_denied_serial(snap, "a", serial, 21), -EINVAL);
    CHECK_INT(dp_snapshot_add_denied_serial(snap, NULL, serial, 1), -EINVAL);
    CHECK_INT(dp_snapshot_add_policy(snap, 2, "p", &index), -EINVAL);
    CHECK_INT(dp_snapshot_add_rule(snap, 0, &index), -EINVAL);
    CHECK_INT(dp_snapshot_attach_policy(snap, 0, 0), -EINVAL);
    CHECK_INT(dp_snapshot_add_set_take(snap, DP_NONE, one_endpoint(0)), -EINVAL);
    dp_snapshot_free(snap);
}

static void seal_fails_with(struct dp_snapshot *snap, const char *want)
{
    detail[0] = '\0';
    CHECK_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), -EINVAL);
    CHECK_TEXT(detail, want);
    CHECK(!snapshot_is_sealed(snap));
    dp_snapshot_free(snap);
}

static void the_offload_profile(void)
{
    static const struct {
        dp_offload offload;
        int result;
    } cases[] = {
        {{0}, 0},
        {{.records = DP_PREFER_NIC, .tls12 = DP_TLS12_PREFER, .ciphers = 7}, 0},
        {{.records = DP_PREFER_KTLS, .ciphers = 4, .bytes_min = UINT64_MAX}, 0},
        {{.records = DP_PREFER_NIC + 1}, -EINVAL},
        {{.tls12 = DP_TLS12_PREFER + 1}, -EINVAL},
        {{.ciphers = 8}, -EINVAL},
        {{.tls12 = DP_TLS12_ALLOW, .ciphers = 4}, -EINVAL}, /* none of TLS 1.2's is left */
        {{.tls12 = DP_TLS12_ALLOW, .ciphers = 5}, 0},
    };
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        struct dp_snapshot *snap = new_snapshot(1);
        CHECK(snapshot_offload(snap) == NULL);
        CHECK_INT(dp_snapshot_set_offload(snap, &cases[i].offload), cases[i].result);
        const dp_offload *kept = snapshot_offload(snap);
        if (cases[i].result != 0)
            CHECK(kept == NULL);
        else
            CHECK(kept != NULL && memcmp(kept, &cases[i].offload, sizeof(*kept)) == 0);
        dp_snapshot_free(snap);
    }
}

static void references_to_nothing_are_named(void)
{
    uint32_t index;
    struct dp_snapshot *snap = new_snapshot(1);
    CHECK_INT(dp_snapshot_set_appliance_leaf(snap, 0), 0);
    seal_fails_with(snap, "the appliance's leaf 0 does not exist");

    snap = new_snapshot(1);
    dp_service spec = service_spec();
    spec.leaf = 3;
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &index), 0);
    seal_fails_with(snap, "service db.shop: no leaf 3");

    snap = new_snapshot(1);
    spec = service_spec();
    spec.outbound_set = 4;
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &index), 0);
    seal_fails_with(snap, "service db.shop: no set 4");

    snap = new_snapshot(1);
    CHECK_INT(dp_snapshot_add_host(snap, vip, DP_GRADE_L2, 5, "web1"), 0);
    seal_fails_with(snap, "host web1: no leaf 5");

    snap = new_snapshot(1);
    spec = service_spec();
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &index), 0);
    CHECK_INT(dp_snapshot_add_sni(snap, "a.b", 0, 6), 0);
    seal_fails_with(snap, "SNI a.b: no set 6");

    snap = new_snapshot(1);
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &index), 0);
    CHECK_INT(dp_snapshot_add_sni(snap, "a.b", 0, 6), 0);
    CHECK_INT(dp_snapshot_add_set_take(snap, 6, one_endpoint(DP_ENDPOINT_MESH)), 0);
    seal_fails_with(snap, "SNI a.b: set 6 leads to another site");

    snap = new_snapshot(1);
    dp_set_policy policy = {0};
    struct dp_endpoints *set;
    dp_endpoint agent = {.port = 1, .target_port = 2, .kind = DP_ENDPOINT_AGENT, .weight = 1,
                         .name = "h", .sni = "a.b"};
    CHECK_INT(dp_endpoints_new(&policy, &set), 0);
    CHECK_INT(dp_endpoints_add(set, &agent, &index), 0);
    CHECK_INT(dp_snapshot_add_set_take(snap, 6, set), 0);
    seal_fails_with(snap, "set 6: an endpoint with TLS expects no SPIFFE ID");
}

static void a_sealed_snapshot_takes_nothing_more(void)
{
    struct dp_snapshot *snap = new_snapshot(1);
    uint32_t index;
    dp_service spec = service_spec();
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &index), 0);
    CHECK_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), 0);
    CHECK_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), -EPERM);
    spec.port++;
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &index), -EPERM);
    CHECK_INT(dp_snapshot_add_vip(snap, vip, 1, 0), -EPERM);
    CHECK_INT(dp_snapshot_add_sni(snap, "a.b", 0, 1), -EPERM);
    CHECK_INT(dp_snapshot_add_host(snap, vip, 1, DP_NONE, "h"), -EPERM);
    CHECK_INT(dp_snapshot_add_agent(snap, ANN, DP_NONE, "h"), -EPERM);
    CHECK_INT(dp_snapshot_add_own_address(snap, vip), -EPERM);
    CHECK_INT(dp_snapshot_add_denied_id(snap, ANN), -EPERM);
    CHECK_INT(dp_snapshot_add_denied_serial(snap, "a", vip, 16), -EPERM);
    CHECK_INT(dp_snapshot_set_appliance_leaf(snap, 0), -EPERM);
    CHECK_INT(dp_snapshot_set_offload(snap, &(dp_offload){0}), -EPERM);
    CHECK_INT(dp_snapshot_add_policy(snap, DP_DENY, "p", &index), -EPERM);
    CHECK_INT(dp_snapshot_add_rule(snap, 0, &index), -EPERM);
    CHECK_INT(dp_snapshot_add_match(snap, 0, 0, &(dp_match){0}), -EPERM);
    CHECK_INT(dp_snapshot_attach_policy(snap, 0, 0), -EPERM);
    CHECK_INT(dp_snapshot_add_set_take(snap, 1, one_endpoint(DP_ENDPOINT_PLAIN)), -EPERM);
    dp_snapshot_free(snap);
}

/* Rules and attachments given in any order end up with their own. */
static void policies_are_put_in_order(void)
{
    enum { SERVICES = 50, POLICIES = 20 };
    struct dp_snapshot *snap = new_snapshot(1);
    uint32_t index, rule;
    dp_service spec = service_spec();
    for (uint32_t i = 0; i < SERVICES; i++) {
        spec.port = (uint16_t)(1 + i);
        REQUIRE_INT(dp_snapshot_add_service(snap, &spec, &index), 0);
    }
    for (uint32_t i = 0; i < POLICIES; i++) {
        char name[16];
        snprintf(name, sizeof(name), "p%u", i);
        REQUIRE_INT(dp_snapshot_add_policy(snap, i % 2 ? DP_DENY : DP_ALLOW, name, &index), 0);
    }
    for (uint32_t k = 0; k < 3; k++) { /* rule by rule, round the policies: not in order */
        for (uint32_t i = 0; i < POLICIES; i++) {
            REQUIRE_INT(dp_snapshot_add_rule(snap, i, &rule), 0);
            CHECK_INT(rule, k);
        }
    }
    for (uint32_t k = 3; k-- > 0;) {
        for (uint32_t i = POLICIES; i-- > 0;) {
            dp_match match = {.part = DP_PART_TO, .field = DP_FIELD_PORT,
                              .port = (uint16_t)(1 + 100 * i + k)};
            REQUIRE_INT(dp_snapshot_add_match(snap, i, k, &match), 0);
        }
    }
    for (uint32_t i = 0; i < SERVICES * 4; i++)
        REQUIRE_INT(dp_snapshot_attach_policy(snap, i % SERVICES, i * 7 % POLICIES), 0);
    REQUIRE_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), 0);

    for (uint32_t i = 0; i < SERVICES; i++) {
        const struct service *service = snapshot_service(snap, "db.shop", (uint16_t)(1 + i));
        REQUIRE(service != NULL);
        CHECK_INT(service->policy_count, 4);
        for (uint32_t k = 0; k < service->policy_count; k++) {
            const struct rules *rules = service->rules;
            const struct policy *policy = &rules->policies[service->policies[k]];
            CHECK_INT(policy->action, k < service->deny_count ? DP_DENY : DP_ALLOW);
            REQUIRE_INT(policy->rule_count, 3);
            unsigned number = 0;
            CHECK_INT(sscanf(policy->name, "p%u", &number), 1);
            for (uint32_t r = 0; r < 3; r++) {
                const struct policy_rule *rule = &rules->rules[policy->rule_first + r];
                REQUIRE_INT(rule->count, 1);
                CHECK_INT(rule->matches[0].port, 1 + 100 * number + r);
            }
        }
    }
    dp_snapshot_free(snap);
}

static struct dp_snapshot *shared;

static void *read_snapshot(void *arg)
{
    uint32_t set;
    for (int i = 0; i < 20000; i++) {
        snapshot_ref(shared);
        bool good = snapshot_vip(shared, vip, 1) != NULL &&
                    snapshot_sni(shared, "a.b", &set) != NULL &&
                    snapshot_host(shared, vip) == NULL;
        snapshot_unref(shared);
        if (!good)
            return NULL;
    }
    return arg;
}

static void many_threads_read_one(void)
{
    uint32_t service;
    dp_service spec = service_spec();
    shared = new_snapshot(1);
    CHECK_INT(dp_snapshot_add_service(shared, &spec, &service), 0);
    CHECK_INT(dp_snapshot_add_vip(shared, vip, 1, service), 0);
    CHECK_INT(dp_snapshot_add_set_take(shared, 1, one_endpoint(DP_ENDPOINT_AGENT)), 0);
    CHECK_INT(dp_snapshot_add_sni(shared, "a.b", service, 1), 0);
    REQUIRE_INT(dp_snapshot_seal(shared, detail, sizeof(detail)), 0);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&threads[i], NULL, read_snapshot, shared) == 0);
    for (int i = 0; i < 3; i++) {
        void *verdict = NULL;
        CHECK(pthread_join(threads[i], &verdict) == 0);
        CHECK(verdict == shared);
    }
    dp_snapshot_free(shared);
}

TEST_MAIN(TEST(everything_is_found_again), TEST(references_are_counted),
          TEST(the_same_key_twice_is_refused), TEST(bad_values_are_refused),
          TEST(the_offload_profile),
          TEST(references_to_nothing_are_named), TEST(a_sealed_snapshot_takes_nothing_more),
          TEST(policies_are_put_in_order), TEST(many_threads_read_one))
