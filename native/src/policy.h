/* policy.h: authorization at L4: DENY before ALLOW, as Istio has it. Pure; allocates nothing.
 * https://istio.io/latest/docs/reference/config/security/authorization-policy/ */
#ifndef SLUICE_POLICY_H
#define SLUICE_POLICY_H

#include "snapshot.h"

struct policy_match {            /* one value of one field of one entry */
    uint32_t policy, rule;       /* indexes: of the policy; of the rule in its policy */
    uint8_t part, field, op, negated;
    uint16_t entry, port;
    uint8_t addr[16];
    uint8_t prefix_len, number;
    uint32_t text_len;
    const char *text;            /* borrowed from the snapshot; "" when the field has none */
};

struct policy_rule {             /* matches are sorted by policy_match_compare */
    const struct policy_match *matches; /* borrowed from the snapshot */
    uint32_t count;
};

struct policy {
    const char *name;            /* borrowed from the snapshot */
    uint8_t action;
    const struct policy_rule *rules; /* borrowed from the snapshot */
    uint32_t rule_count;
};

struct policy_input {
    const char *id;              /* SPIFFE ID, or NULL when unidentified */
    uint8_t grade;
    uint8_t addr[16];            /* source address as seen or believed */
    uint8_t remote_addr[16];     /* from the PROXY header, else the same */
    const char *sni;             /* or "" */
};

/* mTLS mode, grade and AuthorizationPolicies of service. DP_REASON_NONE = go; else UNIDENTIFIED,
 * GRADE or DENIED, and buf (DP_DETAIL_MAX + 1 bytes) says which rule. */
DP_MUST_CHECK uint16_t policy_authorize(const struct service *service,
                                        const struct policy_input *input, char *buf);

/* For building: is what the caller gave a match at all? -EINVAL */
DP_MUST_CHECK int policy_match_check(const dp_match *match);
/* By policy, rule, part, entry, field, positive before negated. */
int policy_match_compare(const void *a, const void *b);

#endif
