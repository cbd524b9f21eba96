/* link.h: the link protocol inside a mesh connection: a PROXY v2 header from the client side, a
 * small reply from the server side. Bytes in, bytes out; no I/O.
 * https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt section 2.2
 *
 * The reply, in network order: 'S' 'L', link version (1 byte), 0, size of all of it (2), reason (2),
 * capabilities (4), flow id (16), and from version 2 on the detail: printable ASCII, no NUL. */
#ifndef SLUICE_LINK_H
#define SLUICE_LINK_H

#include "base.h"

enum {
    LINK_HEADER_MAX = 536,              /* longest PROXY v2 header we read or write */
    LINK_REPLY_MAX = 32 + DP_DETAIL_MAX,
    LINK_CAP_KEY_UPDATE = 1 << 0,       /* takes a TLS KeyUpdate */
};

struct link_header {
    uint8_t src_addr[16], dst_addr[16];
    uint16_t src_port, dst_port;
    uint8_t flow_id[16];                /* TLV PP2_TYPE_UNIQUE_ID; zero when absent */
    bool local;                         /* PROXY v2 LOCAL command: no addresses */
};

struct link_reply {
    uint16_t reason;                    /* enum dp_reason; DP_REASON_NONE = connected */
    uint8_t flow_id[16];
    uint32_t capabilities;              /* LINK_CAP_… */
    char detail[DP_DETAIL_MAX + 1];     /* version 2 and up; else "" */
};

/* Bytes written, or -ENOBUFS. */
DP_MUST_CHECK int link_header_encode(const struct link_header *header, uint8_t *buf, size_t len);
/* >0 = the header's bytes; 0 = need more; -EPROTO = malformed or longer than LINK_HEADER_MAX. */
DP_MUST_CHECK int link_header_decode(const uint8_t *buf, size_t len, struct link_header *ret);
DP_MUST_CHECK int link_reply_encode(const struct link_reply *reply, uint8_t version, uint8_t *buf,
                                    size_t len);
DP_MUST_CHECK int link_reply_decode(const uint8_t *buf, size_t len, uint8_t version,
                                    struct link_reply *ret);

#endif
