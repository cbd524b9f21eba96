/* rules.c: sorts rules and says who each may be about, so that policy.c looks at few of many. */
#include "rules.h"

#include <stdlib.h>

#include "vector.h"

enum { ANYBODY = 0 }; /* the list that every rule without such texts is in */

static void free_sealed(struct rules *rules)
{
    table_fini(&rules->by_principal);
    table_fini(&rules->by_namespace);
    table_fini(&rules->by_account);
    free(rules->rules);
    free(rules->lists);
    free(rules->listed);
    rules->rules = NULL;
    rules->lists = NULL;
    rules->listed = NULL;
}

void rules_fini(struct rules *rules)
{
    free_sealed(rules);
    free(rules->policies);
    free(rules->matches);
    *rules = (struct rules){0};
}

/* ---- building ---- */

int rules_add_policy(struct rules *rules, struct arena *arena, uint8_t action, const char *name,
                     uint32_t *ret_policy)
{
    if (action > DP_DENY)
        return -EINVAL;
    char *text;
    int r = arena_text(arena, name, DP_NAME_MAX, &text);
    if (r == 0)
        r = vector_reserve(&rules->policies, &rules->policy_capacity, rules->policy_count + 1,
                           sizeof(*rules->policies));
    if (r < 0)
        return r;
    *ret_policy = rules->policy_count;
    rules->policies[rules->policy_count++] = (struct policy){.name = text, .action = action};
    return 0;
}

int rules_add_rule(struct rules *rules, uint32_t policy, uint32_t *ret_rule)
{
    if (policy >= rules->policy_count)
        return -EINVAL;
    if (rules->rule_count >= VECTOR_MAX)
        return -E2BIG;
    rules->rule_count++;
    *ret_rule = rules->policies[policy].rule_count++;
    return 0;
}

static int check_match(const dp_match *match)
{
    if (match->part > DP_PART_WHEN || match->field > DP_FIELD_SNI ||
        match->op > DP_MATCH_PRESENT || match->negated > 1)
        return -EINVAL;
    switch (match->field) {
    case DP_FIELD_IP:
    case DP_FIELD_REMOTE_IP:
        return match->op == DP_MATCH_EXACT && match->prefix_len <= 128 ? 0 : -EINVAL;
    case DP_FIELD_PORT:
        return match->op == DP_MATCH_EXACT && match->port > 0 ? 0 : -EINVAL;
    case DP_FIELD_GRADE:
        return match->op == DP_MATCH_EXACT && match->number <= DP_GRADE_KEY ? 0 : -EINVAL;
    default: /* a prefix or suffix of nothing would match all; PRESENT says that */
        return match->op == DP_MATCH_PRESENT || (match->text != NULL && match->text[0] != '\0')
                   ? 0
                   : -EINVAL;
    }
}

int rules_add_match(struct rules *rules, struct arena *arena, uint32_t policy, uint32_t rule,
                    const dp_match *match)
{
    if (policy >= rules->policy_count || rule >= rules->policies[policy].rule_count)
        return -EINVAL;
    int r = check_match(match);
    char *text = "";
    if (r == 0 && match->text != NULL && match->text[0] != '\0')
        r = arena_text(arena, match->text, DP_ID_MAX, &text);
    if (r == 0)
        r = vector_reserve(&rules->matches, &rules->match_capacity, rules->match_count + 1,
                           sizeof(*rules->matches));
    if (r < 0)
        return r;
    struct policy_match *added = &rules->matches[rules->match_count++];
    *added = (struct policy_match){
        .policy = policy,
        .rule = rule,
        .part = match->part,
        .field = match->field,
        .op = match->op,
        .negated = match->negated,
        .entry = match->entry,
        .port = match->port,
        .prefix_len = match->prefix_len,
        .number = match->number,
        .text = text,
        .text_len = (uint32_t)strlen(text),
    };
    memcpy(added->addr, match->addr, sizeof(added->addr));
    return 0;
}

/* ---- sealing ---- */

/* By policy, rule, part, entry, field, positive before negated: so an entry's fields lie together. */
static int compare_matches(const void *a, const void *b)
{
    const struct policy_match *x = a, *y = b;
#define BY(member) \
    if (x->member != y->member) \
        return x->member < y->member ? -1 : 1
    BY(policy);
    BY(rule);
    BY(part);
    BY(entry);
    BY(field);
    BY(negated);
#undef BY
    return 0;
}

/* Puts the rules in the order of policies, and gives each its stretch of the sorted matches. */
static void link_rules(struct rules *rules)
{
    if (rules->match_count > 1)
        qsort(rules->matches, rules->match_count, sizeof(*rules->matches), compare_matches);
    uint32_t rule_at = 0, match_at = 0;
    for (uint32_t p = 0; p < rules->policy_count; p++) {
        struct policy *policy = &rules->policies[p];
        policy->rule_first = rule_at;
        for (uint32_t r = 0; r < policy->rule_count; r++) {
            struct policy_rule *rule = &rules->rules[rule_at++];
            uint32_t start = match_at;
            while (match_at < rules->match_count && rules->matches[match_at].policy == p &&
                   rules->matches[match_at].rule == r)
                match_at++;
            *rule = (struct policy_rule){.policy = p, .count = match_at - start};
            if (match_at > start)
                rule->matches = &rules->matches[start];
        }
    }
    assert(match_at == rules->match_count);
}

