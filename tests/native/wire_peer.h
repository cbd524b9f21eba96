/* wire_peer.h: the other end of a record_user, by hand: seals whatever it is told, however wrong,
 * and opens what comes, following KeyUpdates. */
#ifndef SLUICE_TEST_WIRE_PEER_H
#define SLUICE_TEST_WIRE_PEER_H

#include "keys.h"
#include "record_user.h"

struct wire_key {
    struct aead aead;
    uint8_t secret[KEYS_SECRET_MAX], iv[KEYS_IV_SIZE];
    uint64_t seq;
};

struct wire_peer {
    uint16_t cipher;
    struct wire_key out, in;     /* out: what record_user reads */
};

/* With wire_secret's secrets; or, to pass for a real peer, with those of a handshake. */
void wire_peer_init(struct wire_peer *peer, uint16_t cipher);
void wire_peer_init_as(struct wire_peer *peer, uint16_t cipher, const uint8_t *out_secret,
                       const uint8_t *in_secret);
void wire_peer_fini(struct wire_peer *peer);
void wire_secret(uint8_t *ret, bool of_peer);
void wire_peer_update(struct wire_peer *peer, struct wire_key *key, bool seals);

/* TLSCiphertext of content, type and padding zeros (none in TLS 1.2); its size. ret has room. */
size_t wire_seal(struct wire_peer *peer, uint8_t type, const void *content, size_t len,
                 size_t padding, uint8_t *ret);
/* Opens the record in front of data. Its size on the wire, 0 = not whole, -1 = not authentic. */
int wire_open(struct wire_peer *peer, const uint8_t *data, size_t len, uint8_t *ret_type,
              uint8_t *ret_content, size_t *ret_len);

#endif
