/* test_keys.c: the key schedule against RFC 8448's trace and against OpenSSL's own HKDF; the key
 * log against lines that are none. */
#include "keys.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>

#include "hex.h"
#include "test.h"

/* RFC 8448, section 3: application traffic. */
static const struct {
    const char *secret, *key, *iv;
} rfc8448[] = {
    {"9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
     "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"},
    {"a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
     "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"},
};

static void keys_of_rfc_8448(void)
{
    for (size_t i = 0; i < DP_COUNT(rfc8448); i++) {
        uint8_t secret[KEYS_SECRET_MAX], key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE];
        CHECK_INT(hex_bytes(rfc8448[i].secret, secret, sizeof(secret)), 32);
        REQUIRE_INT(keys_derive(0x1301, secret, key, iv), 0);
        CHECK(hex_is(rfc8448[i].key, key, 16));
        CHECK(hex_is(rfc8448[i].iv, iv, sizeof(iv)));
    }
}

/* By OpenSSL's own; NULL = leave out. mode: EVP_KDF_HKDF_MODE_… */
static bool openssl_13(int mode, const char *hash, const uint8_t *key, size_t key_len,
                       const uint8_t *salt, const char *label, const uint8_t *context,
                       size_t context_len, uint8_t *out, size_t len)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[8], *p = params;
    *p++ = OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode);
    *p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)hash, 0);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, (char[]){"tls13 "}, 6);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (char *)label, strlen(label));
    if (key != NULL)
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key, key_len);
    if (salt != NULL)
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt, len);
    if (context != NULL)
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_DATA, (void *)context, context_len);
    *p = OSSL_PARAM_construct_end();
    bool good = EVP_KDF_derive(ctx, out, len, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return good;
}

static bool oracle(const char *hash, const uint8_t *secret, size_t secret_len, const char *label,
                   uint8_t *out, size_t len)
{
    return openssl_13(EVP_KDF_HKDF_MODE_EXPAND_ONLY, hash, secret, secret_len, NULL, label, NULL, 0,
                      out, len);
}

static const struct {
    const char *name;
    size_t size;
} hashes[] = {{"SHA256", 32}, {"SHA384", 48}};

static void labels_with_a_context_as_openssl_has_them(void)
{
    static const char *const labels[] = {"iv", "c hs traffic", "0123456789abcdef"};
    static const size_t contexts[] = {1, 32, 48, KEYS_CONTEXT_MAX};
    uint8_t secret[KEYS_SECRET_MAX], context[KEYS_CONTEXT_MAX + 1], got[48], want[48];
    for (size_t b = 0; b < sizeof(secret); b++)
        secret[b] = (uint8_t)(b * 7 + 1);
    for (size_t b = 0; b < sizeof(context); b++)
        context[b] = (uint8_t)(b * 11 + 2);
    for (size_t h = 0; h < DP_COUNT(hashes); h++) {
        size_t size = hashes[h].size;
        for (size_t i = 0; i < DP_COUNT(labels) * DP_COUNT(contexts); i++) {
            const char *label = labels[i % DP_COUNT(labels)];
            size_t len = contexts[i / DP_COUNT(labels)];
            REQUIRE(openssl_13(EVP_KDF_HKDF_MODE_EXPAND_ONLY, hashes[h].name, secret, size, NULL,
                               label, context, len, want, size));
            REQUIRE_INT(keys_expand_label(size, secret, label, strlen(label), context, len, got,
                                          size), 0);
            CHECK(memcmp(got, want, size) == 0);
        }
        CHECK_INT(keys_expand_label(size, secret, "x", 1, context, KEYS_CONTEXT_MAX + 1, got, 1),
                  -EINVAL);
        CHECK_INT(keys_expand_label(size, secret, "0123456789abcdefg", KEYS_LABEL_MAX + 1, NULL, 0,
                                    got, 1), -EINVAL);
        CHECK_INT(keys_expand_label(size, secret, "x", 1, NULL, 0, got, size + 1), -EINVAL);
        CHECK_INT(keys_expand_label(size + 1, secret, "x", 1, NULL, 0, got, 1), -EINVAL);
    }
}

