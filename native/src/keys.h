/* keys.h: the key schedules: TLS 1.3's steps, its keys from the traffic secrets, with the next one at
 * a KeyUpdate (RFC 8446 section 7), and TLS 1.2's from the master secret (RFC 5246 sections 5 and
 * 6.3). Knows no records and keeps no secret. */
#ifndef SLUICE_KEYS_H
#define SLUICE_KEYS_H

#include "base.h"

enum { KEYS_SECRET_MAX = 48, KEYS_KEY_MAX = 32, KEYS_IV_SIZE = 12 };
enum { KEYS_LABEL_MAX = 16, KEYS_CONTEXT_MAX = 255 };

/* HKDF-Expand-Label with SHA-256 or SHA-384, as hash_size says; secret is one hash long. -EINVAL: no
 * such hash, a label or context beyond those limits, or more wanted than one hash. */
DP_MUST_CHECK int keys_expand_label(size_t hash_size, const uint8_t *secret, const char *label,
                                    size_t label_len, const uint8_t *context, size_t context_len,
                                    uint8_t *ret, size_t size);
/* The schedule's next extracted secret, of one hash, from the previous one, NULL at the start, and
 * what is new, NULL = nothing. -EINVAL: no such hash. */
DP_MUST_CHECK int keys_extract(size_t hash_size, const uint8_t *previous, const uint8_t *input,
                               size_t input_size, uint8_t *ret);

/* Of one of TLS 1.3's three suites, or of ECDHE-ECDSA-AES-GCM in TLS 1.2, by IANA number; 0 = not
 * one of them. A direction's secret in TLS 1.2 is its write key and its whole nonce: the salt,
 * and the explicit part that the record with number 0 would have. */
size_t keys_secret_size(uint16_t cipher);
size_t keys_key_size(uint16_t cipher);
bool keys_is_tls12(uint16_t cipher);

/* Key and IV of one direction from its traffic secret. key has room for KEYS_KEY_MAX bytes.
 * -EINVAL: no such suite. */
DP_MUST_CHECK int keys_derive(uint16_t cipher, const uint8_t *secret, uint8_t *ret_key,
                              uint8_t *ret_iv);
/* The secret that follows this one, in its place. As keys_derive; -EINVAL also for TLS 1.2, where
 * none does. */
DP_MUST_CHECK int keys_update(uint16_t cipher, uint8_t *secret);

enum keys_side { KEYS_CLIENT = 0, KEYS_SERVER = 1 };
enum { KEYS_MASTER_SIZE = 48, KEYS_RANDOM_SIZE = 32, KEYS_EXPLICIT_SIZE = 8 };

/* TLS 1.2's PRF with the suite's hash; secret is no longer than its block. -EINVAL: not a suite of
 * TLS 1.2's. */
DP_MUST_CHECK int keys_prf(uint16_t cipher, const uint8_t *secret, size_t secret_size,
                           const char *label, const uint8_t *seed, size_t seed_size, uint8_t *ret,
                           size_t size);
/* One side's secret in TLS 1.2; explicit is the explicit nonce of the record with number 0. */
DP_MUST_CHECK int keys_from_master(uint16_t cipher, const uint8_t master[KEYS_MASTER_SIZE],
                                   const uint8_t client_random[KEYS_RANDOM_SIZE],
                                   const uint8_t server_random[KEYS_RANDOM_SIZE],
                                   enum keys_side side, uint64_t explicit,
                                   uint8_t ret_secret[KEYS_SECRET_MAX]);
/* A line of NSS key log format: the first traffic secret of application data of one side. Its
 * size, 0 for any other line, -EINVAL for a malformed one.
 * https://www.ietf.org/archive/id/draft-ietf-tls-keylogfile-02.html */
DP_MUST_CHECK int keys_from_log(const char *line, enum keys_side *ret_side,
                                uint8_t ret_secret[KEYS_SECRET_MAX]);

#endif
