/* aead_gcm.c: the library is looked for once and stays loaded. Its manager is only read from then
 * on, so threads share it. Optional twice: a build without its header has no use for it, and a
 * machine without the library goes on with OpenSSL. */
#include "aead_gcm.h"

#if defined(__x86_64__) && __has_include(<intel-ipsec-mb.h>)
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <pthread.h>

#if IMB_VERSION_NUM < IMB_VERSION(2, 0, 0)
static const char library[] = "libIPSec_MB.so.1";
#else
static const char library[] = "libIPSec_MB.so.2";
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static IMB_MGR *manager; /* owned by the process; NULL = not to be had */

static void *symbol(void *handle, const char *name)
{
    return handle != NULL ? dlsym(handle, name) : NULL;
}

/* The table of functions lies in the manager, whose form may change with a minor release. */
static bool is_ours(unsigned version)
{
    return version >> 8 == IMB_VERSION_NUM >> 8;
}

static void load(void)
{
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl"))
        return;
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    unsigned (*get_version)(void) = symbol(handle, "imb_get_version");
    IMB_MGR *(*alloc)(uint64_t) = symbol(handle, "alloc_mb_mgr");
    void (*release)(IMB_MGR *) = symbol(handle, "free_mb_mgr");
    void (*init)(IMB_MGR *, IMB_ARCH *) = symbol(handle, "init_mb_mgr_auto");
    if (get_version == NULL || alloc == NULL || release == NULL || init == NULL ||
        !is_ours(get_version()))
        return;
    IMB_MGR *made = alloc(0);
    if (made == NULL)
        return;
    IMB_ARCH arch = IMB_ARCH_NONE;
    init(made, &arch);
    const uint64_t wanted = IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ;
    if (made->imb_errno == 0 && arch == IMB_ARCH_AVX512 && (made->features & wanted) == wanted)
        manager = made;
    else
        release(made);
}

#define FUNCTIONS(bits) \
    static void expand_##bits(const uint8_t *key, void *gcm_key) \
    { \
        IMB_AES##bits##_GCM_PRE(manager, key, (struct gcm_key_data *)gcm_key); \
    } \
    static void seal_##bits(const void *gcm_key, const uint8_t *nonce, const uint8_t *aad, \
                            size_t aad_len, const uint8_t *in, size_t len, uint8_t last, \
                            uint8_t *out) \
    { \
        const struct gcm_key_data *key = gcm_key; \
        struct gcm_context_data ctx; \
        IMB_AES##bits##_GCM_INIT(manager, key, &ctx, nonce, aad, aad_len); \
        IMB_AES##bits##_GCM_ENC_UPDATE(manager, key, &ctx, out, in, len); \
        IMB_AES##bits##_GCM_ENC_UPDATE(manager, key, &ctx, out + len, &last, 1); \
        IMB_AES##bits##_GCM_ENC_FINALIZE(manager, key, &ctx, out + len + 1, 16); \
    } \
    static void open_##bits(const void *gcm_key, const uint8_t *nonce, const uint8_t *aad, \
                            size_t aad_len, const uint8_t *in, size_t len, uint8_t *out, \
                            uint8_t *ret_last, uint8_t *ret_tag) \
    { \
        const struct gcm_key_data *key = gcm_key; \
        struct gcm_context_data ctx; \
        IMB_AES##bits##_GCM_INIT(manager, key, &ctx, nonce, aad, aad_len); \
        if (len > 0) { \
            IMB_AES##bits##_GCM_DEC_UPDATE(manager, key, &ctx, out, in, len - 1); \
            IMB_AES##bits##_GCM_DEC_UPDATE(manager, key, &ctx, ret_last, in + len - 1, 1); \
        } \
        IMB_AES##bits##_GCM_DEC_FINALIZE(manager, key, &ctx, ret_tag, 16); \
    } \
    static const struct aead_gcm gcm_##bits = { \
        .expand = expand_##bits, .seal = seal_##bits, .open = open_##bits, \
        .key_size = sizeof(struct gcm_key_data), \
    };

FUNCTIONS(128)
FUNCTIONS(256)

/* The Galois/Counter Mode of Operation (McGrew, Viega), test case 2: what was loaded is no part of
 * what was tested. */
static bool answers_rightly(void)
{
    static const uint8_t zeros[16], want[32] = {
        0x03, 0x88, 0xda, 0xce, 0x60, 0xb6, 0xa3, 0x92, 0xf3, 0x28, 0xc2, 0xb9, 0x71, 0xb2, 0xfe, 0x78,
        0xab, 0x6e, 0x47, 0xd4, 0x2c, 0xec, 0x13, 0xbd, 0xf5, 0x3a, 0x67, 0xb2, 0x12, 0x57, 0xbd, 0xdf};
    struct gcm_key_data key;
    uint8_t got[32];
    expand_128(zeros, &key);
    seal_128(&key, zeros, zeros, 0, zeros, 15, 0, got);
    return memcmp(got, want, sizeof(got)) == 0;
}

static void find(void)
{
    load();
    if (manager != NULL && !answers_rightly())
        manager = NULL;
}

const struct aead_gcm *aead_gcm_find(size_t key_bytes)
{
    (void)pthread_once(&once, find);
    if (manager == NULL)
        return NULL;
    return key_bytes == 16 ? &gcm_128 : &gcm_256;
}

#else

const struct aead_gcm *aead_gcm_find(size_t key_bytes)
{
    (void)key_bytes;
    return NULL;
}

#endif
