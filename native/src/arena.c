/* arena.c: blocks that double in size; an allocation moves a mark. */
#include "arena.h"

#include <stdlib.h>

enum { BLOCK_MIN = 512, BLOCK_MAX = 1 << 20 };

struct arena_block {
    struct arena_block *older;   /* owned */
    size_t size;                 /* of bytes */
    _Alignas(16) uint8_t bytes[];
};

void arena_fini(struct arena *arena)
{
    while (arena->block != NULL) {
        struct arena_block *older = arena->block->older;
        free(arena->block);
        arena->block = older;
    }
    arena->used = 0;
}

static bool grow(struct arena *arena, size_t size)
{
    size_t bytes = arena->block != NULL ? arena->block->size * 2 : BLOCK_MIN;
    if (bytes > BLOCK_MAX)
        bytes = BLOCK_MAX;
    if (bytes < size)
        bytes = size;
    struct arena_block *block = malloc(sizeof(*block) + bytes);
    if (block == NULL)
        return false;
    block->older = arena->block;
    block->size = bytes;
    arena->block = block;
    arena->used = 0;
    return true;
}

void *arena_alloc(struct arena *arena, size_t size, size_t align)
{
    size_t at = (arena->used + align - 1) & ~(align - 1);
    if (arena->block == NULL || at > arena->block->size || size > arena->block->size - at) {
        if (!grow(arena, size))
            return NULL;
        at = 0;
    }
    arena->used = at + size;
    return arena->block->bytes + at;
}

void *arena_copy(struct arena *arena, const void *bytes, size_t size)
{
    void *copy = arena_alloc(arena, size, 1);
    if (copy != NULL && size > 0)
        memcpy(copy, bytes, size);
    return copy;
}

int arena_text(struct arena *arena, const char *text, size_t max, char **ret)
{
    size_t len = text != NULL ? strnlen(text, max + 1) : 0;
    if (len == 0 || len > max)
        return -EINVAL;
    for (size_t i = 0; i < len; i++)
        if ((uint8_t)text[i] < 0x20 || text[i] == 0x7f)
            return -EINVAL;
    char *copy = arena_copy(arena, text, len + 1);
    if (copy == NULL)
        return -ENOMEM;
    *ret = copy;
    return 0;
}
