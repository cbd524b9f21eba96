/* aead.c: chooses the engine and compares tags. Ciphers are fetched once a process: an implicit
 * fetch at every key takes a lock. */
#include "aead.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "aead_gcm.h"
#include "keys.h"

enum { KEY_ALIGN = 64 };

static CRYPTO_ONCE once = CRYPTO_ONCE_STATIC_INIT;
enum { AES_128, AES_256, CHACHA20, CIPHERS };
static EVP_CIPHER *ciphers[CIPHERS]; /* owned by the process */

static void fetch(void)
{
    static const char *const names[CIPHERS] = {"AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305"};
    for (size_t i = 0; i < CIPHERS; i++)
        ciphers[i] = EVP_CIPHER_fetch(NULL, names[i], NULL);
}

static size_t round_up(size_t size)
{
    return (size + KEY_ALIGN - 1) / KEY_ALIGN * KEY_ALIGN;
}

static int init_gcm(struct aead *aead, const struct aead_gcm *gcm, const uint8_t *key)
{
    aead->gcm_key = aligned_alloc(KEY_ALIGN, round_up(gcm->key_size));
    if (aead->gcm_key == NULL)
        return -ENOMEM;
    aead->gcm = gcm;
    gcm->expand(key, aead->gcm_key);
    return 0;
}

static int init_evp(struct aead *aead, const EVP_CIPHER *cipher, const uint8_t *key)
{
    if (cipher == NULL)
        return -ENOMEM;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx == NULL || !EVP_CipherInit_ex2(ctx, cipher, key, NULL, aead->seals, NULL)) {
        EVP_CIPHER_CTX_free(ctx);
        return -ENOMEM;
    }
    aead->evp = ctx;
    return 0;
}

int aead_init(struct aead *aead, uint16_t cipher, const uint8_t *key, bool seals,
              enum aead_engine engine)
{
    size_t key_bytes = keys_key_size(cipher);
    if (key_bytes == 0)
        return -EINVAL;
    if (!CRYPTO_THREAD_run_once(&once, fetch))
        return -ENOMEM;
    *aead = (struct aead){.seals = seals};
    const struct aead_gcm *gcm = NULL;
    int which = cipher == 0x1303 ? CHACHA20 : key_bytes == 16 ? AES_128 : AES_256;
    if (engine == AEAD_BEST && which != CHACHA20)
        gcm = aead_gcm_find(key_bytes);
    return gcm != NULL ? init_gcm(aead, gcm, key) : init_evp(aead, ciphers[which], key);
}

void aead_fini(struct aead *aead)
{
    EVP_CIPHER_CTX_free(aead->evp); /* wipes it */
    if (aead->gcm_key != NULL) {
        OPENSSL_cleanse(aead->gcm_key, aead->gcm->key_size);
        free(aead->gcm_key);
    }
    *aead = (struct aead){0};
}

static int seal_evp(EVP_CIPHER_CTX *ctx, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                    const uint8_t *in, size_t len, uint8_t last, uint8_t *out)
{
    int n, body = 0, tail = 0;
    if (!EVP_EncryptInit_ex2(ctx, NULL, NULL, nonce, NULL) ||
        !EVP_EncryptUpdate(ctx, NULL, &n, aad, (int)aad_len) ||
        (len > 0 && !EVP_EncryptUpdate(ctx, out, &body, in, (int)len)) ||
        !EVP_EncryptUpdate(ctx, out + body, &tail, &last, 1) ||
        !EVP_EncryptFinal_ex(ctx, out + body + tail, &n) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE, out + len + 1))
        return -EIO;
    assert((size_t)(body + tail) == len + 1);
    return 0;
}

int aead_seal(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
              const uint8_t *in, size_t len, uint8_t last, uint8_t *out)
{
    assert(aead->seals);
    if (aead->evp != NULL)
        return seal_evp(aead->evp, nonce, aad, aad_len, in, len, last, out);
    aead->gcm->seal(aead->gcm_key, nonce, aad, aad_len, in, len, last, out);
    return 0;
}

/* EVP_DecryptFinal_ex compares the tags in constant time. */
static int open_evp(EVP_CIPHER_CTX *ctx, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                    const uint8_t *in, size_t len, uint8_t *out, uint8_t *ret_last)
{
    int n;
    uint8_t spare[EVP_MAX_BLOCK_LENGTH]; /* nothing is left for it */
    if (!EVP_DecryptInit_ex2(ctx, NULL, NULL, nonce, NULL) ||
        !EVP_DecryptUpdate(ctx, NULL, &n, aad, (int)aad_len) ||
        (len > 1 && !EVP_DecryptUpdate(ctx, out, &n, in, (int)len - 1)) ||
        (len > 0 && !EVP_DecryptUpdate(ctx, ret_last, &n, in + len - 1, 1)) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_SIZE, (uint8_t *)in + len) ||
        !EVP_DecryptFinal_ex(ctx, spare, &n))
        return -EBADMSG;
    return 0;
}

int aead_open(struct aead *aead, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
              const uint8_t *in, size_t len, uint8_t *out, uint8_t *ret_last)
{
    assert(!aead->seals && len >= AEAD_TAG_SIZE);
    int r = 0;
    len -= AEAD_TAG_SIZE;
    if (aead->evp != NULL) {
        r = open_evp(aead->evp, nonce, aad, aad_len, in, len, out, ret_last);
    } else {
        uint8_t tag[AEAD_TAG_SIZE];
        aead->gcm->open(aead->gcm_key, nonce, aad, aad_len, in, len, out, ret_last, tag);
        if (CRYPTO_memcmp(tag, in + len, AEAD_TAG_SIZE) != 0)
            r = -EBADMSG;
    }
    if (r < 0) {
        OPENSSL_cleanse(out, len > 0 ? len - 1 : 0);
        *ret_last = 0;
    }
    return r;
}
