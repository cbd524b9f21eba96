/* ktls.h: kernel TLS on a connected socket: hands it the keys of both directions, then sends and
 * receives records with their types. Knows no protocol: what a record says is for record_ktls.c.
 * Linux, Documentation/networking/tls.rst. */
#ifndef SLUICE_KTLS_H
#define SLUICE_KTLS_H

#include "base.h"

struct ktls_direction {          /* borrowed for the call */
    const uint8_t *secret;       /* keys.h says what it is */
    uint64_t seq;                /* records that crossed under it already */
};

/* From here on the kernel seals what is written to fd and opens what is read. Nothing that came
 * behind the handshake may have been read. 0.
 * -ENOTSUP: refused, and the socket is as it was for every other way of using it; *ret_why.
 * -EIO: the kernel seals from here on, but refused to open; *ret_why. */
DP_MUST_CHECK int ktls_install(int fd, uint16_t cipher, const struct ktls_direction *tx,
                               const struct ktls_direction *rx, enum dp_fallback *ret_why);
/* The same, and whether the route's device took it: with 0, *ret_why is NONE, SEALS_ONLY, NO_DEVICE
 * or IN_DOUBT. The kernel tells that of no single socket without netlink, so its two counts of each
 * direction are looked at before and behind, one caller in this process at a time: a flow raises one
 * of them. When somebody else has raised the other meanwhile, which is whose cannot be told. */
DP_MUST_CHECK int ktls_install_seen(int fd, uint16_t cipher, const struct ktls_direction *tx,
                                    const struct ktls_direction *rx, enum dp_fallback *ret_why);
/* The next key of one direction, from its first record on, behind a KeyUpdate: Linux 6.14. -errno,
 * -EBUSY from older ones. */
DP_MUST_CHECK int ktls_rekey(int fd, uint16_t cipher, bool sends, const uint8_t *secret);

/* One record of this content type. Bytes taken, or -errno. */
DP_MUST_CHECK ssize_t ktls_send(int fd, uint8_t type, const void *data, size_t len);
/* Bytes of records of one content type, as many as there are and fit; *ret_type, KTLS_NO_TYPE for
 * one that says 0. 0 with a type is an empty record, 0 with *ret_type 0 the FIN. -errno. */
enum { KTLS_NO_TYPE = 255 };
DP_MUST_CHECK ssize_t ktls_receive(int fd, void *buf, size_t len, uint8_t *ret_type);

#endif
