/* test_walk.c: a walk over slots that is asked to start again before it is over. */
#include "walk.h"

#include "test.h"

enum { SLOTS = 10, SLICE = 3 };

static void a_round_takes_each_slot_once(void)
{
    struct walk walk = {0};
    uint32_t slot = 0;
    CHECK(!walk_next(&walk, SLOTS, &slot));
    walk_start(&walk, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        REQUIRE(walk_next(&walk, SLOTS, &slot));
        CHECK_INT(slot, i);
    }
    CHECK(!walk_next(&walk, SLOTS, &slot));
}

/* Rounds are asked for faster than they end: no slot is left out for ever. */
static void a_storm_leaves_no_slot_out(void)
{
    struct walk walk = {0};
    unsigned seen[SLOTS] = {0};
    for (unsigned turn = 0; turn < 2 * SLOTS; turn++) {
        walk_start(&walk, SLOTS);
        for (unsigned i = 0; i < SLICE; i++) {
            uint32_t slot = 0;
            REQUIRE(walk_next(&walk, SLOTS, &slot));
            seen[slot]++;
        }
    }
    for (unsigned i = 0; i < SLOTS; i++)
        CHECK_INT(seen[i], 2 * SLICE);
}

/* Who was passed before the start is passed again after it. */
static void a_round_is_whole_wherever_it_starts(void)
{
    struct walk walk = {0};
    unsigned seen[SLOTS] = {0};
    uint32_t slot = 0;
    walk_start(&walk, SLOTS);
    for (unsigned i = 0; i < SLICE; i++)
        REQUIRE(walk_next(&walk, SLOTS, &slot));
    walk_start(&walk, SLOTS);
    while (walk_next(&walk, SLOTS, &slot))
        seen[slot]++;
    for (unsigned i = 0; i < SLOTS; i++)
        CHECK_INT(seen[i], 1);
}

/* What is skipped counts as passed, no more than the round, also over the end of the slots. */
static void skipped_slots_are_passed(void)
{
    struct walk walk = {0};
    uint32_t slot = 0;
    walk_start(&walk, SLOTS);
    walk_skip(&walk, SLOTS, SLOTS - 2);
    REQUIRE(walk_next(&walk, SLOTS, &slot));
    CHECK_INT(slot, SLOTS - 2);
    walk_start(&walk, SLOTS);
    walk_skip(&walk, SLOTS, 3);
    REQUIRE(walk_next(&walk, SLOTS, &slot));
    CHECK_INT(slot, 2);
    walk_skip(&walk, SLOTS, SLOTS);
    CHECK(!walk_next(&walk, SLOTS, &slot));
    walk_start(&walk, SLOTS);
    REQUIRE(walk_next(&walk, SLOTS, &slot));
    CHECK_INT(slot, SLOTS - 1); /* where the last round ended */
}

TEST_MAIN(TEST(a_round_takes_each_slot_once), TEST(a_storm_leaves_no_slot_out),
          TEST(a_round_is_whole_wherever_it_starts), TEST(skipped_slots_are_passed))
