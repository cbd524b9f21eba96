/* keys.c: HKDF-Expand-Label by OpenSSL's HMAC. No output is longer than one hash, so one block of
 * HKDF does. */
#include "keys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

static const struct suite {
    uint16_t cipher;
    uint8_t secret_size, key_size;
} suites[] = {
    {0x1301, 32, 16}, /* TLS_AES_128_GCM_SHA256 */
    {0x1302, 48, 32}, /* TLS_AES_256_GCM_SHA384 */
    {0x1303, 32, 32}, /* TLS_CHACHA20_POLY1305_SHA256 */
};

static const struct suite *find(uint16_t cipher)
{
    for (size_t i = 0; i < DP_COUNT(suites); i++)
        if (suites[i].cipher == cipher)
            return &suites[i];
    return NULL;
}

size_t keys_secret_size(uint16_t cipher)
{
    const struct suite *suite = find(cipher);
    return suite != NULL ? suite->secret_size : 0;
}

size_t keys_key_size(uint16_t cipher)
{
    const struct suite *suite = find(cipher);
    return suite != NULL ? suite->key_size : 0;
}

/* RFC 8446, 7.1, with an empty context. */
static int expand_label(const struct suite *suite, const uint8_t *secret, const char *label,
                        uint8_t *ret, size_t size)
{
    static const char prefix[] = "tls13 ";
    enum { PREFIX = sizeof(prefix) - 1, LABEL_MAX = 16 };
    uint8_t info[2 + 1 + PREFIX + LABEL_MAX + 1 + 1], block[EVP_MAX_MD_SIZE];
    size_t label_len = strlen(label), len = 0;
    assert(label_len <= LABEL_MAX && size <= suite->secret_size);
    info[len++] = 0;
    info[len++] = (uint8_t)size;
    info[len++] = (uint8_t)(PREFIX + label_len);
    memcpy(info + len, prefix, PREFIX);
    len += PREFIX;
    memcpy(info + len, label, label_len);
    len += label_len;
    info[len++] = 0; /* context */
    info[len++] = 1; /* HKDF's first block */
    const EVP_MD *hash = suite->secret_size == 48 ? EVP_sha384() : EVP_sha256();
    if (HMAC(hash, secret, suite->secret_size, info, len, block, NULL) == NULL)
        return -ENOMEM;
    memcpy(ret, block, size);
    OPENSSL_cleanse(block, sizeof(block));
    return 0;
}

int keys_derive(uint16_t cipher, const uint8_t *secret, uint8_t *ret_key, uint8_t *ret_iv)
{
    const struct suite *suite = find(cipher);
    if (suite == NULL)
        return -EINVAL;
    uint8_t key[KEYS_KEY_MAX];
    int r = expand_label(suite, secret, "key", key, suite->key_size);
    if (r == 0)
        r = expand_label(suite, secret, "iv", ret_iv, KEYS_IV_SIZE);
    if (r == 0)
        memcpy(ret_key, key, suite->key_size);
    OPENSSL_cleanse(key, sizeof(key));
    return r;
}

int keys_update(uint16_t cipher, uint8_t *secret)
{
    const struct suite *suite = find(cipher);
    if (suite == NULL)
        return -EINVAL;
    uint8_t next[KEYS_SECRET_MAX];
    int r = expand_label(suite, secret, "traffic upd", next, suite->secret_size);
    if (r == 0)
        memcpy(secret, next, suite->secret_size);
    OPENSSL_cleanse(next, sizeof(next));
    return r;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* All of text as bytes: how many, or -EINVAL. */
static int hex_decode(const char *text, uint8_t *ret, size_t size)
{
    size_t len = strlen(text);
    if (len % 2 != 0 || len / 2 > size)
        return -EINVAL;
    for (size_t i = 0; i < len / 2; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        ret[i] = (uint8_t)(high << 4 | low);
    }
    return (int)(len / 2);
}

int keys_from_log(const char *line, enum keys_side *ret_side, uint8_t ret_secret[KEYS_SECRET_MAX])
{
    static const char *const labels[] = {[KEYS_CLIENT] = "CLIENT_TRAFFIC_SECRET_0 ",
                                         [KEYS_SERVER] = "SERVER_TRAFFIC_SECRET_0 "};
    enum { CLIENT_RANDOM_DIGITS = 64 };
    for (size_t side = 0; side < DP_COUNT(labels); side++) {
        size_t label_len = strlen(labels[side]);
        if (strncmp(line, labels[side], label_len) != 0)
            continue;
        if (strlen(line) <= label_len + CLIENT_RANDOM_DIGITS ||
            line[label_len + CLIENT_RANDOM_DIGITS] != ' ')
            return -EINVAL;
        uint8_t secret[KEYS_SECRET_MAX];
        int size = hex_decode(line + label_len + CLIENT_RANDOM_DIGITS + 1, secret, sizeof(secret));
        if (size == 32 || size == 48) {
            memcpy(ret_secret, secret, (size_t)size);
            *ret_side = (enum keys_side)side;
        } else {
            size = -EINVAL;
        }
        OPENSSL_cleanse(secret, sizeof(secret));
        return size;
    }
    return 0;
}
