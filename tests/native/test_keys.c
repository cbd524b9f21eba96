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

static bool oracle(const char *hash, const uint8_t *secret, size_t secret_len, const char *label,
                   uint8_t *out, size_t len)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)hash, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, secret_len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, (char[]){"tls13 "}, 6),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (char *)label, strlen(label)),
        OSSL_PARAM_construct_end()};
    bool good = EVP_KDF_derive(ctx, out, len, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return good;
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

static void other_suites_are_refused(void)
{
    static const uint16_t others[] = {0, 0x1300, 0x1304, 0xc02b};
    uint8_t secret[KEYS_SECRET_MAX] = {0}, key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE];
    for (size_t i = 0; i < DP_COUNT(others); i++) {
        CHECK_INT(keys_secret_size(others[i]), 0);
        CHECK_INT(keys_key_size(others[i]), 0);
        CHECK_INT(keys_derive(others[i], secret, key, iv), -EINVAL);
        CHECK_INT(keys_update(others[i], secret), -EINVAL);
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

TEST_MAIN(TEST(keys_of_rfc_8448), TEST(every_suite_as_openssl_has_it),
          TEST(other_suites_are_refused), TEST(lines_of_the_key_log))
