/* tls_pair.h: two sites for TLS tests: "a" (the client's) and "b" (the server's), their CAs,
 * leaves and snapshots, and two ends of a socket that shake hands in one thread. */
#ifndef SLUICE_TEST_TLS_PAIR_H
#define SLUICE_TEST_TLS_PAIR_H

#include "pki.h"
#include "tls.h"

#define WEB_ID "spiffe://a.example/ns/default/sa/web"
#define BATCH_ID "spiffe://a.example/ns/default/sa/batch"
#define PAYMENTS_ID "spiffe://b.example/ns/default/sa/payments"
#define APPLIANCE_ID "spiffe://b.example/sluice/appliance/b1"
#define PAYMENTS_SNI "_.5432.payments.default.b.example"
#define UNKNOWN_SNI "_.5432.nobody.default.b.example"

struct snapshot_spec {
    struct dp_bundle *bundles[3];
    struct dp_leaf *payments, *appliance; /* NULL = none in use */
    const char *denied_id;
    const char *denied_trust_domain;      /* with denied_leaf's serial */
    const struct dp_leaf *denied_leaf;
};
struct dp_snapshot *snapshot_make(const struct snapshot_spec *spec);

/* Whose records each end uses, enum dp_record_layer; set before pair_open. TLS_TEST_MAIN tries
 * every combination of OpenSSL's and our own, in TLS 1.3 and 1.2; or, with TEST_RECORDS=kernel in the environment of a
 * machine whose kernel has TLS, every one with the kernel's. */
extern uint8_t pair_client_layer, pair_server_layer;
/* Each end's profile; as TLS_TEST_MAIN has it, both prefer TLS 1.2 or none does. */
extern dp_offload pair_client_offload, pair_server_offload;
bool pair_wants_kernel(void);

enum { SITES_CHAINS_MAX = 4 };

struct sites {
    struct pki_ca ca_a, ca_b;
    struct dp_bundle *bundle_a, *bundle_b;
    struct dp_leaf *web, *batch;          /* clients at a; web is delegated, of grade l2 */
    struct dp_leaf *payments, *appliance; /* servers at b */
    struct snapshot_spec spec_a, spec_b;  /* what the snapshots were made from */
    struct dp_snapshot *snap_a, *snap_b;
    struct tls_context *ctx_a, *ctx_b;
    struct tls_sessions *sessions;        /* of ctx_a */
    struct tls_chains *chains;            /* of all legs; SITES_CHAINS_MAX */
    struct stats *stats;
    struct buffers *buffers;              /* for our own records, of one thread */
};
/* What sites_init makes buffers of; for a thread's own. */
struct buffers *sites_buffers(struct stats *stats);
/* Freezes the clock at PKI_NOW_S. */
void sites_init(struct sites *sites);
void sites_fini(struct sites *sites);
/* New snapshots from spec_a and spec_b, which the test has changed. */
void sites_publish(struct sites *sites);

struct pair {
    int client_fd, server_fd;
    struct tls *client, *server;
    int client_result, server_result; /* of the last tls_handshake */
};
/* expected_id, sni: one of the above. Aborts if a leg cannot be made. */
void pair_open(struct pair *pair, struct sites *sites, const struct dp_leaf *leaf,
               const char *sni, const char *expected_id);
/* Until both are done or refused; true when both are done. The client has read its ticket. */
bool pair_shake(struct pair *pair, const struct sites *sites);
void pair_close(struct pair *pair);
/* open, shake */
bool pair_connect(struct pair *pair, struct sites *sites, const struct dp_leaf *leaf,
                  const char *sni, const char *expected_id);
uint16_t pair_version(const struct pair *pair); /* of TLS; both ends agree */
bool pair_is_resumed(const struct pair *pair); /* both ends agree */
/* Writes text from one end and reads it at the other. */
bool pair_carries(struct tls *from, struct tls *to, const char *text);
extern void (*pair_sockets)(int ret_fds[2]); /* where a pair's come from: socket_pair */
void socket_pair(int ret_fds[2]); /* non-blocking stream sockets; TCP for the kernel's records */

int pair_run_layers(int (*run)(void)); /* run, with each combination of layers */
/* As TEST_MAIN, for each combination. */
#define TLS_TEST_MAIN(...) \
    static int run_argc; \
    static char **run_argv; \
    static int run_cases(void) \
    { \
        static const struct test_case cases[] = {__VA_ARGS__}; \
        return test_run(run_argc, run_argv, cases, sizeof(cases) / sizeof(cases[0])); \
    } \
    int main(int argc, char **argv) \
    { \
        run_argc = argc; \
        run_argv = argv; \
        return pair_run_layers(run_cases); \
    }

#endif
