/* record_key.c: nonces, additional data and headers of both versions. A number is used up by the
 * attempt, so that no nonce is ever used twice. */
#include "record_key.h"

#include <openssl/crypto.h>

#include "record_control.h"

enum { AAD_12_SIZE = 13, SALT_SIZE = KEYS_IV_SIZE - KEYS_EXPLICIT_SIZE };

int record_key_init(struct record_key *key, uint16_t cipher, const uint8_t *secret, uint64_t seq,
                    bool seals, enum aead_engine engine)
{
    uint8_t bytes[KEYS_KEY_MAX];
    *key = (struct record_key){.seq = seq, .tls12 = keys_is_tls12(cipher)};
    int r = keys_derive(cipher, secret, bytes, key->iv);
    if (r == 0)
        r = aead_init(&key->aead, cipher, bytes, seals, engine);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return r;
}

void record_key_fini(struct record_key *key)
{
    aead_fini(&key->aead);
    OPENSSL_cleanse(key, sizeof(*key));
}

/* RFC 8446, 5.3. */
static void nonce_13(const struct record_key *key, uint64_t seq, uint8_t nonce[AEAD_NONCE_SIZE])
{
    memcpy(nonce, key->iv, SALT_SIZE);
    be64_put(nonce + SALT_SIZE, be64_get(key->iv + SALT_SIZE) ^ seq);
}

static void aad_12(uint64_t seq, const uint8_t *head, size_t plain, uint8_t aad[AAD_12_SIZE])
{
    be64_put(aad, seq);
    memcpy(aad + 8, head, 3);
    aad[11] = (uint8_t)(plain >> 8);
    aad[12] = (uint8_t)plain;
}

int record_key_seal(struct record_key *key, uint8_t type, const uint8_t *data, size_t len,
                    uint8_t *out)
{
    size_t body = len + record_key_overhead(key) - RECORD_HEADER;
    uint8_t nonce[AEAD_NONCE_SIZE], aad[AAD_12_SIZE];
    uint64_t seq = key->seq++;
    assert(len > 0 && len <= RECORD_PLAIN_MAX);
    out[0] = key->tls12 ? type : RECORD_DATA;
    out[1] = out[2] = 3;
    out[3] = (uint8_t)(body >> 8);
    out[4] = (uint8_t)body;
    if (!key->tls12) {
        nonce_13(key, seq, nonce);
        return aead_seal(&key->aead, nonce, out, RECORD_HEADER, data, len, type,
                         out + RECORD_HEADER);
    }
    /* Counted on from where OpenSSL began: other than any that it has used. */
    memcpy(nonce, key->iv, SALT_SIZE);
    be64_put(nonce + SALT_SIZE, be64_get(key->iv + SALT_SIZE) + seq);
    aad_12(seq, out, len, aad);
    uint8_t last = data[len - 1], *sealed = out + RECORD_HEADER + KEYS_EXPLICIT_SIZE;
    memcpy(out + RECORD_HEADER, nonce + SALT_SIZE, KEYS_EXPLICIT_SIZE);
    return aead_seal(&key->aead, nonce, aad, sizeof(aad), data, len - 1, last, sealed);
}

static struct record_fault fault(uint8_t alert, const char *why)
{
    return (struct record_fault){.alert = alert, .why = why};
}

struct record_fault record_key_check(const struct record_key *key,
                                     const uint8_t head[RECORD_HEADER])
{
    size_t size = record_key_size(head), least = record_key_overhead(key), most = RECORD_WIRE_MAX;
    if (key->tls12) {
        most = least + RECORD_PLAIN_MAX; /* there is no padding */
        if (head[0] < RECORD_ALERT || head[0] > RECORD_DATA)
            return fault(ALERT_UNEXPECTED_MESSAGE, "record of an unknown type");
        if (head[1] != 3 || head[2] != 3)
            return fault(ALERT_DECODE_ERROR, "record of another version");
    } else if (head[0] != RECORD_DATA) {
        return fault(ALERT_UNEXPECTED_MESSAGE, "record is not encrypted");
    }
    if (size > most)
        return fault(ALERT_RECORD_OVERFLOW, "record is too long");
    if (size < least)
        return fault(ALERT_BAD_RECORD_MAC, "record is too short");
    return fault(0, NULL);
}

static struct record_fault open_12(struct record_key *key, const uint8_t *record, size_t len,
                                   uint8_t *out, uint8_t *ret_type, size_t *ret_len)
{
    uint8_t nonce[AEAD_NONCE_SIZE], aad[AAD_12_SIZE], last;
    const uint8_t *explicit = record + RECORD_HEADER;
    memcpy(nonce, key->iv, SALT_SIZE);
    memcpy(nonce + SALT_SIZE, explicit, KEYS_EXPLICIT_SIZE);
    aad_12(key->seq++, record, len, aad);
    if (aead_open(&key->aead, nonce, aad, sizeof(aad), explicit + KEYS_EXPLICIT_SIZE,
                  len + AEAD_TAG_SIZE, out, &last) < 0)
        return fault(ALERT_BAD_RECORD_MAC, "record is not authentic");
    if (len > 0)
        out[len - 1] = last;
    *ret_type = record[0];
    *ret_len = len;
    return fault(0, NULL);
}

struct record_fault record_key_open(struct record_key *key, const uint8_t *record, uint8_t *out,
                                    uint8_t *ret_type, size_t *ret_len)
{
    size_t size = record_key_size(record), len = size - record_key_overhead(key);
    uint8_t nonce[AEAD_NONCE_SIZE], type;
    if (key->tls12)
        return open_12(key, record, len, out, ret_type, ret_len);
    nonce_13(key, key->seq++, nonce);
    if (aead_open(&key->aead, nonce, record, RECORD_HEADER, record + RECORD_HEADER,
                  size - RECORD_HEADER, out, &type) < 0)
        return fault(ALERT_BAD_RECORD_MAC, "record is not authentic");
    if (len > RECORD_PLAIN_MAX)
        return fault(ALERT_RECORD_OVERFLOW, "record holds too much");
    while (type == 0 && len > 0)
        type = out[--len];
    if (type == 0)
        return fault(ALERT_UNEXPECTED_MESSAGE, "record holds nothing but padding");
    *ret_type = type;
    *ret_len = len;
    return fault(0, NULL);
}
