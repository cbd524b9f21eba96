/* snapshot.c: builds, seals and answers from a snapshot. While it is built, entries refer to each
 * other by index; sealing checks every index and turns it into a pointer. Opens no connection and
 * decides nothing (see policy.c, endpoints.c). */
#include "snapshot.h"

#include <stdio.h>
#include <stdlib.h>

#include "arena.h"
#include "endpoints.h"
#include "sni.h"
#include "spiffe.h"
#include "table.h"
#include "vector.h"

enum { SERIAL_MAX = 20, CONNECT_TIMEOUT_MS_MAX = 3600 * 1000, ATTEMPTS_MAX = 64 };

struct service_entry {
    struct service service;
    uint32_t leaf;               /* index or DP_NONE */
};

struct host_entry {
    struct host host;
    uint32_t leaf;
};

struct sni_entry {
    uint32_t service, set;
    const char *sni;             /* borrowed from the arena */
};

struct set_entry {
    uint32_t id;
    struct dp_endpoints *endpoints; /* counted */
};

struct attachment {
    uint32_t service, policy;
};

/* An array that grows while the snapshot is built. */
#define VECTOR(type) struct { type *items; uint32_t count, capacity; }

struct dp_snapshot {
    atomic_uint refs;
    bool sealed;
    uint64_t version;
    const char *trust_domain;    /* the arena's, as all texts and keys below */
    struct arena arena;
    uint32_t appliance_leaf;     /* index or DP_NONE */
    bool has_offload;
    dp_offload offload;
    VECTOR(struct dp_leaf *) leaves;     /* counted */
    VECTOR(struct dp_bundle *) bundles;  /* counted */
    VECTOR(struct service_entry) services;
    VECTOR(struct host_entry) hosts;     /* by address and agents alike */
    VECTOR(struct sni_entry) snis;
    VECTOR(struct set_entry) sets;
    VECTOR(struct attachment) attachments;
    struct rules rules;
    uint32_t *attached;                  /* owned, made by sealing: in the order of services */
    struct table bundle_by_domain, service_by_name, host_by_addr, agent_by_id, vips, sni_by_name;
    struct table set_by_id, own_addresses, denied_ids, denied_serials;
};

static atomic_uint alive;

#define RESERVE_ONE(vector) \
    vector_reserve(&(vector)->items, &(vector)->capacity, (vector)->count + 1, \
                   sizeof(*(vector)->items))

/* ---- life ---- */

int dp_snapshot_new(uint64_t version, const char *trust_domain, dp_snapshot **ret)
{
    struct dp_snapshot *snap = calloc(1, sizeof(*snap));
    if (snap == NULL)
        return -ENOMEM;
    atomic_init(&snap->refs, 1);
    atomic_fetch_add_explicit(&alive, 1, memory_order_relaxed);
    snap->version = version;
    snap->appliance_leaf = DP_NONE;
    char *text;
    int r = arena_text(&snap->arena, trust_domain, DP_ID_MAX, &text);
    if (r < 0) {
        snapshot_unref(snap);
        return r;
    }
    snap->trust_domain = text;
    *ret = snap;
    return 0;
}

void dp_snapshot_free(dp_snapshot *snap)
{
    snapshot_unref(snap);
}

void snapshot_ref(const struct dp_snapshot *snap)
{
    atomic_fetch_add_explicit(&((struct dp_snapshot *)snap)->refs, 1, memory_order_relaxed);
}

