/* test_policy.c: mTLS mode, grade and rules, as a table; built through the public API. */
#include "policy.h"

#include "snapshot.h"
#include "test.h"

#define ANN "spiffe://site-a/ns/shop/sa/ann"
enum { PORT = 5432 };

/* One rule in a line of matches; the policies of a case are given in this order. */
struct rule {
    uint8_t action;
    uint32_t count;              /* 0 = a policy without rules, unless always */
    bool always;                 /* a rule with no part */
    dp_match matches[6];
};

#define IN(part_, field_, op_, text_) \
    {.part = DP_PART_##part_, .field = DP_FIELD_##field_, .op = DP_MATCH_##op_, .text = (text_)}
#define NOT(part_, field_, op_, text_) \
    {.part = DP_PART_##part_, .field = DP_FIELD_##field_, .op = DP_MATCH_##op_, .text = (text_), \
     .negated = 1}

static struct dp_snapshot *snap;
static char detail[DP_DETAIL_MAX + 1];

static const struct service *build(uint8_t mtls, uint8_t grade_min, const struct rule *rules,
                                   size_t count)
{
    uint32_t service;
    dp_service spec = {.name = "db.shop", .namespace_ = "shop", .port = PORT, .mtls = mtls,
                       .grade_min = grade_min, .leaf = DP_NONE, .outbound_set = DP_NONE,
                       .connect_timeout_ms = 1000, .attempts_max = 1};
    CHECK_INT(dp_snapshot_new(1, "site-a", &snap), 0);
    CHECK_INT(dp_snapshot_add_service(snap, &spec, &service), 0);
    for (size_t i = 0; i < count; i++) {
        uint32_t policy, rule;
        char name[32];
        snprintf(name, sizeof(name), "policy-%zu", i);
        CHECK_INT(dp_snapshot_add_policy(snap, rules[i].action, name, &policy), 0);
        CHECK_INT(dp_snapshot_attach_policy(snap, service, policy), 0);
        if (rules[i].count > 0 || rules[i].always)
            CHECK_INT(dp_snapshot_add_rule(snap, policy, &rule), 0);
        for (uint32_t k = 0; k < rules[i].count; k++)
            CHECK_INT(dp_snapshot_add_match(snap, policy, rule, &rules[i].matches[k]), 0);
    }
    CHECK_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), 0);
    return snapshot_service(snap, "db.shop", PORT);
}

static struct policy_input ann(void)
{
    return (struct policy_input){.id = ANN, .grade = DP_GRADE_L2,
                                 .addr = {[10] = 0xff, 0xff, 198, 18, 5, 9},
                                 .remote_addr = {[10] = 0xff, 0xff, 198, 18, 6, 9},
                                 .sni = "_.5432.db.shop.site-a"};
}

static uint16_t decide(const struct policy_input *input, const struct rule *rules, size_t count)
{
    const struct service *service = build(DP_MTLS_PERMISSIVE, 0, rules, count);
    detail[0] = '\0';
    uint16_t reason = policy_authorize(service, input, detail);
    dp_snapshot_free(snap);
    return reason;
}

/* Would one rule of these matches let ann in? */
static bool matches(const struct policy_input *input, const dp_match *list, uint32_t count)
{
    struct rule rule = {.action = DP_ALLOW, .count = count};
    memcpy(rule.matches, list, count * sizeof(*list));
    return decide(input, &rule, 1) == DP_REASON_NONE;
}

#define ONE(...) matches(&input, &(dp_match)__VA_ARGS__, 1)

