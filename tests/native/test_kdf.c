/* test_kdf.c: TLS13-KDF as tls_kdf.c gives it to OpenSSL: what it must refuse. That it derives as
 * OpenSSL's does show test_keys.c and every handshake with a peer that is not ours. */
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "must.h"
#include "test.h"
#include "tls_internal.h"

enum { SIZE = 32 };

static uint8_t secret[SIZE + 1];

static int derive(const OSSL_PARAM *params, size_t size)
{
    uint8_t out[64];
    int (*function)(void *, unsigned char *, size_t, const OSSL_PARAM *) = NULL;
    for (const OSSL_DISPATCH *entry = tls_kdf; entry->function_id != 0; entry++)
        if (entry->function_id == OSSL_FUNC_KDF_DERIVE)
            function = OSSL_FUNC_kdf_derive(entry);
    MUST(function != NULL);
    return function(NULL, out, size, params);
}

struct call {
    const char *leave_out;       /* a parameter; NULL = none */
    int mode;
    const char *hash, *prefix, *label;
    size_t key_size, salt_size, size;
};

static int call(const struct call *spec)
{
    int mode = spec->mode;
    const OSSL_PARAM all[] = {
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)spec->hash, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret, spec->key_size),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, secret, spec->salt_size),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, (char *)spec->prefix,
                                          strlen(spec->prefix)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (char *)spec->label,
                                          strlen(spec->label)),
    };
    OSSL_PARAM params[DP_COUNT(all) + 1], *p = params;
    for (size_t i = 0; i < DP_COUNT(all); i++)
        if (spec->leave_out == NULL || strcmp(all[i].key, spec->leave_out) != 0)
            *p++ = all[i];
    *p = OSSL_PARAM_construct_end();
    return derive(params, spec->size);
}

static const struct call expand = {NULL, EVP_KDF_HKDF_MODE_EXPAND_ONLY, "SHA2-256", "tls13 ",
                                   "key", SIZE, SIZE, SIZE};
static const struct call extract = {NULL, EVP_KDF_HKDF_MODE_EXTRACT_ONLY, "SHA2-256", "tls13 ",
                                    "derived", SIZE, SIZE, SIZE};

static void derives_what_is_whole(void)
{
    CHECK_INT(call(&expand), 1);
    CHECK_INT(call(&extract), 1);
    struct call bare = extract;
    bare.leave_out = OSSL_KDF_PARAM_SALT;
    CHECK_INT(call(&bare), 1);
    bare.leave_out = OSSL_KDF_PARAM_KEY;
    CHECK_INT(call(&bare), 1);
}

static void refuses_what_lacks_something(void)
{
    static const char *const needed[] = {OSSL_KDF_PARAM_MODE, OSSL_KDF_PARAM_DIGEST,
                                         OSSL_KDF_PARAM_KEY, OSSL_KDF_PARAM_PREFIX,
                                         OSSL_KDF_PARAM_LABEL};
    for (size_t i = 0; i < DP_COUNT(needed); i++) {
        struct call less = expand;
        less.leave_out = needed[i];
        CHECK_INT(call(&less), 0);
    }
    CHECK_INT(derive(NULL, SIZE), 0);
}

static void refuses_what_is_not_of_tls_13(void)
{
    struct call other = expand;
    other.mode = EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND;
    CHECK_INT(call(&other), 0);
    other = expand, other.hash = "SHA2-512";
    CHECK_INT(call(&other), 0);
    other = expand, other.prefix = "dtls13";
    CHECK_INT(call(&other), 0);
    other = expand, other.key_size = SIZE + 1;
    CHECK_INT(call(&other), 0);
    other = expand, other.size = SIZE + 1;
    CHECK_INT(call(&other), 0);
    other = expand, other.label = "a label that is too long";
    CHECK_INT(call(&other), 0);
    other = extract, other.label = "other";
    CHECK_INT(call(&other), 0);
    other = extract, other.salt_size = SIZE - 1;
    CHECK_INT(call(&other), 0);
    other = extract, other.size = SIZE - 1;
    CHECK_INT(call(&other), 0);
}

TEST_MAIN(TEST(derives_what_is_whole), TEST(refuses_what_lacks_something),
          TEST(refuses_what_is_not_of_tls_13))
