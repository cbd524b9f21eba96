/* base.h: what every file may use: attributes, limits, small helpers. Includes no other of ours
 * but the public API. */
#ifndef SLUICE_BASE_H
#define SLUICE_BASE_H

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "dp.h"

#ifdef NDEBUG
#error "asserts stay in release builds"
#endif

#define DP_MUST_CHECK __attribute__((warn_unused_result))
#define DP_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define DP_ALIGN_CACHE __attribute__((aligned(64)))
#define DP_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Numbers of 8 bytes as protocols write them, the highest byte first. */
static inline uint64_t be64_get(const uint8_t *from)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | from[i];
    return value;
}

static inline void be64_put(uint8_t *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> (56 - 8 * i));
}

#endif
