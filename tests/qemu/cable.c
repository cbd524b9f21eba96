/* cable.c: see cable.h. */
#define _GNU_SOURCE /* setns, memmem */
#include "cable.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/tls.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "must.h"

enum { FRAME_MAX = 1 << 17, HEARD_MAX = 64 << 20, COUNTS_MAX = 64 };

static const char *const spaces[] = {"cable-a", "cable-b"};
static struct {
    int home, ends[2];           /* namespaces */
    char names[2][IFNAMSIZ];     /* of the devices, now */
    int wire;                    /* packet socket */
} cable;

static __attribute__((format(printf, 1, 2))) void run(const char *format, ...)
{
    char command[256];
    va_list args;
    va_start(args, format);
    MUST(vsnprintf(command, sizeof(command), format, args) < (int)sizeof(command));
    va_end(args);
    if (system(command) != 0) {
        fprintf(stderr, "failed: %s\n", command);
        abort();
    }
}

void cable_enter(int end)
{
    MUST(setns(end < 0 ? cable.home : cable.ends[end], CLONE_NEWNET) == 0);
}

static void listen_to_the_wire(void)
{
    const int room = HEARD_MAX;
    run("ip link set wire0 up");
    cable.wire = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
                             .sll_ifindex = (int)if_nametoindex("wire0")};
    MUST(cable.wire >= 0 && at.sll_ifindex > 0);
    MUST(setsockopt(cable.wire, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) == 0);
    MUST(bind(cable.wire, (struct sockaddr *)&at, sizeof(at)) == 0);
}

void cable_deafen(void)
{
    run("ip link set wire0 down");
}

void cable_init(void)
{
    cable.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    MUST(cable.home >= 0);
    for (int end = 0; end < 2; end++) {
        const char *space = spaces[end];
        char path[64];
        run("ip netns add %s && ip link set nic%d netns %s", space, end, space);
        run("ip -n %s addr add 198.18.90.%d/24 dev nic%d", space, end + 1, end);
        run("ip -n %s addr add fd18:90::%d/64 dev nic%d nodad", space, end + 1, end);
        run("ip -n %s link set nic%d up", space, end);
        snprintf(path, sizeof(path), "/run/netns/%s", space);
        snprintf(cable.names[end], sizeof(cable.names[end]), "nic%d", end);
        cable.ends[end] = open(path, O_RDONLY | O_CLOEXEC);
        MUST(cable.ends[end] >= 0);
    }
    listen_to_the_wire();
}

void cable_fini(void)
{
    close(cable.wire);
    for (int end = 0; end < 2; end++) {
        run("ip -n %s link set %s netns 1", spaces[end], cable.names[end]);
        run("ip netns del %s", spaces[end]);
        close(cable.ends[end]);
    }
    close(cable.home);
}

static socklen_t address(int family, struct sockaddr_storage *ret)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
    memset(ret, 0, sizeof(*ret));
    ret->ss_family = (sa_family_t)family;
    MUST(family == AF_INET ? inet_pton(family, "198.18.90.2", &v4->sin_addr) == 1
                           : inet_pton(family, "fd18:90::2", &v6->sin6_addr) == 1);
    return family == AF_INET ? sizeof(*v4) : sizeof(*v6);
}

