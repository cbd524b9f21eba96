/* record_user.h: TLS 1.3's and 1.2's records sealed and opened by us once OpenSSL has shaken hands:
 * with alerts, close_notify and, in TLS 1.3, KeyUpdate. Several records go into one send and come
 * out of one recv. Knows no handshake, certificate or session: those are its owner's. */
#ifndef SLUICE_RECORD_USER_H
#define SLUICE_RECORD_USER_H

#include "buffer.h"
#include "record.h"
#include "record_key.h"

enum {
    RECORD_SMALL = RECORD_WIRE_MAX + 64,          /* one record and a KeyUpdate before it */
    RECORD_SLICE = 4,            /* full records that go into one send */
    RECORD_LARGE = RECORD_SLICE * (RECORD_PLAIN_MAX + RECORD_OVERHEAD_MAX) + 64,
    RECORD_BUFFERS_A_LEG = 3,    /* ciphertext in, plaintext in, ciphertext out */
};

struct record_user;

struct record_user_spec {        /* borrowed for the call */
    int fd;
    bool is_server;
    uint16_t cipher;             /* IANA number */
    const uint8_t *read_secret, *write_secret; /* keys.h says what they are */
    uint64_t read_seq, write_seq;/* records that OpenSSL has read and written under them */
    enum aead_engine engine;
    struct buffers *buffers;     /* borrowed for life; of RECORD_SMALL and RECORD_LARGE */
    struct buffer *wire;         /* taken on success: what came behind the handshake; or NULL */
    struct record_owner owner;   /* ticket, settled: for a client of TLS 1.3; else NULL */
};

/* -EINVAL: not one of keys.h's suites; -ENOMEM. */
DP_MUST_CHECK int record_user_new(const struct record_user_spec *spec, struct record_user **ret);
void record_user_free(struct record_user *user); /* wipes the keys; accepts NULL */
struct record *record_user_record(struct record_user *user);
bool record_user_wants_write(const struct record_user *user); /* sealed bytes wait */

/* So that somebody else can go on: from the first call on nothing is read beyond the record in
 * front, and read and write say -EAGAIN as soon as nothing waits between them and the socket.
 * 0 = so it is now; -EAGAIN = not yet, call again after the next read or write; -EBUSY = it will
 * not be, and reading and writing go on as before; *ret_why. */
DP_MUST_CHECK int record_user_rest(struct record_user *user, enum dp_fallback *ret_why);
void record_user_resume(struct record_user *user); /* nobody took it: go on as before */
/* The kernel took our keys of this connection and not the peer's: it seals what is written from now
 * on. Nothing sealed by us may wait. */
void record_user_let_kernel_seal(struct record_user *user);
struct record_user_place {       /* of one direction; borrowed from user */
    const uint8_t *secret;
    uint64_t seq;
};
void record_user_places(const struct record_user *user, struct record_user_place *ret_read,
                        struct record_user_place *ret_write);

/* Records under one key, RFC 8446 5.5, after which it is changed; for tests to lower. TLS 1.2
 * cannot change it. */
enum { RECORD_KEY_LIMIT = 1 << 24 };
void record_user_set_key_limit(struct record_user *user, uint64_t records);

#endif