void snapshot_unref(const struct dp_snapshot *const_snap)
{
    struct dp_snapshot *snap = (struct dp_snapshot *)const_snap;
    if (snap == NULL || atomic_fetch_sub_explicit(&snap->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < snap->leaves.count; i++)
        dp_leaf_free(snap->leaves.items[i]);
    for (uint32_t i = 0; i < snap->bundles.count; i++)
        dp_bundle_free(snap->bundles.items[i]);
    for (uint32_t i = 0; i < snap->sets.count; i++)
        endpoints_unref(snap->sets.items[i].endpoints);
    struct table *const tables[] = {
        &snap->bundle_by_domain, &snap->service_by_name, &snap->host_by_addr, &snap->agent_by_id,
        &snap->vips,             &snap->sni_by_name,     &snap->set_by_id,    &snap->own_addresses,
        &snap->denied_ids,       &snap->denied_serials,
    };
    for (size_t i = 0; i < DP_COUNT(tables); i++)
        table_fini(tables[i]);
    free(snap->leaves.items);
    free(snap->bundles.items);
    free(snap->services.items);
    free(snap->hosts.items);
    free(snap->snis.items);
    free(snap->sets.items);
    rules_fini(&snap->rules);
    free(snap->attachments.items);
    free(snap->attached);
    arena_fini(&snap->arena);
    free(snap);
    atomic_fetch_sub_explicit(&alive, 1, memory_order_relaxed);
}

uint32_t snapshot_alive(void)
{
    return atomic_load_explicit(&alive, memory_order_relaxed);
}

/* ---- keys ---- */

enum { ADDR_PORT_SIZE = 18, NAME_PORT_MAX = DP_NAME_MAX + 3, SERIAL_KEY_MAX = DP_ID_MAX + 1 + 20 };

static void put_port(uint8_t *buf, uint16_t port)
{
    buf[0] = (uint8_t)(port >> 8);
    buf[1] = (uint8_t)port;
}

static void addr_port_key(const uint8_t *addr, uint16_t port, uint8_t *buf)
{
    memcpy(buf, addr, 16);
    put_port(buf + 16, port);
}

/* 0 = too long to be a key at all. */
static size_t name_port_key(const char *name, uint16_t port, uint8_t *buf)
{
    size_t len = strnlen(name, DP_NAME_MAX + 1);
    if (len > DP_NAME_MAX)
        return 0;
    memcpy(buf, name, len);
    buf[len] = 0;
    put_port(buf + len + 1, port);
    return len + 3;
}

/* Trust domain, NUL, serial without leading zeros. 0 = no such key can be. */
static size_t serial_key(const char *trust_domain, const uint8_t *serial, size_t len, uint8_t *buf)
{
    size_t domain_len = strnlen(trust_domain, DP_ID_MAX + 1);
    while (len > 1 && serial[0] == 0) {
        serial++;
        len--;
    }
    if (domain_len == 0 || domain_len > DP_ID_MAX || len == 0 || len > SERIAL_MAX)
        return 0;
    memcpy(buf, trust_domain, domain_len);
    buf[domain_len] = 0;
    memcpy(buf + domain_len + 1, serial, len);
    return domain_len + 1 + len;
}

static int add_key(struct dp_snapshot *snap, struct table *table, const void *key, size_t len,
                   uint32_t value)
{
    uint32_t found;
    if (table_get(table, key, len, &found))
        return -EEXIST;
    const void *copy = arena_copy(&snap->arena, key, len);
    return copy != NULL ? table_add(table, copy, len, value) : -ENOMEM;
}

static bool is_spiffe_id(const char *text)
{
    struct spiffe_id id;
    return text != NULL && spiffe_parse(text, strnlen(text, DP_ID_MAX + 1), &id) == 0 &&
           id.path_len > 0;
}

/* ---- building ---- */

int dp_snapshot_add_bundle(dp_snapshot *snap, dp_bundle *bundle)
{
    if (snap->sealed)
        return -EPERM;
    int r = RESERVE_ONE(&snap->bundles);
    if (r == 0)
        r = add_key(snap, &snap->bundle_by_domain, bundle->trust_domain,
                    strlen(bundle->trust_domain), snap->bundles.count);
    if (r < 0)
        return r;
    dp_bundle_ref(bundle);
    snap->bundles.items[snap->bundles.count++] = bundle;
    return 0;
}

int dp_snapshot_add_leaf(dp_snapshot *snap, dp_leaf *leaf, uint32_t *ret_leaf)
{
    if (snap->sealed)
        return -EPERM;
    int r = RESERVE_ONE(&snap->leaves);
    if (r < 0)
        return r;
    dp_leaf_ref(leaf);
    *ret_leaf = snap->leaves.count;
    snap->leaves.items[snap->leaves.count++] = leaf;
    return 0;
}

int dp_snapshot_set_appliance_leaf(dp_snapshot *snap, uint32_t leaf)
{
    if (snap->sealed)
        return -EPERM;
    snap->appliance_leaf = leaf;
    return 0;
}

int dp_snapshot_set_offload(dp_snapshot *snap, const dp_offload *offload)
{
    if (snap->sealed)
        return -EPERM;
    if (offload->records > DP_PREFER_NIC || offload->tls12 > DP_TLS12_PREFER ||
        offload->ciphers > 7)
        return -EINVAL;
    /* No suite of TLS 1.2's would be left. */
    if (offload->tls12 != DP_TLS12_NEVER && offload->ciphers == 4)
        return -EINVAL;
    snap->offload = *offload;
    snap->has_offload = true;
    return 0;
}

int dp_snapshot_add_own_address(dp_snapshot *snap, const uint8_t *addr)
{
    if (snap->sealed)
        return -EPERM;
    return add_key(snap, &snap->own_addresses, addr, 16, 0);
}

int dp_snapshot_add_denied_serial(dp_snapshot *snap, const char *trust_domain,
                                  const uint8_t *serial, size_t len)
{
    if (snap->sealed)
        return -EPERM;
    uint8_t key[SERIAL_KEY_MAX];
    size_t key_len = trust_domain != NULL ? serial_key(trust_domain, serial, len, key) : 0;
    return key_len > 0 ? add_key(snap, &snap->denied_serials, key, key_len, 0) : -EINVAL;
}

int dp_snapshot_add_denied_id(dp_snapshot *snap, const char *spiffe_id)
{
    if (snap->sealed)
        return -EPERM;
    if (!is_spiffe_id(spiffe_id))
        return -EINVAL;
    return add_key(snap, &snap->denied_ids, spiffe_id, strlen(spiffe_id), 0);
}

static int add_host(struct dp_snapshot *snap, struct table *table, const void *key, size_t key_len,
                    uint8_t grade, uint32_t leaf, const char *name)
{
    char *text;
    int r = arena_text(&snap->arena, name, DP_NAME_MAX, &text);
    if (r == 0)
        r = RESERVE_ONE(&snap->hosts);
    if (r == 0)
        r = add_key(snap, table, key, key_len, snap->hosts.count);
    if (r < 0)
        return r;
    snap->hosts.items[snap->hosts.count++] =
        (struct host_entry){.host = {.name = text, .grade = grade}, .leaf = leaf};
    return 0;
}

int dp_snapshot_add_host(dp_snapshot *snap, const uint8_t *addr, uint8_t grade, uint32_t leaf,
                         const char *name)
{
    if (snap->sealed)
        return -EPERM;
    if (grade > DP_GRADE_KEY)
        return -EINVAL;
    return add_host(snap, &snap->host_by_addr, addr, 16, grade, leaf, name);
}

int dp_snapshot_add_agent(dp_snapshot *snap, const char *spiffe_id, uint32_t leaf,
                          const char *name)
{
    if (snap->sealed)
        return -EPERM;
    if (!is_spiffe_id(spiffe_id))
        return -EINVAL;
    return add_host(snap, &snap->agent_by_id, spiffe_id, strlen(spiffe_id), DP_GRADE_KEY, leaf,
                    name);
}

static int check_service(const dp_service *service)
{
    return service->port == 0 || service->mtls > DP_MTLS_DISABLE ||
                   service->grade_min > DP_GRADE_KEY ||
                   service->source_address > DP_SOURCE_PROXY || service->attempts_max == 0 ||
                   service->attempts_max > ATTEMPTS_MAX || service->connect_timeout_ms == 0 ||
                   service->connect_timeout_ms > CONNECT_TIMEOUT_MS_MAX
               ? -EINVAL
               : 0;
}

int dp_snapshot_add_service(dp_snapshot *snap, const dp_service *service, uint32_t *ret_service)
{
    if (snap->sealed)
        return -EPERM;
    char *name, *namespace_;
    int r = check_service(service);
    if (r == 0)
        r = arena_text(&snap->arena, service->name, DP_NAME_MAX, &name);
    if (r == 0)
        r = arena_text(&snap->arena, service->namespace_, DP_NAME_MAX, &namespace_);
    if (r == 0)
        r = RESERVE_ONE(&snap->services);
    if (r < 0)
        return r;
    uint8_t key[NAME_PORT_MAX];
    size_t key_len = name_port_key(name, service->port, key);
    r = add_key(snap, &snap->service_by_name, key, key_len, snap->services.count);
    if (r < 0)
        return r;
    struct service_entry *entry = &snap->services.items[snap->services.count];
    *entry = (struct service_entry){
        .service = {
            .name = name,
            .namespace_ = namespace_,
            .port = service->port,
            .mtls = service->mtls,
            .grade_min = service->grade_min,
            .source_address = service->source_address,
            .outbound_set = service->outbound_set,
            .connect_timeout_ms = service->connect_timeout_ms,
            .attempts_max = service->attempts_max,
            .idle_timeout_ms = service->idle_timeout_ms,
            .duration_max_ms = service->duration_max_ms,
        },
        .leaf = service->leaf,
    };
    *ret_service = snap->services.count++;
    return 0;
}

int dp_snapshot_add_vip(dp_snapshot *snap, const uint8_t *addr, uint16_t port, uint32_t service)
{
    if (snap->sealed)
        return -EPERM;
    if (service >= snap->services.count || port == 0)
        return -EINVAL;
    uint8_t key[ADDR_PORT_SIZE];
    addr_port_key(addr, port, key);
    return add_key(snap, &snap->vips, key, sizeof(key), service);
}

int dp_snapshot_add_sni(dp_snapshot *snap, const char *sni, uint32_t service, uint32_t set)
{
    if (snap->sealed)
        return -EPERM;
    if (service >= snap->services.count || sni == NULL ||
        !sni_is_valid(sni, strnlen(sni, SNI_MAX + 1)))
        return -EINVAL;
    char *text;
    int r = arena_text(&snap->arena, sni, SNI_MAX, &text);
    if (r == 0)
        r = RESERVE_ONE(&snap->snis);
    if (r == 0)
        r = table_add(&snap->sni_by_name, text, strlen(text), snap->snis.count);
    if (r < 0)
        return r;
    snap->snis.items[snap->snis.count++] =
        (struct sni_entry){.service = service, .set = set, .sni = text};
    return 0;
}

int dp_snapshot_add_policy(dp_snapshot *snap, uint8_t action, const char *name,
                           uint32_t *ret_policy)
{
    if (snap->sealed)
        return -EPERM;
    return rules_add_policy(&snap->rules, &snap->arena, action, name, ret_policy);
}

int dp_snapshot_add_rule(dp_snapshot *snap, uint32_t policy, uint32_t *ret_rule)
{
    return snap->sealed ? -EPERM : rules_add_rule(&snap->rules, policy, ret_rule);
}

int dp_snapshot_add_match(dp_snapshot *snap, uint32_t policy, uint32_t rule, const dp_match *match)
{
    return snap->sealed ? -EPERM
                        : rules_add_match(&snap->rules, &snap->arena, policy, rule, match);
}

int dp_snapshot_attach_policy(dp_snapshot *snap, uint32_t service, uint32_t policy)
{
    if (snap->sealed)
        return -EPERM;
    if (service >= snap->services.count || policy >= snap->rules.policy_count)
        return -EINVAL;
    int r = RESERVE_ONE(&snap->attachments);
    if (r < 0)
        return r;
    snap->attachments.items[snap->attachments.count++] =
        (struct attachment){.service = service, .policy = policy};
    snap->services.items[service].service.policy_count++;
    return 0;
}

int dp_snapshot_add_set_take(dp_snapshot *snap, uint32_t set, dp_endpoints *endpoints)
{
    int r = snap->sealed ? -EPERM : set == DP_NONE ? -EINVAL : RESERVE_ONE(&snap->sets);
    if (r == 0)
        r = add_key(snap, &snap->set_by_id, &set, sizeof(set), snap->sets.count);
    if (r < 0) {
        endpoints_unref(endpoints);
        return r;
    }
    snap->sets.items[snap->sets.count++] = (struct set_entry){.id = set, .endpoints = endpoints};
    return 0;
}

/* ---- sealing ---- */

static struct dp_endpoints *find_set(const struct dp_snapshot *snap, uint32_t id)
{
    uint32_t index;
    if (!table_get(&snap->set_by_id, &id, sizeof(id), &index))
        return NULL;
    return snap->sets.items[index].endpoints;
}

static bool leaf_exists(const struct dp_snapshot *snap, uint32_t leaf)
{
    return leaf == DP_NONE || leaf < snap->leaves.count;
}

static const struct dp_leaf *leaf_at(const struct dp_snapshot *snap, uint32_t leaf)
{
    return leaf == DP_NONE ? NULL : snap->leaves.items[leaf];
}

static int check_sets(const struct dp_snapshot *snap, char *ret_detail, size_t len)
{
    for (uint32_t i = 0; i < snap->sets.count; i++) {
        int r = endpoints_seal(snap->sets.items[i].endpoints);
        if (r == -EINVAL)
            snprintf(ret_detail, len, "set %u: an endpoint with TLS expects no SPIFFE ID",
                     snap->sets.items[i].id);
        if (r < 0)
            return r;
    }
    for (uint32_t i = 0; i < snap->snis.count; i++) {
        const struct sni_entry *entry = &snap->snis.items[i];
        const struct dp_endpoints *set = find_set(snap, entry->set);
        if (set == NULL) {
            snprintf(ret_detail, len, "SNI %s: no set %u", entry->sni, entry->set);
            return -EINVAL;
        }
        for (uint32_t k = 0; k < endpoints_count(set); k++) {
            if (endpoints_at(set, k)->kind == DP_ENDPOINT_MESH) {
                snprintf(ret_detail, len, "SNI %s: set %u leads to another site", entry->sni,
                         entry->set);
                return -EINVAL;
            }
        }
    }
    return 0;
}

static int check_references(const struct dp_snapshot *snap, char *ret_detail, size_t len)
{
    if (!leaf_exists(snap, snap->appliance_leaf)) {
        snprintf(ret_detail, len, "the appliance's leaf %u does not exist", snap->appliance_leaf);
        return -EINVAL;
    }
    for (uint32_t i = 0; i < snap->services.count; i++) {
        const struct service_entry *entry = &snap->services.items[i];
        uint32_t set = entry->service.outbound_set;
        if (!leaf_exists(snap, entry->leaf)) {
            snprintf(ret_detail, len, "service %s: no leaf %u", entry->service.name, entry->leaf);
            return -EINVAL;
        }
        if (set != DP_NONE && find_set(snap, set) == NULL) {
            snprintf(ret_detail, len, "service %s: no set %u", entry->service.name, set);
            return -EINVAL;
        }
    }
    for (uint32_t i = 0; i < snap->hosts.count; i++) {
        const struct host_entry *entry = &snap->hosts.items[i];
        if (!leaf_exists(snap, entry->leaf)) {
            snprintf(ret_detail, len, "host %s: no leaf %u", entry->host.name, entry->leaf);
            return -EINVAL;
        }
    }
    return check_sets(snap, ret_detail, len);
}

static int compare_attachments(const void *a, const void *b)
{
    const struct attachment *x = a, *y = b;
    return x->policy < y->policy ? -1 : x->policy > y->policy;
}

/* Gives each service its stretch of attached: DENY first, otherwise in the order of policies. */
static void link_attachments(struct dp_snapshot *snap)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < snap->services.count; i++) {
        struct service *service = &snap->services.items[i].service;
        service->rules = &snap->rules;
        service->policies = snap->attached + at;
        at += service->policy_count;
        service->policy_count = 0; /* counts again as they are filled in */
    }
    if (snap->attachments.count > 1)
        qsort(snap->attachments.items, snap->attachments.count, sizeof(*snap->attachments.items),
              compare_attachments);
    for (unsigned pass = 0; pass < 2; pass++) {
        uint8_t action = pass == 0 ? DP_DENY : DP_ALLOW;
        for (uint32_t i = 0; i < snap->attachments.count; i++) {
            const struct attachment *attachment = &snap->attachments.items[i];
            struct service *service = &snap->services.items[attachment->service].service;
            if (snap->rules.policies[attachment->policy].action != action)
                continue;
            ((uint32_t *)service->policies)[service->policy_count++] = attachment->policy;
            service->deny_count += action == DP_DENY;
        }
    }
}

