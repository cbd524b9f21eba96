/* sets.h: the endpoint sets in force, by id: those of a snapshot, each of which may be swapped
 * alone afterwards. The publisher has one table and each worker its own, so nobody locks. */
#ifndef SLUICE_SETS_H
#define SLUICE_SETS_H

#include "endpoints.h"
#include "snapshot.h"

struct sets;
/* Counts a reference on every set of snap. */
DP_MUST_CHECK int sets_new(const struct dp_snapshot *snap, struct sets **ret);
void sets_free(struct sets *sets);               /* accepts NULL */
/* Borrowed until the set is swapped or the table freed; NULL = no such set. */
struct dp_endpoints *sets_get(const struct sets *sets, uint32_t id);
/* Takes *set with its reference, and gives the earlier version with its own for it. -ENOENT */
DP_MUST_CHECK int sets_swap(struct sets *sets, uint32_t id, struct dp_endpoints **set);

#endif
