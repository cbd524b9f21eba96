/* lru.h: which of a fixed number of slots belongs to which key, and which was used least recently.
 * The slots' contents are the owner's. Keys are digests: any of their bits serve as a hash. */
#ifndef SLUICE_LRU_H
#define SLUICE_LRU_H

#include "base.h"

enum { LRU_KEY_SIZE = 32 /* SHA-256 */, LRU_NONE = -1 };

struct lru;
/* -EINVAL: more slots than there can be. 0 slots: always full, and nothing is found. */
DP_MUST_CHECK int lru_new(size_t slots, struct lru **ret);
void lru_free(struct lru *lru); /* accepts NULL */

int32_t lru_find(const struct lru *lru, const uint8_t *key); /* the slot, or LRU_NONE */
void lru_touch(struct lru *lru, int32_t slot);               /* it was used just now */
bool lru_is_full(const struct lru *lru);
int32_t lru_oldest(const struct lru *lru);                   /* LRU_NONE = none is in use */
int32_t lru_add(struct lru *lru, const uint8_t *key); /* not full, and the key is not there */
void lru_remove(struct lru *lru, int32_t slot);

#endif
