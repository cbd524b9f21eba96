/* event.h: a bounded ring of binary events, one writer (a worker), one reader (the host
 * process). A full ring drops the event and the writer counts it. */
#ifndef SLUICE_EVENT_H
#define SLUICE_EVENT_H

#include "base.h"

struct event_ring;
struct event_text { const char *src_id, *dst_id, *service, *endpoint, *detail; }; /* NULL = "" */
DP_MUST_CHECK int event_ring_new(uint32_t bytes, int event_fd, struct event_ring **ret);
void event_ring_free(struct event_ring *ring);
/* Fills size and the lengths. false = full, nothing written. Rings event_fd when it was empty. */
bool event_ring_put(struct event_ring *ring, const dp_event *head, const struct event_text *text);
size_t event_ring_read(struct event_ring *ring, uint8_t *buf, size_t len); /* whole records */

#endif
