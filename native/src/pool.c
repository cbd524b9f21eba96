/* pool.c: a reserved stretch of address space cut into slots; a stack of free slots, and a mark
 * above which none was ever used, so that memory is touched only when it is needed. */
#define _GNU_SOURCE
#include "pool.h"

#include <stdlib.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POOL_POISONS 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define POOL_POISONS 1
#endif
#ifdef POOL_POISONS
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(addr, size) ((void)(addr), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(addr, size) ((void)(addr), (void)(size))
#endif

enum { SLOT_ALIGN = 64 }; /* a cache line: no two objects share one */

struct pool {
    uint8_t *slots;      /* owned, mapped */
    uint32_t *free;      /* owned: stack of slots that were used before */
    uint64_t *in_use;    /* owned: a bit a slot */
    size_t stride, size;
    uint32_t count, free_count, fresh, used; /* fresh: the lowest slot never used */
};

int pool_new(size_t object_size, uint32_t count, struct pool **ret)
{
    if (object_size == 0 || count == 0 || object_size > SIZE_MAX - SLOT_ALIGN)
        return -EINVAL;
    size_t stride = (object_size + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
    size_t bytes;
    if (__builtin_mul_overflow(stride, (size_t)count, &bytes))
        return -EINVAL;
    struct pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return -ENOMEM;
    *pool = (struct pool){.stride = stride, .size = object_size, .count = count};
    pool->free = calloc(count, sizeof(*pool->free));
    pool->in_use = calloc((count + 63) / 64, sizeof(*pool->in_use));
    pool->slots = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->slots == MAP_FAILED)
        pool->slots = NULL;
    if (pool->free == NULL || pool->in_use == NULL || pool->slots == NULL) {
        pool_free(pool);
        return -ENOMEM;
    }
    *ret = pool;
    return 0;
}

void pool_free(struct pool *pool)
{
    if (pool == NULL)
        return;
    if (pool->slots != NULL) {
        size_t bytes = pool->stride * pool->count;
        ASAN_UNPOISON_MEMORY_REGION(pool->slots, pool->stride * pool->fresh);
        munmap(pool->slots, bytes);
    }
    free(pool->in_use);
    free(pool->free);
    free(pool);
}

void *pool_get(struct pool *pool)
{
    uint32_t i;
    uint8_t *object;
    if (pool->free_count > 0) {
        i = pool->free[--pool->free_count];
        object = pool->slots + i * pool->stride;
        ASAN_UNPOISON_MEMORY_REGION(object, pool->stride);
        memset(object, 0, pool->size);
    } else if (pool->fresh < pool->count) {
        i = pool->fresh++;
        object = pool->slots + i * pool->stride; /* zero from the kernel */
    } else {
        return NULL;
    }
    pool->in_use[i / 64] |= UINT64_C(1) << (i % 64);
    pool->used++;
    return object;
}

void pool_put(struct pool *pool, void *object)
{
    if (object == NULL)
        return;
    size_t offset = (size_t)((uint8_t *)object - pool->slots);
    uint32_t i = (uint32_t)(offset / pool->stride);
    assert(i < pool->fresh && offset % pool->stride == 0);
    uint64_t bit = UINT64_C(1) << (i % 64);
    assert((pool->in_use[i / 64] & bit) != 0); /* else it is put twice */
    pool->in_use[i / 64] &= ~bit;
    pool->free[pool->free_count++] = i;
    pool->used--;
    ASAN_POISON_MEMORY_REGION(object, pool->stride);
}

uint32_t pool_used(const struct pool *pool)
{
    return pool->used;
}

void *pool_at(const struct pool *pool, uint32_t i)
{
    if (i >= pool->fresh || (pool->in_use[i / 64] >> (i % 64) & 1) == 0)
        return NULL;
    return pool->slots + i * pool->stride;
}

uint32_t pool_next(const struct pool *pool, uint32_t i)
{
    assert(i <= pool->count);
    while (i < pool->count) {
        uint64_t rest = pool->in_use[i / 64] >> (i % 64);
        if (rest != 0)
            return i + (uint32_t)__builtin_ctzll(rest);
        i = (i / 64 + 1) * 64;
    }
    return pool->count;
}

uint32_t pool_count(const struct pool *pool)
{
    return pool->count;
}