int dp_snapshot_seal(dp_snapshot *snap, char *ret_detail, size_t len)
{
    if (snap->sealed)
        return -EPERM;
    int r = check_references(snap, ret_detail, len);
    if (r < 0)
        return r;
    /* One more than needed: no such thing as an empty array that is not NULL. */
    uint32_t *attached = calloc(snap->attachments.count + 1u, sizeof(*attached));
    r = attached != NULL ? rules_seal(&snap->rules) : -ENOMEM;
    if (r < 0) {
        free(attached);
        return r;
    }
    /* From here on nothing can fail. */
    snap->attached = attached;
    link_attachments(snap);
    for (uint32_t i = 0; i < snap->services.count; i++) {
        struct service_entry *entry = &snap->services.items[i];
        entry->service.leaf = leaf_at(snap, entry->leaf);
    }
    for (uint32_t i = 0; i < snap->hosts.count; i++) {
        struct host_entry *entry = &snap->hosts.items[i];
        entry->host.leaf = leaf_at(snap, entry->leaf);
    }
    snap->sealed = true;
    return 0;
}

/* ---- answers ---- */

bool snapshot_is_sealed(const struct dp_snapshot *snap)
{
    return snap->sealed;
}

uint64_t snapshot_version(const struct dp_snapshot *snap)
{
    return snap->version;
}

