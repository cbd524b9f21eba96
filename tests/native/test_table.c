/* test_table.c: the hash table against a linear search, and the arena that holds its keys. */
#include "table.h"

#include <stdlib.h>

#include "arena.h"
#include "test.h"

static void finds_what_was_added_and_nothing_else(void)
{
    struct table table = {0};
    struct arena arena = {0};
    uint32_t value;
    CHECK(!table_get(&table, "a", 1, &value));
    for (uint32_t i = 0; i < 20000; i++) {
        char text[16];
        int len = snprintf(text, sizeof(text), "key-%u", i);
        const void *key = arena_copy(&arena, text, (size_t)len);
        REQUIRE(key != NULL);
        REQUIRE_INT(table_add(&table, key, (size_t)len, i), 0);
        CHECK_INT(table_add(&table, key, (size_t)len, i + 1), -EEXIST);
    }
    bool good = true;
    for (uint32_t i = 0; i < 40000; i++) {
        char text[16];
        int len = snprintf(text, sizeof(text), "key-%u", i);
        bool found = table_get(&table, text, (size_t)len, &value);
        good &= found == (i < 20000) && (!found || value == i);
    }
    CHECK(good);
    CHECK(!table_get(&table, "key-1", 4, &value)); /* a prefix is another key */
    CHECK_INT(table.count, 20000);
    table_fini(&table);
    arena_fini(&arena);
}

static void an_arena_keeps_every_piece(void)
{
    struct arena arena = {0};
    uint8_t *pieces[300];
    for (size_t i = 0; i < 300; i++) {
        size_t size = i * 17 % 3000;
        size_t align = (size_t)1 << i % 5;
        pieces[i] = arena_alloc(&arena, size, align);
        REQUIRE(pieces[i] != NULL);
        CHECK_INT((uintptr_t)pieces[i] % align, 0);
        memset(pieces[i], (int)(i & 0xff), size);
    }
    bool good = true;
    for (size_t i = 0; i < 300; i++)
        for (size_t k = 0; k < i * 17 % 3000; k++)
            good &= pieces[i][k] == (i & 0xff);
    CHECK(good);
    CHECK(arena_alloc(&arena, 3 << 20, 16) != NULL); /* larger than any block */
    arena_fini(&arena);
}

static void texts_are_checked(void)
{
    struct arena arena = {0};
    char *text = NULL;
    CHECK_INT(arena_text(&arena, NULL, 5, &text), -EINVAL);
    CHECK_INT(arena_text(&arena, "", 5, &text), -EINVAL);
    CHECK_INT(arena_text(&arena, "sixsix", 5, &text), -EINVAL);
    CHECK_INT(arena_text(&arena, "a\nb", 5, &text), -EINVAL);
    CHECK_INT(arena_text(&arena, "a\x7f", 5, &text), -EINVAL);
    CHECK(text == NULL);
    CHECK_INT(arena_text(&arena, "fünf", 5, &text), 0);
    CHECK_TEXT(text, "fünf");
    arena_fini(&arena);
}

TEST_MAIN(TEST(finds_what_was_added_and_nothing_else), TEST(an_arena_keeps_every_piece),
          TEST(texts_are_checked))
