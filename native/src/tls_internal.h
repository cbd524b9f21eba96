/* tls_internal.h: what the files of one TLS leg share: tls (contexts, handshake), tls_verify (who
 * is the peer), tls_chains (whose chain was good before), tls_tickets (server's side of
 * resumption), tls_sessions (client's side), tls_bio (the socket), tls_library (whose algorithms), tls_kdf (key derivation),
 * tls_profile (versions, suites), record_openssl (the bytes) and tls_user (the bytes handed over to
 * our own records or the kernel's).
 * Nobody else includes it. */
#ifndef SLUICE_TLS_INTERNAL_H
#define SLUICE_TLS_INTERNAL_H

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include "keys.h"
#include "record_ktls.h"
#include "record_user.h"
#include "sni.h"
#include "tls.h"

enum { TLS_HASH_SIZE = 32 };     /* SHA-256 */
/* TLS 1.2's Finished as a record of AES-GCM: header, explicit nonce, message, tag. */
enum { TLS_FINISHED_SIZE = RECORD_HEADER + KEYS_EXPLICIT_SIZE + 16 + AEAD_TAG_SIZE };

struct tls_tickets;

struct tls_context {
    SSL_CTX *server, *client;    /* owned */
    struct tls_tickets *tickets; /* owned */
    uint8_t link_version_max;    /* of ours */
};

struct tls_known {               /* a chain that was found good */
    uint8_t bundle_fingerprint[TLS_HASH_SIZE]; /* of the bundle that vouched for it */
    int64_t from_s, until_s;     /* CLOCK_REALTIME: when all its certificates, anchor too, count */
    struct tls_peer peer;
    X509 *leaf;                  /* the peer's own, with its key; NULL if handshakes decode keys */
};

struct tls_refusal {
    uint16_t reason;             /* enum dp_reason; NONE = not refused */
    char *detail;                /* owned; at most DP_DETAIL_MAX bytes; NULL = "" */
};

enum tls_finish { TLS_FINISH_NOT = 0, TLS_FINISH_SENDING, TLS_FINISH_DONE };

struct tls {
    struct record rec;           /* first: record_openssl finds its tls by it */
    SSL *ssl;                    /* owned; its app data is this; NULL once records are ours */
    struct tls_context *ctx;     /* borrowed */
    struct tls_sessions *sessions; /* borrowed until tls_free; NULL for a server */
    struct tls_chains *chains;   /* borrowed until tls_free; NULL = every chain is verified */
    const struct dp_leaf *leaf;  /* counted; what we show; NULL until a server knows the SNI */
    const struct dp_snapshot *snap; /* borrowed during tls_handshake, else NULL */
    char **expected;             /* owned, one block; client */
    size_t expected_count;
    struct tls_peer peer;
    uint8_t bundle_fingerprint[TLS_HASH_SIZE]; /* of the bundle that vouched for peer */
    uint8_t session_key[TLS_HASH_SIZE];        /* client, when sessions is set */
    char sni[SNI_MAX + 1];
    bool is_server, started, established;
    struct tls_refusal refusal;
    bool refused_by_peer;
    int io_error;                /* errno of the last socket call, 0 */
    bool io_eof;                 /* the peer's FIN was read */
    bool io_starved;             /* the last read of the socket found nothing */
    bool drained;                /* the last read found no whole record */
    bool read_ended, read_end_told; /* read_end is what every further read returns */
    ssize_t read_end;
    uint8_t finish;              /* enum tls_finish */
    struct tls_info info;        /* once established */
    uint8_t *chain;              /* owned; the peer's certificates, its own first, as DER */
    size_t chain_len;            /* bytes */

    /* Records that are not OpenSSL's, when asked for: buffers is set, then user or ktls. */
    struct buffers *buffers;     /* borrowed from the worker; NULL = not asked for */
    bool wants_kernel;           /* ktls rather than user */
    bool wants_device;           /* but only if a NIC might do it */
    uint8_t fallback;            /* enum dp_fallback: why not ktls */
    uint64_t installed_ns;       /* just before the kernel was asked; 0 = it was not */
    struct buffer *inbox;        /* owned; what OpenSSL has not read yet; never if wants_kernel */
    uint8_t secrets[2][KEYS_SECRET_MAX]; /* by enum keys_side; wiped when handed over */
    uint8_t secret_sizes[2];     /* 0 = not known yet */
    uint64_t written, read;      /* records under the keys of our side, and of theirs (TLS 1.2) */
    bool takes_12;               /* TLS 1.2 may come of this handshake */
    uint8_t finished[TLS_FINISHED_SIZE]; /* the last bytes written: in TLS 1.2, our Finished */
    struct record_user *user;    /* owned; both NULL = OpenSSL's records */
    struct record_ktls *ktls;    /* owned */
    const uint8_t *ticket;       /* borrowed while OpenSSL reads a ticket's record again */
    size_t ticket_len;
};

