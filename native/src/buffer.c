/* buffer.c: two free lists over two pools. Buffers go back to the list, not to the pool, which
 * would clear them: the last one used is the next one out, still in the cache. */
#include "buffer.h"

#include <stdlib.h>

#include "pool.h"

struct store {
    struct pool *pool;           /* owned */
    struct buffer *spare;        /* owned by the pool */
    uint32_t cap;
};

struct buffers {
    struct store small, large;
    struct stats *stats;         /* borrowed from the worker */
};

static int store_init(struct store *store, uint32_t cap, uint32_t count)
{
    store->cap = cap;
    return pool_new(sizeof(struct buffer) + cap, count, &store->pool);
}

static struct buffer *store_get(struct store *store)
{
    struct buffer *buffer = store->spare;
    if (buffer != NULL)
        store->spare = buffer->next;
    else if ((buffer = pool_get(store->pool)) != NULL)
        buffer->cap = store->cap;
    else
        return NULL;
    buffer->off = buffer->len = 0;
    buffer->next = NULL;
    return buffer;
}

static void store_put(struct store *store, struct buffer *buffer)
{
    buffer->next = store->spare;
    store->spare = buffer;
}

int buffers_new(uint32_t small_count, uint32_t large_count, struct stats *stats,
                struct buffers **ret)
{
    return buffers_new_sized(BUFFER_SMALL, small_count, BUFFER_LARGE, large_count, stats, ret);
}

int buffers_new_sized(uint32_t small_cap, uint32_t small_count, uint32_t large_cap,
                      uint32_t large_count, struct stats *stats, struct buffers **ret)
{
    assert(small_cap < large_cap);
    struct buffers *buffers = calloc(1, sizeof(*buffers));
    if (buffers == NULL)
        return -ENOMEM;
    buffers->stats = stats;
    int r = store_init(&buffers->small, small_cap, small_count);
    if (r == 0)
        r = store_init(&buffers->large, large_cap, large_count);
    if (r < 0) {
        buffers_free(buffers);
        return r;
    }
    *ret = buffers;
    return 0;
}

void buffers_free(struct buffers *buffers)
{
    if (buffers == NULL)
        return;
    pool_free(buffers->small.pool);
    pool_free(buffers->large.pool);
    free(buffers);
}

struct buffer *buffers_get(struct buffers *buffers, bool large)
{
    struct buffer *buffer = large ? store_get(&buffers->large) : NULL;
    if (buffer != NULL)
        return buffer;
    if (large)
        stats_add(buffers->stats, STAT_POOL_BUFFERS_FULL, 1);
    buffer = store_get(&buffers->small);
    assert(buffer != NULL); /* sized for every holder at once */
    return buffer;
}

void buffers_put(struct buffers *buffers, struct buffer *buffer)
{
    if (buffer != NULL)
        store_put(buffer->cap == buffers->large.cap ? &buffers->large : &buffers->small, buffer);
}
