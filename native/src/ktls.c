/* ktls.c: validate and prepare, then two system calls of which the first commits. */
#include "ktls.h"

#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>

#include "keys.h"
#include "sys.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif

enum { SEQ_SIZE = 8, SALT_SIZE = 4 };
static_assert(TLS_CIPHER_AES_GCM_128_SALT_SIZE == SALT_SIZE &&
                  TLS_CIPHER_AES_GCM_256_SALT_SIZE == SALT_SIZE &&
                  TLS_CIPHER_CHACHA20_POLY1305_IV_SIZE == KEYS_IV_SIZE,
              "the kernel splits an IV as we do");

struct crypto {
    union {
        struct tls_crypto_info head;
        struct tls12_crypto_info_aes_gcm_128 gcm_128;
        struct tls12_crypto_info_aes_gcm_256 gcm_256;
        struct tls12_crypto_info_chacha20_poly1305 chacha;
    };
    socklen_t size;              /* 0 = the suite is not one of the kernel's */
};

/* What the kernel wants to know of one direction. -EINVAL: no such suite; -ENOMEM. */
static int prepare(uint16_t cipher, const struct ktls_direction *direction, struct crypto *ret)
{
    uint8_t key[KEYS_KEY_MAX], iv[KEYS_IV_SIZE], seq[SEQ_SIZE];
    int r = keys_derive(cipher, direction->secret, key, iv);
    if (r < 0)
        return r;
    be64_put(seq, direction->seq);
    *ret = (struct crypto){.head = {.version = TLS_1_3_VERSION}};
    if (keys_is_tls12(cipher)) { /* the next record's explicit nonce, which it counts on from */
        ret->head.version = TLS_1_2_VERSION;
        be64_put(iv + SALT_SIZE, be64_get(iv + SALT_SIZE) + direction->seq);
    }
    switch (cipher) {
    case 0x1301:
    case 0xc02b:
        ret->head.cipher_type = TLS_CIPHER_AES_GCM_128;
        ret->size = sizeof(ret->gcm_128);
        memcpy(ret->gcm_128.key, key, sizeof(ret->gcm_128.key));
        memcpy(ret->gcm_128.salt, iv, SALT_SIZE);
        memcpy(ret->gcm_128.iv, iv + SALT_SIZE, sizeof(ret->gcm_128.iv));
        memcpy(ret->gcm_128.rec_seq, seq, SEQ_SIZE);
        break;
    case 0x1302:
    case 0xc02c:
        ret->head.cipher_type = TLS_CIPHER_AES_GCM_256;
        ret->size = sizeof(ret->gcm_256);
        memcpy(ret->gcm_256.key, key, sizeof(ret->gcm_256.key));
        memcpy(ret->gcm_256.salt, iv, SALT_SIZE);
        memcpy(ret->gcm_256.iv, iv + SALT_SIZE, sizeof(ret->gcm_256.iv));
        memcpy(ret->gcm_256.rec_seq, seq, SEQ_SIZE);
        break;
    case 0x1303:
        ret->head.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
        ret->size = sizeof(ret->chacha);
        memcpy(ret->chacha.key, key, sizeof(ret->chacha.key));
        memcpy(ret->chacha.iv, iv, sizeof(ret->chacha.iv));
        memcpy(ret->chacha.rec_seq, seq, SEQ_SIZE);
        break;
    default:
        r = -EINVAL;
    }
    OPENSSL_cleanse(key, sizeof(key));
    OPENSSL_cleanse(iv, sizeof(iv));
    return r;
}

/* In this order: the protocol alone changes nothing, and whatever a kernel lacks for one direction
 * it lacks for the other, so that the direction asked for first tells. */
static int commit(int fd, const struct crypto *tx, const struct crypto *rx,
                  enum dp_fallback *ret_why)
{
    static const char protocol[] = "tls";
    int r = sys->setsockopt(fd, IPPROTO_TCP, TCP_ULP, protocol, sizeof(protocol) - 1);
    if (r < 0) {
        *ret_why = r == -ENOENT ? DP_FALLBACK_NO_KERNEL_TLS : DP_FALLBACK_SOCKET;
        return -ENOTSUP;
    }
    r = sys->setsockopt(fd, SOL_TLS, TLS_TX, tx, tx->size);
    if (r < 0) {
        *ret_why = r == -ENOMEM ? DP_FALLBACK_MEMORY : DP_FALLBACK_KERNEL_CIPHER;
        return -ENOTSUP;
    }
    r = sys->setsockopt(fd, SOL_TLS, TLS_RX, rx, rx->size);
    if (r < 0) {
        *ret_why = DP_FALLBACK_HALF;
        return -EIO;
    }
    return 0;
}

