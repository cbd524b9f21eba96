/* buffer.h: a worker's bounded store of byte buffers in two sizes. Most bytes pass through one
 * scratch buffer of each size; a stream keeps one only while somebody is slow to take it. */
#ifndef SLUICE_BUFFER_H
#define SLUICE_BUFFER_H

#include "base.h"
#include "stats.h"

enum { BUFFER_SMALL = 16 * 1024, BUFFER_LARGE = 256 * 1024 };

struct buffer {                  /* what waits is data[off .. len) */
    uint32_t off, len, cap;
    struct buffer *next;         /* borrowed; the store's */
    uint8_t data[];
};

struct buffers;
/* small_count must cover every holder there can be, so that only large ones run out. stats is
 * borrowed for the store's life. */
DP_MUST_CHECK int buffers_new(uint32_t small_count, uint32_t large_count, struct stats *stats,
                              struct buffers **ret);
/* The same with other sizes. */
DP_MUST_CHECK int buffers_new_sized(uint32_t small_cap, uint32_t small_count, uint32_t large_cap,
                                    uint32_t large_count, struct stats *stats,
                                    struct buffers **ret);
void buffers_free(struct buffers *buffers); /* accepts NULL; every buffer is back by then */
/* An empty buffer. large is a wish: when none is left that is counted and a small one comes. */
struct buffer *buffers_get(struct buffers *buffers, bool large);
void buffers_put(struct buffers *buffers, struct buffer *buffer); /* accepts NULL */

#endif
