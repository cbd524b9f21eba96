/* keys.c: HKDF and P_hash by OpenSSL's plain hashes: its EVP takes ten times as long for the few
 * bytes at hand to find and to build what it hashes with. No output of HKDF here is longer than one
 * hash, so one of its blocks does. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

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

static void sha256(const uint8_t *block, const uint8_t *text, size_t len, uint8_t *ret)
{
    SHA256_CTX hash;
    (void)SHA256_Init(&hash);
    (void)SHA256_Update(&hash, block, SHA256_CBLOCK);
    (void)SHA256_Update(&hash, text, len);
    (void)SHA256_Final(ret, &hash);
    OPENSSL_cleanse(&hash, sizeof(hash));
}

static void sha384(const uint8_t *block, const uint8_t *text, size_t len, uint8_t *ret)
{
    SHA512_CTX hash;
    (void)SHA384_Init(&hash);
    (void)SHA384_Update(&hash, block, SHA512_CBLOCK);
    (void)SHA384_Update(&hash, text, len);
    (void)SHA384_Final(ret, &hash);
    OPENSSL_cleanse(&hash, sizeof(hash));
}

/* RFC 2104. The key is no longer than the hash's block. */
static void hmac(size_t hash_size, const uint8_t *key, size_t key_size, const uint8_t *text,
                 size_t len, uint8_t *ret)
{
    void (*hash)(const uint8_t *, const uint8_t *, size_t, uint8_t *) =
        hash_size == 48 ? sha384 : sha256;
    uint8_t pad[SHA512_CBLOCK] = {0};
    assert(key_size <= (hash_size == 48 ? SHA512_CBLOCK : SHA256_CBLOCK));
    if (key_size > 0)
        memcpy(pad, key, key_size);
    for (size_t i = 0; i < sizeof(pad); i++)
        pad[i] ^= 0x36;
    hash(pad, text, len, ret);
    for (size_t i = 0; i < sizeof(pad); i++)
        pad[i] ^= 0x36 ^ 0x5c;
    hash(pad, ret, hash_size, ret);
    OPENSSL_cleanse(pad, sizeof(pad));
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

static bool is_hash(size_t hash_size)
{
    return hash_size == 32 || hash_size == 48;
}

int keys_expand_label(size_t hash_size, const uint8_t *secret, const char *label, size_t label_len,
                      const uint8_t *context, size_t context_len, uint8_t *ret, size_t size)
{
    static const char prefix[] = "tls13 ";
    enum { PREFIX = sizeof(prefix) - 1 };
    uint8_t info[2 + 1 + PREFIX + KEYS_LABEL_MAX + 1 + KEYS_CONTEXT_MAX + 1], block[HASH_MAX];
    size_t len = 0;
    if (!is_hash(hash_size) || label_len > KEYS_LABEL_MAX || context_len > KEYS_CONTEXT_MAX ||
        size > hash_size)
        return -EINVAL;
    info[len++] = 0;
    info[len++] = (uint8_t)size;
    info[len++] = (uint8_t)(PREFIX + label_len);
    memcpy(info + len, prefix, PREFIX);
    len += PREFIX;
    memcpy(info + len, label, label_len);
    len += label_len;
    info[len++] = (uint8_t)context_len;
    if (context_len > 0)
        memcpy(info + len, context, context_len);
    len += context_len;
    info[len++] = 1; /* HKDF's first block */
    hmac(hash_size, secret, hash_size, info, len, block);
    memcpy(ret, block, size);
    OPENSSL_cleanse(block, sizeof(block));
    return 0;
}

int keys_extract(size_t hash_size, const uint8_t *previous, const uint8_t *input, size_t input_size,
                 uint8_t *ret)
{
    static const uint8_t zeros[HASH_MAX];
    static const uint8_t sha256_of_nothing[] = {
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8,
        0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c,
        0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55};
    static const uint8_t sha384_of_nothing[] = {
        0x38, 0xb0, 0x60, 0xa7, 0x51, 0xac, 0x96, 0x38, 0x4c, 0xd9, 0x32, 0x7e,
        0xb1, 0xb1, 0xe3, 0x6a, 0x21, 0xfd, 0xb7, 0x11, 0x14, 0xbe, 0x07, 0x43,
        0x4c, 0x0c, 0xc7, 0xbf, 0x63, 0xf6, 0xe1, 0xda, 0x27, 0x4e, 0xde, 0xbf,
        0xe7, 0x6f, 0x65, 0xfb, 0xd5, 0x1a, 0xd2, 0xf1, 0x48, 0x98, 0xb9, 0x5b};
    uint8_t salt[HASH_MAX] = {0};
    if (!is_hash(hash_size))
        return -EINVAL;
    if (previous != NULL) {
        int r = keys_expand_label(hash_size, previous, "derived", strlen("derived"),
                                  hash_size == 48 ? sha384_of_nothing : sha256_of_nothing,
                                  hash_size, salt, hash_size);
        assert(r == 0);
    }
    hmac(hash_size, salt, hash_size, input != NULL ? input : zeros,
         input != NULL ? input_size : hash_size, ret);
    OPENSSL_cleanse(salt, sizeof(salt));
    return 0;
}

/* With an empty context, as all labels here have. */
static void expand(const struct suite *suite, const uint8_t *secret, const char *label, uint8_t *ret,
                   size_t size)
{
    int r = keys_expand_label(suite->hash_size, secret, label, strlen(label), NULL, 0, ret, size);
    assert(r == 0);
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
    expand(suite, secret, "key", ret_key, suite->key_size);
    expand(suite, secret, "iv", ret_iv, KEYS_IV_SIZE);
    return 0;
}

int keys_update(uint16_t cipher, uint8_t *secret)
{
    const struct suite *suite = find(cipher);
    if (suite == NULL || suite->tls12)
        return -EINVAL;
    expand(suite, secret, "traffic upd", secret, suite->hash_size); /* read before it is written */
    return 0;
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
    uint8_t text[HASH_MAX + SEED_MAX], block[HASH_MAX], *first = text + suite->hash_size;
    size_t label_len = strlen(label), first_len = label_len + seed_size, done = 0;
    assert(first_len <= SEED_MAX);
    memcpy(first, label, label_len);
    memcpy(first + label_len, seed, seed_size);
    const uint8_t *from = first;
    size_t from_len = first_len;
    while (done < size) {
        hmac(suite->hash_size, secret, secret_size, from, from_len, block);
        memcpy(text, block, suite->hash_size);
        from = text;
        from_len = suite->hash_size;
        hmac(suite->hash_size, secret, secret_size, text, from_len + first_len, block);
        size_t n = size - done < suite->hash_size ? size - done : suite->hash_size;
        memcpy(ret + done, block, n);
        done += n;
    }
    OPENSSL_cleanse(text, sizeof(text));
    OPENSSL_cleanse(block, sizeof(block));
    return 0;
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