int ktls_install(int fd, uint16_t cipher, const struct ktls_direction *tx,
                 const struct ktls_direction *rx, enum dp_fallback *ret_why)
{
    struct crypto tx_crypto, rx_crypto;
    int r = prepare(cipher, tx, &tx_crypto);
    if (r == 0)
        r = prepare(cipher, rx, &rx_crypto);
    if (r < 0)
        *ret_why = r == -ENOMEM ? DP_FALLBACK_MEMORY : DP_FALLBACK_CIPHER;
    r = r < 0 ? -ENOTSUP : commit(fd, &tx_crypto, &rx_crypto, ret_why);
    OPENSSL_cleanse(&tx_crypto, sizeof(tx_crypto));
    OPENSSL_cleanse(&rx_crypto, sizeof(rx_crypto));
    return r;
}

/* Flows so far in this network namespace; 0 = not told. */
struct count {
    unsigned long device, kernel; /* by whom */
};

struct flows {
    struct count sealed, opened;
};

static unsigned long number(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at != NULL ? strtoul(at + strlen(name), NULL, 10) : 0;
}

static struct flows count_flows(void)
{
    char text[2048] = "\n";
    size_t len = 1;
    int fd = sys->open("/proc/self/net/tls_stat");
    if (fd < 0)
        return (struct flows){0};
    ssize_t n;
    while (len < sizeof(text) - 1 && (n = sys->read(fd, text + len, sizeof(text) - 1 - len)) > 0)
        len += (size_t)n;
    sys->close(fd);
    text[len] = '\0';
    return (struct flows){{number(text, "\nTlsTxDevice "), number(text, "\nTlsTxSw ")},
                          {number(text, "\nTlsRxDevice "), number(text, "\nTlsRxSw ")}};
}

enum worker { IN_DOUBT, DEVICE, KERNEL };

static enum worker whose(struct count before, struct count now)
{
    bool device = now.device > before.device, kernel = now.kernel > before.kernel;
    return device == kernel ? IN_DOUBT : device ? DEVICE : KERNEL;
}

static enum dp_fallback judge(const struct flows *before, const struct flows *now)
{
    enum worker seals = whose(before->sealed, now->sealed),
                opens = whose(before->opened, now->opened);
    if (seals == KERNEL)
        return DP_FALLBACK_NO_DEVICE;
    if (seals == IN_DOUBT || opens == IN_DOUBT)
        return DP_FALLBACK_IN_DOUBT;
    return opens == KERNEL ? DP_FALLBACK_SEALS_ONLY : DP_FALLBACK_NONE;
}

int ktls_install_seen(int fd, uint16_t cipher, const struct ktls_direction *tx,
                      const struct ktls_direction *rx, enum dp_fallback *ret_why)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    struct flows before = count_flows();
    int r = ktls_install(fd, cipher, tx, rx, ret_why);
    if (r == 0) {
        struct flows now = count_flows();
        *ret_why = judge(&before, &now);
    }
    pthread_mutex_unlock(&lock);
    return r;
}

int ktls_rekey(int fd, uint16_t cipher, bool sends, const uint8_t *secret)
{
    struct crypto crypto;
    const struct ktls_direction direction = {.secret = secret};
    int r = prepare(cipher, &direction, &crypto);
    if (r == 0)
        r = sys->setsockopt(fd, SOL_TLS, sends ? TLS_TX : TLS_RX, &crypto, crypto.size);
    OPENSSL_cleanse(&crypto, sizeof(crypto));
    return r;
}

union control {
    struct cmsghdr head;         /* for its alignment */
    uint8_t bytes[CMSG_SPACE(1)];
};

ssize_t ktls_send(int fd, uint8_t type, const void *data, size_t len)
{
    union control control = {.bytes = {0}};
    struct iovec part = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_TLS;
    head->cmsg_type = TLS_SET_RECORD_TYPE;
    head->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(head) = type;
    message.msg_controllen = head->cmsg_len;
    ssize_t n;
    do
        n = sys->sendmsg(fd, &message, MSG_NOSIGNAL);
    while (n == -EINTR);
    return n;
}

ssize_t ktls_receive(int fd, void *buf, size_t len, uint8_t *ret_type)
{
    union control control;
    struct iovec part = {.iov_base = buf, .iov_len = len};
    struct msghdr message;
    ssize_t n;
    do {
        message = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                                  .msg_controllen = sizeof(control)};
        n = sys->recvmsg(fd, &message, 0);
    } while (n == -EINTR);
    if (n < 0)
        return n;
    uint8_t type = 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL;
         head = CMSG_NXTHDR(&message, head))
        if (head->cmsg_level == SOL_TLS && head->cmsg_type == TLS_GET_RECORD_TYPE)
            type = *CMSG_DATA(head) != 0 ? *CMSG_DATA(head) : KTLS_NO_TYPE;
    *ret_type = type;
    return n;
}
