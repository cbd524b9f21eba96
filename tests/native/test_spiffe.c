/* test_spiffe.c: SPIFFE IDs as text and in certificates; the grade extension. */
#include "pki.h"
#include "spiffe.h"
#include "test.h"

#define TD "spiffe://a.example"

static bool is_slice(const char *text, size_t len, const char *want)
{
    return text != NULL && len == strlen(want) && memcmp(text, want, len) == 0;
}

static void parts_of_a_workload_id(void)
{
    struct spiffe_id id;
    const char *text = TD "/ns/default/sa/web_1.X";
    REQUIRE_INT(spiffe_parse(text, strlen(text), &id), 0);
    CHECK(is_slice(id.trust_domain, id.trust_domain_len, "a.example"));
    CHECK(is_slice(id.path, id.path_len, "/ns/default/sa/web_1.X"));
    CHECK(is_slice(id.namespace_, id.namespace_len, "default"));
    CHECK(is_slice(id.service_account, id.service_account_len, "web_1.X"));
}

static void other_paths_have_no_namespace(void)
{
    static const char *const texts[] = {
        TD, TD "/sluice/appliance/a1", TD "/ns/default", TD "/ns/default/sa/web/x",
        TD "/NS/default/sa/web", TD "/ns/default/SA/web"};
    for (size_t i = 0; i < DP_COUNT(texts); i++) {
        struct spiffe_id id;
        REQUIRE_INT(spiffe_parse(texts[i], strlen(texts[i]), &id), 0);
        CHECK(id.namespace_ == NULL && id.service_account == NULL);
    }
}

static void refuses_what_is_not_canonical(void)
{
    static const char *const bad[] = {
        "", "spiffe://", "spiffe:///ns/a", "http://a.example/x", "SPIFFE://a.example/x",
        "spiffe:/a.example/x", " " TD "/x", "spiffe://A.example/x", "spiffe://a.example:443/x",
        "spiffe://user@a.example/x", TD "/", TD "/x/", TD "//x", TD "/x//y", TD "/.", TD "/..",
        TD "/x/../y", TD "/x/./y", TD "/x?q", TD "/x#f", TD "?q", TD "#f", TD "/%41", TD "/a b",
        TD "/caf\xc3\xa9", TD "/a\\b", "spiffe://[::1]/x", "spiffe://a%2eexample/x", TD "/x\n"};
    struct spiffe_id id;
    for (size_t i = 0; i < DP_COUNT(bad); i++)
        if (!CHECK_INT(spiffe_parse(bad[i], strlen(bad[i]), &id), -EINVAL))
            printf("# %s\n", bad[i]);
    CHECK_INT(spiffe_parse(TD "/x\0y", sizeof(TD "/x\0y") - 1, &id), -EINVAL);
    /* ".." only is special: these are names. */
    CHECK_INT(spiffe_parse(TD "/...", strlen(TD "/..."), &id), 0);
}

static void length_is_limited(void)
{
    char text[DP_ID_MAX + 2];
    struct spiffe_id id;
    memset(text, 'a', sizeof(text));
    memcpy(text, TD "/", strlen(TD "/"));
    CHECK_INT(spiffe_parse(text, DP_ID_MAX, &id), 0);
    CHECK_INT(spiffe_parse(text, DP_ID_MAX + 1, &id), -EINVAL);
}

static int id_of(const struct pki_spec *spec, char *buf)
{
    struct pki_ca ca;
    pki_ca_init(&ca, "test", NULL);
    EVP_PKEY *key = pki_key();
    X509 *cert = pki_issue(&ca, spec, key);
    int r = spiffe_from_certificate(cert, buf);
    X509_free(cert);
    EVP_PKEY_free(key);
    pki_ca_fini(&ca);
    return r;
}

static void id_in_a_certificate(void)
{
    char buf[DP_ID_MAX + 1] = "untouched";
    CHECK_INT(id_of(&(struct pki_spec){0}, buf), -ENOENT);
    CHECK_INT(id_of(&(struct pki_spec){.dns = "a.example"}, buf), -ENOENT);
    CHECK_INT(id_of(&(struct pki_spec){.uris = {TD "/x", TD "/y"}}, buf), -E2BIG);
    CHECK_INT(id_of(&(struct pki_spec){.uris = {TD "/x", "https://a.example"}}, buf), -E2BIG);
    CHECK_INT(id_of(&(struct pki_spec){.uris = {"https://a.example/x"}}, buf), -EINVAL);
    CHECK_INT(id_of(&(struct pki_spec){.uris = {TD}}, buf), -EINVAL);
    CHECK_INT(id_of(&(struct pki_spec){.uris = {TD "/x"}, .is_ca = true}, buf), -EPERM);
    CHECK_INT(id_of(&(struct pki_spec){.uris = {TD "/x"}, .key_usage = "digitalSignature,cRLSign"},
                    buf), -EPERM);
    CHECK_INT(id_of(&(struct pki_spec){.uris = {TD "/x"}, .key_usage = "keyCertSign"}, buf),
              -EPERM);
    CHECK_TEXT(buf, "untouched");
    CHECK_INT(id_of(&(struct pki_spec){.uris = {TD "/x"}, .dns = "a.example"}, buf), 0);
    CHECK_TEXT(buf, TD "/x");
}

static int grade_of(const char *text, uint8_t *grade, bool *delegated)
{
    struct pki_ca ca;
    pki_ca_init(&ca, "test", NULL);
    EVP_PKEY *key = pki_key();
    X509 *cert = pki_issue(&ca, &(struct pki_spec){.uris = {TD "/x"}, .grade = text}, key);
    int r = spiffe_grade(cert, grade, delegated);
    X509_free(cert);
    EVP_PKEY_free(key);
    pki_ca_fini(&ca);
    return r;
}

static void grade_in_a_certificate(void)
{
    static const struct {
        const char *text;
        uint8_t grade;
        bool delegated;
    } good[] = {{NULL, DP_GRADE_KEY, false}, {"l3", DP_GRADE_L3, true}, {"l2", DP_GRADE_L2, true},
                {"port", DP_GRADE_PORT, true}, {"key", DP_GRADE_KEY, true}};
    for (size_t i = 0; i < DP_COUNT(good); i++) {
        uint8_t grade = 99;
        bool delegated = !good[i].delegated;
        CHECK_INT(grade_of(good[i].text, &grade, &delegated), 0);
        CHECK_INT(grade, good[i].grade);
        CHECK_INT(delegated, good[i].delegated);
    }
    static const char *const bad[] = {"", "none", "L3", "l33", "l", "key "};
    for (size_t i = 0; i < DP_COUNT(bad); i++) {
        uint8_t grade = 99;
        bool delegated = false;
        CHECK_INT(grade_of(bad[i], &grade, &delegated), -EINVAL);
        CHECK_INT(grade, 99);
    }
}

TEST_MAIN(TEST(parts_of_a_workload_id), TEST(other_paths_have_no_namespace),
          TEST(refuses_what_is_not_canonical), TEST(length_is_limited),
          TEST(id_in_a_certificate), TEST(grade_in_a_certificate))
