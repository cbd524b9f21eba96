/* fuzz_snapshot.c: the bytes as a list of building calls, then lookups and a decision with texts
 * from the same bytes. Whatever is said, it is refused or it is sound. */
#include <stdlib.h>

#include "endpoints.h"
#include "policy.h"
#include "snapshot.h"

struct input {
    const uint8_t *data;
    size_t size;
};

static uint8_t take(struct input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

/* A text of up to 31 bytes, exactly as long as it says, in buf. */
static const char *take_text(struct input *in, char *buf)
{
    size_t len = take(in) % 32, i = 0;
    while (i < len && in->size > 0)
        buf[i++] = (char)take(in);
    buf[i] = '\0';
    return buf;
}

static const uint8_t *take_addr(struct input *in, uint8_t *buf)
{
    memset(buf, 0, 16);
    buf[15] = take(in) % 8;
    return buf;
}

static struct dp_endpoints *take_set(struct input *in)
{
    char name[32], sni[32], id[64] = "spiffe://";
    struct dp_endpoints *set;
    dp_set_policy policy = {.balance = take(in) % 4, .connections_max = take(in) % 4,
                            .failures_consecutive = 1, .ejection_base_ms = 1,
                            .ejection_percent_max = take(in)};
    if (dp_endpoints_new(&policy, &set) < 0)
        return NULL;
    for (unsigned n = take(in) % 8; n > 0; n--) {
        uint32_t index = 0;
        dp_endpoint endpoint = {.port = take(in), .target_port = take(in), .kind = take(in) % 4,
                                .priority = take(in), .healthy = take(in) & 1,
                                .weight = (uint32_t)take(in) << (take(in) % 16)};
        take_addr(in, endpoint.addr);
        endpoint.name = take_text(in, name);
        endpoint.sni = take_text(in, sni);
        if (dp_endpoints_add(set, &endpoint, &index) == 0 && endpoint.kind != DP_ENDPOINT_PLAIN)
            (void)!dp_endpoints_add_expected(set, index, (take_text(in, id + 9), id));
    }
    return set;
}

static void add_one(struct dp_snapshot *snap, struct input *in)
{
    char text[32], other[32], id[64] = "spiffe://";
    uint8_t addr[16];
    uint32_t index;
    int r = 0;
    switch (take(in) % 12) {
    case 0: {
        dp_service service = {.port = take(in), .mtls = take(in) % 4, .grade_min = take(in) % 6,
                              .source_address = take(in) % 4, .attempts_max = take(in),
                              .connect_timeout_ms = take(in), .outbound_set = DP_NONE,
                              .leaf = take(in) < 250 ? DP_NONE : 1};
        if (take(in) & 1)
            service.outbound_set = take(in) % 4;
        service.name = take_text(in, text);
        service.namespace_ = take_text(in, other);
        r = dp_snapshot_add_service(snap, &service, &index);
        break;
    }
    case 1:
        r = dp_snapshot_add_vip(snap, take_addr(in, addr), take(in), take(in) % 4);
        break;
    case 2:
        r = dp_snapshot_add_sni(snap, take_text(in, text), take(in) % 4, take(in) % 4);
        break;
    case 3:
        r = dp_snapshot_add_host(snap, take_addr(in, addr), take(in) % 6, DP_NONE,
                                 take_text(in, text));
        break;
    case 4:
        r = dp_snapshot_add_agent(snap, (take_text(in, id + 9), id), DP_NONE, "agent");
        break;
    case 5:
        r = dp_snapshot_add_denied_id(snap, (take_text(in, id + 9), id));
        break;
    case 6: {
        const char *serial = take_text(in, text);
        r = dp_snapshot_add_denied_serial(snap, take_text(in, other), (const uint8_t *)serial,
                                          strlen(serial));
        break;
    }
    case 7:
        r = dp_snapshot_add_policy(snap, take(in) % 3, take_text(in, text), &index);
        break;
    case 8:
        r = dp_snapshot_add_rule(snap, take(in) % 4, &index);
        break;
    case 9: {
        dp_match match = {.part = take(in) % 4, .field = take(in) % 10, .op = take(in) % 5,
                          .negated = take(in) % 3, .entry = take(in) % 3, .port = take(in),
                          .prefix_len = take(in), .number = take(in) % 6};
        take_addr(in, match.addr);
        match.text = take_text(in, text);
        r = dp_snapshot_add_match(snap, take(in) % 4, take(in) % 4, &match);
        break;
    }
    case 10:
        r = dp_snapshot_attach_policy(snap, take(in) % 4, take(in) % 4);
        break;
    case 11: {
        struct dp_endpoints *set = take_set(in);
        if (set != NULL)
            r = dp_snapshot_add_set_take(snap, take(in) % 4, set);
        break;
    }
    }
    assert(r <= 0);
}

static void ask(const struct dp_snapshot *snap, struct input *in)
{
    char text[32], id[64] = "spiffe://", detail[DP_DETAIL_MAX + 1];
    uint8_t addr[16];
    uint32_t set_id;
    uint64_t rng = take(in), tried = 0;
    struct policy_input input = {.grade = take(in) % 5, .id = NULL};
    take_addr(in, input.addr);
    take_addr(in, input.remote_addr);
    if (take(in) & 1)
        input.id = (take_text(in, id + 9), id);
    input.sni = take_text(in, text);
    const struct service *service = snapshot_vip(snap, take_addr(in, addr), take(in));
    if (service == NULL)
        service = snapshot_sni(snap, text, &set_id);
    if (service != NULL)
        assert(policy_authorize(service, &input, detail) < DP_REASON_COUNT);
    (void)snapshot_host(snap, addr);
    (void)snapshot_agent(snap, id);
    (void)snapshot_is_denied(snap, id, "a", addr, 16);
    for (uint32_t i = 0; i < snapshot_set_count(snap); i++) {
        const struct dp_endpoints *set = snapshot_set_at(snap, i, &set_id);
        const struct endpoint *endpoint;
        for (int64_t now_ms = 0; now_ms < 4; now_ms++) {
            if (endpoints_pick(set, now_ms, &rng, &tried, &endpoint) < 0)
                continue;
            assert(endpoint->healthy);
            (void)endpoint_failed(set, endpoint, now_ms);
            endpoints_release(set, endpoint);
        }
        assert(endpoints_connections(set) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct dp_snapshot *snap;
    char detail[DP_DETAIL_MAX + 1];
    if (dp_snapshot_new(1, "site-a", &snap) < 0)
        abort();
    for (unsigned n = take(&in) % 64; n > 0; n--)
        add_one(snap, &in);
    if (dp_snapshot_seal(snap, detail, sizeof(detail)) == 0)
        ask(snap, &in);
    dp_snapshot_free(snap);
    return 0;
}
