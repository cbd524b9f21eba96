/* record_ktls.h: TLS 1.3's and 1.2's records by the kernel, once OpenSSL has shaken hands. What is
 * data may be spliced from and to the descriptor; alerts, tickets and KeyUpdate come by read. Knows
 * no handshake, certificate or session: those are its owner's. */
#ifndef SLUICE_RECORD_KTLS_H
#define SLUICE_RECORD_KTLS_H

#include "buffer.h"
#include "ktls.h"
#include "record.h"

struct record_ktls;

struct record_ktls_spec {        /* borrowed for the call */
    int fd;
    bool is_server;
    uint16_t cipher;             /* IANA number */
    struct ktls_direction read, write;
    bool device;                 /* see whether the NIC takes it */
    struct buffers *buffers;     /* borrowed for life; of RECORD_SMALL and RECORD_LARGE */
    struct record_owner owner;   /* ticket, settled: for a client of TLS 1.3; else NULL */
};

/* As ktls_install, or with spec->device ktls_install_seen. */
DP_MUST_CHECK int record_ktls_new(const struct record_ktls_spec *spec, struct record_ktls **ret,
                                  enum dp_fallback *ret_why);
void record_ktls_free(struct record_ktls *ktls); /* accepts NULL */
struct record *record_ktls_record(struct record_ktls *ktls);
void record_ktls_lose_device(struct record_ktls *ktls); /* its layer is the kernel's now */
/* A KeyUpdate came that the kernel could not follow, which ends the connection: before 6.14. */
bool record_ktls_met_key_update(const struct record_ktls *ktls);

/* For fd whose records the kernel seals under secret: a KeyUpdate of ours, and the next key, which
 * secret becomes. Follows since Linux 6.14. -EAGAIN: nothing was said; any other error ends the
 * connection. */
DP_MUST_CHECK int record_ktls_update(int fd, uint16_t cipher, uint8_t *secret);

#endif
