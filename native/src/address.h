/* address.h: between 16-byte addresses and the kernel's. IPv4 is ::ffff:a.b.c.d in 16 bytes. */
#ifndef SLUICE_ADDRESS_H
#define SLUICE_ADDRESS_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "base.h"

static const uint8_t address_ipv4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static inline bool address_is_ipv4(const uint8_t *addr)
{
    return memcmp(addr, address_ipv4_prefix, sizeof(address_ipv4_prefix)) == 0;
}

/* All zero and port 0 for families that are neither. */
static inline void address_from_socket(const struct sockaddr_storage *from, uint8_t *ret_addr,
                                       uint16_t *ret_port)
{
    memset(ret_addr, 0, 16);
    *ret_port = 0;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)from;
        memcpy(ret_addr, address_ipv4_prefix, sizeof(address_ipv4_prefix));
        memcpy(ret_addr + 12, &in->sin_addr, 4);
        *ret_port = ntohs(in->sin_port);
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
        memcpy(ret_addr, &in6->sin6_addr, 16);
        *ret_port = ntohs(in6->sin6_port);
    }
}

static inline socklen_t address_to_socket(const uint8_t *addr, uint16_t port,
                                          struct sockaddr_storage *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (address_is_ipv4(addr)) {
        struct sockaddr_in *in = (struct sockaddr_in *)ret;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        memcpy(&in->sin_addr, addr + 12, 4);
        return sizeof(*in);
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    memcpy(&in6->sin6_addr, addr, 16);
    return sizeof(*in6);
}

#endif
