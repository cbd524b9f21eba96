/* test_aead.c: published vectors, both engines against each other at every length around a block's
 * edge, and every single changed bit. */
#include "aead.h"

#include <stdlib.h>

#include "hex.h"
#include "test.h"

static const enum aead_engine engines[] = {AEAD_BEST, AEAD_EVP};

/* in and its last byte together are the plaintext. */
struct vector {
    uint16_t cipher;
    const char *key, *nonce, *aad, *plain, *sealed;
};

#define GCM_KEY "feffe9928665731c6d6a8f9467308308"
#define GCM_PLAIN \
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" \
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
#define GCM_AAD "feedfacedeadbeeffeedfacedeadbeefabaddad2"

static const struct vector vectors[] = {
    /* The Galois/Counter Mode of Operation (McGrew, Viega), test cases 4 and 16. */
    {0x1301, GCM_KEY, "cafebabefacedbaddecaf888", GCM_AAD, GCM_PLAIN,
     "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
     "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
     "5bc94fbc3221a5db94fae95ae7121a47"},
    {0x1302, GCM_KEY GCM_KEY, "cafebabefacedbaddecaf888", GCM_AAD, GCM_PLAIN,
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
     "76fc6ece0f4e1768cddf8853bb2d551b"},
    /* RFC 8439, 2.8.2 */
    {0x1303, "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
     "070000004041424344454647", "50515253c0c1c2c3c4c5c6c7",
     "4c616469657320616e642047656e746c656d656e206f662074686520636c6173"
     "73206f66202739393a204966204920636f756c64206f6666657220796f75206f"
     "6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73"
     "637265656e20776f756c642062652069742e",
     "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
     "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
     "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
     "3ff4def08e4b7a9de576d26586cec64b6116"
     "1ae10b594f09e26a7e902ecbd0600691"},
    /* RFC 8448, section 3: the client's application data. */
    {0x1301, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9", "1703030043",
     "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
     "202122232425262728292a2b2c2d2e2f303117",
     "a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5"
     "b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb2169"
     "4915e4"},
};

static void published_vectors(void)
{
    for (size_t i = 0; i < DP_COUNT(vectors) * DP_COUNT(engines); i++) {
        const struct vector *v = &vectors[i / DP_COUNT(engines)];
        enum aead_engine engine = engines[i % DP_COUNT(engines)];
        uint8_t key[32], nonce[12], aad[32], plain[256], sealed[256], out[256], last = 0;
        struct aead seal, open;
        (void)hex_bytes(v->key, key, sizeof(key));
        (void)hex_bytes(v->nonce, nonce, sizeof(nonce));
        size_t aad_len = hex_bytes(v->aad, aad, sizeof(aad));
        size_t len = hex_bytes(v->plain, plain, sizeof(plain));
        size_t sealed_len = hex_bytes(v->sealed, sealed, sizeof(sealed));
        REQUIRE_INT(sealed_len, len + AEAD_TAG_SIZE);
        REQUIRE_INT(aead_init(&seal, v->cipher, key, true, engine), 0);
        REQUIRE_INT(aead_init(&open, v->cipher, key, false, engine), 0);
        CHECK_INT(aead_seal(&seal, nonce, aad, aad_len, plain, len - 1, plain[len - 1], out), 0);
        CHECK(memcmp(out, sealed, sealed_len) == 0);
        memset(out, 0, sizeof(out));
        CHECK_INT(aead_open(&open, nonce, aad, aad_len, sealed, sealed_len, out, &last), 0);
        CHECK(memcmp(out, plain, len - 1) == 0);
        CHECK_INT(last, plain[len - 1]);
        aead_fini(&seal);
        aead_fini(&open);
    }
}

/* Both engines must agree; the destination is an exact allocation, so that an overrun is seen. */
static void engines_agree_at_every_length(void)
{
    for (uint16_t cipher = 0x1301; cipher <= 0x1303; cipher++) {
        struct aead seal[2], open[2];
        uint8_t key[32], nonce[12] = {0}, aad[5] = {23, 3, 3, 1, 2};
        for (size_t i = 0; i < sizeof(key); i++)
            key[i] = (uint8_t)(cipher + 7 * i);
        for (size_t e = 0; e < DP_COUNT(engines); e++) {
            REQUIRE_INT(aead_init(&seal[e], cipher, key, true, engines[e]), 0);
            REQUIRE_INT(aead_init(&open[e], cipher, key, false, engines[e]), 0);
        }
        printf("# 0x%x by %s\n", cipher, seal[0].gcm != NULL ? "ipsec-mb" : "OpenSSL");
        for (size_t len = 0; len <= 16384; len += len < 600 ? 1 : len % 977 + 1) {
            uint8_t *plain = malloc(len + 1), *a = malloc(len + 17), *b = malloc(len + 17);
            uint8_t *opened = malloc(len + 1), last;
            for (size_t i = 0; i < len; i++)
                plain[i] = (uint8_t)(i * 31 + len);
            nonce[11] = (uint8_t)len;
            CHECK_INT(aead_seal(&seal[0], nonce, aad, 5, plain, len, 23, a), 0);
            CHECK_INT(aead_seal(&seal[1], nonce, aad, 5, plain, len, 23, b), 0);
            CHECK(memcmp(a, b, len + 17) == 0);
            for (size_t e = 0; e < DP_COUNT(engines); e++) {
                CHECK_INT(aead_open(&open[e], nonce, aad, 5, a, len + 17, opened, &last), 0);
                CHECK(memcmp(opened, plain, len) == 0 && last == 23);
            }
            memcpy(b, plain, len); /* and in place */
            CHECK_INT(aead_seal(&seal[0], nonce, aad, 5, b, len, 23, b), 0);
            CHECK(memcmp(a, b, len + 17) == 0);
            CHECK_INT(aead_open(&open[0], nonce, aad, 5, b, len + 17, b, &last), 0);
            CHECK(memcmp(b, plain, len) == 0 && last == 23);
            free(plain);
            free(a);
            free(b);
            free(opened);
        }
        for (size_t e = 0; e < DP_COUNT(engines); e++) {
            aead_fini(&seal[e]);
            aead_fini(&open[e]);
        }
    }
}

