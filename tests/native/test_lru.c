/* test_lru.c: slots by key and by age, against a list kept in order. */
#include "lru.h"

#include <stdlib.h>

#include "test.h"

enum { SLOTS = 8, KEYS = 20, STEPS = 20000 };

static void make_key(unsigned number, uint8_t *ret)
{
    memset(ret, 0, LRU_KEY_SIZE);
    ret[0] = (uint8_t)(number % 3); /* many to a bucket */
    ret[LRU_KEY_SIZE - 1] = (uint8_t)number;
}

/* The oracle: keys in the order of their use, the newest first. */
static unsigned order[SLOTS], order_count;

static unsigned order_find(unsigned number)
{
    unsigned at = 0;
    while (at < order_count && order[at] != number)
        at++;
    return at;
}

static void order_remove(unsigned at)
{
    order_count--;
    memmove(&order[at], &order[at + 1], (order_count - at) * sizeof(order[0]));
}

static void order_push(unsigned number)
{
    memmove(&order[1], &order[0], order_count * sizeof(order[0]));
    order[0] = number;
    order_count++;
}

static void agrees_with_a_list(void)
{
    struct lru *lru;
    REQUIRE_INT(lru_new(SLOTS, &lru), 0);
    unsigned in_slot[SLOTS], seed = 1;
    bool good = true;
    order_count = 0;
    for (unsigned step = 0; step < STEPS && good; step++) {
        unsigned number = (unsigned)rand_r(&seed) % KEYS, act = (unsigned)rand_r(&seed) % 4;
        uint8_t key[LRU_KEY_SIZE];
        make_key(number, key);
        int32_t slot = lru_find(lru, key);
        unsigned at = order_find(number);
        good &= (slot == LRU_NONE) == (at == order_count);
        good &= slot == LRU_NONE || in_slot[slot] == number;
        if (slot == LRU_NONE && act > 0) {
            good &= lru_is_full(lru) == (order_count == SLOTS);
            if (order_count == SLOTS) {
                int32_t oldest = lru_oldest(lru);
                good &= in_slot[oldest] == order[SLOTS - 1];
                lru_remove(lru, oldest);
                order_remove(SLOTS - 1);
            }
            in_slot[lru_add(lru, key)] = number;
            order_push(number);
        } else if (slot != LRU_NONE && act == 0) {
            lru_remove(lru, slot);
            order_remove(at);
        } else if (slot != LRU_NONE) {
            lru_touch(lru, slot);
            order_remove(at);
            order_push(number);
        }
    }
    CHECK(good);
    lru_free(lru);
}

static void room_for_none_is_full(void)
{
    struct lru *lru;
    uint8_t key[LRU_KEY_SIZE];
    REQUIRE_INT(lru_new(0, &lru), 0);
    make_key(1, key);
    CHECK(lru_is_full(lru));
    CHECK_INT(lru_oldest(lru), LRU_NONE);
    CHECK_INT(lru_find(lru, key), LRU_NONE);
    lru_free(lru);
    CHECK_INT(lru_new(SIZE_MAX, &lru), -EINVAL);
    lru_free(NULL);
}

TEST_MAIN(TEST(agrees_with_a_list), TEST(room_for_none_is_full))
