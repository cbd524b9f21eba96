/* sni.h: the server name that a client sends: strict syntax. Pure; knows no service.
 * https://www.rfc-editor.org/rfc/rfc6066#section-3 */
#ifndef SLUICE_SNI_H
#define SLUICE_SNI_H

#include "base.h"

enum { SNI_MAX = 253, SNI_LABEL_MAX = 63 };

/* Lower-case labels of letters, digits, '-' and '_' that neither start nor end with '-', parted by
 * single dots. No address, no trailing dot: what we and our peers send, nothing else. */
bool sni_is_valid(const char *text, size_t len);
/* The one host name in the body of a server_name extension. buf gets SNI_MAX + 1 bytes.
 * -EINVAL */
DP_MUST_CHECK int sni_from_extension(const uint8_t *ext, size_t len, char *buf);

#endif