static void a_changed_bit_gives_nothing_away(void)
{
    enum { LEN = 40 };
    uint8_t key[32] = {1}, nonce[12] = {2}, aad[5] = {23, 3, 3, 0, LEN + 17};
    uint8_t plain[LEN] = "nobody may see this before it is checked", sealed[LEN + 17], out[LEN], last;
    for (uint16_t cipher = 0x1301; cipher <= 0x1303; cipher++) {
        for (size_t e = 0; e < DP_COUNT(engines); e++) {
            struct aead seal, open;
            REQUIRE_INT(aead_init(&seal, cipher, key, true, engines[e]), 0);
            REQUIRE_INT(aead_init(&open, cipher, key, false, engines[e]), 0);
            REQUIRE_INT(aead_seal(&seal, nonce, aad, 5, plain, LEN, 23, sealed), 0);
            for (size_t bit = 0; bit < 8 * sizeof(sealed); bit++) {
                static const uint8_t nothing[LEN];
                sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
                memset(out, 1, sizeof(out));
                CHECK_INT(aead_open(&open, nonce, aad, 5, sealed, sizeof(sealed), out, &last),
                          -EBADMSG);
                CHECK(memcmp(out, nothing, LEN) == 0);
                sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
            }
            for (size_t bit = 0; bit < 8 * sizeof(aad); bit++) {
                aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
                CHECK_INT(aead_open(&open, nonce, aad, 5, sealed, sizeof(sealed), out, &last),
                          -EBADMSG);
                aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
            }
            CHECK_INT(aead_open(&open, nonce, aad, 5, sealed, sizeof(sealed), out, &last), 0);
            CHECK(memcmp(out, plain, LEN) == 0);
            aead_fini(&seal);
            aead_fini(&open);
        }
    }
}

/* TLS 1.2 has empty records: there is a tag, and nothing else. */
static void a_tag_alone(void)
{
    static const uint16_t ciphers[] = {0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c};
    /* The Galois/Counter Mode of Operation (McGrew, Viega), test case 1. */
    static const char zero_tag[] = "58e2fccefa7e3061367f1d57a4e7455a";
    uint8_t key[32] = {0}, nonce[12] = {0}, tag[16], last = 1;
    for (size_t i = 0; i < DP_COUNT(ciphers) * DP_COUNT(engines); i++) {
        struct aead open;
        enum aead_engine engine = engines[i % DP_COUNT(engines)];
        uint16_t cipher = ciphers[i / DP_COUNT(engines)];
        bool is_case = cipher == 0x1301 || cipher == 0xc02b;
        (void)hex_bytes(zero_tag, tag, sizeof(tag));
        REQUIRE_INT(aead_init(&open, cipher, key, false, engine), 0);
        CHECK_INT(aead_open(&open, nonce, NULL, 0, tag, sizeof(tag), NULL, &last),
                  is_case ? 0 : -EBADMSG);
        tag[15] ^= 1;
        CHECK_INT(aead_open(&open, nonce, NULL, 0, tag, sizeof(tag), NULL, &last), -EBADMSG);
        aead_fini(&open);
    }
}

static void other_suites_are_refused(void)
{
    static const uint16_t others[] = {0, 0x1300, 0x1304, 0xc02f, 0xffff};
    uint8_t key[32] = {0};
    struct aead aead;
    for (size_t i = 0; i < DP_COUNT(others); i++)
        CHECK_INT(aead_init(&aead, others[i], key, true, AEAD_BEST), -EINVAL);
    aead = (struct aead){0};
    aead_fini(&aead);
}

TEST_MAIN(TEST(published_vectors), TEST(engines_agree_at_every_length),
          TEST(a_changed_bit_gives_nothing_away), TEST(a_tag_alone), TEST(other_suites_are_refused))
