/* keys.c: HKDF-Expand-Label and P_hash by OpenSSL's HMAC. No output of the first is longer than one
 * hash, so one block of HKDF does. */
#include "keys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

enum { SALT_SIZE = KEYS_IV_SIZE - KEYS_EXPLICIT_SIZE, HASH_MAX = 48 };

static const struct suite {
    uint16_t cipher;
    uint8_t hash_size, key_size;
    bool tls12;
} suites[] = {
    {0x1301, 32, 16, false}, /* TLS_AES_128_GCM_SHA256 */
    {0x1302, 48, 32, false}, /* TLS_AES_256_GCM_SHA384 */
    {0x1303, 32, 32, false}, /* TLS_CHACHA20_POLY1305_SHA256 */
    {0xc02b, 32, 16, true},  /* TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 */
    {0xc02c, 48, 32, true},  /* TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 */
};

static const struct suite *find(uint16_t cipher)
{
    for (size_t i = 0; i < DP_COUNT(suites); i++)
        if (suites[i].cipher == cipher)
            return &suites[i];
    return NULL;
}

static size_t secret_size(const struct suite *suite)
{
    return suite->tls12 ? suite->key_size + (size_t)KEYS_IV_SIZE : suite->hash_size;
}

static const EVP_MD *hash_of(const struct suite *suite)
{
    return suite->hash_size == 48 ? EVP_sha384() : EVP_sha256();
}

size_t keys_secret_size(uint16_t cipher)
{
    const struct suite *suite = find(cipher);
    return suite != NULL ? secret_size(suite) : 0;
}

size_t keys_key_size(uint16_t cipher)
{
    const struct suite *suite = find(cipher);
    return suite != NULL ? suite->key_size : 0;
}

bool keys_is_tls12(uint16_t cipher)
{
    const struct suite *suite = find(cipher);
    return suite != NULL && suite->tls12;
}

/* RFC 8446, 7.1, with an empty context. */
static int expand_label(const struct suite *suite, const uint8_t *secret, const char *label,
                        uint8_t *ret, size_t size)
{
    static const char prefix[] = "tls13 ";
    enum { PREFIX = sizeof(prefix) - 1, LABEL_MAX = 16 };
    uint8_t info[2 + 1 + PREFIX + LABEL_MAX + 1 + 1], block[EVP_MAX_MD_SIZE];
    size_t label_len = strlen(label), len = 0;
    assert(label_len <= LABEL_MAX && size <= suite->hash_size);
    info[len++] = 0;
    info[len++] = (uint8_t)size;
    info[len++] = (uint8_t)(PREFIX + label_len);
    memcpy(info + len, prefix, PREFIX);
    len += PREFIX;
    memcpy(info + len, label, label_len);
    len += label_len;
    info[len++] = 0; /* context */
    info[len++] = 1; /* HKDF's first block */
    if (HMAC(hash_of(suite), secret, suite->hash_size, info, len, block, NULL) == NULL)
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
    if (suite->tls12) {
        memcpy(ret_key, secret, suite->key_size);
        memcpy(ret_iv, secret + suite->key_size, KEYS_IV_SIZE);
        return 0;
    }
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
    if (suite == NULL || suite->tls12)
        return -EINVAL;
    uint8_t next[KEYS_SECRET_MAX];
    int r = expand_label(suite, secret, "traffic upd", next, suite->hash_size);
    if (r == 0)
        memcpy(secret, next, suite->hash_size);
    OPENSSL_cleanse(next, sizeof(next));
    return r;
}

/* P_hash of RFC 5246, 5: A(0) is the label and the seed, A(i) the HMAC of A(i - 1), and block i the
 * HMAC of A(i) and A(0). */
int keys_prf(uint16_t cipher, const uint8_t *secret, size_t secret_size, const char *label,
             const uint8_t *seed, size_t seed_size, uint8_t *ret, size_t size)
{
    enum { SEED_MAX = 128 };
    const struct suite *suite = find(cipher);
    if (suite == NULL || !suite->tls12)
        return -EINVAL;
    uint8_t text[HASH_MAX + SEED_MAX], block[EVP_MAX_MD_SIZE], *first = text + suite->hash_size;
    size_t label_len = strlen(label), first_len = label_len + seed_size, done = 0;
    int secret_len = (int)secret_size, r = 0;
    assert(first_len <= SEED_MAX);
    memcpy(first, label, label_len);
    memcpy(first + label_len, seed, seed_size);
    const uint8_t *from = first;
    size_t from_len = first_len;
    while (r == 0 && done < size) {
        if (HMAC(hash_of(suite), secret, secret_len, from, from_len, block, NULL) == NULL)
            r = -ENOMEM;
        memcpy(text, block, suite->hash_size);
        from = text;
        from_len = suite->hash_size;
        if (r == 0 && HMAC(hash_of(suite), secret, secret_len, text, from_len + first_len, block,
                           NULL) == NULL)
            r = -ENOMEM;
        size_t n = size - done < suite->hash_size ? size - done : suite->hash_size;
        if (r == 0)
            memcpy(ret + done, block, n);
        done += n;
    }
    OPENSSL_cleanse(text, sizeof(text));
    OPENSSL_cleanse(block, sizeof(block));
    return r;
}

/* The key block: the client's key, the server's, the client's salt, the server's. */
int keys_from_master(uint16_t cipher, const uint8_t master[KEYS_MASTER_SIZE],
                     const uint8_t client_random[KEYS_RANDOM_SIZE],
                     const uint8_t server_random[KEYS_RANDOM_SIZE], enum keys_side side,
                     uint64_t explicit, uint8_t ret_secret[KEYS_SECRET_MAX])
{
    const struct suite *suite = find(cipher);
    uint8_t seed[2 * KEYS_RANDOM_SIZE], block[2 * (KEYS_KEY_MAX + SALT_SIZE)];
    if (suite == NULL || !suite->tls12)
        return -EINVAL;
    memcpy(seed, server_random, KEYS_RANDOM_SIZE);
    memcpy(seed + KEYS_RANDOM_SIZE, client_random, KEYS_RANDOM_SIZE);
    size_t key_size = suite->key_size;
    int r = keys_prf(cipher, master, KEYS_MASTER_SIZE, "key expansion", seed, sizeof(seed), block,
                     2 * (key_size + SALT_SIZE));
    if (r == 0) {
        memcpy(ret_secret, block + side * key_size, key_size);
        memcpy(ret_secret + key_size, block + 2 * key_size + (size_t)side * SALT_SIZE, SALT_SIZE);
        be64_put(ret_secret + key_size + SALT_SIZE, explicit);
    }
    OPENSSL_cleanse(block, sizeof(block));
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
