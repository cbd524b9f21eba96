/* test_sni.c: server names, good and bad. */
#include "sni.h"
#include "test.h"

#define LABEL_63 "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0"

static void takes_what_we_send(void)
{
    static const char *const good[] = {
        "_.5432.payments.default.a.example", "v2.80.web.prod.site-b.mesh", "a", "a.b", "x_y.z",
        LABEL_63 ".example", "1.2.3.4.site",
        LABEL_63 "." LABEL_63 "." LABEL_63 "." "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmno"
                 "pqrstuvwxy",
    };
    for (size_t i = 0; i < DP_COUNT(good); i++)
        if (!CHECK(sni_is_valid(good[i], strlen(good[i]))))
            printf("# %s\n", good[i]);
}

static void refuses_everything_else(void)
{
    static const char *const bad[] = {
        "", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b.c", "A.example", "a b", "a/b", "a:80",
        "198.18.0.1", "::1", "caf\xc3\xa9.example", "a\x01", "*.example", LABEL_63 "x.example",
        LABEL_63 "." LABEL_63 "." LABEL_63 "." "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmno"
                 "pqrstuvwxyz0123",
    };
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        if (!CHECK(!sni_is_valid(bad[i], strlen(bad[i]))))
            printf("# %s\n", bad[i]);
    CHECK(!sni_is_valid("a\0b", 3));
}

static void reads_the_extension(void)
{
    char buf[SNI_MAX + 1] = "untouched";
    static const uint8_t good[] = {0, 6, 0, 0, 3, 'a', '.', 'b'};
    REQUIRE_INT(sni_from_extension(good, sizeof(good), buf), 0);
    CHECK_TEXT(buf, "a.b");
    static const struct {
        const char *what;
        uint8_t bytes[16];
        size_t len;
    } bad[] = {
        {"empty", {0}, 0},
        {"no list", {0, 0}, 2},
        {"half a head", {0, 2, 0, 0}, 4},
        {"empty name", {0, 3, 0, 0, 0}, 5},
        {"list too long", {0, 7, 0, 0, 3, 'a', '.', 'b'}, 8},
        {"list too short", {0, 5, 0, 0, 3, 'a', '.', 'b'}, 8},
        {"name too long", {0, 6, 0, 0, 4, 'a', '.', 'b'}, 8},
        {"name too short", {0, 6, 0, 0, 2, 'a', '.', 'b'}, 8},
        {"not a host name", {0, 6, 1, 0, 3, 'a', '.', 'b'}, 8},
        {"two names", {0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b'}, 10},
        {"NUL inside", {0, 6, 0, 0, 3, 'a', 0, 'b'}, 8},
    };
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        if (!CHECK_INT(sni_from_extension(bad[i].bytes, bad[i].len, buf), -EINVAL))
            printf("# %s\n", bad[i].what);
    CHECK_TEXT(buf, "a.b");
}

TEST_MAIN(TEST(takes_what_we_send), TEST(refuses_everything_else), TEST(reads_the_extension))