static void extracted_secrets_as_openssl_has_them(void)
{
    uint8_t previous[KEYS_SECRET_MAX], input[300], got[48], want[48];
    for (size_t b = 0; b < sizeof(previous); b++)
        previous[b] = (uint8_t)(b * 3 + 1);
    for (size_t b = 0; b < sizeof(input); b++)
        input[b] = (uint8_t)(b * 5 + 2);
    static const size_t inputs[] = {0, 32, 48, 66, 300}; /* 0 = none */
    for (size_t h = 0; h < DP_COUNT(hashes); h++) {
        size_t size = hashes[h].size;
        for (size_t i = 0; i < 2 * DP_COUNT(inputs); i++) {
            const uint8_t *salt = i % 2 == 0 ? NULL : previous;
            size_t len = inputs[i / 2];
            const uint8_t *key = len == 0 ? NULL : input;
            REQUIRE(openssl_13(EVP_KDF_HKDF_MODE_EXTRACT_ONLY, hashes[h].name, key, len, salt,
                               "derived", NULL, 0, want, size));
            REQUIRE_INT(keys_extract(size, salt, key, len, got), 0);
            CHECK(memcmp(got, want, size) == 0);
        }
        CHECK_INT(keys_extract(size - 1, NULL, NULL, 0, got), -EINVAL);
    }
}

static void every_suite_as_openssl_has_it(void)
{
    static const struct {
        uint16_t cipher;
        const char *hash;
        size_t secret, key;
    } suites[] = {{0x1301, "SHA256", 32, 16}, {0x1302, "SHA384", 48, 32}, {0x1303, "SHA256", 32, 32}};
    for (size_t i = 0; i < DP_COUNT(suites); i++) {
        uint8_t secret[KEYS_SECRET_MAX], key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE], want[64];
        size_t size = keys_secret_size(suites[i].cipher);
        CHECK_INT(size, suites[i].secret);
        CHECK_INT(keys_key_size(suites[i].cipher), suites[i].key);
        for (size_t b = 0; b < sizeof(secret); b++)
            secret[b] = (uint8_t)(i * 50 + b);
        for (int update = 0; update < 3; update++) {
            REQUIRE_INT(keys_derive(suites[i].cipher, secret, key, iv), 0);
            REQUIRE(oracle(suites[i].hash, secret, size, "key", want, suites[i].key));
            CHECK(memcmp(key, want, suites[i].key) == 0);
            REQUIRE(oracle(suites[i].hash, secret, size, "iv", want, sizeof(iv)));
            CHECK(memcmp(iv, want, sizeof(iv)) == 0);
            REQUIRE(oracle(suites[i].hash, secret, size, "traffic upd", want, size));
            REQUIRE_INT(keys_update(suites[i].cipher, secret), 0);
            CHECK(memcmp(secret, want, size) == 0);
        }
    }
}

/* TLS 1.2. */

/* "TLS 1.2 PRF test vectors", mail of Juho Vähä-Herttua to the TLS working group. */
static const struct {
    uint16_t cipher;
    const char *secret, *seed, *output;
} prf_vectors[] = {
    {0xc02b, "9bbe436ba940f017b17652849a71db35", "a0ba9f936cda311827a6f796ffd5198c",
     "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9"
     "af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110ff"
     "f70187347b66"},
    {0xc02c, "b80b733d6ceefcdc71566ea48e5567df", "cd665cf6a8447dd6ff8b27555edb7465",
     "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146"
     "a0e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d91"
     "84259b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e"
     "0990703d73e56f"},
};

static void the_prf_of_tls_12(void)
{
    for (size_t i = 0; i < DP_COUNT(prf_vectors); i++) {
        uint8_t secret[16], seed[16], out[256], want[256];
        (void)hex_bytes(prf_vectors[i].secret, secret, sizeof(secret));
        (void)hex_bytes(prf_vectors[i].seed, seed, sizeof(seed));
        size_t size = hex_bytes(prf_vectors[i].output, want, sizeof(want));
        for (size_t len = 0; len <= size; len++) { /* every length, ragged ends of a block too */
            memset(out, 0xee, sizeof(out));
            REQUIRE_INT(keys_prf(prf_vectors[i].cipher, secret, sizeof(secret), "test label", seed,
                                 sizeof(seed), out, len), 0);
            CHECK(memcmp(out, want, len) == 0 && out[len] == 0xee);
        }
    }
}

static bool oracle_12(const char *hash, const uint8_t *master, const uint8_t *seed, uint8_t *out,
                      size_t len)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)hash, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, (void *)master, KEYS_MASTER_SIZE),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (char[]){"key expansion"}, 13),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (void *)seed, 2 * KEYS_RANDOM_SIZE),
        OSSL_PARAM_construct_end()};
    bool good = EVP_KDF_derive(ctx, out, len, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return good;
}

