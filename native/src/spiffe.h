/* spiffe.h: SPIFFE IDs and the grade extension in certificates. Pure: strings and X.509 in,
 * answers out. https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
 * https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md */
#ifndef SLUICE_SPIFFE_H
#define SLUICE_SPIFFE_H

#include <openssl/x509.h>

#include "base.h"

/* Private extension of delegated leaves: DER UTF8String, one of "l3" "l2" "port" "key". */
#define SPIFFE_GRADE_OID "2.25.238561604961263749318104027359125812321"

struct spiffe_id {              /* borrowed slices of the text that was parsed */
    const char *trust_domain, *path, *namespace_, *service_account; /* the last two may be NULL */
    size_t trust_domain_len, path_len, namespace_len, service_account_len;
};

/* At most DP_ID_MAX bytes of canonical form: lower-case scheme and trust domain, no port, query,
 * fragment, escape, empty or dot segment. path is "" or starts with '/'; namespace_ and
 * service_account are set for /ns/<namespace>/sa/<service account>. -EINVAL */
DP_MUST_CHECK int spiffe_parse(const char *text, size_t len, struct spiffe_id *ret);
/* The SPIFFE ID of a workload's leaf. buf gets DP_ID_MAX + 1 bytes. -ENOENT: no URI SAN;
 * -E2BIG: more than one; -EINVAL: not a SPIFFE ID with a path; -EPERM: a CA's certificate. */
DP_MUST_CHECK int spiffe_from_certificate(X509 *cert, char *buf);
/* *ret_delegated false and DP_GRADE_KEY without the extension. -EINVAL when malformed. */
DP_MUST_CHECK int spiffe_grade(X509 *cert, uint8_t *ret_grade, bool *ret_delegated);

#endif
