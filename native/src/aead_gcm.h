/* aead_gcm.h: AES-GCM by Intel's ipsec-mb, loaded at run time. Only aead.c includes it. */
#ifndef SLUICE_AEAD_GCM_H
#define SLUICE_AEAD_GCM_H

#include "base.h"

/* Functions for one key size. Expanded keys are key_size bytes, aligned to 64. */
struct aead_gcm {
    void (*expand)(const uint8_t *key, void *gcm_key);
    void (*seal)(const void *gcm_key, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                 const uint8_t *in, size_t len, uint8_t last, uint8_t *out);
    /* Writes the tag as it ought to be to ret_tag: comparing it is the caller's. */
    void (*open)(const void *gcm_key, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                 const uint8_t *in, size_t len, uint8_t *out, uint8_t *ret_last, uint8_t *ret_tag);
    size_t key_size;
};

/* For keys of 16 or 32 bytes. NULL: not installed, another release than we were built with, or a
 * processor without VAES. Looks once a process; before the sandbox is entered. */
const struct aead_gcm *aead_gcm_find(size_t key_bytes);

#endif
