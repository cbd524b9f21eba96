/* arena.h: memory that is given back all at once: what a snapshot or a set keeps of its texts and
 * keys. Zero-initialized is empty. */
#ifndef SLUICE_ARENA_H
#define SLUICE_ARENA_H

#include "base.h"

struct arena_block;
struct arena {
    struct arena_block *block;   /* owned: the newest, linked to the others */
    size_t used;                 /* of the newest */
};

void arena_fini(struct arena *arena);
/* Aligned to align, a power of two up to 16. NULL = out of memory. */
void *arena_alloc(struct arena *arena, size_t size, size_t align);
void *arena_copy(struct arena *arena, const void *bytes, size_t size); /* not aligned */
/* A text that a caller gave: -EINVAL when it is NULL, empty, longer than max or has control
 * characters (it will stand in events and logs), or -ENOMEM. */
DP_MUST_CHECK int arena_text(struct arena *arena, const char *text, size_t max, char **ret);

#endif
