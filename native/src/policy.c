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
    char account[DP_ID_MAX + 1]; /* "<namespace>/<service account>", or "" */
    size_t account_len;
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
        return text_matches(match, subject->account, subject->account_len);
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

/* From at on, the first of these ascending numbers that is not below bound: mostly a near one. */
static uint32_t skip_to(const uint32_t *numbers, uint32_t at, uint32_t count, uint32_t bound)
{
    uint32_t step = 1;
    while (step < count - at && numbers[at + step] < bound) {
        at += step;
        step *= 2;
    }
    uint32_t end = step < count - at ? at + step : count;
    while (at < end) {
        uint32_t middle = at + (end - at) / 2;
        if (numbers[middle] < bound)
            at = middle + 1;
        else
            end = middle;
    }
    return at;
}

/* Of the rules of these policies that are in the list, the first below limit that matches; else
 * limit. What policies and list have not in common is passed over by leaps. */
static uint32_t first_match(const struct subject *subject, const uint32_t *policies,
                            uint32_t count, struct rule_list list, uint32_t limit)
{
    const struct rules *rules = subject->service->rules;
    for (uint32_t i = 0, k = 0; i < count && k < list.count && list.rules[k] < limit;) {
        const struct policy *policy = &rules->policies[policies[i]];
        const struct policy_rule *rule = &rules->rules[list.rules[k]];
        if (rule->policy > policies[i])
            i = skip_to(policies, i, count, rule->policy);
        else if (rule->policy < policies[i])
            k = skip_to(list.rules, k, list.count, policy->rule_first);
        else if (rule_matches(rule, subject))
            return list.rules[k];
        else
            k++;
    }
    return limit;
}

/* The first rule of these policies that matches; DP_NONE. */
static uint32_t first_of(const struct subject *subject, const uint32_t *policies, uint32_t count)
{
    const struct rules *rules = subject->service->rules;
    const struct spiffe_id *id = &subject->id;
    if (count == 0)
        return DP_NONE;
    const struct rule_list lists[] = {
        rules_about(rules, DP_FIELD_PRINCIPAL, id->trust_domain,
                    id->trust_domain_len + id->path_len),
        rules_about(rules, DP_FIELD_NAMESPACE, id->namespace_, id->namespace_len),
        rules_about(rules, DP_FIELD_SERVICE_ACCOUNT, subject->account, subject->account_len),
        rules_about_anybody(rules),
    };
    uint32_t first = DP_NONE;
    for (size_t i = 0; i < DP_COUNT(lists); i++)
        first = first_match(subject, policies, count, lists[i], first);
    return first;
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

static void join_account(struct subject *subject)
{
    const struct spiffe_id *id = &subject->id;
    if (id->namespace_ == NULL || id->service_account == NULL)
        return;
    char *end = subject->account; /* both are parts of one ID, with more than a '/' between them */
    memcpy(end, id->namespace_, id->namespace_len);
    end += id->namespace_len;
    *end++ = '/';
    memcpy(end, id->service_account, id->service_account_len);
    subject->account_len = id->namespace_len + 1 + id->service_account_len;
}

uint16_t policy_authorize(const struct service *service, const struct policy_input *input,
                          char *buf)
{
    assert(input->grade <= DP_GRADE_KEY);
    struct subject subject; /* its account is long, and mostly not there */
    subject.service = service;
    subject.input = input;
    subject.id = (struct spiffe_id){0};
    subject.account_len = 0;
    if (input->id != NULL && spiffe_parse(input->id, strlen(input->id), &subject.id) < 0) {
        snprintf(buf, DP_DETAIL_MAX + 1, "the source's identity is no SPIFFE ID");
        return DP_REASON_UNIDENTIFIED;
    }
    uint16_t reason = refuse_identity(&subject, buf);
    if (reason != DP_REASON_NONE)
        return reason;

    join_account(&subject);
    const struct rules *rules = service->rules;
    uint32_t denied = first_of(&subject, service->policies, service->deny_count);
    if (denied != DP_NONE) {
        const struct policy *policy = &rules->policies[rules->rules[denied].policy];
        snprintf(buf, DP_DETAIL_MAX + 1, "denied by %s, rule %u", policy->name,
                 denied - policy->rule_first + 1);
        return DP_REASON_DENIED;
    }
    const uint32_t *allow = service->policies + service->deny_count;
    uint32_t allow_count = service->policy_count - service->deny_count;
    if (allow_count == 0 || first_of(&subject, allow, allow_count) != DP_NONE)
        return DP_REASON_NONE;
    snprintf(buf, DP_DETAIL_MAX + 1, "no ALLOW policy of %s matches, %s being the first",
             service->name, rules->policies[allow[0]].name);
    return DP_REASON_DENIED;
}
