/* wire_peer.c: see wire_peer.h. */
#include "wire_peer.h"

#include <openssl/evp.h>
#include <stdlib.h>

#include "must.h"

static void set_key(const struct wire_peer *peer, struct wire_key *key, bool seals)
{
    uint8_t bytes[KEYS_KEY_MAX];
    MUST(keys_derive(peer->cipher, key->secret, bytes, key->iv) == 0);
    aead_fini(&key->aead);
    MUST(aead_init(&key->aead, peer->cipher, bytes, seals, AEAD_EVP) == 0);
    key->seq = 0;
}

void wire_secret(uint8_t *ret, bool of_peer)
{
    for (size_t i = 0; i < KEYS_SECRET_MAX; i++)
        ret[i] = (uint8_t)(of_peer ? 7 * i + 1 : 11 * i + 2);
}

void wire_peer_init(struct wire_peer *peer, uint16_t cipher)
{
    uint8_t out[KEYS_SECRET_MAX], in[KEYS_SECRET_MAX];
    wire_secret(out, true);
    wire_secret(in, false);
    wire_peer_init_as(peer, cipher, out, in);
}

void wire_peer_init_as(struct wire_peer *peer, uint16_t cipher, const uint8_t *out_secret,
                       const uint8_t *in_secret)
{
    *peer = (struct wire_peer){.cipher = cipher};
    memcpy(peer->out.secret, out_secret, keys_secret_size(cipher));
    memcpy(peer->in.secret, in_secret, keys_secret_size(cipher));
    set_key(peer, &peer->out, true);
    set_key(peer, &peer->in, false);
}

void wire_peer_fini(struct wire_peer *peer)
{
    aead_fini(&peer->out.aead);
    aead_fini(&peer->in.aead);
}

void wire_peer_update(struct wire_peer *peer, struct wire_key *key, bool seals)
{
    MUST(keys_update(peer->cipher, key->secret) == 0);
    set_key(peer, key, seals);
}

static void nonce_of(struct wire_key *key, uint8_t *nonce)
{
    memcpy(nonce, key->iv, KEYS_IV_SIZE);
    for (int i = 0; i < 8; i++)
        nonce[4 + i] ^= (uint8_t)(key->seq >> (56 - 8 * i));
    key->seq++;
}

/* TLS 1.2 by the letter of RFC 5288: an explicit nonce that the sender likes, and the sequence
 * number, type, version and length of the plaintext beside it. */
enum { EXPLICIT = 8, AAD_12 = 13 };

static void frame_12(struct wire_key *key, const uint8_t *head, const uint8_t *explicit, size_t len,
                     uint8_t nonce[KEYS_IV_SIZE], uint8_t aad[AAD_12])
{
    memcpy(nonce, key->iv, KEYS_IV_SIZE - EXPLICIT);
    memcpy(nonce + KEYS_IV_SIZE - EXPLICIT, explicit, EXPLICIT);
    for (int i = 0; i < 8; i++)
        aad[i] = (uint8_t)(key->seq >> (56 - 8 * i));
    key->seq++;
    memcpy(aad + 8, head, 3);
    aad[11] = (uint8_t)(len >> 8);
    aad[12] = (uint8_t)len;
}

static size_t seal_12(struct wire_peer *peer, uint8_t type, const uint8_t *content, size_t len,
                      uint8_t *ret)
{
    uint8_t nonce[KEYS_IV_SIZE], aad[AAD_12];
    size_t body = EXPLICIT + len + AEAD_TAG_SIZE;
    const uint8_t head[] = {type, 3, 3, (uint8_t)(body >> 8), (uint8_t)body};
    memcpy(ret, head, sizeof(head));
    for (int i = 0; i < EXPLICIT; i++)
        ret[5 + i] = (uint8_t)((peer->out.seq * UINT64_C(0x9e3779b97f4a7c15)) >> 8 * i);
    frame_12(&peer->out, head, ret + 5, len, nonce, aad);
    if (len > 0) { /* an empty record, which aead_seal does not make, is a tag alone */
        MUST(aead_seal(&peer->out.aead, nonce, aad, sizeof(aad), content, len - 1,
                       content[len - 1], ret + 5 + EXPLICIT) == 0);
    } else {
        EVP_CIPHER_CTX *ctx = peer->out.aead.evp;
        int n;
        MUST(EVP_EncryptInit_ex2(ctx, NULL, NULL, nonce, NULL) &&
             EVP_EncryptUpdate(ctx, NULL, &n, aad, sizeof(aad)) &&
             EVP_EncryptFinal_ex(ctx, ret + 5 + EXPLICIT, &n) &&
             EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE, ret + 5 + EXPLICIT));
    }
    return 5 + body;
}

static int open_12(struct wire_peer *peer, const uint8_t *data, size_t size, uint8_t *ret_type,
                   uint8_t *ret_content, size_t *ret_len)
{
    uint8_t nonce[KEYS_IV_SIZE], aad[AAD_12], last;
    if (size < 5 + EXPLICIT + AEAD_TAG_SIZE)
        return -1;
    size_t len = size - 5 - EXPLICIT - AEAD_TAG_SIZE;
    frame_12(&peer->in, data, data + 5, len, nonce, aad);
    if (aead_open(&peer->in.aead, nonce, aad, sizeof(aad), data + 5 + EXPLICIT, len + AEAD_TAG_SIZE,
                  ret_content, &last) < 0)
        return -1;
    if (len > 0)
        ret_content[len - 1] = last;
    *ret_type = data[0];
    *ret_len = len;
    return (int)size;
}

size_t wire_seal(struct wire_peer *peer, uint8_t type, const void *content, size_t len,
                 size_t padding, uint8_t *ret)
{
    if (keys_is_tls12(peer->cipher)) /* where there is no padding */
        return seal_12(peer, type, content, len, ret);
    uint8_t nonce[KEYS_IV_SIZE];
    size_t inner = len + 1 + padding, body = inner + AEAD_TAG_SIZE;
    uint8_t *plain = calloc(1, inner);
    if (len > 0)
        memcpy(plain, content, len);
    plain[len] = type;
    const uint8_t head[] = {23, 3, 3, (uint8_t)(body >> 8), (uint8_t)body};
    memcpy(ret, head, sizeof(head));
    nonce_of(&peer->out, nonce);
    MUST(aead_seal(&peer->out.aead, nonce, head, sizeof(head), plain, inner - 1, plain[inner - 1],
                   ret + sizeof(head)) == 0);
    free(plain);
    return sizeof(head) + body;
}

int wire_open(struct wire_peer *peer, const uint8_t *data, size_t len, uint8_t *ret_type,
              uint8_t *ret_content, size_t *ret_len)
{
    uint8_t nonce[KEYS_IV_SIZE];
    size_t size = len >= 5 ? 5 + ((size_t)data[3] << 8 | data[4]) : 0;
    if (size == 0 || len < size)
        return 0;
    if (keys_is_tls12(peer->cipher))
        return open_12(peer, data, size, ret_type, ret_content, ret_len);
    nonce_of(&peer->in, nonce);
    if (size < 5 + 17 || aead_open(&peer->in.aead, nonce, data, 5, data + 5, size - 5, ret_content,
                                   ret_type) < 0)
        return -1;
    *ret_len = size - 5 - 17; /* record_user never pads */
    if (*ret_type == 22 && *ret_len == 5 && ret_content[0] == 24)
        wire_peer_update(peer, &peer->in, false);
    return (int)size;
}
