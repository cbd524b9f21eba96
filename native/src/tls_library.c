/* tls_library.c: OpenSSL's algorithms as handshakes get them. OpenSSL before 3.2 finds the decoder
 * for a certificate's key anew each time, by asking every decoder, and walking every algorithm that
 * was ever fetched, whether it might serve: that is most of decoding a certificate. So handshakes
 * see the default provider with the few ciphers and kinds of keys that a mesh link can have, and
 * without decoders: tls_verify.c gives them the peer's certificate with its key, as it was read by a
 * third view that has those; our own leaves and bundles are read by it too (leaf.c). And a session's
 * certificate, which OpenSSL decodes with whatever the thread has, never gets its key: nobody asks
 * for that, since resumption rests on the session's own secret.
 * Of its algorithms none is added, and one alone is ours (tls_kdf.c). Reads no file. */
#include <openssl/core_dispatch.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

#include "tls_internal.h"

enum { KINDS_MAX = 8, PROPERTIES_MAX = 2, ALGORITHMS_MAX = 16 };

/* Of an operation only these kinds of algorithms, by their first names. */
static struct choice {
    int operation;
    const OSSL_DISPATCH *ours;   /* instead of the first kind's; NULL = none */
    const char *properties[PROPERTIES_MAX]; /* one of them its definition must contain */
    const char *kinds[KINDS_MAX];
    OSSL_ALGORITHM found[ALGORITHMS_MAX + 1];
} choices[] = {
    {OSSL_OP_DECODER, NULL, {"structure=SubjectPublicKeyInfo", "structure=PrivateKeyInfo"},
     {"EC", "RSA", "RSA-PSS", "ED25519", "ED448"}, {{0}}},
    /* HMAC's is of the binder that goes with a ticket. */
    {OSSL_OP_KEYMGMT, NULL, {""},
     {"EC", "RSA", "RSA-PSS", "ED25519", "ED448", "X25519", "HMAC"}, {{0}}},
    /* Of suites, tls.c's and tls_profile.c's; of tickets. */
    {OSSL_OP_CIPHER, NULL, {""},
     {"AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305", "AES-256-CBC"}, {{0}}},
    {OSSL_OP_KDF, tls_kdf, {""}, {"TLS13-KDF", "TLS1-PRF"}, {{0}}},
};

static struct {                  /* made once a process, and kept; choices too */
    CRYPTO_ONCE once;
    OSSL_LIB_CTX *ctx;           /* NULL = the process's own is as good, or all there is */
    OSSL_LIB_CTX *reader_ctx;    /* as ctx, but decodes keys */
    OSSL_LIB_CTX *keyless_ctx;   /* of threads that shake hands */
    OSSL_LIB_CTX *inner_ctx;     /* where the whole provider lives */
    OSSL_PROVIDER *inner;
} library = {.once = CRYPTO_ONCE_STATIC_INIT};

/* Which kind of the choice's it is; KINDS_MAX = none. */
static size_t kind_of(const struct choice *choice, const OSSL_ALGORITHM *algorithm)
{
    bool fits = false;
    for (size_t i = 0; i < PROPERTIES_MAX && choice->properties[i] != NULL; i++)
        fits |= strstr(algorithm->property_definition, choice->properties[i]) != NULL;
    if (!fits)
        return KINDS_MAX;
    for (size_t i = 0; i < KINDS_MAX && choice->kinds[i] != NULL; i++) {
        size_t len = strlen(choice->kinds[i]); /* other names may follow */
        const char *names = algorithm->algorithm_names;
        if (strncmp(names, choice->kinds[i], len) == 0 && (names[len] == '\0' || names[len] == ':'))
            return i;
    }
    return KINDS_MAX;
}

/* From what the whole provider has. */
static bool choose(struct choice *choice)
{
    int no_cache;
    size_t count = 0;
    const OSSL_ALGORITHM *all =
        OSSL_PROVIDER_query_operation(library.inner, choice->operation, &no_cache);
    for (; all != NULL && all->algorithm_names != NULL; all++) {
        size_t kind = kind_of(choice, all);
        if (kind == KINDS_MAX)
            continue;
        if (count == ALGORITHMS_MAX)
            return false;
        choice->found[count] = *all;
        if (kind == 0 && choice->ours != NULL)
            choice->found[count].implementation = choice->ours;
        count++;
    }
    return count > 0;
}

