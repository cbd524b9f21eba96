/* tls_profile.c: what the operator's profile means for one handshake: suites and versions. TLS 1.2
 * is spoken where both sides say so in the same handshake: the client by offering it beside 1.3,
 * which it does only if it prefers it, the server by taking it. Since OpenSSL's marks of a
 * downgrade are about servers that could not do better, ours leaves them out: it tells OpenSSL that
 * 1.2 is all it has. Neither hello can be changed on the way: the Finished covers both. */
#include "tls_internal.h"

static const struct {
    const char *tls13, *tls12;   /* tls12: NULL = TLS 1.2 has none that we take */
} suites[] = {                   /* by bit of dp_offload.ciphers; in the order of our preference */
    {"TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"},
    {"TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"},
    {"TLS_CHACHA20_POLY1305_SHA256", NULL},
};
enum { LIST_MAX = 128 };

static void append(char list[LIST_MAX], const char *name)
{
    if (list[0] != '\0')
        strcat(list, ":");
    strcat(list, name);
}

static bool set_suites(SSL *ssl, uint8_t bits)
{
    char tls13[LIST_MAX] = "", tls12[LIST_MAX] = "";
    for (size_t i = 0; i < DP_COUNT(suites); i++) {
        if (bits != 0 && !(bits & 1 << i))
            continue;
        append(tls13, suites[i].tls13);
        if (suites[i].tls12 != NULL)
            append(tls12, suites[i].tls12);
    }
    return SSL_set_ciphersuites(ssl, tls13) && (tls12[0] == '\0' || SSL_set_cipher_list(ssl, tls12));
}

/* The certificates' own curve too: TLS 1.2 lists those of keys and of signatures in one. */
static bool set_groups(SSL *ssl)
{
    static const char *const groups[] = {"*X25519MLKEM768:*X25519:P-256", "X25519:P-256"};
    for (size_t i = 0; i < DP_COUNT(groups); i++)
        if (SSL_set1_groups_list(ssl, groups[i]))
            return true;
    return false;
}

int tls_profile_apply(struct tls *tls, const dp_offload *offload)
{
    assert(!tls->started);
    bool takes_12 = offload->tls12 == DP_TLS12_PREFER ||
                    (tls->is_server && offload->tls12 == DP_TLS12_ALLOW);
    if (!takes_12 && offload->ciphers == 0)
        return 0;
    if (!set_suites(tls->ssl, offload->ciphers) || (takes_12 && !set_groups(tls->ssl)))
        return -ENOMEM;
    if (takes_12 && !tls->is_server && !SSL_set_min_proto_version(tls->ssl, TLS1_2_VERSION))
        return -ENOMEM;
    tls->takes_12 = takes_12;
    return 0;
}

static bool lists(SSL *ssl, unsigned type, size_t head, uint16_t wanted)
{
    const unsigned char *ext;
    size_t len;
    if (!SSL_client_hello_get0_ext(ssl, type, &ext, &len) || len < head)
        return false;
    for (size_t at = head; at + 2 <= len; at += 2)
        if (((uint16_t)ext[at] << 8 | ext[at + 1]) == wanted)
            return true;
    return false;
}

static bool offers_12(SSL *ssl)
{
    const unsigned char *ext;
    size_t len;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &ext, &len))
        return lists(ssl, TLSEXT_TYPE_supported_versions, 1, TLS1_2_VERSION);
    return SSL_client_hello_get0_legacy_version(ssl) == TLS1_2_VERSION;
}

static bool offers_suite(SSL *ssl)
{
    const unsigned char *offer;
    size_t len = SSL_client_hello_get0_ciphers(ssl, &offer);
    const STACK_OF(SSL_CIPHER) *ours = SSL_get_ciphers(ssl);
    for (size_t at = 0; at + 2 <= len; at += 2)
        for (int i = 0; i < sk_SSL_CIPHER_num(ours); i++) {
            uint16_t suite = SSL_CIPHER_get_protocol_id(sk_SSL_CIPHER_value(ours, i));
            if (keys_is_tls12(suite) && ((uint16_t)offer[at] << 8 | offer[at + 1]) == suite)
                return true;
        }
    return false;
}

/* A client that offers TLS 1.2 but not all that we ask of it gets TLS 1.3, if it has that. */
bool tls_profile_on_hello(struct tls *tls)
{
    enum { P_256 = 23 };
    const unsigned char *ext;
    size_t len;
    if (!tls->takes_12 || !offers_12(tls->ssl) ||
        !SSL_client_hello_get0_ext(tls->ssl, TLSEXT_TYPE_extended_master_secret, &ext, &len) ||
        !lists(tls->ssl, TLSEXT_TYPE_supported_groups, 2, P_256) || !offers_suite(tls->ssl))
        return true;
    return SSL_set_min_proto_version(tls->ssl, TLS1_2_VERSION) &&
           SSL_set_max_proto_version(tls->ssl, TLS1_2_VERSION);
}

bool tls_profile_has_suite(struct tls *tls, const SSL_SESSION *session)
{
    const SSL_CIPHER *suite = SSL_SESSION_get0_cipher(session);
    return suite != NULL && sk_SSL_CIPHER_find(SSL_get_ciphers(tls->ssl), suite) >= 0;
}

uint8_t tls_device_refusal(const struct tls *tls)
{
    if (tls->info.version == TLS1_2_VERSION)
        return keys_is_tls12(tls->info.cipher) ? DP_FALLBACK_NONE : DP_FALLBACK_CIPHER;
    return tls->takes_12 ? DP_FALLBACK_PEER : DP_FALLBACK_VERSION;
}

bool tls_profile_is_kept(struct tls *tls)
{
    if (SSL_version(tls->ssl) != TLS1_2_VERSION || SSL_get_extms_support(tls->ssl) == 1)
        return true;
    tls_refuse(&tls->refusal, DP_REASON_HANDSHAKE,
               "peer speaks TLS 1.2 without the extended master secret");
    return false;
}
