/* event.c: the ring's two positions only grow; records wrap around its end. Knows nothing of what
 * the events mean. */
#include "event.h"

#include <stdlib.h>

#include "sys.h"

enum { TEXTS = 5 };
static_assert(sizeof(dp_event) % 8 == 0, "records are whole words");
static_assert(sizeof(dp_event) + 2 * DP_ID_MAX + 2 * DP_NAME_MAX + DP_DETAIL_MAX + 7 <=
                  EVENT_SIZE_MAX, "the longest record");

struct event_ring {
    DP_ALIGN_CACHE atomic_uint_fast64_t written; /* by the writer */
    DP_ALIGN_CACHE atomic_uint_fast64_t read;    /* by the reader */
    DP_ALIGN_CACHE uint64_t size;                /* a power of two */
    int event_fd;                                /* borrowed */
    uint8_t *bytes;                              /* owned */
};

int event_ring_new(uint32_t bytes, int event_fd, struct event_ring **ret)
{
    if (bytes < EVENT_RING_MIN || (bytes & (bytes - 1)) != 0)
        return -EINVAL;
    struct event_ring *ring = aligned_alloc(64, sizeof(*ring));
    if (ring == NULL)
        return -ENOMEM;
    memset(ring, 0, sizeof(*ring));
    ring->size = bytes;
    ring->event_fd = event_fd;
    ring->bytes = malloc(bytes);
    if (ring->bytes == NULL) {
        free(ring);
        return -ENOMEM;
    }
    *ret = ring;
    return 0;
}

void event_ring_free(struct event_ring *ring)
{
    if (ring == NULL)
        return;
    free(ring->bytes);
    free(ring);
}

static void copy_in(struct event_ring *ring, uint64_t at, const void *from, size_t len)
{
    size_t offset = at & (ring->size - 1);
    size_t first = len < ring->size - offset ? len : ring->size - offset;
    memcpy(ring->bytes + offset, from, first);
    memcpy(ring->bytes, (const uint8_t *)from + first, len - first);
}

static void copy_out(const struct event_ring *ring, uint64_t at, void *to, size_t len)
{
    size_t offset = at & (ring->size - 1);
    size_t first = len < ring->size - offset ? len : ring->size - offset;
    memcpy(to, ring->bytes + offset, first);
    memcpy((uint8_t *)to + first, ring->bytes, len - first);
}

static uint16_t length(const char *text, size_t max)
{
    return text != NULL ? (uint16_t)strnlen(text, max) : 0;
}

bool event_ring_put(struct event_ring *ring, const dp_event *head, const struct event_text *text)
{
    dp_event record = *head;
    record.src_id_len = length(text->src_id, DP_ID_MAX);
    record.dst_id_len = length(text->dst_id, DP_ID_MAX);
    record.service_len = length(text->service, DP_NAME_MAX);
    record.endpoint_len = length(text->endpoint, DP_NAME_MAX);
    record.detail_len = length(text->detail, DP_DETAIL_MAX);
    const struct { const char *bytes; uint16_t len; } parts[TEXTS] = {
        {text->src_id, record.src_id_len},   {text->dst_id, record.dst_id_len},
        {text->service, record.service_len}, {text->endpoint, record.endpoint_len},
        {text->detail, record.detail_len},
    };
    size_t size = sizeof(record);
    for (size_t i = 0; i < TEXTS; i++)
        size += parts[i].len;
    size_t padding = -size % 8;
    record.size = (uint32_t)(size + padding);

    uint64_t start = atomic_load_explicit(&ring->written, memory_order_relaxed);
    uint64_t taken = start - atomic_load_explicit(&ring->read, memory_order_acquire);
    if (record.size > ring->size - taken)
        return false;
    uint64_t at = start;
    copy_in(ring, at, &record, sizeof(record));
    at += sizeof(record);
    for (size_t i = 0; i < TEXTS; i++) {
        if (parts[i].len > 0)
            copy_in(ring, at, parts[i].bytes, parts[i].len);
        at += parts[i].len;
    }
    copy_in(ring, at, "\0\0\0\0\0\0\0", padding);

    /* Both sides store their own position and then load the other's, all in one order: so either
     * the reader sees this record, or we see that it had read everything, and wake it. */
    atomic_store_explicit(&ring->written, start + record.size, memory_order_seq_cst);
    if (atomic_load_explicit(&ring->read, memory_order_seq_cst) == start) {
        const uint64_t one = 1;
        (void)!sys->write(ring->event_fd, &one, sizeof(one)); /* full = it is ringing already */
    }
    return true;
}

size_t event_ring_read(struct event_ring *ring, uint8_t *buf, size_t len)
{
    uint64_t at = atomic_load_explicit(&ring->read, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&ring->written, memory_order_seq_cst);
    size_t copied = 0;
    while (at < end) {
        uint32_t size;
        copy_out(ring, at, &size, sizeof(size));
        if (size > len - copied)
            break;
        copy_out(ring, at, buf + copied, size);
        copied += size;
        at += size;
    }
    if (copied > 0)
        atomic_store_explicit(&ring->read, at, memory_order_seq_cst);
    return copied;
}
