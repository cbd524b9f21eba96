/* table.h: an open-addressing hash table from byte strings to numbers. Only grows; keys are
 * borrowed. Zero-initialized is empty. Reads are safe from many threads once writing is over. */
#ifndef SLUICE_TABLE_H
#define SLUICE_TABLE_H

#include "base.h"

struct table_slot {
    const void *key;             /* borrowed until table_fini; NULL = empty */
    uint32_t key_len, hash, value;
};

struct table {
    struct table_slot *slots;    /* owned; a power of two */
    uint32_t capacity, count;
};

void table_fini(struct table *table);
/* -EEXIST: the key is there, nothing changed. -ENOMEM, -E2BIG. */
DP_MUST_CHECK int table_add(struct table *table, const void *key, size_t len, uint32_t value);
bool table_get(const struct table *table, const void *key, size_t len, uint32_t *ret_value);

#endif
