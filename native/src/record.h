/* record.h: how bytes cross one leg. Each implementation is a const table; which one a leg uses
 * is chosen per connection and shown per connection. Never owns the file descriptor. */
#ifndef SLUICE_RECORD_H
#define SLUICE_RECORD_H

#include "base.h"

struct record;

struct record_ops {
    uint8_t layer; /* enum dp_record_layer */
    /* >0 bytes; 0 = clean end (FIN, or close_notify); -EAGAIN; -ECONNRESET; -EPIPE;
     * -ENODATA = truncated (FIN without close_notify); -EBADMSG = TLS failure. */
    ssize_t (*read)(struct record *rec, void *buf, size_t len);
    /* >0 bytes taken; -EAGAIN; -errno. After -EAGAIN or a short count at least the bytes not
     * taken are offered again, maybe from another address: part of them may be on the wire. */
    ssize_t (*write)(struct record *rec, const void *buf, size_t len);
    /* Half-close: nothing more is written. 0, or -EAGAIN (call again when writable). */
    int (*finish)(struct record *rec);
    /* Bytes, or an end, wait that no readiness event will announce: read again. */
    bool (*pending)(const struct record *rec);
    /* A splice from fd brought this error, or 0, and no bytes; read is asked next. NULL = read
     * finds out by itself. */
    void (*splice_failed)(struct record *rec, ssize_t error);
};

struct record {
    const struct record_ops *ops;
    int fd; /* borrowed from the leg */
};

struct record_owner {            /* what the records tell whom they belong to */
    void *arg;
    /* The connection failed: by the peer's alert, or we send this one. */
    void (*failed)(void *arg, bool by_peer, uint8_t alert, const char *why);
    /* A client's, until settled: a record of handshake messages (NewSessionTicket), whole and as
     * it came, for OpenSSL to keep. -EBADMSG: malformed. */
    int (*ticket)(void *arg, const uint8_t *record, size_t len);
    /* A client's, once: data flows, or keys changed; no ticket will be handed over from now on. */
    void (*settled)(void *arg);
};

/* Embedded in the leg; nothing to free. */
void record_plain_init(struct record *rec, int fd);

#endif
