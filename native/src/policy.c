/* policy.c: the rules' semantics and nothing else: no lookup, no clock, no allocation. */
#include "policy.h"

#include <stdio.h>

#include "address.h"
#include "spiffe.h"

static const char *const grade_names[] = {
    [DP_GRADE_NONE] = "none", [DP_GRADE_L3] = "l3",   [DP_GRADE_L2] = "l2",
    [DP_GRADE_PORT] = "port", [DP_GRADE_KEY] = "key",
};

struct subject {                 /* what the fields of matches are compared with */
    const struct service *service;
    const struct policy_input *input;
    struct spiffe_id id;         /* all NULL when unidentified */
};

static bool text_matches(const struct policy_match *match, const char *text, size_t len)
{
    if (text == NULL || len == 0)
        return false;
    switch (match->op) {
    case DP_MATCH_EXACT:
        return len == match->text_len && memcmp(text, match->text, len) == 0;
    case DP_MATCH_PREFIX:
        return len >= match->text_len && memcmp(text, match->text, match->text_len) == 0;
    case DP_MATCH_SUFFIX:
        return len >= match->text_len &&
               memcmp(text + len - match->text_len, match->text, match->text_len) == 0;
    default:
        return true; /* PRESENT */
    }
}

/* An IPv4 block is one of mapped addresses; a shorter prefix is IPv6's, and holds for that alone. */
static bool prefix_matches(const struct policy_match *match, const uint8_t *addr)
{
    unsigned whole = match->prefix_len / 8, rest = match->prefix_len % 8;
    bool ipv4 = whole >= sizeof(address_ipv4_prefix) && address_is_ipv4(match->addr);
    if (ipv4 != address_is_ipv4(addr))
        return false;
    if (memcmp(match->addr, addr, whole) != 0)
        return false;
    return rest == 0 || (match->addr[whole] ^ addr[whole]) >> (8 - rest) == 0;
}

/* "<namespace>/<service account>" against the ID's "ns/<namespace>/sa/<service account>". */
static bool account_matches(const struct policy_match *match, const struct spiffe_id *id)
{
    if (id->namespace_ == NULL || id->service_account == NULL)
        return false;
    char text[DP_ID_MAX + 1];
    int len = snprintf(text, sizeof(text), "%.*s/%.*s", (int)id->namespace_len, id->namespace_,
                       (int)id->service_account_len, id->service_account);
    return text_matches(match, text, (size_t)len);
}

static bool value_matches(const struct policy_match *match, const struct subject *subject)
{
    const struct policy_input *input = subject->input;
    const struct spiffe_id *id = &subject->id;
    switch (match->field) {
    case DP_FIELD_PRINCIPAL: /* without "spiffe://": from the trust domain on */
        return text_matches(match, id->trust_domain, id->trust_domain_len + id->path_len);
    case DP_FIELD_NAMESPACE:
        return text_matches(match, id->namespace_, id->namespace_len);
    case DP_FIELD_IP:
        return prefix_matches(match, input->addr);
    case DP_FIELD_REMOTE_IP:
        return prefix_matches(match, input->remote_addr);
    case DP_FIELD_PORT:
        return subject->service->port == match->port;
    case DP_FIELD_GRADE:
        return input->grade >= match->number;
    case DP_FIELD_TRUST_DOMAIN:
        return text_matches(match, id->trust_domain, id->trust_domain_len);
    case DP_FIELD_SERVICE_ACCOUNT:
        return account_matches(match, id);
    case DP_FIELD_SNI:
        return text_matches(match, input->sni, strlen(input->sni));
    }
    return false;
}

/* The matches from *at on that make up one entry: each field has a positive value that matches,
 * or has none, and no negated value that does. Moves *at past the entry. */
static bool entry_matches(const struct policy_rule *rule, const struct subject *subject,
                          uint32_t *at)
{
    const struct policy_match *first = &rule->matches[*at];
    bool good = true;
    while (*at < rule->count && rule->matches[*at].part == first->part &&
           rule->matches[*at].entry == first->entry) {
        uint8_t field = rule->matches[*at].field;
        bool any_positive = false, positive = false, negated = false;
        for (; *at < rule->count; (*at)++) {
            const struct policy_match *match = &rule->matches[*at];
            if (match->part != first->part || match->entry != first->entry ||
                match->field != field)
                break;
            any_positive |= !match->negated;
            *(match->negated ? &negated : &positive) |= value_matches(match, subject);
        }
        good &= !negated && (positive || !any_positive);
    }
    return good;
}

static bool rule_matches(const struct policy_rule *rule, const struct subject *subject)
{
    for (uint32_t at = 0; at < rule->count;) {
        uint8_t part = rule->matches[at].part;
        bool any = false, every = true;
        while (at < rule->count && rule->matches[at].part == part) {
            bool entry = entry_matches(rule, subject, &at);
            any |= entry;
            every &= entry;
        }
        if (part == DP_PART_WHEN ? !every : !any)
            return false;
    }
    return true;
}

/* Index of the first rule that matches, or -1. */
static int64_t policy_matches(const struct policy *policy, const struct subject *subject)
{
    for (uint32_t i = 0; i < policy->rule_count; i++)
        if (rule_matches(&policy->rules[i], subject))
            return i;
    return -1;
}

static uint16_t refuse_identity(const struct subject *subject, char *buf)
{
    const struct service *service = subject->service;
    const struct policy_input *input = subject->input;
    if (service->mtls != DP_MTLS_STRICT)
        return DP_REASON_NONE;
    if (input->id == NULL) {
        snprintf(buf, DP_DETAIL_MAX + 1, "%s is STRICT and the source has no identity",
                 service->name);
        return DP_REASON_UNIDENTIFIED;
    }
    if (input->grade < service->grade_min) {
        snprintf(buf, DP_DETAIL_MAX + 1, "%s requires grade %s and the source has %s",
                 service->name, grade_names[service->grade_min], grade_names[input->grade]);
        return DP_REASON_GRADE;
    }
    return DP_REASON_NONE;
}

uint16_t policy_authorize(const struct service *service, const struct policy_input *input,
                          char *buf)
{
    assert(input->grade <= DP_GRADE_KEY);
    struct subject subject = {.service = service, .input = input};
    if (input->id != NULL && spiffe_parse(input->id, strlen(input->id), &subject.id) < 0) {
        snprintf(buf, DP_DETAIL_MAX + 1, "the source's identity is no SPIFFE ID");
        return DP_REASON_UNIDENTIFIED;
    }
    uint16_t reason = refuse_identity(&subject, buf);
    if (reason != DP_REASON_NONE)
        return reason;

    const struct policy *first_allow = NULL;
    for (uint32_t i = 0; i < service->policy_count; i++) { /* DENY come first */
        const struct policy *policy = service->policies[i];
        int64_t rule = policy_matches(policy, &subject);
        if (policy->action == DP_DENY && rule >= 0) {
            snprintf(buf, DP_DETAIL_MAX + 1, "denied by %s, rule %lld", policy->name,
                     (long long)rule + 1);
            return DP_REASON_DENIED;
        }
        if (policy->action == DP_ALLOW && rule >= 0)
            return DP_REASON_NONE;
        if (policy->action == DP_ALLOW && first_allow == NULL)
            first_allow = policy;
    }
    if (first_allow == NULL)
        return DP_REASON_NONE;
    snprintf(buf, DP_DETAIL_MAX + 1, "no ALLOW policy of %s matches, %s being the first",
             service->name, first_allow->name);
    return DP_REASON_DENIED;
}
