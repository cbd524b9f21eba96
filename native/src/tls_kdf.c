/* tls_kdf.c: TLS 1.3's key derivation, as OpenSSL asks a provider for it, by keys.c: with the
 * default provider's a fifth of a resumed handshake is finding and building what it hashes with.
 * So the leg that shakes hands learns its traffic secrets too; else OpenSSL would have to log them,
 * byte for byte by printf. Keeps nothing itself: all of a derivation comes in one call. */
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "tls_internal.h"

static _Thread_local struct tls *shaking; /* borrowed from tls_kdf_enter to tls_kdf_leave */

void tls_kdf_enter(struct tls *tls)
{
    shaking = tls;
}

void tls_kdf_leave(void)
{
    shaking = NULL;
}

struct octets {
    const void *data;            /* NULL = not given */
    size_t size;
};

struct derivation {
    int mode;
    size_t hash_size;            /* 0 = none that is known here */
    struct octets key, salt, prefix, label, context;
};

static size_t hash_size_of(const char *name)
{
    if (name == NULL)
        return 0;
    return strcmp(name, "SHA2-256") == 0 ? 32 : strcmp(name, "SHA2-384") == 0 ? 48 : 0;
}

static struct derivation read_params(const OSSL_PARAM *params)
{
    struct derivation ret = {.mode = -1};
    const struct {
        const char *name;
        struct octets *octets;
    } fields[] = {
        {OSSL_KDF_PARAM_KEY, &ret.key},     {OSSL_KDF_PARAM_SALT, &ret.salt},
        {OSSL_KDF_PARAM_LABEL, &ret.label}, {OSSL_KDF_PARAM_DATA, &ret.context},
        {OSSL_KDF_PARAM_PREFIX, &ret.prefix},
    };
    for (; params != NULL && params->key != NULL; params++) {
        if (strcmp(params->key, OSSL_KDF_PARAM_MODE) == 0)
            (void)OSSL_PARAM_get_int(params, &ret.mode);
        else if (strcmp(params->key, OSSL_KDF_PARAM_DIGEST) == 0)
            ret.hash_size = hash_size_of(params->data);
        for (size_t i = 0; i < DP_COUNT(fields); i++)
            if (strcmp(params->key, fields[i].name) == 0)
                *fields[i].octets = (struct octets){params->data, params->data_size};
    }
    return ret;
}

static bool is_text(const struct octets *octets, const char *text)
{
    return octets->size == strlen(text) && memcmp(octets->data, text, octets->size) == 0;
}

/* OpenSSL derives a traffic secret when it begins to use it. */
static void tell_leg(const struct derivation *d, const uint8_t *secret)
{
    if (shaking == NULL)
        return;
    if (is_text(&d->label, "c ap traffic"))
        tls_user_learn(shaking, KEYS_CLIENT, secret, d->hash_size);
    else if (is_text(&d->label, "s ap traffic"))
        tls_user_learn(shaking, KEYS_SERVER, secret, d->hash_size);
}

static int derive(void *ctx, unsigned char *ret, size_t size, const OSSL_PARAM params[])
{
    struct derivation d = read_params(params);
    (void)ctx;
    if (d.hash_size == 0 || d.label.data == NULL || d.prefix.data == NULL ||
        !is_text(&d.prefix, "tls13 "))
        return 0;
    if (d.mode == EVP_KDF_HKDF_MODE_EXTRACT_ONLY)
        return size == d.hash_size && is_text(&d.label, "derived") &&
               (d.salt.data == NULL || d.salt.size == d.hash_size) &&
               keys_extract(d.hash_size, d.salt.data, d.key.data, d.key.size, ret) == 0;
    if (d.mode != EVP_KDF_HKDF_MODE_EXPAND_ONLY || d.key.data == NULL ||
        d.key.size != d.hash_size ||
        keys_expand_label(d.hash_size, d.key.data, d.label.data, d.label.size, d.context.data,
                          d.context.size, ret, size) < 0)
        return 0;
    tell_leg(&d, ret);
    return 1;
}

static void *context_new(void *provider)
{
    return provider; /* not NULL is all that is asked */
}

static void context_free(void *ctx)
{
    (void)ctx;
}

const OSSL_DISPATCH tls_kdf[] = {
    {OSSL_FUNC_KDF_NEWCTX, (void (*)(void))context_new},
    {OSSL_FUNC_KDF_FREECTX, (void (*)(void))context_free},
    {OSSL_FUNC_KDF_DERIVE, (void (*)(void))derive},
    {0, NULL}};
