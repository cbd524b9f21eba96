/* leaf.c: certificates that a snapshot refers to: leaves with their keys, and trust domains'
 * bundles. Parses PEM; verifies nobody (see tls.c). */
#include <openssl/bio.h>
#include <openssl/decoder.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <time.h>

#include "snapshot.h"
#include "spiffe.h"
#include "tls_internal.h"

enum { CHAIN_MAX = 8, BUNDLE_MAX = 64, PEM_MAX = 1 << 20 };

static int no_password(char *buf, int size, int write, void *data)
{
    (void)buf, (void)size, (void)write, (void)data;
    return -1; /* else OpenSSL would ask on the terminal */
}

/* At most max certificates and nothing that claims to be one and is not. */
static int parse_certificates(const char *pem, size_t len, int max, STACK_OF(X509) **ret)
{
    if (pem == NULL || len == 0 || len > PEM_MAX)
        return -EINVAL;
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    STACK_OF(X509) *certs = sk_X509_new_null();
    int r = bio != NULL && certs != NULL ? 0 : -ENOMEM;
    while (r == 0) {
        ERR_clear_error();
        X509 *cert = X509_new_ex(tls_library_reader(), NULL);
        if (cert == NULL) {
            r = -ENOMEM;
            break;
        }
        if (PEM_read_bio_X509(bio, &cert, no_password, NULL) == NULL) {
            X509_free(cert);
            if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
                r = -EINVAL;
            break;
        }
        if (sk_X509_num(certs) >= max)
            r = -EINVAL;
        else if (sk_X509_push(certs, cert) == 0)
            r = -ENOMEM;
        if (r < 0)
            X509_free(cert);
    }
    if (r == 0 && sk_X509_num(certs) == 0)
        r = -EINVAL;
    ERR_clear_error();
    BIO_free(bio);
    if (r < 0)
        sk_X509_pop_free(certs, X509_free);
    else
        *ret = certs;
    return r;
}

/* PKCS #8, of that certificate's kind: told what to look for, OpenSSL 3.0 is ten times as fast. */
static int parse_key(const char *pem, size_t len, X509 *cert, EVP_PKEY **ret)
{
    if (pem == NULL || len == 0 || len > PEM_MAX)
        return -EINVAL;
    EVP_PKEY *key = NULL, *public_key = X509_get0_pubkey(cert);
    const char *kind = public_key != NULL ? EVP_PKEY_get0_type_name(public_key) : NULL;
    if (kind == NULL)
        return -EINVAL;
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    OSSL_DECODER_CTX *decoder = OSSL_DECODER_CTX_new_for_pkey(
        &key, "DER", "PrivateKeyInfo", kind, EVP_PKEY_KEYPAIR, tls_library_reader(), NULL);
    unsigned char *der = NULL;
    long size = 0;
    int r = bio != NULL && decoder != NULL ? 0 : -ENOMEM;
    if (r == 0 && PEM_bytes_read_bio(&der, &size, NULL, PEM_STRING_PKCS8INF, bio, no_password,
                                     NULL) != 1)
        r = -EINVAL;
    const unsigned char *at = der;
    size_t left = (size_t)size;
    if (r == 0 && (OSSL_DECODER_from_data(decoder, &at, &left) != 1 || left > 0))
        r = -EINVAL;
    OPENSSL_clear_free(der, (size_t)size);
    OSSL_DECODER_CTX_free(decoder);
    BIO_free(bio);
    ERR_clear_error();
    if (r < 0) {
        EVP_PKEY_free(key);
        return r;
    }
    *ret = key;
    return 0;
}

static int read_expiry(X509 *cert, int64_t *ret_s)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
        return -EINVAL;
    *ret_s = timegm(&tm);
    return 0;
}

static int read_serial(X509 *cert, struct dp_leaf *leaf)
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
    int len = ASN1_STRING_length(serial);
    if (ASN1_STRING_type(serial) != V_ASN1_INTEGER || len <= 0 ||
        (size_t)len > sizeof(leaf->serial))
        return -EINVAL;
    memcpy(leaf->serial, ASN1_STRING_get0_data(serial), (size_t)len);
    leaf->serial_len = (uint8_t)len;
    return 0;
}