static void fields_match(void)
{
    struct policy_input input = ann();
    CHECK(ONE(IN(FROM, PRINCIPAL, EXACT, "site-a/ns/shop/sa/ann")));
    CHECK(!ONE(IN(FROM, PRINCIPAL, EXACT, "site-a/ns/shop/sa/an")));
    CHECK(!ONE(IN(FROM, PRINCIPAL, EXACT, "site-a/ns/shop/sa/anna")));
    CHECK(ONE(IN(FROM, PRINCIPAL, PREFIX, "site-a/ns/shop/")));
    CHECK(!ONE(IN(FROM, PRINCIPAL, PREFIX, "site-b/")));
    CHECK(ONE(IN(FROM, PRINCIPAL, SUFFIX, "/sa/ann")));
    CHECK(!ONE(IN(FROM, PRINCIPAL, SUFFIX, "/sa/bob")));
    CHECK(ONE(IN(FROM, PRINCIPAL, PRESENT, NULL)));
    CHECK(ONE(IN(FROM, NAMESPACE, EXACT, "shop")));
    CHECK(!ONE(IN(FROM, NAMESPACE, EXACT, "shopping")));
    CHECK(ONE(IN(FROM, TRUST_DOMAIN, EXACT, "site-a")));
    CHECK(ONE(IN(FROM, SERVICE_ACCOUNT, EXACT, "shop/ann")));
    CHECK(!ONE(IN(FROM, SERVICE_ACCOUNT, EXACT, "shop/bob")));
    CHECK(ONE(IN(WHEN, SNI, SUFFIX, ".site-a")));
    CHECK(ONE({.part = DP_PART_TO, .field = DP_FIELD_PORT, .port = PORT}));
    CHECK(!ONE({.part = DP_PART_TO, .field = DP_FIELD_PORT, .port = PORT + 1}));
    CHECK(ONE({.part = DP_PART_WHEN, .field = DP_FIELD_GRADE, .number = DP_GRADE_L2}));
    CHECK(!ONE({.part = DP_PART_WHEN, .field = DP_FIELD_GRADE, .number = DP_GRADE_PORT}));
}

static void addresses_match_by_prefix(void)
{
    struct policy_input input = ann();
    dp_match match = {.part = DP_PART_FROM, .field = DP_FIELD_IP, .prefix_len = 120,
                      .addr = {[10] = 0xff, 0xff, 198, 18, 5, 0}};
    CHECK(matches(&input, &match, 1));
    match.field = DP_FIELD_REMOTE_IP;
    CHECK(!matches(&input, &match, 1));
    match.field = DP_FIELD_IP;
    match.prefix_len = 125; /* .8 to .15 */
    CHECK(!matches(&input, &match, 1));
    match.addr[15] = 8;
    CHECK(matches(&input, &match, 1));
    match.prefix_len = 128;
    CHECK(!matches(&input, &match, 1));
    match.addr[15] = 9;
    CHECK(matches(&input, &match, 1));
    match.prefix_len = 96; /* any IPv4 */
    match.addr[12] = 0;
    CHECK(matches(&input, &match, 1));
    input.addr[11] = 0;
    CHECK(!matches(&input, &match, 1));
}

static void blocks_of_one_family_match_no_other(void)
{
    struct policy_input input = ann();
    dp_match match = {.part = DP_PART_FROM, .field = DP_FIELD_IP}; /* ::/0 */
    CHECK(!matches(&input, &match, 1));
    match.prefix_len = 80; /* ::/80, which the mapped ones are in */
    CHECK(!matches(&input, &match, 1));
    match.negated = 1;
    CHECK(matches(&input, &match, 1));
    match.negated = 0;
    memset(input.addr, 0, sizeof(input.addr));
    input.addr[15] = 1; /* ::1 */
    CHECK(matches(&input, &match, 1));
    match.prefix_len = 0;
    CHECK(matches(&input, &match, 1));
    match.addr[10] = match.addr[11] = 0xff; /* as a prefix of 0 bits has it: still ::/0 */
    CHECK(matches(&input, &match, 1));
    match.prefix_len = 96; /* 0.0.0.0/0 */
    CHECK(!matches(&input, &match, 1));
}

static void nobody_is_matched_by_what_is_negated_only(void)
{
    struct policy_input input = ann();
    input.id = NULL;
    CHECK(!ONE(IN(FROM, PRINCIPAL, PRESENT, NULL)));
    CHECK(!ONE(IN(FROM, PRINCIPAL, SUFFIX, "n")));
    CHECK(!ONE(IN(FROM, NAMESPACE, EXACT, "shop")));
    CHECK(!ONE(IN(FROM, SERVICE_ACCOUNT, EXACT, "shop/ann")));
    CHECK(ONE(NOT(FROM, PRINCIPAL, PRESENT, NULL)));
    CHECK(ONE(NOT(FROM, PRINCIPAL, EXACT, "site-a/ns/shop/sa/ann")));
    input.id = "spiffe://site-a/other/path"; /* an identity without a namespace */
    CHECK(!ONE(IN(FROM, NAMESPACE, PRESENT, NULL)));
    CHECK(ONE(IN(FROM, PRINCIPAL, EXACT, "site-a/other/path")));
    input.id = "no SPIFFE ID";
    CHECK(!ONE(IN(FROM, PRINCIPAL, PRESENT, NULL)));
}

