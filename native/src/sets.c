/* sets.c: an open-addressing table, filled once and never grown: only sets that the snapshot
 * has can be swapped. */
#include "sets.h"

#include <stdlib.h>

struct slot {
    uint32_t id;
    struct dp_endpoints *set;    /* counted; NULL = empty slot */
};

struct sets {
    uint32_t mask;
    struct slot slots[];
};

static struct slot *find(struct sets *sets, uint32_t id)
{
    uint32_t i = (id * 0x9e3779b1u) & sets->mask;
    while (sets->slots[i].set != NULL && sets->slots[i].id != id)
        i = (i + 1) & sets->mask;
    return &sets->slots[i];
}

int sets_new(const struct dp_snapshot *snap, struct sets **ret)
{
    uint32_t count = snapshot_set_count(snap), size = 8;
    while (size < 2 * count)
        size *= 2;
    struct sets *sets = calloc(1, sizeof(*sets) + size * sizeof(struct slot));
    if (sets == NULL)
        return -ENOMEM;
    sets->mask = size - 1;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id;
        struct dp_endpoints *set = snapshot_set_at(snap, i, &id);
        struct slot *slot = find(sets, id);
        assert(slot->set == NULL); /* a sealed snapshot has each id once */
        endpoints_ref(set);
        *slot = (struct slot){.id = id, .set = set};
    }
    *ret = sets;
    return 0;
}

void sets_free(struct sets *sets)
{
    if (sets == NULL)
        return;
    for (uint32_t i = 0; i <= sets->mask; i++)
        endpoints_unref(sets->slots[i].set);
    free(sets);
}

struct dp_endpoints *sets_get(const struct sets *sets, uint32_t id)
{
    return find((struct sets *)sets, id)->set;
}

int sets_swap(struct sets *sets, uint32_t id, struct dp_endpoints **set)
{
    struct slot *slot = find(sets, id);
    if (slot->set == NULL)
        return -ENOENT;
    struct dp_endpoints *earlier = slot->set;
    slot->set = *set;
    *set = earlier;
    return 0;
}
