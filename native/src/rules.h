/* rules.h: authorization rules as a snapshot keeps them: in the order of policies, and found by
 * who they may be about. Filled by one thread, immutable once sealed. Decides nothing (policy.c). */
#ifndef SLUICE_RULES_H
#define SLUICE_RULES_H

#include "arena.h"
#include "base.h"
#include "table.h"

struct policy_match {            /* one value of one field of one entry */
    uint32_t policy, rule;       /* indexes: of the policy; of the rule in its policy */
    uint8_t part, field, op, negated;
    uint16_t entry, port;
    uint8_t addr[16];
    uint8_t prefix_len, number;
    uint32_t text_len;
    const char *text;            /* borrowed from the arena; "" when the field has none */
};

struct policy_rule {             /* matches are sorted by part, entry, field, negated */
    const struct policy_match *matches; /* borrowed from the rules */
    uint32_t count;
    uint32_t policy;             /* index */
};

struct policy {
    const char *name;            /* borrowed from the arena */
    uint8_t action;
    uint32_t rule_first, rule_count; /* its stretch of the rules */
};

struct rule_list {               /* indexes of rules, ascending */
    const uint32_t *rules;       /* borrowed from the rules */
    uint32_t count;
};

struct rules {                   /* zero-initialized is empty */
    struct policy *policies;     /* owned, as all that follows */
    uint32_t policy_count, policy_capacity;
    struct policy_match *matches;
    uint32_t match_count, match_capacity;
    struct policy_rule *rules;   /* made by sealing, in the order of policies */
    uint32_t rule_count;
    /* Made by sealing: a rule is in the lists of all exact texts of which its sources must have
     * one (see rules_about), or in the first list, of those that may be about anybody. */
    struct table by_principal, by_namespace, by_account; /* text to number of list */
    struct rule_stretch { uint32_t first, count; } *lists; /* of listed */
    uint32_t *listed;
};

void rules_fini(struct rules *rules);
DP_MUST_CHECK int rules_add_policy(struct rules *rules, struct arena *arena, uint8_t action,
                                   const char *name, uint32_t *ret_policy);
DP_MUST_CHECK int rules_add_rule(struct rules *rules, uint32_t policy, uint32_t *ret_rule);
DP_MUST_CHECK int rules_add_match(struct rules *rules, struct arena *arena, uint32_t policy,
                                  uint32_t rule, const dp_match *match);
/* -ENOMEM, -E2BIG: they are not sealed. */
DP_MUST_CHECK int rules_seal(struct rules *rules);

/* Rules that may match whoever has this text in this field, DP_FIELD_PRINCIPAL, _NAMESPACE or
 * _SERVICE_ACCOUNT: with rules_about_anybody, every rule that matches is in one of the four. */
struct rule_list rules_about(const struct rules *rules, uint8_t field, const char *text, size_t len);
struct rule_list rules_about_anybody(const struct rules *rules);

#endif
