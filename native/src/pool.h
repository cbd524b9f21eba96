/* pool.h: objects of one size, allocated once, at start. One thread. A full pool says so; the
 * caller refuses and counts. */
#ifndef SLUICE_POOL_H
#define SLUICE_POOL_H

#include "base.h"

struct pool;
/* Memory is reserved for count objects and touched on first use. */
DP_MUST_CHECK int pool_new(size_t object_size, uint32_t count, struct pool **ret);
void pool_free(struct pool *pool);
void *pool_get(struct pool *pool);            /* zeroed; NULL = full */
void pool_put(struct pool *pool, void *object);
uint32_t pool_used(const struct pool *pool);
/* The i-th slot if it is in use, else NULL; for walks over all. */
void *pool_at(const struct pool *pool, uint32_t i);
/* The first slot in use from the i-th on, i at most pool_count; pool_count = none is. */
uint32_t pool_next(const struct pool *pool, uint32_t i);
uint32_t pool_count(const struct pool *pool);

#endif
