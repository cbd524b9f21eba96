/* spiffe.c: see spiffe.h. Compares bytes only: nothing is decoded, folded or repaired, so two
 * IDs are the same exactly when their text is. */
#include "spiffe.h"

#include <openssl/asn1.h>
#include <openssl/objects.h>
#include <openssl/x509v3.h>

static const char scheme[] = "spiffe://";

static bool is_trust_domain_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

static bool is_path_char(char c)
{
    return is_trust_domain_char(c) || (c >= 'A' && c <= 'Z');
}

static bool is_slice(const char *text, size_t len, const char *want)
{
    return len == strlen(want) && memcmp(text, want, len) == 0;
}

/* path is "" or "/segment…": no empty, "." or ".." segment. Notes the first four segments. */
static bool path_parse(const char *path, size_t len, const char *segments[4], size_t lens[4],
                       size_t *ret_count)
{
    size_t count = 0;
    for (size_t at = 0; at < len;) {
        const char *segment = path + at + 1; /* path[at] is '/' */
        const char *slash = memchr(segment, '/', len - at - 1);
        size_t segment_len = slash != NULL ? (size_t)(slash - segment) : len - at - 1;
        if (segment_len == 0 || is_slice(segment, segment_len, ".") ||
            is_slice(segment, segment_len, ".."))
            return false;
        for (size_t i = 0; i < segment_len; i++)
            if (!is_path_char(segment[i]))
                return false;
        if (count < 4) {
            segments[count] = segment;
            lens[count] = segment_len;
        }
        count++;
        at += 1 + segment_len;
    }
    *ret_count = count;
    return true;
}

int spiffe_parse(const char *text, size_t len, struct spiffe_id *ret)
{
    const size_t scheme_len = sizeof(scheme) - 1;
    if (len <= scheme_len || len > DP_ID_MAX || memcmp(text, scheme, scheme_len) != 0)
        return -EINVAL;
    struct spiffe_id id = {.trust_domain = text + scheme_len};
    const char *end = text + len;
    const char *at = id.trust_domain;
    while (at < end && is_trust_domain_char(*at))
        at++;
    id.trust_domain_len = (size_t)(at - id.trust_domain);
    if (id.trust_domain_len == 0 || (at < end && *at != '/'))
        return -EINVAL;
    id.path = at;
    id.path_len = (size_t)(end - at);

    const char *segments[4] = {NULL};
    size_t lens[4] = {0}, count;
    if (!path_parse(id.path, id.path_len, segments, lens, &count))
        return -EINVAL;
    if (count == 4 && is_slice(segments[0], lens[0], "ns") &&
        is_slice(segments[2], lens[2], "sa")) {
        id.namespace_ = segments[1];
        id.namespace_len = lens[1];
        id.service_account = segments[3];
        id.service_account_len = lens[3];
    }
    *ret = id;
    return 0;
}

/* The text of the only URI SAN; borrowed from names. */
static int only_uri(const GENERAL_NAMES *names, const ASN1_IA5STRING **ret)
{
    const ASN1_IA5STRING *uri = NULL;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        if (uri != NULL)
            return -E2BIG;
        uri = name->d.uniformResourceIdentifier;
    }
    if (uri == NULL)
        return -ENOENT;
    *ret = uri;
    return 0;
}

/* X509_check_ca says no to CA:TRUE without keyCertSign and to keyCertSign with CA:FALSE. */
static bool may_sign(X509 *cert, uint32_t flags)
{
    return (flags & EXFLAG_KUSAGE) &&
           (X509_get_key_usage(cert) & (KU_KEY_CERT_SIGN | KU_CRL_SIGN)) != 0;
}

int spiffe_from_certificate(X509 *cert, char *buf)
{
    int critical;
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, &critical, NULL);
    if (names == NULL) /* -1: no such extension; -2: there are two; else it does not parse */
        return critical == -1 ? -ENOENT : critical == -2 ? -E2BIG : -EINVAL;
    const ASN1_IA5STRING *uri = NULL;
    int r = only_uri(names, &uri);
    if (r == 0) {
        const char *text = (const char *)ASN1_STRING_get0_data(uri);
        size_t len = (size_t)ASN1_STRING_length(uri);
        struct spiffe_id id;
        r = spiffe_parse(text, len, &id);
        if (r == 0 && id.path_len == 0)
            r = -EINVAL; /* a trust domain's own ID is for CAs */
        uint32_t flags = X509_get_extension_flags(cert);
        if (r == 0 && (flags & EXFLAG_INVALID))
            r = -EINVAL; /* nothing read from it can be relied on */
        if (r == 0 && ((flags & EXFLAG_CA) || X509_check_ca(cert) != 0 || may_sign(cert, flags)))
            r = -EPERM;
        if (r == 0) {
            memcpy(buf, text, len);
            buf[len] = '\0';
        }
    }
    GENERAL_NAMES_free(names);
    return r;
}

/* The extension's object is made once: every certificate is searched for it. */
static ASN1_OBJECT *grade_object(void)
{
    static _Atomic(ASN1_OBJECT *) made;
    ASN1_OBJECT *object = atomic_load_explicit(&made, memory_order_acquire);
    if (object != NULL)
        return object;
    ASN1_OBJECT *mine = OBJ_txt2obj(SPIFFE_GRADE_OID, 1);
    if (mine != NULL && !atomic_compare_exchange_strong(&made, &object, mine)) {
        ASN1_OBJECT_free(mine);
        return object;
    }
    return mine;
}

int spiffe_grade(X509 *cert, uint8_t *ret_grade, bool *ret_delegated)
{
    static const struct {
        const char *name;
        uint8_t grade;
    } grades[] = {
        {"l3", DP_GRADE_L3}, {"l2", DP_GRADE_L2}, {"port", DP_GRADE_PORT}, {"key", DP_GRADE_KEY}};
    ASN1_OBJECT *object = grade_object();
    if (object == NULL)
        return -ENOMEM;
    int at = X509_get_ext_by_OBJ(cert, object, -1);
    if (at < 0) {
        *ret_grade = DP_GRADE_KEY;
        *ret_delegated = false;
        return 0;
    }
    if (X509_get_ext_by_OBJ(cert, object, at) >= 0)
        return -EINVAL;
    const ASN1_OCTET_STRING *value = X509_EXTENSION_get_data(X509_get_ext(cert, at));
    const uint8_t *der = ASN1_STRING_get0_data(value);
    int len = ASN1_STRING_length(value);
    /* Short-form DER by hand: tag UTF8String, length, text, nothing after it. */
    if (len < 2 || der[0] != V_ASN1_UTF8STRING || der[1] != len - 2)
        return -EINVAL;
    for (size_t i = 0; i < DP_COUNT(grades); i++) {
        if (is_slice((const char *)der + 2, (size_t)len - 2, grades[i].name)) {
            *ret_grade = grades[i].grade;
            *ret_delegated = true;
            return 0;
        }
    }
    return -EINVAL;
}
