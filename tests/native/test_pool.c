/* test_pool.c: slots that are zeroed, counted and refused when none is left. */
#include "pool.h"

#include "test.h"

enum { COUNT = 130 };

static void a_full_pool_says_so(void)
{
    struct pool *pool;
    void *objects[COUNT];
    REQUIRE_INT(pool_new(100, COUNT, &pool), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        objects[i] = pool_get(pool);
        REQUIRE(objects[i] != NULL);
        CHECK(pool_at(pool, i) == objects[i]);
        CHECK_INT((uintptr_t)objects[i] % 64, 0);
    }
    CHECK(pool_get(pool) == NULL);
    CHECK_INT(pool_used(pool), COUNT);
    pool_put(pool, objects[70]);
    CHECK(pool_at(pool, 70) == NULL);
    CHECK(pool_get(pool) == objects[70]);
    for (unsigned i = 0; i < COUNT; i++)
        pool_put(pool, objects[i]);
    pool_put(pool, NULL);
    CHECK_INT(pool_used(pool), 0);
    pool_free(pool);
}

static void objects_are_zeroed_again(void)
{
    struct pool *pool;
    REQUIRE_INT(pool_new(48, 4, &pool), 0);
    uint8_t *object = pool_get(pool);
    memset(object, 0xff, 48);
    pool_put(pool, object);
    CHECK(pool_get(pool) == object);
    for (unsigned i = 0; i < 48; i++)
        CHECK_INT(object[i], 0);
    CHECK_INT(pool_count(pool), 4);
    CHECK(pool_at(pool, 4) == NULL);
    pool_free(pool);
}

static void refuses_what_cannot_be(void)
{
    struct pool *pool = NULL;
    CHECK_INT(pool_new(0, 1, &pool), -EINVAL);
    CHECK_INT(pool_new(1, 0, &pool), -EINVAL);
    CHECK_INT(pool_new(SIZE_MAX, 2, &pool), -EINVAL);
    CHECK_INT(pool_new(SIZE_MAX / 4, 4096, &pool), -EINVAL);
    CHECK(pool == NULL);
    pool_free(NULL);
}

static void slots_in_use_are_found(void)
{
    struct pool *pool;
    void *objects[COUNT];
    static const bool stays[COUNT] = {[0] = true, [63] = true, [64] = true, [100] = true};
    REQUIRE_INT(pool_new(100, COUNT, &pool), 0);
    CHECK_INT(pool_next(pool, 0), COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        objects[i] = pool_get(pool);
    CHECK_INT(pool_next(pool, COUNT - 1), COUNT - 1);
    for (unsigned i = 0; i < COUNT; i++)
        if (!stays[i])
            pool_put(pool, objects[i]);
    for (unsigned i = 0, next = 0; i <= COUNT; i++) {
        for (next = i; next < COUNT && !stays[next];)
            next++;
        CHECK_INT(pool_next(pool, i), next);
    }
    pool_free(pool);
}

TEST_MAIN(TEST(a_full_pool_says_so), TEST(objects_are_zeroed_again),
          TEST(refuses_what_cannot_be), TEST(slots_in_use_are_found))
