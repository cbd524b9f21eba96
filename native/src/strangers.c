/* strangers.c: sources in buckets of a table as large as there can be strangers. */
#include "strangers.h"

#include <stdlib.h>

#include "address.h"

enum { ADDRESS_SIZE = 16, SUBNET_SIZE = 8 /* of IPv6: who has one address there has them all */ };

struct stranger_source {
    struct stranger_source *next;    /* in its bucket, or of those not in use */
    struct stranger_source **bucket;
    uint8_t addr[ADDRESS_SIZE];
    uint32_t count;
};

struct strangers {
    struct stranger_source *sources; /* owned; max of them */
    struct stranger_source *unused;
    struct stranger_source **buckets;/* owned; a power of two */
    uint32_t max, share, count, mask;
    uint64_t seed;
};

int strangers_new(uint32_t max, uint64_t seed, struct strangers **ret)
{
    if (max == 0 || max > UINT32_MAX / 2)
        return -EINVAL;
    struct strangers *strangers = calloc(1, sizeof(*strangers));
    if (strangers == NULL)
        return -ENOMEM;
    uint32_t buckets = 1;
    while (buckets < max)
        buckets *= 2;
    *strangers = (struct strangers){
        .max = max, .share = max / 8 > 0 ? max / 8 : 1, .mask = buckets - 1, .seed = seed};
    strangers->sources = calloc(max, sizeof(*strangers->sources));
    strangers->buckets = calloc(buckets, sizeof(struct stranger_source *));
    if (strangers->sources == NULL || strangers->buckets == NULL) {
        strangers_free(strangers);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < max; i++) {
        strangers->sources[i].next = strangers->unused;
        strangers->unused = &strangers->sources[i];
    }
    *ret = strangers;
    return 0;
}

void strangers_free(struct strangers *strangers)
{
    if (strangers == NULL)
        return;
    assert(strangers->count == 0);
    free(strangers->sources);
    free(strangers->buckets);
    free(strangers);
}

static struct stranger_source **bucket_of(const struct strangers *strangers, const uint8_t *addr)
{
    uint64_t halves[2];
    memcpy(halves, addr, sizeof(halves));
    uint64_t hash = strangers->seed;
    for (size_t i = 0; i < DP_COUNT(halves); i++) {
        hash = (hash ^ halves[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return &strangers->buckets[hash & strangers->mask];
}

int strangers_enter(struct strangers *strangers, const uint8_t *addr, struct stranger_source **ret)
{
    uint8_t key[ADDRESS_SIZE] = {0};
    memcpy(key, addr, address_is_ipv4(addr) ? ADDRESS_SIZE : SUBNET_SIZE);
    if (strangers->count == strangers->max)
        return -ENOSPC;
    struct stranger_source **bucket = bucket_of(strangers, key), *source = *bucket;
    while (source != NULL && memcmp(source->addr, key, sizeof(key)) != 0)
        source = source->next;
    if (source != NULL && source->count >= strangers->share &&
        strangers->count >= strangers->max / 2)
        return -EDQUOT;
    if (source == NULL) {
        source = strangers->unused; /* there is one for each that may enter */
        strangers->unused = source->next;
        source->next = *bucket;
        source->bucket = bucket;
        memcpy(source->addr, key, sizeof(key));
        *bucket = source;
    }
    source->count++;
    strangers->count++;
    *ret = source;
    return 0;
}

void strangers_leave(struct strangers *strangers, struct stranger_source *source)
{
    assert(source->count > 0 && strangers->count > 0);
    strangers->count--;
    if (--source->count > 0)
        return;
    struct stranger_source **at = source->bucket;
    while (*at != source)
        at = &(*at)->next;
    *at = source->next;
    source->next = strangers->unused;
    strangers->unused = source;
}