static void entries_and_parts_combine(void)
{
    struct policy_input input = ann();
    /* Two values of one field: either will do, also with a negated one beside. */
    dp_match either[] = {IN(FROM, NAMESPACE, EXACT, "other"), IN(FROM, NAMESPACE, EXACT, "shop")};
    CHECK(matches(&input, either, 2));
    dp_match but_not[] = {IN(FROM, NAMESPACE, EXACT, "shop"),
                          NOT(FROM, PRINCIPAL, SUFFIX, "/ann")};
    CHECK(!matches(&input, but_not, 2));
    dp_match all_but_not[] = {IN(FROM, PRINCIPAL, PRESENT, NULL),
                              NOT(FROM, PRINCIPAL, SUFFIX, "/ann")};
    CHECK(!matches(&input, all_but_not, 2));
    /* Two fields of one entry: both; of two entries of FROM: one will do. */
    dp_match both[] = {IN(FROM, NAMESPACE, EXACT, "shop"), IN(FROM, TRUST_DOMAIN, EXACT, "site-b")};
    CHECK(!matches(&input, both, 2));
    both[1].entry = 1;
    CHECK(matches(&input, both, 2));
    /* Entries of WHEN: every one. */
    dp_match when[] = {IN(WHEN, NAMESPACE, EXACT, "shop"), IN(WHEN, TRUST_DOMAIN, EXACT, "site-b")};
    when[1].entry = 1;
    CHECK(!matches(&input, when, 2));
    when[1].text = "site-a";
    CHECK(matches(&input, when, 2));
    /* Parts: all three; given out of order on purpose. */
    dp_match parts[] = {IN(WHEN, SNI, PREFIX, "_."),
                        {.part = DP_PART_TO, .field = DP_FIELD_PORT, .port = PORT},
                        IN(FROM, NAMESPACE, EXACT, "shop")};
    CHECK(matches(&input, parts, 3));
    for (int i = 0; i < 3; i++) {
        parts[i].negated = 1;
        CHECK(!matches(&input, parts, 3));
        parts[i].negated = 0;
    }
}

static void deny_comes_before_allow(void)
{
    struct policy_input input = ann();
    const struct rule allow_all = {.action = DP_ALLOW, .always = true};
    const struct rule deny_shop = {.action = DP_DENY, .count = 1,
                                   .matches = {IN(FROM, NAMESPACE, EXACT, "shop")}};
    const struct rule deny_other = {.action = DP_DENY, .count = 1,
                                    .matches = {IN(FROM, NAMESPACE, EXACT, "other")}};
    const struct rule nothing_allow = {.action = DP_ALLOW};
    const struct rule nothing_deny = {.action = DP_DENY};
    CHECK_INT(decide(&input, NULL, 0), DP_REASON_NONE);
    CHECK_INT(decide(&input, (struct rule[]){allow_all, deny_shop}, 2), DP_REASON_DENIED);
    CHECK_TEXT(detail, "denied by policy-1, rule 1");
    CHECK_INT(decide(&input, (struct rule[]){allow_all, deny_other}, 2), DP_REASON_NONE);
    CHECK_INT(decide(&input, (struct rule[]){deny_other}, 1), DP_REASON_NONE);
    CHECK_INT(decide(&input, (struct rule[]){nothing_deny}, 1), DP_REASON_NONE);
    CHECK_INT(decide(&input, (struct rule[]){nothing_allow}, 1), DP_REASON_DENIED);
    CHECK_TEXT(detail, "no ALLOW policy of db.shop matches, policy-0 being the first");
    CHECK_INT(decide(&input, (struct rule[]){nothing_allow, allow_all}, 2), DP_REASON_NONE);
    CHECK_INT(decide(&input, (struct rule[]){{.action = DP_DENY, .always = true}}, 1),
              DP_REASON_DENIED);
}

