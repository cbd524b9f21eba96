/* cable.h: two network namespaces joined by the test adapter (nic/), for one test: connections
 * across it, what its devices count, what crosses the cable, its faults. Aborts where it cannot.
 *
 *   namespace cable-a          cable-b
 *   nic0 198.18.90.1 ════╤════ nic1 198.18.90.2
 *        fd18:90::1      │          fd18:90::2
 *                      wire0, in our own namespace
 */
#ifndef SLUICE_TEST_CABLE_H
#define SLUICE_TEST_CABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void cable_init(void);
void cable_fini(void);

/* Nobody listens to the cable any more: hearing costs time. */
void cable_deafen(void);

/* A TCP connection from a to b, non-blocking. */
void cable_pair(int family, int ret_fds[2]);
/* Where the sockets made from here on are: 0 = cable-a, 1 = cable-b, -1 = where we came from. */
void cable_enter(int end);

/* Of the device at this end: ethtool -S, -K and ip link. */
uint64_t cable_count(int end, const char *name);
void cable_feature(int end, const char *name, bool on);
void cable_link(int end, const char *change);
/* A parameter of the adapter's: lose, flip, refuse. */
void cable_fault(const char *name, unsigned value);

/* What the kernel says of a socket at this end: tx, rx as TLS_CONF_… of linux/tls.h; 0 = no TLS. */
struct cable_conf {
    uint16_t tx, rx;
};
struct cable_conf cable_conf(int end, int fd);
/* Of /proc/net/tls_stat at this end. */
long cable_tls_stat(int end, const char *name);

/* Everything that crossed since the last call: frames with and without this text. */
struct cable_heard {
    size_t with, without;
};
struct cable_heard cable_hear(const char *text);

#endif
