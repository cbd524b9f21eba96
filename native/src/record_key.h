/* record_key.h: one direction's key: seals and opens records one by one and counts them. What
 * differs between TLS 1.3 (RFC 8446, 5.2) and TLS 1.2's AES-GCM (RFC 5246, 6.2.3.3, and RFC 5288)
 * on the wire is here and nowhere else. Performs no I/O and judges no content. */
#ifndef SLUICE_RECORD_KEY_H
#define SLUICE_RECORD_KEY_H

#include "aead.h"
#include "keys.h"

enum {
    RECORD_HEADER = 5,
    RECORD_PLAIN_MAX = 16384,    /* payload of one record */
    RECORD_WIRE_MAX = RECORD_HEADER + RECORD_PLAIN_MAX + 256, /* header, the longest ciphertext */
    RECORD_OVERHEAD_MAX = 29,    /* what record_key_overhead returns at most */
};

struct record_key {              /* zeroed = none */
    struct aead aead;
    uint8_t iv[KEYS_IV_SIZE];
    uint64_t seq;                /* of the next record */
    bool tls12;
};

/* For a secret of keys.h's, from the record with number seq on. -EINVAL: no such suite; -ENOMEM. */
DP_MUST_CHECK int record_key_init(struct record_key *key, uint16_t cipher, const uint8_t *secret,
                                  uint64_t seq, bool seals, enum aead_engine engine);
void record_key_fini(struct record_key *key); /* wipes it */

/* Wire bytes of a record beside its payload, which is without padding. */
static inline size_t record_key_overhead(const struct record_key *key)
{
    return (size_t)RECORD_HEADER + AEAD_TAG_SIZE + (key->tls12 ? KEYS_EXPLICIT_SIZE : 1);
}

/* One record of 1 … RECORD_PLAIN_MAX bytes: len + record_key_overhead at out. -EIO. */
DP_MUST_CHECK int record_key_seal(struct record_key *key, uint8_t type, const uint8_t *data,
                                  size_t len, uint8_t *out);

/* Wire bytes of the record that begins with head. */
static inline size_t record_key_size(const uint8_t head[RECORD_HEADER])
{
    return RECORD_HEADER + ((size_t)head[3] << 8 | head[4]);
}

struct record_fault {            /* what the peer did wrong */
    uint8_t alert;               /* enum record_alert: what to send */
    const char *why;             /* static; NULL = nothing is wrong */
};
/* Could a record with this header be one that record_key_open takes? */
struct record_fault record_key_check(const struct record_key *key,
                                     const uint8_t head[RECORD_HEADER]);
/* A whole record, checked; out has room for its size less record_key_overhead. */
struct record_fault record_key_open(struct record_key *key, const uint8_t *record, uint8_t *out,
                                    uint8_t *ret_type, size_t *ret_len);

#endif