void cable_pair(int family, int ret_fds[2])
{
    struct sockaddr_storage to;
    socklen_t len = address(family, &to);
    const int type = SOCK_STREAM | SOCK_CLOEXEC, on = 1;
    cable_enter(1);
    int listener = socket(family, type, 0);
    MUST(listener >= 0 && bind(listener, (struct sockaddr *)&to, len) == 0);
    MUST(listen(listener, 1) == 0 && getsockname(listener, (struct sockaddr *)&to, &len) == 0);
    cable_enter(0);
    ret_fds[0] = socket(family, type, 0);
    MUST(ret_fds[0] >= 0 && connect(ret_fds[0], (struct sockaddr *)&to, len) == 0);
    cable_enter(-1);
    ret_fds[1] = accept(listener, NULL, NULL);
    MUST(ret_fds[1] >= 0);
    close(listener);
    for (int i = 0; i < 2; i++) {
        MUST(fcntl(ret_fds[i], F_SETFL, O_NONBLOCK) == 0);
        MUST(setsockopt(ret_fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
    }
}

static void ethtool(int end, void *request)
{
    struct ifreq about = {.ifr_data = request};
    memcpy(about.ifr_name, cable.names[end], sizeof(about.ifr_name));
    cable_enter(end);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0 && ioctl(fd, SIOCETHTOOL, &about) == 0);
    close(fd);
    cable_enter(-1);
}

uint64_t cable_count(int end, const char *name)
{
    struct {
        struct ethtool_gstrings head;
        char names[COUNTS_MAX][ETH_GSTRING_LEN];
    } strings = {.head = {.cmd = ETHTOOL_GSTRINGS, .string_set = ETH_SS_STATS}};
    struct {
        struct ethtool_stats head;
        uint64_t values[COUNTS_MAX];
    } stats = {.head = {.cmd = ETHTOOL_GSTATS}};
    ethtool(end, &strings);
    ethtool(end, &stats);
    for (uint32_t i = 0; i < stats.head.n_stats && i < COUNTS_MAX; i++)
        if (strcmp(strings.names[i], name) == 0)
            return stats.values[i];
    fprintf(stderr, "the adapter does not count %s\n", name);
    abort();
}

void cable_feature(int end, const char *name, bool on)
{
    run("ip netns exec %s ethtool -K %s %s %s", spaces[end], cable.names[end], name,
        on ? "on" : "off");
}

void cable_link(int end, const char *change)
{
    char name[IFNAMSIZ];
    run("ip -n %s link set %s %s", spaces[end], cable.names[end], change);
    if (sscanf(change, "name %15s", name) == 1)
        memcpy(cable.names[end], name, sizeof(name));
}

void cable_fault(const char *name, unsigned value)
{
    char path[64];
    snprintf(path, sizeof(path), "/sys/module/sluice_nic/parameters/%s", name);
    FILE *file = fopen(path, "w");
    MUST(file != NULL && fprintf(file, "%u", value) > 0 && fclose(file) == 0);
}

/* The attribute of this type among these, or NULL. */
static const struct rtattr *find(const struct rtattr *at, size_t len, unsigned type)
{
    for (; RTA_OK(at, len); at = RTA_NEXT(at, len))
        if ((at->rta_type & NLA_TYPE_MASK) == type)
            return at;
    return NULL;
}

static const struct rtattr *within(const struct rtattr *nest, unsigned type)
{
    return nest == NULL ? NULL : find(RTA_DATA(nest), RTA_PAYLOAD(nest), type);
}

static uint16_t number(const struct rtattr *at)
{
    uint16_t value = 0;
    if (at != NULL)
        memcpy(&value, RTA_DATA(at), sizeof(value));
    return value;
}

static struct inet_diag_sockid identity(int fd, uint8_t *ret_family)
{
    struct sockaddr_storage ours, theirs;
    socklen_t len = sizeof(ours);
    struct inet_diag_sockid id = {.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}};
    MUST(getsockname(fd, (struct sockaddr *)&ours, &len) == 0);
    len = sizeof(theirs);
    MUST(getpeername(fd, (struct sockaddr *)&theirs, &len) == 0);
    *ret_family = (uint8_t)ours.ss_family;
    if (ours.ss_family == AF_INET) {
        const struct sockaddr_in *from = (void *)&ours, *to = (void *)&theirs;
        id.idiag_sport = from->sin_port;
        id.idiag_dport = to->sin_port;
        id.idiag_src[0] = from->sin_addr.s_addr;
        id.idiag_dst[0] = to->sin_addr.s_addr;
    } else {
        const struct sockaddr_in6 *from = (void *)&ours, *to = (void *)&theirs;
        id.idiag_sport = from->sin6_port;
        id.idiag_dport = to->sin6_port;
        memcpy(id.idiag_src, &from->sin6_addr, sizeof(id.idiag_src));
        memcpy(id.idiag_dst, &to->sin6_addr, sizeof(id.idiag_dst));
    }
    return id;
}

struct cable_conf cable_conf(int end, int fd)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } ask = {.head = {.nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                      .nlmsg_flags = NLM_F_REQUEST},
             .body = {.sdiag_protocol = IPPROTO_TCP, .idiag_ext = 1 << (INET_DIAG_INFO - 1),
                      .idiag_states = ~0u}};
    ask.body.id = identity(fd, &ask.body.sdiag_family);
    union {
        struct nlmsghdr head;
        uint8_t room[8192];
    } said;
    cable_enter(end);
    int diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    cable_enter(-1);
    MUST(diag >= 0 && send(diag, &ask, sizeof(ask), 0) == (ssize_t)sizeof(ask));
    MUST(recv(diag, &said, sizeof(said), 0) > 0);
    MUST(said.head.nlmsg_type == SOCK_DIAG_BY_FAMILY);
    close(diag);
    const struct inet_diag_msg *about = NLMSG_DATA(&said.head);
    size_t len = said.head.nlmsg_len - NLMSG_LENGTH(sizeof(*about));
    const struct rtattr *ulp = find((const void *)(about + 1), len, INET_DIAG_ULP_INFO);
    const struct rtattr *tls = within(ulp, INET_ULP_INFO_TLS);
    return (struct cable_conf){.tx = number(within(tls, TLS_INFO_TXCONF)),
                               .rx = number(within(tls, TLS_INFO_RXCONF))};
}

long cable_tls_stat(int end, const char *name)
{
    char word[64];
    long value, found = -1;
    cable_enter(end);
    FILE *file = fopen("/proc/thread-self/net/tls_stat", "r");
    cable_enter(-1);
    MUST(file != NULL);
    while (fscanf(file, "%63s %ld", word, &value) == 2)
        if (strcmp(word, name) == 0)
            found = value;
    fclose(file);
    MUST(found >= 0);
    return found;
}

struct cable_heard cable_hear(const char *text)
{
    static uint8_t frame[FRAME_MAX];
    struct cable_heard heard = {0};
    struct tpacket_stats lost;
    socklen_t len = sizeof(lost);
    ssize_t n;
    while ((n = recv(cable.wire, frame, sizeof(frame), MSG_TRUNC)) > 0) {
        MUST((size_t)n <= sizeof(frame));
        if (memmem(frame, (size_t)n, text, strlen(text)) != NULL)
            heard.with++;
        else
            heard.without++;
    }
    MUST(getsockopt(cable.wire, SOL_PACKET, PACKET_STATISTICS, &lost, &len) == 0);
    MUST(lost.tp_drops == 0);
    return heard;
}
