/* keys.h: TLS 1.3's key schedule from the traffic secrets on: record keys, and the next secret at
 * a KeyUpdate. RFC 8446 section 7. Knows no records and keeps no secret. */
#ifndef SLUICE_KEYS_H
#define SLUICE_KEYS_H

#include "base.h"

enum { KEYS_SECRET_MAX = 48, KEYS_KEY_MAX = 32, KEYS_IV_SIZE = 12 };

/* Of one of TLS 1.3's three suites, by IANA number; 0 = not one of them. */
size_t keys_secret_size(uint16_t cipher);
size_t keys_key_size(uint16_t cipher);

/* Key and IV of one direction from its traffic secret. key has room for KEYS_KEY_MAX bytes.
 * -EINVAL: no such suite; -ENOMEM. */
DP_MUST_CHECK int keys_derive(uint16_t cipher, const uint8_t *secret, uint8_t *ret_key,
                              uint8_t *ret_iv);
/* The secret that follows this one, in its place. As keys_derive. */
DP_MUST_CHECK int keys_update(uint16_t cipher, uint8_t *secret);

enum keys_side { KEYS_CLIENT = 0, KEYS_SERVER = 1 };
/* A line of NSS key log format: the first traffic secret of application data of one side. Its
 * size, 0 for any other line, -EINVAL for a malformed one.
 * https://www.ietf.org/archive/id/draft-ietf-tls-keylogfile-02.html */
DP_MUST_CHECK int keys_from_log(const char *line, enum keys_side *ret_side,
                                uint8_t ret_secret[KEYS_SECRET_MAX]);

#endif