static const OSSL_ALGORITHM *reader_query(void *context, int operation, int *ret_no_cache)
{
    (void)context;
    for (size_t i = 0; i < DP_COUNT(choices); i++)
        if (choices[i].operation == operation) {
            *ret_no_cache = 0;
            return choices[i].found;
        }
    return OSSL_PROVIDER_query_operation(library.inner, operation, ret_no_cache);
}

static const OSSL_ALGORITHM *query(void *context, int operation, int *ret_no_cache)
{
    if (operation != OSSL_OP_DECODER)
        return reader_query(context, operation, ret_no_cache);
    *ret_no_cache = 0;
    return NULL;
}

static const OSSL_ALGORITHM *keyless_query(void *context, int operation, int *ret_no_cache)
{
    if (operation != OSSL_OP_KEYMGMT)
        return query(context, operation, ret_no_cache);
    *ret_no_cache = 0;
    return NULL;
}

static int capabilities(void *context, const char *name, OSSL_CALLBACK *callback, void *arg)
{
    (void)context;
    return OSSL_PROVIDER_get_capabilities(library.inner, name, callback, arg);
}

static int init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
                const OSSL_DISPATCH **ret_functions, void **ret_context)
{
    static const OSSL_DISPATCH functions[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
        {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))capabilities},
        {0, NULL}};
    (void)handle;
    (void)in;
    *ret_functions = functions;
    *ret_context = OSSL_PROVIDER_get0_provider_ctx(library.inner); /* its algorithms ask for it */
    return 1;
}

static int reader_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
                       const OSSL_DISPATCH **ret_functions, void **ret_context)
{
    static const OSSL_DISPATCH functions[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))reader_query},
        {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))capabilities},
        {0, NULL}};
    (void)handle;
    (void)in;
    *ret_functions = functions;
    *ret_context = OSSL_PROVIDER_get0_provider_ctx(library.inner); /* its algorithms ask for it */
    return 1;
}

static int keyless_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
                        const OSSL_DISPATCH **ret_functions, void **ret_context)
{
    static const OSSL_DISPATCH functions[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))keyless_query},
        {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))capabilities},
        {0, NULL}};
    (void)handle;
    (void)in;
    *ret_functions = functions;
    *ret_context = OSSL_PROVIDER_get0_provider_ctx(library.inner); /* its algorithms ask for it */
    return 1;
}

static int count_foreign(OSSL_PROVIDER *provider, void *arg)
{
    *(unsigned *)arg += strcmp(OSSL_PROVIDER_get0_name(provider), "default") != 0;
    return 1;
}

/* Has the machine's administrator chosen other algorithms, such as FIPS's? Then those it is. */
static bool is_configured(void)
{
    unsigned foreign = 0;
    return !OSSL_PROVIDER_do_all(NULL, count_foreign, &foreign) || foreign > 0 ||
           EVP_default_properties_is_fips_enabled(NULL);
}

static OSSL_LIB_CTX *ctx_with(OSSL_provider_init_fn *provider_init)
{
    OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();
    if (ctx != NULL && OSSL_PROVIDER_add_builtin(ctx, "sluice", provider_init) &&
        OSSL_PROVIDER_load(ctx, "sluice") != NULL)
        return ctx;
    OSSL_LIB_CTX_free(ctx);
    return NULL;
}

static void make(void)
{
    if (OPENSSL_version_major() != 3 || OPENSSL_version_minor() >= 2 || is_configured())
        return;
    library.inner_ctx = OSSL_LIB_CTX_new();
    if (library.inner_ctx == NULL)
        return;
    library.inner = OSSL_PROVIDER_load(library.inner_ctx, "default");
    if (library.inner == NULL)
        return;
    for (size_t i = 0; i < DP_COUNT(choices); i++)
        if (!choose(&choices[i]))
            return;
    library.reader_ctx = ctx_with(reader_init);
    if (library.reader_ctx != NULL)
        library.ctx = ctx_with(init);
    library.keyless_ctx = ctx_with(keyless_init);
}

OSSL_LIB_CTX *tls_library(void)
{
    return CRYPTO_THREAD_run_once(&library.once, make) ? library.ctx : NULL;
}

OSSL_LIB_CTX *tls_library_reader(void)
{
    return tls_library() != NULL ? library.reader_ctx : NULL;
}

void tls_thread_init(void)
{
    if (tls_library() != NULL && library.keyless_ctx != NULL)
        (void)OSSL_LIB_CTX_set0_default(library.keyless_ctx);
}