const char *snapshot_trust_domain(const struct dp_snapshot *snap)
{
    return snap->trust_domain;
}

bool snapshot_is_own_address(const struct dp_snapshot *snap, const uint8_t *addr)
{
    uint32_t unused;
    return table_get(&snap->own_addresses, addr, 16, &unused);
}

const struct host *snapshot_host(const struct dp_snapshot *snap, const uint8_t *addr)
{
    uint32_t index;
    assert(snap->sealed);
    return table_get(&snap->host_by_addr, addr, 16, &index) ? &snap->hosts.items[index].host : NULL;
}

const struct host *snapshot_agent(const struct dp_snapshot *snap, const char *spiffe_id)
{
    uint32_t index;
    assert(snap->sealed);
    return table_get(&snap->agent_by_id, spiffe_id, strlen(spiffe_id), &index)
               ? &snap->hosts.items[index].host
               : NULL;
}

static const struct service *service_at(const struct dp_snapshot *snap, uint32_t index)
{
    assert(snap->sealed);
    return &snap->services.items[index].service;
}

const struct service *snapshot_vip(const struct dp_snapshot *snap, const uint8_t *addr,
                                   uint16_t port)
{
    uint8_t key[ADDR_PORT_SIZE];
    uint32_t index;
    addr_port_key(addr, port, key);
    return table_get(&snap->vips, key, sizeof(key), &index) ? service_at(snap, index) : NULL;
}

