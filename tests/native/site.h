/* site.h: a site for tests of the whole data plane: a CA, one source host, one service, an engine
 * with a transparent and a mesh listener on loopback. What the next snapshot says are plain fields;
 * site_publish makes it so. Clients and services are the test's own sockets. */
#ifndef SLUICE_TEST_SITE_H
#define SLUICE_TEST_SITE_H

#include "pki.h"
#include "stats.h"
#include "tls.h"

enum { SITE_ENDPOINTS_MAX = 8, SITE_EVENTS_MAX = 512, SITE_WAIT_MS = 30000 };
enum { SITE_OUTBOUND = 1, SITE_INBOUND = 2 }; /* set ids */

struct site_event {
    dp_event head;
    char src_id[DP_ID_MAX + 1], dst_id[DP_ID_MAX + 1], service[DP_NAME_MAX + 1],
        endpoint[DP_NAME_MAX + 1], detail[DP_DETAIL_MAX + 1];
};

struct site_endpoint {
    dp_endpoint endpoint;
    const char *expected;        /* SPIFFE ID, or NULL */
};

/* Whose records the engines use, set before site_init; SITE_TEST_MAIN tries OpenSSL's and our own,
 * or, with TEST_RECORDS=kernel in the environment, the kernel's. */
extern uint8_t site_records;     /* enum dp_record_layer */
bool site_next_records(void);    /* false after the last; says which */

struct site_set {
    struct site_endpoint endpoints[SITE_ENDPOINTS_MAX];
    uint32_t count;
    dp_set_policy policy;
};

struct site {
    char trust_domain[64], service_id[DP_ID_MAX + 1], host_id[DP_ID_MAX + 1], sni[DP_NAME_MAX + 1];
    struct pki_ca ca;
    struct dp_leaf *appliance_leaf, *service_leaf, *host_leaf;
    struct dp_bundle *bundle, *peer_bundle;
    dp_config config;
    dp_engine *engine;
    const char *listen_address;  /* of the transparent listener */
    uint16_t port, mesh_port;    /* of the listeners */
    uint64_t version;

    /* The next snapshot. */
    uint8_t vip[16], host_addr[16], own_addr[16], mesh_addr[16];
    bool has_host, has_agent, has_service, has_sni;
    uint8_t host_grade;
    dp_service service;
    struct site_set outbound, inbound;
    const char *deny_principal;  /* by policy "no-batch" */
    const dp_match *deny;        /* the same, by any other match */
    const char *denied_id;       /* on the deny list */
    const dp_offload *offload;   /* NULL = none: site_records it is */

    struct site_event events[SITE_EVENTS_MAX]; /* all seen so far */
    uint32_t event_count;
};

void site_address(const char *text, uint8_t *ret); /* IPv4 or IPv6 to 16 bytes */

/* Listeners are open, nothing is published, nothing runs. The host is 127.0.1.1 with a delegated
 * leaf of grade l2, the service is "payments.default" at VIP 127.77.0.1 and the listener's port. */
void site_init(struct site *site, const char *trust_domain, uint32_t workers);
void site_fini(struct site *site);
void site_open(struct site *site);               /* makes engine and listeners, once */
void site_start(struct site *site);              /* opens, starts and publishes */
void site_trust(struct site *site, const struct site *peer); /* its bundle, before publishing */
int site_publish(struct site *site);             /* and waits until it runs */
int site_publish_set(struct site *site, uint32_t id);
dp_snapshot *site_snapshot(struct site *site);   /* the next one, sealed */
struct site_endpoint *site_add_plain(struct site_set *set, uint16_t port);
struct site_endpoint *site_add_mesh(struct site *site, const struct site *peer);
/* Two sites of one worker that trust each other, "a.test" and "b.test". */
void site_init_pair(struct site *a, struct site *b);
void site_start_pair(struct site *a, struct site *b); /* with a mesh link from a to b */

uint64_t site_stat(const struct site *site, uint32_t stat);
/* The next event of this kind that no earlier call returned, or NULL after SITE_WAIT_MS. */
const struct site_event *site_wait_event(struct site *site, uint16_t kind);
bool site_wait_stat(const struct site *site, uint32_t stat, uint64_t at_least);
bool site_wait_idle(const struct site *site);    /* no stream is left */

/* Blocking sockets with a receive timeout; -1 = failed. Whom a peer refused or reset at once is
 * told so by the first read or write. */
int site_listen(uint16_t *ret_port);             /* a service on 127.0.3.1 */
int site_listen_on(const char *address, uint16_t *ret_port);
int site_connect(const struct site *site, const char *from); /* to the VIP */
int site_connect_to(const char *from, const char *to, uint16_t port);
int site_accept(int listen_fd);
bool site_send(int fd, const void *bytes, size_t len);
bool site_receive(int fd, void *bytes, size_t len);          /* exactly len */
bool site_echo(int client_fd, int service_fd);   /* a few bytes there and back */
bool site_ended(int fd);                         /* the next thing read is a clean end */
bool site_was_reset(int fd);                     /* the next thing read is a reset */

/* A mesh client by hand, for what no engine would send: TLS with leaf to site's mesh listener. */
struct site_client {
    int fd;
    struct tls_context *context;
    struct tls_sessions *sessions;
    struct tls *tls;
    dp_snapshot *snapshot;
};
bool site_client_open(struct site_client *client, struct site *site, struct dp_leaf *leaf,
                      const char *from);
bool site_client_send(struct site_client *client, const void *bytes, size_t len);
bool site_client_receive(struct site_client *client, void *bytes, size_t len); /* exactly len */
bool site_client_ended(struct site_client *client); /* the next thing read is close_notify */
void site_client_close(struct site_client *client); /* the socket only: no close_notify */

#define SITE_TEST_MAIN(...) \
    int main(int argc, char **argv) \
    { \
        static const struct test_case cases[] = {__VA_ARGS__}; \
        int failed = 0; \
        while (site_next_records()) \
            failed |= test_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0])); \
        return failed; \
    }

#endif
