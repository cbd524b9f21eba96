/* fuzz_spiffe.c: a SPIFFE ID as text; and the same bytes as a certificate that claims one. */
#include <openssl/err.h>
#include <stdlib.h>

#include "spiffe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void check_text(const char *text, size_t len)
{
    struct spiffe_id id;
    if (spiffe_parse(text, len, &id) < 0)
        return;
    must(len <= DP_ID_MAX && memchr(text, '\0', len) == NULL);
    must(id.trust_domain == text + 9 && id.trust_domain_len > 0);
    must(id.path == id.trust_domain + id.trust_domain_len);
    must(id.path + id.path_len == text + len);
    must(id.path_len == 0 || (id.path[0] == '/' && id.path_len > 1));
    must((id.namespace_ == NULL) == (id.service_account == NULL));
    if (id.namespace_ != NULL) {
        must(id.namespace_len > 0 && id.service_account_len > 0);
        must(id.path_len == 8 + id.namespace_len + id.service_account_len);
        must(id.service_account + id.service_account_len == text + len);
        must(memchr(id.namespace_, '/', id.namespace_len) == NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_text((const char *)data, size);
    const uint8_t *der = data;
    X509 *cert = d2i_X509(NULL, &der, size < 1 << 16 ? (long)size : 1 << 16);
    if (cert != NULL) {
        char id[DP_ID_MAX + 1];
        uint8_t grade;
        bool delegated;
        struct spiffe_id parsed;
        if (spiffe_from_certificate(cert, id) == 0)
            must(spiffe_parse(id, strlen(id), &parsed) == 0 && parsed.path_len > 0);
        if (spiffe_grade(cert, &grade, &delegated) == 0)
            must(grade >= DP_GRADE_L3 && grade <= DP_GRADE_KEY);
    }
    X509_free(cert);
    ERR_clear_error();
    return 0;
}
