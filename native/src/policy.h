/* policy.h: authorization at L4: DENY before ALLOW, as Istio has it. Pure; allocates nothing.
 * https://istio.io/latest/docs/reference/config/security/authorization-policy/ */
#ifndef SLUICE_POLICY_H
#define SLUICE_POLICY_H

#include "snapshot.h"

struct policy_input {
    const char *id;              /* SPIFFE ID, or NULL when unidentified */
    uint8_t grade;
    uint8_t addr[16];            /* the other end's of the connection itself */
    uint8_t remote_addr[16];     /* the source's, as the PROXY header has it; else the same */
    const char *sni;             /* or "" */
};

/* mTLS mode, grade and AuthorizationPolicies of service. DP_REASON_NONE = go; else UNIDENTIFIED,
 * GRADE or DENIED, and buf (DP_DETAIL_MAX + 1 bytes) says which rule. */
DP_MUST_CHECK uint16_t policy_authorize(const struct service *service,
                                        const struct policy_input *input, char *buf);

#endif
