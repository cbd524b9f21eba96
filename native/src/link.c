/* link.c: the link protocol's two messages: bytes in, bytes out. Performs no I/O and believes
 * nothing: whether a header's source may be trusted is for its reader to decide. */
#include "link.h"

enum {
    HEADER_FIXED = 16,          /* signature, command, family, length */
    HEADER_IPV4 = 12, HEADER_IPV6 = 36,
    COMMAND_LOCAL = 0x20, COMMAND_PROXY = 0x21,
    FAMILY_TCP4 = 0x11, FAMILY_TCP6 = 0x21,
    TLV_FIXED = 3, TLV_UNIQUE_ID = 0x05,
    REPLY_FIXED = 28,           /* magic 2, version 1, zero 1, size 2, reason 2, caps 4, flow 16 */
};

static const uint8_t signature[12] = "\r\n\r\n\0\r\nQUIT\n";
static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
static const uint8_t reply_magic[2] = {'S', 'L'};

static void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static bool is_ipv4(const uint8_t *addr)
{
    return memcmp(addr, mapped, sizeof(mapped)) == 0;
}

int link_header_encode(const struct link_header *header, uint8_t *buf, size_t len)
{
    bool ipv4 = is_ipv4(header->src_addr) && is_ipv4(header->dst_addr);
    size_t addresses = header->local ? 0 : ipv4 ? HEADER_IPV4 : HEADER_IPV6;
    size_t tlvs = header->local ? 0 : TLV_FIXED + sizeof(header->flow_id);
    size_t size = HEADER_FIXED + addresses + tlvs;
    if (len < size)
        return -ENOBUFS;
    memcpy(buf, signature, sizeof(signature));
    buf[12] = header->local ? COMMAND_LOCAL : COMMAND_PROXY;
    buf[13] = header->local ? 0 : ipv4 ? FAMILY_TCP4 : FAMILY_TCP6;
    put16(buf + 14, (uint16_t)(addresses + tlvs));
    if (header->local)
        return (int)size;

    size_t skip = ipv4 ? sizeof(mapped) : 0, width = 16 - skip;
    uint8_t *at = buf + HEADER_FIXED;
    memcpy(at, header->src_addr + skip, width);
    memcpy(at + width, header->dst_addr + skip, width);
    put16(at + 2 * width, header->src_port);
    put16(at + 2 * width + 2, header->dst_port);
    at += addresses;
    at[0] = TLV_UNIQUE_ID;
    put16(at + 1, sizeof(header->flow_id));
    memcpy(at + TLV_FIXED, header->flow_id, sizeof(header->flow_id));
    return (int)size;
}

static int decode_tlvs(const uint8_t *at, size_t len, struct link_header *header)
{
    bool has_flow = false;
    while (len > 0) {
        if (len < TLV_FIXED)
            return -EPROTO;
        size_t size = get16(at + 1);
        if (size > len - TLV_FIXED)
            return -EPROTO;
        if (at[0] == TLV_UNIQUE_ID) {
            if (has_flow || size != sizeof(header->flow_id))
                return -EPROTO;
            memcpy(header->flow_id, at + TLV_FIXED, size);
            has_flow = true;
        }
        at += TLV_FIXED + size;
        len -= TLV_FIXED + size;
    }
    return 0;
}

int link_header_decode(const uint8_t *buf, size_t len, struct link_header *ret)
{
    size_t seen = len < sizeof(signature) ? len : sizeof(signature);
    if (seen > 0 && memcmp(buf, signature, seen) != 0)
        return -EPROTO;
    if (len > 12 && buf[12] != COMMAND_PROXY && buf[12] != COMMAND_LOCAL)
        return -EPROTO;
    if (len < HEADER_FIXED)
        return 0;
    size_t body = get16(buf + 14), size = HEADER_FIXED + body;
    if (size > LINK_HEADER_MAX)
        return -EPROTO;

    struct link_header header = {.local = buf[12] == COMMAND_LOCAL};
    if (header.local) { /* family and block say nothing, by the specification */
        if (len < size)
            return 0;
        *ret = header;
        return (int)size;
    }
    size_t addresses = buf[13] == FAMILY_TCP4   ? HEADER_IPV4
                       : buf[13] == FAMILY_TCP6 ? HEADER_IPV6
                                                : 0;
    if (addresses == 0 || body < addresses)
        return -EPROTO;
    if (len < size)
        return 0;

    size_t width = addresses == HEADER_IPV4 ? 4 : 16, skip = 16 - width;
    const uint8_t *at = buf + HEADER_FIXED;
    memcpy(header.src_addr, mapped, skip);
    memcpy(header.dst_addr, mapped, skip);
    memcpy(header.src_addr + skip, at, width);
    memcpy(header.dst_addr + skip, at + width, width);
    header.src_port = get16(at + 2 * width);
    header.dst_port = get16(at + 2 * width + 2);
    int r = decode_tlvs(at + addresses, body - addresses, &header);
    if (r < 0)
        return r;
    *ret = header;
    return (int)size;
}

static bool printable(uint8_t c)
{
    return c >= 0x20 && c <= 0x7e;
}

int link_reply_encode(const struct link_reply *reply, uint8_t version, uint8_t *buf, size_t len)
{
    size_t detail = version >= 2 ? strnlen(reply->detail, DP_DETAIL_MAX) : 0;
    size_t size = REPLY_FIXED + detail;
    if (len < size)
        return -ENOBUFS;
    memcpy(buf, reply_magic, sizeof(reply_magic));
    buf[2] = version;
    buf[3] = 0;
    put16(buf + 4, (uint16_t)size);
    put16(buf + 6, reply->reason);
    put16(buf + 8, (uint16_t)(reply->capabilities >> 16));
    put16(buf + 10, (uint16_t)reply->capabilities);
    memcpy(buf + 12, reply->flow_id, sizeof(reply->flow_id));
    for (size_t i = 0; i < detail; i++) {
        uint8_t c = (uint8_t)reply->detail[i];
        buf[REPLY_FIXED + i] = printable(c) ? c : '?';
    }
    return (int)size;
}

int link_reply_decode(const uint8_t *buf, size_t len, uint8_t version, struct link_reply *ret)
{
    if ((len > 0 && buf[0] != reply_magic[0]) || (len > 1 && buf[1] != reply_magic[1]) ||
        (len > 2 && buf[2] != version) || (len > 3 && buf[3] != 0))
        return -EPROTO;
    if (len < 6)
        return 0;
    size_t size = get16(buf + 4), detail_max = version >= 2 ? DP_DETAIL_MAX : 0;
    if (size < REPLY_FIXED || size > REPLY_FIXED + detail_max)
        return -EPROTO;
    if (len < size)
        return 0;

    struct link_reply reply = {
        .reason = get16(buf + 6),
        .capabilities = (uint32_t)get16(buf + 8) << 16 | get16(buf + 10),
    };
    if (reply.reason >= DP_REASON_COUNT) /* of a newer peer: a refusal all the same */
        reply.reason = DP_REASON_REMOTE;
    memcpy(reply.flow_id, buf + 12, sizeof(reply.flow_id));
    for (size_t i = 0; i < size - REPLY_FIXED; i++) {
        if (!printable(buf[REPLY_FIXED + i])) /* ends up on an operator's terminal */
            return -EPROTO;
        reply.detail[i] = (char)buf[REPLY_FIXED + i];
    }
    *ret = reply;
    return (int)size;
}