static const struct table *table_of(const struct rules *rules, uint8_t field)
{
    switch (field) {
    case DP_FIELD_PRINCIPAL:
        return &rules->by_principal;
    case DP_FIELD_NAMESPACE:
        return &rules->by_namespace;
    case DP_FIELD_SERVICE_ACCOUNT:
        return &rules->by_account;
    default:
        return NULL;
    }
}

struct texts {                   /* of one field of one entry, all positive and exact */
    const struct policy_match *matches;
    uint32_t count;
};

/* Of the entry of FROM at *at: texts of which a source must have one. False: there is no such
 * field. Moves *at past the entry. */
static bool find_texts(const struct rules *rules, const struct policy_rule *rule, uint32_t *at,
                       struct texts *ret)
{
    uint16_t entry = rule->matches[*at].entry;
    bool found = false;
    while (*at < rule->count && rule->matches[*at].part == DP_PART_FROM &&
           rule->matches[*at].entry == entry) {
        struct texts texts = {.matches = &rule->matches[*at]};
        uint8_t field = texts.matches->field;
        bool exact = true;
        for (; *at < rule->count && rule->matches[*at].part == DP_PART_FROM &&
               rule->matches[*at].entry == entry && rule->matches[*at].field == field;
             (*at)++) {
            if (rule->matches[*at].negated)
                continue; /* behind the positive ones */
            texts.count++;
            exact &= rule->matches[*at].op == DP_MATCH_EXACT;
        }
        if (!found && exact && texts.count > 0 && table_of(rules, field) != NULL) {
            *ret = texts;
            found = true;
        }
    }
    return found;
}

static bool is_from(const struct policy_rule *rule, uint32_t at)
{
    return at < rule->count && rule->matches[at].part == DP_PART_FROM;
}

/* Must its source have one of certain texts? Of FROM one entry has to match: so each must say so. */
static bool is_about_some(const struct rules *rules, const struct policy_rule *rule)
{
    struct texts unused;
    for (uint32_t at = 0; is_from(rule, at);)
        if (!find_texts(rules, rule, &at, &unused))
            return false;
    return is_from(rule, 0);
}

/* The number of this text's list; *count grows if it is new. */
static int list_of(const struct rules *rules, const struct policy_match *match, uint32_t *count,
                   uint32_t *ret)
{
    struct table *table = (struct table *)table_of(rules, match->field);
    if (table_get(table, match->text, match->text_len, ret))
        return 0;
    *ret = *count;
    int r = table_add(table, match->text, match->text_len, *count);
    *count += r == 0;
    return r;
}

static void list_in(struct rules *rules, uint32_t list, uint32_t number, bool put)
{
    struct rule_stretch *stretch = &rules->lists[list];
    if (put)
        rules->listed[stretch->first + stretch->count] = number;
    stretch->count++;
}

/* Counts the rule into its lists, or puts it there. */
static int list_rule(struct rules *rules, uint32_t number, uint32_t *count, bool put)
{
    const struct policy_rule *rule = &rules->rules[number];
    if (!is_about_some(rules, rule)) {
        list_in(rules, ANYBODY, number, put);
        return 0;
    }
    for (uint32_t at = 0; is_from(rule, at);) {
        struct texts texts;
        bool found = find_texts(rules, rule, &at, &texts);
        assert(found);
        for (uint32_t i = 0; i < texts.count; i++) {
            uint32_t list;
            int r = list_of(rules, &texts.matches[i], count, &list);
            if (r < 0)
                return r;
            list_in(rules, list, number, put);
        }
    }
    return 0;
}

/* The lists' sizes, then what is in them. */
static int make_lists(struct rules *rules)
{
    uint32_t count = ANYBODY + 1, used = 0;
    for (uint32_t i = 0; i < rules->rule_count; i++) {
        int r = list_rule(rules, i, &count, false);
        if (r < 0)
            return r;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = rules->lists[i].count;
        rules->lists[i] = (struct rule_stretch){.first = used};
        used += size;
    }
    for (uint32_t i = 0; i < rules->rule_count; i++) {
        int r = list_rule(rules, i, &count, true);
        assert(r == 0); /* every text has its list */
    }
    return 0;
}

int rules_seal(struct rules *rules)
{
    /* A list for each match, and that of anybody; a rule is in one of them once for each of its
     * matches, or in that. One rule more than needed: no empty array is NULL. */
    rules->rules = calloc(rules->rule_count + 1u, sizeof(*rules->rules));
    rules->lists = calloc(rules->match_count + 1u, sizeof(*rules->lists));
    rules->listed =
        calloc((size_t)rules->match_count + rules->rule_count + 1u, sizeof(*rules->listed));
    int r = -ENOMEM;
    if (rules->rules != NULL && rules->lists != NULL && rules->listed != NULL) {
        link_rules(rules);
        r = make_lists(rules);
    }
    if (r < 0)
        free_sealed(rules);
    return r;
}

/* ---- answers ---- */

static struct rule_list list_at(const struct rules *rules, uint32_t list)
{
    const struct rule_stretch *stretch = &rules->lists[list];
    return (struct rule_list){.rules = &rules->listed[stretch->first], .count = stretch->count};
}

struct rule_list rules_about(const struct rules *rules, uint8_t field, const char *text, size_t len)
{
    uint32_t list;
    const struct table *table = table_of(rules, field);
    assert(table != NULL);
    return text != NULL && table_get(table, text, len, &list) ? list_at(rules, list)
                                                              : (struct rule_list){0};
}

struct rule_list rules_about_anybody(const struct rules *rules)
{
    return list_at(rules, ANYBODY);
}
