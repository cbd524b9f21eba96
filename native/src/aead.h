/* aead.h: seals and opens the plaintext of TLS records under one key; its last byte, which TLS 1.3
 * puts behind the data, is apart. AES-GCM by
 * Intel's ipsec-mb where it is installed and the processor has VAES, everything else by OpenSSL.
 * Knows neither sockets nor sequence numbers. */
#ifndef SLUICE_AEAD_H
#define SLUICE_AEAD_H

#include "base.h"

enum { AEAD_TAG_SIZE = 16, AEAD_NONCE_SIZE = 12 };

/* AEAD_BEST takes ipsec-mb if it can; AEAD_EVP never does. */
enum aead_engine { AEAD_BEST, AEAD_EVP };

struct aead_gcm;                 /* aead_gcm.h */
struct aead {                    /* zeroed = none; one direction, one thread */
    void *evp;                   /* owned EVP_CIPHER_CTX; NULL = gcm has it */
    void *gcm_key;               /* owned; ipsec-mb's expanded key */
    const struct aead_gcm *gcm;  /* static */
    bool seals;
};

/* -EINVAL: cipher, by IANA number, is none of keys.h's; -ENOMEM. */
DP_MUST_CHECK int aead_init(struct aead *aead, uint16_t cipher, const uint8_t *key, bool seals,
                            enum aead_engine engine);
void aead_fini(struct aead *aead); /* wipes the key */

/* out = in[0 .. len) and then last, enciphered, and the tag: len + 1 + AEAD_TAG_SIZE bytes. in and
 * out are the same or do not overlap. -EIO: OpenSSL failed. */
DP_MUST_CHECK int aead_seal(struct aead *aead, const uint8_t *nonce, const uint8_t *aad,
                            size_t aad_len, const uint8_t *in, size_t len, uint8_t last,
                            uint8_t *out);
/* The reverse: in is len >= AEAD_TAG_SIZE bytes with the tag; all but the last byte of the
 * plaintext goes to out, the last, if there is one, to *ret_last. -EBADMSG: the tag is wrong, and
 * out is wiped. */
DP_MUST_CHECK int aead_open(struct aead *aead, const uint8_t *nonce, const uint8_t *aad,
                            size_t aad_len, const uint8_t *in, size_t len, uint8_t *out,
                            uint8_t *ret_last);

#endif
