/* test_rules.c: random policies, against an evaluator that looks at every match of every rule in
 * turn; built through the public API. */
#include "rules.h"

#include "policy.h"
#include "snapshot.h"
#include "test.h"

enum { PORT = 5432, POLICIES = 10, RULES = 4, MATCHES = 5, CASES = 20000 };

struct source {
    const char *id, *principal, *namespace_, *account, *trust_domain; /* all but id: "" = has none */
};

struct random_policy {
    uint8_t action;
    bool attached;
    uint32_t rule_count, counts[RULES];
    dp_match matches[RULES][MATCHES];
};

static struct dp_snapshot *snap;
static char detail[DP_DETAIL_MAX + 1];
static uint64_t rng = 1;

static uint32_t below(uint32_t count)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % count;
}

static dp_match random_match(void)
{
    static const char *const texts[] = {
        "site-a/ns/shop/sa/ann", "site-b/ns/shop/sa/bob", "site-a/ns/bank/sa/ann", "shop", "bank",
        "shop/ann", "shop/bob", "bank/ann", "site-a", "site-b", "s", "ann",
    };
    static const uint8_t fields[] = {
        DP_FIELD_PRINCIPAL, DP_FIELD_NAMESPACE, DP_FIELD_SERVICE_ACCOUNT, DP_FIELD_PRINCIPAL,
        DP_FIELD_TRUST_DOMAIN, DP_FIELD_PORT, DP_FIELD_GRADE,
    };
    dp_match match = {.part = below(4) > 0 ? DP_PART_FROM : below(2) ? DP_PART_TO : DP_PART_WHEN,
                      .field = fields[below(DP_COUNT(fields))], .entry = below(3),
                      .negated = below(5) == 0, .text = texts[below(DP_COUNT(texts))],
                      .port = PORT + below(2), .number = below(DP_GRADE_KEY + 1)};
    if (match.field != DP_FIELD_PORT && match.field != DP_FIELD_GRADE && below(4) == 0)
        match.op = below(4);
    return match;
}

static bool naive_value(const dp_match *match, const struct source *source)
{
    const char *const texts[] = {
        [DP_FIELD_PRINCIPAL] = source->principal, [DP_FIELD_NAMESPACE] = source->namespace_,
        [DP_FIELD_TRUST_DOMAIN] = source->trust_domain,
        [DP_FIELD_SERVICE_ACCOUNT] = source->account,
    };
    if (match->field == DP_FIELD_PORT)
        return match->port == PORT;
    if (match->field == DP_FIELD_GRADE)
        return match->number <= DP_GRADE_L2;
    const char *text = texts[match->field];
    size_t len = strlen(text), wanted = strlen(match->text);
    if (len == 0 || match->op == DP_MATCH_PRESENT)
        return len > 0;
    if (match->op == DP_MATCH_EXACT)
        return strcmp(text, match->text) == 0;
    if (match->op == DP_MATCH_PREFIX)
        return strncmp(text, match->text, wanted) == 0;
    return len >= wanted && strcmp(text + len - wanted, match->text) == 0;
}

static bool naive_entry(const dp_match *matches, uint32_t count, unsigned part, unsigned entry,
                        const struct source *source)
{
    for (unsigned field = 0; field <= DP_FIELD_SNI; field++) {
        bool wanted = false, found = false;
        for (uint32_t i = 0; i < count; i++) {
            const dp_match *match = &matches[i];
            if (match->part != part || match->entry != entry || match->field != field)
                continue;
            if (match->negated && naive_value(match, source))
                return false;
            wanted |= !match->negated;
            found |= !match->negated && naive_value(match, source);
        }
        if (wanted && !found)
            return false;
    }
    return true;
}

static bool naive_rule(const dp_match *matches, uint32_t count, const struct source *source)
{
    for (unsigned part = DP_PART_FROM; part <= DP_PART_WHEN; part++) {
        bool there = false, any = false, every = true;
        for (uint32_t i = 0; i < count; i++) {
            if (matches[i].part != part)
                continue;
            bool entry = naive_entry(matches, count, part, matches[i].entry, source);
            there = true;
            any |= entry;
            every &= entry;
        }
        if (there && !(part == DP_PART_WHEN ? every : any))
            return false;
    }
    return true;
}

