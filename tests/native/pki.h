/* pki.h: certificates that tests make for themselves: CAs, good leaves and every kind of bad one.
 * Not for anything but tests: it does not refuse, it obeys. Aborts when OpenSSL fails. */
#ifndef SLUICE_TEST_PKI_H
#define SLUICE_TEST_PKI_H

#include "snapshot.h"

#define PKI_NOW_S INT64_C(1800000000) /* 2027-01-15: the frozen time of tests */

struct pki_ca {
    X509 *cert;                  /* owned */
    EVP_PKEY *key;               /* owned */
};

struct pki_spec {                /* what is zero has the value of a good leaf */
    const char *uris[3];         /* URI SANs, as they are */
    const char *dns;             /* a DNS SAN beside them */
    const char *grade;           /* text of the grade extension, none if NULL */
    const char *key_usage;       /* "digitalSignature"; "" = no extension */
    const char *extended_usage;  /* none */
    int64_t not_before_s;        /* PKI_NOW_S - 60 */
    int64_t not_after_s;         /* PKI_NOW_S + 24 h */
    bool is_ca;
    uint32_t serial;             /* next number */
};

/* Self-signed without a parent. Valid from a day before PKI_NOW_S for a year. */
void pki_ca_init(struct pki_ca *ca, const char *name, const struct pki_ca *parent);
void pki_ca_fini(struct pki_ca *ca);
X509 *pki_issue(const struct pki_ca *ca, const struct pki_spec *spec, EVP_PKEY *key);
EVP_PKEY *pki_key(void);
/* As dp_leaf_new makes it, but not checked at all. with_ca: the CA is in the chain it shows. */
struct dp_leaf *pki_leaf(const struct pki_ca *ca, const struct pki_spec *spec, bool with_ca);
struct dp_leaf *pki_leaf_id(const struct pki_ca *ca, const char *id); /* a good one */
struct dp_bundle *pki_bundle(const char *trust_domain, const struct pki_ca *first,
                             const struct pki_ca *second); /* second may be NULL */
/* NUL-terminated; free() it. */
char *pki_cert_pem(X509 *cert);
char *pki_key_pem(EVP_PKEY *key);

#endif
