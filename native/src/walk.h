/* walk.h: going round all of a pool's slots, some a turn. A round that is asked for while another
 * goes on starts where that one is: so each slot has its turn, however often rounds are asked. */
#ifndef SLUICE_WALK_H
#define SLUICE_WALK_H

#include "base.h"

struct walk { uint32_t at, left; }; /* zero: not on its way */

static inline void walk_start(struct walk *walk, uint32_t count)
{
    walk->left = count;
}

/* The next slot of count; false once the round is over. */
static inline bool walk_next(struct walk *walk, uint32_t count, uint32_t *ret_slot)
{
    if (walk->left == 0)
        return false;
    walk->left--;
    *ret_slot = walk->at;
    walk->at = (walk->at + 1) % count;
    return true;
}

/* Passes over so many slots more, or what is left of the round. */
static inline void walk_skip(struct walk *walk, uint32_t count, uint32_t slots)
{
    uint32_t skipped = slots < walk->left ? slots : walk->left;
    walk->left -= skipped;
    walk->at = (walk->at + skipped) % count;
}

#endif