static uint16_t decide_mode(uint8_t mtls, uint8_t grade_min, const struct policy_input *input)
{
    const struct service *service = build(mtls, grade_min, NULL, 0);
    uint16_t reason = policy_authorize(service, input, detail);
    dp_snapshot_free(snap);
    return reason;
}

static void strict_wants_an_identity_of_a_grade(void)
{
    struct policy_input input = ann();
    CHECK_INT(decide_mode(DP_MTLS_STRICT, DP_GRADE_L2, &input), DP_REASON_NONE);
    CHECK_INT(decide_mode(DP_MTLS_STRICT, DP_GRADE_PORT, &input), DP_REASON_GRADE);
    CHECK_TEXT(detail, "db.shop requires grade port and the source has l2");
    CHECK_INT(decide_mode(DP_MTLS_PERMISSIVE, DP_GRADE_PORT, &input), DP_REASON_NONE);
    input.id = NULL;
    input.grade = DP_GRADE_NONE;
    CHECK_INT(decide_mode(DP_MTLS_STRICT, DP_GRADE_NONE, &input), DP_REASON_UNIDENTIFIED);
    CHECK_TEXT(detail, "db.shop is STRICT and the source has no identity");
    CHECK_INT(decide_mode(DP_MTLS_PERMISSIVE, DP_GRADE_L2, &input), DP_REASON_NONE);
    CHECK_INT(decide_mode(DP_MTLS_DISABLE, DP_GRADE_L2, &input), DP_REASON_NONE);
    input.id = "spiffe://";
    CHECK_INT(decide_mode(DP_MTLS_PERMISSIVE, DP_GRADE_NONE, &input), DP_REASON_UNIDENTIFIED);
}

static void bad_matches_are_refused(void)
{
    const dp_match bad[] = {
        {.part = 3, .field = DP_FIELD_PORT, .port = 1},
        {.field = DP_FIELD_SNI + 1, .text = "x"},
        {.field = DP_FIELD_SNI, .op = 4, .text = "x"},
        {.field = DP_FIELD_SNI, .negated = 2, .text = "x"},
        {.field = DP_FIELD_SNI, .op = DP_MATCH_PREFIX, .text = ""},
        {.field = DP_FIELD_SNI, .op = DP_MATCH_EXACT},
        {.field = DP_FIELD_SNI, .op = DP_MATCH_EXACT, .text = "a\nb"},
        {.field = DP_FIELD_IP, .prefix_len = 129},
        {.field = DP_FIELD_REMOTE_IP, .op = DP_MATCH_PREFIX},
        {.field = DP_FIELD_PORT},
        {.field = DP_FIELD_GRADE, .number = DP_GRADE_KEY + 1},
    };
    uint32_t policy, rule;
    REQUIRE_INT(dp_snapshot_new(1, "site-a", &snap), 0);
    REQUIRE_INT(dp_snapshot_add_policy(snap, DP_DENY, "p", &policy), 0);
    REQUIRE_INT(dp_snapshot_add_rule(snap, policy, &rule), 0);
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        CHECK_INT(dp_snapshot_add_match(snap, policy, rule, &bad[i]), -EINVAL);
    const dp_match good = IN(FROM, SNI, EXACT, "x");
    CHECK_INT(dp_snapshot_add_match(snap, policy, rule + 1, &good), -EINVAL);
    CHECK_INT(dp_snapshot_add_match(snap, policy + 1, rule, &good), -EINVAL);
    CHECK_INT(dp_snapshot_add_match(snap, policy, rule, &good), 0);
    dp_snapshot_free(snap);
}

TEST_MAIN(TEST(fields_match), TEST(addresses_match_by_prefix),
          TEST(blocks_of_one_family_match_no_other),
          TEST(nobody_is_matched_by_what_is_negated_only), TEST(entries_and_parts_combine),
          TEST(deny_comes_before_allow), TEST(strict_wants_an_identity_of_a_grade),
          TEST(bad_matches_are_refused))
