/* table.c: linear probing, at most half full; FNV-1a with a final mix. Keys come from the
 * operator's configuration, not from strangers, so the hash needs no secret. */
#include "table.h"

#include <stdlib.h>

#include "vector.h"

enum { CAPACITY_MIN = 8 };

static uint32_t hash_of(const void *key, size_t len)
{
    const uint8_t *bytes = key;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    hash ^= hash >> 32;
    hash *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(hash >> 32);
}

void table_fini(struct table *table)
{
    free(table->slots);
    *table = (struct table){0};
}

/* The key's slot, or the empty one where it belongs. */
static struct table_slot *find(const struct table *table, const void *key, size_t len,
                               uint32_t hash)
{
    uint32_t mask = table->capacity - 1;
    for (uint32_t i = hash & mask;; i = (i + 1) & mask) {
        struct table_slot *slot = &table->slots[i];
        if (slot->key == NULL || (slot->hash == hash && slot->key_len == len &&
                                  memcmp(slot->key, key, len) == 0))
            return slot;
    }
}

static int grow(struct table *table)
{
    if (table->capacity >= VECTOR_MAX)
        return -E2BIG;
    struct table bigger = {.capacity = table->capacity == 0 ? CAPACITY_MIN : table->capacity * 2,
                           .count = table->count};
    bigger.slots = calloc(bigger.capacity, sizeof(*bigger.slots));
    if (bigger.slots == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < table->capacity; i++) {
        const struct table_slot *slot = &table->slots[i];
        if (slot->key != NULL)
            *find(&bigger, slot->key, slot->key_len, slot->hash) = *slot;
    }
    free(table->slots);
    *table = bigger;
    return 0;
}

int table_add(struct table *table, const void *key, size_t len, uint32_t value)
{
    if (table->count >= table->capacity / 2) {
        int r = grow(table);
        if (r < 0)
            return r;
    }
    uint32_t hash = hash_of(key, len);
    struct table_slot *slot = find(table, key, len, hash);
    if (slot->key != NULL)
        return -EEXIST;
    *slot = (struct table_slot){.key = key, .key_len = (uint32_t)len, .hash = hash, .value = value};
    table->count++;
    return 0;
}

bool table_get(const struct table *table, const void *key, size_t len, uint32_t *ret_value)
{
    if (table->count == 0)
        return false;
    const struct table_slot *slot = find(table, key, len, hash_of(key, len));
    if (slot->key == NULL)
        return false;
    *ret_value = slot->value;
    return true;
}