/* What policy_authorize must say. */
static uint16_t naive(const struct random_policy *policies, const struct source *source, char *buf)
{
    uint32_t first_allow = DP_NONE;
    for (unsigned pass = 0; pass < 2; pass++) {
        uint8_t action = pass == 0 ? DP_DENY : DP_ALLOW;
        for (uint32_t i = 0; i < POLICIES; i++) {
            if (!policies[i].attached || policies[i].action != action)
                continue;
            if (action == DP_ALLOW && first_allow == DP_NONE)
                first_allow = i;
            for (uint32_t k = 0; k < policies[i].rule_count; k++) {
                if (!naive_rule(policies[i].matches[k], policies[i].counts[k], source))
                    continue;
                snprintf(buf, DP_DETAIL_MAX + 1, "denied by p%u, rule %u", i, k + 1);
                return action == DP_DENY ? DP_REASON_DENIED : DP_REASON_NONE;
            }
        }
    }
    if (first_allow == DP_NONE)
        return DP_REASON_NONE;
    snprintf(buf, DP_DETAIL_MAX + 1, "no ALLOW policy of db.shop matches, p%u being the first",
             first_allow);
    return DP_REASON_DENIED;
}

/* Policies in order; attached to the service from the last to the first, and to another too. */
static void build_random(struct random_policy *policies)
{
    uint32_t service, other, policy, rule;
    dp_service spec = {.name = "db.shop", .namespace_ = "shop", .port = PORT,
                       .leaf = DP_NONE, .mtls = DP_MTLS_PERMISSIVE, .outbound_set = DP_NONE,
                       .connect_timeout_ms = 1000, .attempts_max = 1};
    REQUIRE_INT(dp_snapshot_new(1, "site-a", &snap), 0);
    REQUIRE_INT(dp_snapshot_add_service(snap, &spec, &service), 0);
    spec.name = "other.shop";
    REQUIRE_INT(dp_snapshot_add_service(snap, &spec, &other), 0);
    for (uint32_t i = 0; i < POLICIES; i++) {
        char name[16];
        snprintf(name, sizeof(name), "p%u", i);
        policies[i] = (struct random_policy){.action = below(2) ? DP_DENY : DP_ALLOW,
                                             .attached = below(2), .rule_count = below(RULES + 1)};
        REQUIRE_INT(dp_snapshot_add_policy(snap, policies[i].action, name, &policy), 0);
        for (uint32_t k = 0; k < policies[i].rule_count; k++) {
            REQUIRE_INT(dp_snapshot_add_rule(snap, policy, &rule), 0);
            policies[i].counts[k] = 1 + below(MATCHES);
            for (uint32_t m = 0; m < policies[i].counts[k]; m++) {
                policies[i].matches[k][m] = random_match();
                REQUIRE_INT(dp_snapshot_add_match(snap, policy, rule, &policies[i].matches[k][m]),
                            0);
            }
        }
    }
    for (uint32_t i = POLICIES; i-- > 0;)
        REQUIRE_INT(dp_snapshot_attach_policy(snap, policies[i].attached ? service : other, i), 0);
    REQUIRE_INT(dp_snapshot_seal(snap, detail, sizeof(detail)), 0);
}

static void many_rules_say_what_each_in_turn_says(void)
{
    static const struct source sources[] = {
        {"spiffe://site-a/ns/shop/sa/ann", "site-a/ns/shop/sa/ann", "shop", "shop/ann", "site-a"},
        {"spiffe://site-b/ns/shop/sa/bob", "site-b/ns/shop/sa/bob", "shop", "shop/bob", "site-b"},
        {"spiffe://site-a/shop", "site-a/shop", "", "", "site-a"},
        {NULL, "", "", "", ""},
    };
    static struct random_policy policies[POLICIES];
    uint32_t went = 0, denied = 0, not_allowed = 0;
    for (uint32_t i = 0; i < CASES; i++) {
        build_random(policies);
        const struct service *service = snapshot_service(snap, "db.shop", PORT);
        REQUIRE(service != NULL);
        for (size_t k = 0; k < DP_COUNT(sources); k++) {
            struct policy_input input = {.id = sources[k].id, .grade = DP_GRADE_L2, .sni = ""};
            char expected[DP_DETAIL_MAX + 1] = "";
            uint16_t reason = naive(policies, &sources[k], expected);
            REQUIRE_INT(policy_authorize(service, &input, detail), reason);
            if (reason != DP_REASON_NONE)
                CHECK_TEXT(detail, expected);
            went += reason == DP_REASON_NONE;
            denied += reason != DP_REASON_NONE && detail[0] == 'd';
            not_allowed += reason != DP_REASON_NONE && detail[0] == 'n';
        }
        dp_snapshot_free(snap);
    }
    /* Every answer is tried often. */
    CHECK(went > CASES / 10 && denied > CASES / 10 && not_allowed > CASES / 10);
}

TEST_MAIN(TEST(many_rules_say_what_each_in_turn_says))