const struct service *snapshot_sni(const struct dp_snapshot *snap, const char *sni,
                                   uint32_t *ret_set)
{
    uint32_t index;
    if (!table_get(&snap->sni_by_name, sni, strlen(sni), &index))
        return NULL;
    if (ret_set != NULL)
        *ret_set = snap->snis.items[index].set;
    return service_at(snap, snap->snis.items[index].service);
}

const struct service *snapshot_service(const struct dp_snapshot *snap, const char *name,
                                       uint16_t port)
{
    uint8_t key[NAME_PORT_MAX];
    size_t len = name_port_key(name, port, key);
    uint32_t index;
    return len > 0 && table_get(&snap->service_by_name, key, len, &index) ? service_at(snap, index)
                                                                          : NULL;
}

const dp_offload *snapshot_offload(const struct dp_snapshot *snap)
{
    return snap->has_offload ? &snap->offload : NULL;
}

const struct dp_leaf *snapshot_appliance_leaf(const struct dp_snapshot *snap)
{
    return leaf_at(snap, snap->appliance_leaf);
}

const struct dp_bundle *snapshot_bundle(const struct dp_snapshot *snap, const char *trust_domain,
                                        size_t len)
{
    uint32_t index;
    return table_get(&snap->bundle_by_domain, trust_domain, len, &index)
               ? snap->bundles.items[index]
               : NULL;
}

bool snapshot_is_denied(const struct dp_snapshot *snap, const char *spiffe_id,
                        const char *trust_domain, const uint8_t *serial, size_t serial_len)
{
    uint32_t unused;
    uint8_t key[SERIAL_KEY_MAX];
    if (table_get(&snap->denied_ids, spiffe_id, strlen(spiffe_id), &unused))
        return true;
    size_t len = serial_key(trust_domain, serial, serial_len, key);
    return len > 0 && table_get(&snap->denied_serials, key, len, &unused);
}

uint32_t snapshot_set_count(const struct dp_snapshot *snap)
{
    return snap->sets.count;
}

struct dp_endpoints *snapshot_set_at(const struct dp_snapshot *snap, uint32_t index,
                                     uint32_t *ret_id)
{
    assert(index < snap->sets.count);
    *ret_id = snap->sets.items[index].id;
    return snap->sets.items[index].endpoints;
}
