/* event.h: a bounded ring of binary events, one writer (a worker), one reader (the host
 * process). A full ring drops the event and the writer counts it. */
#ifndef SLUICE_EVENT_H
#define SLUICE_EVENT_H

#include "base.h"

enum { EVENT_SIZE_MAX = 1536, EVENT_RING_MIN = 4096 }; /* bytes: one record; a ring */

struct event_ring;
struct event_text { const char *src_id, *dst_id, *service, *endpoint, *detail; }; /* NULL = "" */
/* bytes: a power of two, EVENT_RING_MIN or more. event_fd is borrowed. */
DP_MUST_CHECK int event_ring_new(uint32_t bytes, int event_fd, struct event_ring **ret);
void event_ring_free(struct event_ring *ring);
/* Fills size and the lengths; longer texts than dp.h allows are cut. false = full, nothing
 * written. Rings event_fd when it was empty. */
bool event_ring_put(struct event_ring *ring, const dp_event *head, const struct event_text *text);
/* Whole records, as many as fit; len is at least EVENT_SIZE_MAX. The reader clears event_fd and
 * then reads until 0, or it may sleep on what it left. */
size_t event_ring_read(struct event_ring *ring, uint8_t *buf, size_t len);

#endif
