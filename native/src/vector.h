/* vector.h: growth of an array while something is being built. Never used once it is running. */
#ifndef SLUICE_VECTOR_H
#define SLUICE_VECTOR_H

#include <stdlib.h>

#include "base.h"

enum { VECTOR_MAX = 1 << 22 }; /* entries; a limit on what a caller can make us keep */

/* Makes room for count entries in the array that *items_pointer (a T **) points to; what is new
 * is not initialized. -ENOMEM, or -E2BIG above VECTOR_MAX. */
DP_MUST_CHECK static inline int vector_reserve(void *items_pointer, uint32_t *capacity,
                                               uint32_t count, size_t size)
{
    if (count <= *capacity)
        return 0;
    if (count > VECTOR_MAX)
        return -E2BIG;
    uint32_t grown = *capacity < 4 ? 4 : *capacity * 2;
    if (grown < count)
        grown = count;
    void *items;
    memcpy(&items, items_pointer, sizeof(items));
    items = realloc(items, grown * size);
    if (items == NULL)
        return -ENOMEM;
    memcpy(items_pointer, &items, sizeof(items));
    *capacity = grown;
    return 0;
}

#endif