int dp_leaf_new(const char *spiffe_id, const char *chain_pem, size_t chain_len,
                const char *key_pem, size_t key_len, dp_leaf **ret)
{
    if (spiffe_id == NULL || strnlen(spiffe_id, DP_ID_MAX + 1) > DP_ID_MAX)
        return -EINVAL;
    struct dp_leaf *leaf = calloc(1, sizeof(*leaf));
    if (leaf == NULL)
        return -ENOMEM;
    atomic_init(&leaf->refs, 1);
    int r = parse_certificates(chain_pem, chain_len, CHAIN_MAX, &leaf->chain);
    if (r < 0)
        goto err_free;
    leaf->cert = sk_X509_shift(leaf->chain);
    r = parse_key(key_pem, key_len, leaf->cert, &leaf->key);
    if (r < 0)
        goto err_free;
    r = -EINVAL;
    if (X509_check_private_key(leaf->cert, leaf->key) != 1 ||
        spiffe_from_certificate(leaf->cert, leaf->id) < 0 || strcmp(leaf->id, spiffe_id) != 0 ||
        read_expiry(leaf->cert, &leaf->not_after_s) < 0 || read_serial(leaf->cert, leaf) < 0)
        goto err_free;
    ERR_clear_error();
    *ret = leaf;
    return 0;

err_free:
    ERR_clear_error();
    dp_leaf_free(leaf);
    return r;
}

int64_t dp_leaf_not_after_s(const dp_leaf *leaf)
{
    return leaf->not_after_s;
}

void dp_leaf_ref(const dp_leaf *leaf)
{
    atomic_fetch_add_explicit(&((dp_leaf *)leaf)->refs, 1, memory_order_relaxed);
}

void dp_leaf_free(dp_leaf *leaf)
{
    if (leaf == NULL || atomic_fetch_sub_explicit(&leaf->refs, 1, memory_order_acq_rel) != 1)
        return;
    X509_free(leaf->cert);
    sk_X509_pop_free(leaf->chain, X509_free);
    EVP_PKEY_free(leaf->key);
    free(leaf);
}

static bool is_trust_domain(const char *text)
{
    char id[DP_ID_MAX + 1];
    size_t len = text != NULL ? strnlen(text, sizeof(id)) : 0;
    if (len == 0 || len + strlen("spiffe://") > DP_ID_MAX)
        return false;
    memcpy(id, "spiffe://", 9);
    memcpy(id + 9, text, len);
    struct spiffe_id parsed;
    return spiffe_parse(id, len + 9, &parsed) == 0 && parsed.path_len == 0;
}

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, 32);
}

/* SHA-256 over the certificates' sorted SHA-256s: neither order nor repetition matters. */
static int fingerprint(const STACK_OF(X509) *certs, uint8_t *ret)
{
    uint8_t digests[BUNDLE_MAX][32];
    int count = sk_X509_num(certs);
    for (int i = 0; i < count; i++)
        if (X509_digest(sk_X509_value(certs, i), EVP_sha256(), digests[i], NULL) != 1)
            return -ENOMEM;
    qsort(digests, (size_t)count, sizeof(digests[0]), compare_digests);
    size_t kept = 1;
    for (int i = 1; i < count; i++)
        if (memcmp(digests[i], digests[kept - 1], 32) != 0)
            memmove(digests[kept++], digests[i], 32);
    return EVP_Digest(digests, kept * 32, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

int dp_bundle_new(const char *trust_domain, const char *certs_pem, size_t len, dp_bundle **ret)
{
    if (!is_trust_domain(trust_domain))
        return -EINVAL;
    STACK_OF(X509) *certs;
    int r = parse_certificates(certs_pem, len, BUNDLE_MAX, &certs);
    if (r < 0)
        return r;
    struct dp_bundle *bundle = calloc(1, sizeof(*bundle));
    r = -ENOMEM;
    if (bundle == NULL)
        goto out;
    atomic_init(&bundle->refs, 1);
    memcpy(bundle->trust_domain, trust_domain, strlen(trust_domain) + 1);
    bundle->store = X509_STORE_new();
    if (bundle->store == NULL)
        goto out;
    for (int i = 0; i < sk_X509_num(certs); i++) {
        X509 *cert = sk_X509_value(certs, i);
        if (X509_check_ca(cert) != 1) { /* the other values are guesses about version 1 */
            r = -EINVAL;
            goto out;
        }
        if (X509_STORE_add_cert(bundle->store, cert) != 1) /* twice the same is one */
            goto out;
    }
    r = fingerprint(certs, bundle->fingerprint);
    if (r == 0) {
        *ret = bundle;
        bundle = NULL;
    }

out:
    ERR_clear_error();
    dp_bundle_free(bundle);
    sk_X509_pop_free(certs, X509_free);
    return r;
}

void dp_bundle_ref(const dp_bundle *bundle)
{
    atomic_fetch_add_explicit(&((dp_bundle *)bundle)->refs, 1, memory_order_relaxed);
}

void dp_bundle_free(dp_bundle *bundle)
{
    if (bundle == NULL || atomic_fetch_sub_explicit(&bundle->refs, 1, memory_order_acq_rel) != 1)
        return;
    X509_STORE_free(bundle->store);
    free(bundle);
}
