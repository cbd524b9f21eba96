/* ejection.h: tells the reader of events when an endpoint is put aside and when it is back. The
 * ejecting itself is endpoints.c's. */
#ifndef SLUICE_EJECTION_H
#define SLUICE_EJECTION_H

#include "stream.h"

enum { EJECTIONS_MAX = 1024 };   /* announced at once, a worker; more are counted as dropped */

size_t ejection_size(void);      /* of a pool's object */
/* Posts EJECTED now and RETURNED after for_ms. */
void ejection_announce(const struct stream *s, uint32_t for_ms);
void ejection_cancel_all(struct stream_env *env);

#endif
