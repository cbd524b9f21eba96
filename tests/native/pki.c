/* pki.c: see pki.h. */
#include "pki.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

#include "must.h"
#include "spiffe.h"

enum { DAY_S = 86400 };
static atomic_uint next_serial = 1000;

EVP_PKEY *pki_key(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    MUST(key != NULL);
    return key;
}

static void add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    MUST(ext != NULL && X509_add_ext(cert, ext, -1));
    X509_EXTENSION_free(ext);
}

static void add_name(GENERAL_NAMES *names, int type, const char *text)
{
    ASN1_IA5STRING *value = ASN1_IA5STRING_new();
    GENERAL_NAME *name = GENERAL_NAME_new();
    MUST(value != NULL && name != NULL && ASN1_STRING_set(value, text, -1));
    GENERAL_NAME_set0_value(name, type, value);
    MUST(sk_GENERAL_NAME_push(names, name) > 0);
}

static void add_names(X509 *cert, const struct pki_spec *spec)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    MUST(names != NULL);
    for (size_t i = 0; i < DP_COUNT(spec->uris); i++)
        if (spec->uris[i] != NULL)
            add_name(names, GEN_URI, spec->uris[i]);
    if (spec->dns != NULL)
        add_name(names, GEN_DNS, spec->dns);
    if (sk_GENERAL_NAME_num(names) > 0)
        MUST(X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 1, X509V3_ADD_DEFAULT) == 1);
    GENERAL_NAMES_free(names);
}

static void add_grade(X509 *cert, const char *grade)
{
    uint8_t der[256];
    size_t len = strlen(grade);
    MUST(len < 128);
    der[0] = V_ASN1_UTF8STRING;
    der[1] = (uint8_t)len;
    memcpy(der + 2, grade, len);
    ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
    ASN1_OBJECT *object = OBJ_txt2obj(SPIFFE_GRADE_OID, 1);
    MUST(value != NULL && object != NULL && ASN1_OCTET_STRING_set(value, der, (int)len + 2));
    X509_EXTENSION *ext = X509_EXTENSION_create_by_OBJ(NULL, object, 0, value);
    MUST(ext != NULL && X509_add_ext(cert, ext, -1));
    X509_EXTENSION_free(ext);
    ASN1_OBJECT_free(object);
    ASN1_OCTET_STRING_free(value);
}

static X509 *blank(const char *common_name, EVP_PKEY *key, uint32_t serial, int64_t not_before_s,
                   int64_t not_after_s)
{
    X509 *cert = X509_new();
    MUST(cert != NULL && X509_set_version(cert, X509_VERSION_3));
    MUST(ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial));
    MUST(ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)not_before_s) != NULL);
    MUST(ASN1_TIME_set(X509_getm_notAfter(cert), (time_t)not_after_s) != NULL);
    MUST(X509_set_pubkey(cert, key));
    if (common_name != NULL)
        MUST(X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                        (const unsigned char *)common_name, -1, -1, 0));
    return cert;
}

void pki_ca_init(struct pki_ca *ca, const char *name, const struct pki_ca *parent)
{
    ca->key = pki_key();
    ca->cert = blank(name, ca->key, atomic_fetch_add(&next_serial, 1), PKI_NOW_S - DAY_S,
                     PKI_NOW_S + 365 * DAY_S);
    X509 *issuer = parent != NULL ? parent->cert : ca->cert;
    MUST(X509_set_issuer_name(ca->cert, X509_get_subject_name(issuer)));
    add_extension(ca->cert, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(ca->cert, NID_key_usage, "critical,keyCertSign,cRLSign");
    MUST(X509_sign(ca->cert, parent != NULL ? parent->key : ca->key, EVP_sha256()));
}

void pki_ca_fini(struct pki_ca *ca)
{
    X509_free(ca->cert);
    EVP_PKEY_free(ca->key);
}

X509 *pki_issue(const struct pki_ca *ca, const struct pki_spec *spec, EVP_PKEY *key)
{
    uint32_t serial = spec->serial != 0 ? spec->serial : atomic_fetch_add(&next_serial, 1);
    X509 *cert = blank(NULL, key, serial,
                       spec->not_before_s != 0 ? spec->not_before_s : PKI_NOW_S - 60,
                       spec->not_after_s != 0 ? spec->not_after_s : PKI_NOW_S + DAY_S);
    MUST(X509_set_issuer_name(cert, X509_get_subject_name(ca->cert)));
    add_extension(cert, NID_basic_constraints, spec->is_ca ? "critical,CA:TRUE" : "CA:FALSE");
    const char *usage = spec->key_usage != NULL ? spec->key_usage : "critical,digitalSignature";
    if (usage[0] != '\0')
        add_extension(cert, NID_key_usage, usage);
    if (spec->extended_usage != NULL)
        add_extension(cert, NID_ext_key_usage, spec->extended_usage);
    add_names(cert, spec);
    if (spec->grade != NULL)
        add_grade(cert, spec->grade);
    MUST(X509_sign(cert, ca->key, EVP_sha256()));
    return cert;
}

struct dp_leaf *pki_leaf(const struct pki_ca *ca, const struct pki_spec *spec, bool with_ca)
{
    struct dp_leaf *leaf = calloc(1, sizeof(*leaf));
    MUST(leaf != NULL);
    atomic_init(&leaf->refs, 1);
    leaf->key = pki_key();
    leaf->cert = pki_issue(ca, spec, leaf->key);
    leaf->chain = sk_X509_new_null();
    MUST(leaf->chain != NULL);
    if (with_ca)
        MUST(X509_up_ref(ca->cert) && sk_X509_push(leaf->chain, ca->cert) > 0);
    (void)snprintf(leaf->id, sizeof(leaf->id), "%s", spec->uris[0] != NULL ? spec->uris[0] : "");
    leaf->not_after_s = spec->not_after_s != 0 ? spec->not_after_s : PKI_NOW_S + DAY_S;
    const ASN1_INTEGER *serial = X509_get0_serialNumber(leaf->cert);
    leaf->serial_len = (uint8_t)ASN1_STRING_length(serial);
    memcpy(leaf->serial, ASN1_STRING_get0_data(serial), leaf->serial_len);
    return leaf;
}

struct dp_leaf *pki_leaf_id(const struct pki_ca *ca, const char *id)
{
    return pki_leaf(ca, &(struct pki_spec){.uris = {id}}, false);
}

static char *bio_text(BIO *bio)
{
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    char *text = malloc((size_t)len + 1);
    MUST(len > 0 && text != NULL);
    memcpy(text, data, (size_t)len);
    text[len] = '\0';
    BIO_free(bio);
    return text;
}

char *pki_cert_pem(X509 *cert)
{
    BIO *bio = BIO_new(BIO_s_mem());
    MUST(bio != NULL && PEM_write_bio_X509(bio, cert));
    return bio_text(bio);
}

char *pki_key_pem(EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_mem());
    MUST(bio != NULL && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL));
    return bio_text(bio);
}

struct dp_bundle *pki_bundle(const char *trust_domain, const struct pki_ca *first,
                             const struct pki_ca *second)
{
    BIO *bio = BIO_new(BIO_s_mem());
    MUST(bio != NULL && PEM_write_bio_X509(bio, first->cert));
    if (second != NULL)
        MUST(PEM_write_bio_X509(bio, second->cert));
    char *pem = bio_text(bio);
    struct dp_bundle *bundle = NULL;
    MUST(dp_bundle_new(trust_domain, pem, strlen(pem), &bundle) == 0);
    free(pem);
    return bundle;
}
