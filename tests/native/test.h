/* test.h: the whole test harness: checks that count, a table of cases, "ok" lines, an exit code.
 * A case goes on after a failed CHECK; REQUIRE returns from it. */
#ifndef SLUICE_TEST_H
#define SLUICE_TEST_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct test_case {
    const char *name;
    void (*fn)(void);
};

static unsigned test_failures; /* failed checks so far */

__attribute__((unused)) static bool test_check(bool good, const char *file, int line,
                                               const char *text)
{
    if (!good) {
        test_failures++;
        printf("# %s:%d: %s\n", file, line, text);
    }
    return good;
}

__attribute__((unused)) static bool test_check_int(int64_t got, int64_t want, const char *file,
                                                   int line, const char *text)
{
    if (got != want) {
        test_failures++;
        printf("# %s:%d: %s is %" PRId64 ", want %" PRId64 "\n", file, line, text, got, want);
    }
    return got == want;
}

__attribute__((unused)) static bool test_check_text(const char *got, const char *want,
                                                    const char *file, int line, const char *text)
{
    bool same = got != NULL && want != NULL ? strcmp(got, want) == 0 : got == want;
    if (!same) {
        test_failures++;
        printf("# %s:%d: %s is \"%s\", want \"%s\"\n", file, line, text, got ? got : "(null)",
               want ? want : "(null)");
    }
    return same;
}

#define CHECK(condition) test_check((condition), __FILE__, __LINE__, #condition)
#define CHECK_INT(got, want) test_check_int((int64_t)(got), (int64_t)(want), __FILE__, __LINE__, #got)
#define CHECK_TEXT(got, want) test_check_text((got), (want), __FILE__, __LINE__, #got)
#define REQUIRE(condition) \
    do { \
        if (!CHECK(condition)) \
            return; \
    } while (0)
#define REQUIRE_INT(got, want) \
    do { \
        if (!CHECK_INT(got, want)) \
            return; \
    } while (0)

/* Runs the cases whose name contains argv[1], or all. Returns main's exit code. */
__attribute__((unused)) static int test_run(int argc, char **argv, const struct test_case *cases,
                                            size_t count)
{
    unsigned passed = 0, failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strstr(cases[i].name, argv[1]) == NULL)
            continue;
        unsigned before = test_failures;
        cases[i].fn();
        bool good = test_failures == before;
        printf("%s %s\n", good ? "ok" : "not ok", cases[i].name);
        *(good ? &passed : &failed) += 1;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}

#define TEST(fn) { #fn, fn }
#define TEST_MAIN(...) \
    int main(int argc, char **argv) \
    { \
        static const struct test_case cases[] = {__VA_ARGS__}; \
        return test_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0])); \
    }

#endif
