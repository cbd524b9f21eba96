/* strangers.h: how many connections have not said yet who they are, in all and by source, so that
 * they cannot take the room of those who have. Counts only: what happens to whom is refused is
 * the caller's. One thread. */
#ifndef SLUICE_STRANGERS_H
#define SLUICE_STRANGERS_H

#include "base.h"

struct strangers;
struct stranger_source;          /* one address, or one IPv6 /64, as long as it has strangers */

/* At most max at a time. Once half of that is taken, no source gets more than an eighth of it: one
 * alone may be a busy peer, and leaves room for others all the same. seed keeps sources from
 * choosing each other's place. */
DP_MUST_CHECK int strangers_new(uint32_t max, uint64_t seed, struct strangers **ret);
void strangers_free(struct strangers *strangers); /* accepts NULL; every one has left by then */
/* 0; -ENOSPC: there are too many in all; -EDQUOT: too many from there. */
DP_MUST_CHECK int strangers_enter(struct strangers *strangers, const uint8_t *addr,
                                  struct stranger_source **ret);
void strangers_leave(struct strangers *strangers, struct stranger_source *source);

#endif