/* The first refusal stays: it is the cause, later ones are echoes. */
__attribute__((format(printf, 3, 4)))
void tls_refuse(struct tls_refusal *refusal, uint16_t reason, const char *format, ...);
void tls_refusal_fini(struct tls_refusal *refusal);
/* Turns OpenSSL's error queue and the socket's last error into a refusal. */
void tls_refuse_from_openssl(struct tls *tls, const char *during);

/* tls_library.c: where SSL_CTXs get their algorithms, tls_kdf among them; NULL = from OpenSSL's
 * default context. If it is not NULL certificates come without their keys from handshakes, and
 * tls_library_reader() decodes them with it. */
OSSL_LIB_CTX *tls_library(void);
OSSL_LIB_CTX *tls_library_reader(void); /* NULL as tls_library */

/* tls_kdf.c: an implementation of the algorithm TLS13-KDF. */
extern const OSSL_DISPATCH tls_kdf[];
/* What this thread's OpenSSL derives until tls_kdf_leave are this leg's secrets: see tls_user_learn. */
void tls_kdf_enter(struct tls *tls);
void tls_kdf_leave(void);

/* tls_bio.c: a BIO over tls->rec.fd by the table of system calls; -ENOMEM. */
DP_MUST_CHECK int tls_bio_attach(struct tls *tls);

/* tls_verify.c */
int tls_verify_callback(X509_STORE_CTX *outer, void *arg); /* arg unused */
/* For a peer whose chain was verified in an earlier connection, by the bundle with this
 * fingerprint: is it one we would accept now? Fills *ret_peer and true, or *refusal and false. */
DP_MUST_CHECK bool tls_verify_resumed(const struct tls *tls, X509 *cert,
                                      const uint8_t *bundle_fingerprint,
                                      const struct dp_snapshot *snap, struct tls_peer *ret_peer,
                                      struct tls_refusal *refusal);

/* tls_chains.c. The key is of tls->chain and of what we are; false: no key, so nothing is known.
 * What is found, borrowed until the next tls_chains_add, is within its dates and vouched for by the
 * bundle that tls->snap has; else it is forgotten. To be added it must not be there; its leaf gets a
 * reference more. */
DP_MUST_CHECK bool tls_chains_key(const struct tls *tls, uint8_t *ret);
const struct tls_known *tls_chains_find(const struct tls *tls, const uint8_t *key, int64_t now_s);
void tls_chains_add(const struct tls *tls, const uint8_t *key, const struct tls_known *known);

/* tls_tickets.c */
DP_MUST_CHECK int tls_tickets_new(struct tls_tickets **ret); /* with a random key */
void tls_tickets_free(struct tls_tickets *tickets);
DP_MUST_CHECK int tls_tickets_attach(SSL_CTX *server);
DP_MUST_CHECK int tls_tickets_set(struct tls_tickets *tickets, const uint8_t *keys, size_t count);

/* tls_sessions.c */
void tls_sessions_attach(SSL_CTX *client);
void tls_sessions_key(struct tls *tls); /* sets session_key */
void tls_sessions_offer(struct tls *tls, const struct dp_snapshot *snap);
void tls_sessions_forget(struct tls *tls);
/* Of TLS 1.2, where a ticket is part of the handshake: keeps the session if a new one came. */
void tls_sessions_keep(struct tls *tls);
const struct tls_context *tls_sessions_context(const struct tls_sessions *sessions);

/* Keeps the peer's certificates, for tls_peer_recheck and tls_chains.c; -ENOMEM. */
DP_MUST_CHECK int tls_verify_keep(struct tls *tls, X509 *leaf, STACK_OF(X509) *others);

/* tls_profile.c */
/* In the client's hello: is it to be TLS 1.2? false: OpenSSL refused. */
DP_MUST_CHECK bool tls_profile_on_hello(struct tls *tls);
/* After the handshake: is all there that TLS 1.2 must have here? false: refused. */
DP_MUST_CHECK bool tls_profile_is_kept(struct tls *tls);
/* May a session go on with its suite? OpenSSL asks the other side's list alone, or none. */
DP_MUST_CHECK bool tls_profile_has_suite(struct tls *tls, const SSL_SESSION *session);

/* tls_user.c */
void tls_user_attach(SSL_CTX *ctx);
/* The first traffic secret of application data of one side, as OpenSSL begins to use it. */
void tls_user_learn(struct tls *tls, enum keys_side side, const uint8_t *secret, size_t size);
/* From OpenSSL's records to the kernel's or our own. -ENOTSUP or -ENOMEM when OpenSSL must keep
 * them; -EIO when there was no memory while the kernel had one direction already: the
 * connection is lost. */
DP_MUST_CHECK int tls_user_take_over(struct tls *tls);
void tls_user_fini(struct tls *tls);
static inline bool tls_is_taken_over(const struct tls *tls)
{
    return tls->user != NULL || tls->ktls != NULL;
}

/* tls.c: what an alert of the peer's says. */
void tls_refuse_from_alert(struct tls *tls, int alert);

/* record_openssl.c */
void record_openssl_init(struct tls *tls);

#endif
