/* lru.c: a hash table of slots, threaded by age. Holds no contents. */
#include "lru.h"

#include <stdlib.h>

struct slot {
    uint8_t key[LRU_KEY_SIZE];
    int32_t newer, older;        /* by use; a free slot's older is the next free one */
    int32_t next;                /* same bucket */
};

struct lru {
    struct slot *slots;          /* owned */
    int32_t *buckets;            /* owned; a power of two of them */
    uint32_t bucket_mask;
    int32_t newest, oldest, free;
};

int lru_new(size_t slots, struct lru **ret)
{
    if (slots > INT32_MAX / 4)
        return -EINVAL;
    struct lru *lru = calloc(1, sizeof(*lru));
    if (lru == NULL)
        return -ENOMEM;
    uint32_t buckets = 1;
    while (buckets < 2 * slots)
        buckets *= 2;
    lru->bucket_mask = buckets - 1;
    lru->newest = lru->oldest = lru->free = LRU_NONE;
    lru->slots = calloc(slots > 0 ? slots : 1, sizeof(struct slot));
    lru->buckets = malloc(buckets * sizeof(int32_t));
    if (lru->slots == NULL || lru->buckets == NULL) {
        lru_free(lru);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < buckets; i++)
        lru->buckets[i] = LRU_NONE;
    for (int32_t i = (int32_t)slots - 1; i >= 0; i--) {
        lru->slots[i].older = lru->free;
        lru->free = i;
    }
    *ret = lru;
    return 0;
}

void lru_free(struct lru *lru)
{
    if (lru == NULL)
        return;
    free(lru->slots);
    free(lru->buckets);
    free(lru);
}

static int32_t *bucket_of(const struct lru *lru, const uint8_t *key)
{
    uint32_t hash;
    memcpy(&hash, key, sizeof(hash));
    return &lru->buckets[hash & lru->bucket_mask];
}

static void age_unlink(struct lru *lru, int32_t at)
{
    struct slot *slot = &lru->slots[at];
    *(slot->newer != LRU_NONE ? &lru->slots[slot->newer].older : &lru->newest) = slot->older;
    *(slot->older != LRU_NONE ? &lru->slots[slot->older].newer : &lru->oldest) = slot->newer;
}

static void age_push(struct lru *lru, int32_t at)
{
    struct slot *slot = &lru->slots[at];
    slot->newer = LRU_NONE;
    slot->older = lru->newest;
    *(lru->newest != LRU_NONE ? &lru->slots[lru->newest].newer : &lru->oldest) = at;
    lru->newest = at;
}

int32_t lru_find(const struct lru *lru, const uint8_t *key)
{
    int32_t at = *bucket_of(lru, key);
    while (at != LRU_NONE && memcmp(lru->slots[at].key, key, LRU_KEY_SIZE) != 0)
        at = lru->slots[at].next;
    return at;
}

void lru_touch(struct lru *lru, int32_t slot)
{
    age_unlink(lru, slot);
    age_push(lru, slot);
}

bool lru_is_full(const struct lru *lru)
{
    return lru->free == LRU_NONE;
}

int32_t lru_oldest(const struct lru *lru)
{
    return lru->oldest;
}

int32_t lru_add(struct lru *lru, const uint8_t *key)
{
    int32_t at = lru->free, *bucket = bucket_of(lru, key);
    assert(at != LRU_NONE);
    struct slot *slot = &lru->slots[at];
    lru->free = slot->older;
    memcpy(slot->key, key, LRU_KEY_SIZE);
    slot->next = *bucket;
    *bucket = at;
    age_push(lru, at);
    return at;
}

void lru_remove(struct lru *lru, int32_t slot)
{
    int32_t *link = bucket_of(lru, lru->slots[slot].key);
    while (*link != slot)
        link = &lru->slots[*link].next;
    *link = lru->slots[slot].next;
    age_unlink(lru, slot);
    lru->slots[slot].older = lru->free;
    lru->free = slot;
}