static void the_key_block_as_openssl_has_it(void)
{
    static const struct {
        uint16_t cipher;
        const char *hash;
        size_t key;
    } suites[] = {{0xc02b, "SHA256", 16}, {0xc02c, "SHA384", 32}};
    for (size_t i = 0; i < DP_COUNT(suites); i++) {
        uint8_t master[KEYS_MASTER_SIZE], seed[2 * KEYS_RANDOM_SIZE], block[80];
        uint8_t secret[KEYS_SECRET_MAX], key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE];
        size_t size = suites[i].key;
        for (size_t b = 0; b < sizeof(master); b++)
            master[b] = (uint8_t)(b * 3 + i);
        for (size_t b = 0; b < sizeof(seed); b++)
            seed[b] = (uint8_t)(b * 5 + i);
        REQUIRE(oracle_12(suites[i].hash, master, seed, block, 2 * size + 8));
        CHECK(keys_is_tls12(suites[i].cipher));
        CHECK_INT(keys_key_size(suites[i].cipher), size);
        CHECK_INT(keys_secret_size(suites[i].cipher), size + KEYS_IV_SIZE);
        for (int side = KEYS_CLIENT; side <= KEYS_SERVER; side++) {
            /* The server's random comes first in the seed. */
            REQUIRE_INT(keys_from_master(suites[i].cipher, master, seed + KEYS_RANDOM_SIZE, seed,
                                         (enum keys_side)side, UINT64_C(0x0102030405060708),
                                         secret), 0);
            REQUIRE_INT(keys_derive(suites[i].cipher, secret, key, iv), 0);
            CHECK(memcmp(key, block + (size_t)side * size, size) == 0);
            CHECK(memcmp(iv, block + 2 * size + 4 * (size_t)side, 4) == 0);
            CHECK(memcmp(iv + 4, "\1\2\3\4\5\6\7\10", 8) == 0);
            CHECK_INT(keys_update(suites[i].cipher, secret), -EINVAL);
        }
    }
}

static void other_suites_are_refused(void)
{
    static const uint16_t others[] = {0, 0x1300, 0x1304, 0xc02f, 0xcca9};
    uint8_t secret[KEYS_SECRET_MAX] = {0}, key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE];
    for (size_t i = 0; i < DP_COUNT(others); i++) {
        CHECK_INT(keys_secret_size(others[i]), 0);
        CHECK_INT(keys_key_size(others[i]), 0);
        CHECK(!keys_is_tls12(others[i]));
        CHECK_INT(keys_derive(others[i], secret, key, iv), -EINVAL);
        CHECK_INT(keys_update(others[i], secret), -EINVAL);
        CHECK_INT(keys_prf(others[i], secret, 32, "", secret, 1, key, 1), -EINVAL);
        CHECK_INT(keys_from_master(others[i], secret, secret, secret, KEYS_CLIENT, 0, secret),
                  -EINVAL);
    }
}

#define RANDOM "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define SECRET "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"
#define SHORT "9e40646ce79a7f9dc05af8889bce6552"

static void lines_of_the_key_log(void)
{
    uint8_t secret[KEYS_SECRET_MAX];
    enum keys_side side = KEYS_SERVER;
    CHECK_INT(keys_from_log("CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET, &side, secret), 32);
    CHECK_INT(side, KEYS_CLIENT);
    CHECK(hex_is(SECRET, secret, 32));
    CHECK_INT(keys_from_log("SERVER_TRAFFIC_SECRET_0 " RANDOM " " SECRET SHORT, &side, secret), 48);
    CHECK_INT(side, KEYS_SERVER);
    CHECK(hex_is(SECRET SHORT, secret, 48));

    static const char *const none[] = {
        "", "CLIENT_TRAFFIC_SECRET_0", "EXPORTER_SECRET " RANDOM " " SECRET,
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET " RANDOM " " SECRET,
        "CLIENT_TRAFFIC_SECRET_01 " RANDOM " " SECRET,
    };
    for (size_t i = 0; i < DP_COUNT(none); i++)
        CHECK_INT(keys_from_log(none[i], &side, secret), 0);
    static const char *const malformed[] = {
        "CLIENT_TRAFFIC_SECRET_0 ",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM,
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " ",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM "x" SECRET,
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SHORT,
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET "0",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET SECRET,
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SHORT "g" SHORT "0",
        "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SHORT "\x80" SHORT "0",
    };
    side = KEYS_SERVER;
    uint8_t before[KEYS_SECRET_MAX];
    memcpy(before, secret, sizeof(before));
    for (size_t i = 0; i < DP_COUNT(malformed); i++)
        CHECK_INT(keys_from_log(malformed[i], &side, secret), -EINVAL);
    CHECK_INT(side, KEYS_SERVER); /* untouched on failure */
    CHECK(memcmp(before, secret, sizeof(before)) == 0);
}

TEST_MAIN(TEST(keys_of_rfc_8448), TEST(labels_with_a_context_as_openssl_has_them),
          TEST(extracted_secrets_as_openssl_has_them), TEST(every_suite_as_openssl_has_it),
          TEST(the_prf_of_tls_12), TEST(the_key_block_as_openssl_has_it),
          TEST(other_suites_are_refused), TEST(lines_of_the_key_log))
