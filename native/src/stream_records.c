/* stream_records.c: whose records a TLS leg has: asks for them as the snapshot's profile says,
 * moves those of a stream that has carried enough, and keeps the ledger: each leg is counted once,
 * under its layer and under the reason why it is not where the profile would have it. Those that a
 * NIC has lost with its link are counted for that too. */
#include "stream.h"

#include "address.h"
#include "sys.h"

enum { NEVER = -1 };             /* as UINT64_MAX: bytes that no stream carries */

static void prefer(struct leg *leg, const dp_config *config, const dp_offload *offload)
{
    leg->decided = false;
    leg->fallback = DP_FALLBACK_NONE;
    leg->move_at = (uint64_t)NEVER;
    if (offload == NULL) {
        leg->prefer = config->records == DP_RECORD_KTLS   ? DP_PREFER_KTLS
                      : config->records == DP_RECORD_USER ? DP_PREFER_USER
                                                          : DP_PREFER_OPENSSL;
        return;
    }
    leg->prefer = offload->records;
    switch (offload->records) {
    case DP_PREFER_KTLS:
    case DP_PREFER_NIC:
        if (offload->bytes_min > 0)
            leg->move_at = offload->bytes_min;
        break;
    default:
        break;
    }
}

int leg_prefer_records(struct stream *s, struct leg *leg)
{
    struct stream_env *env = s->env;
    const dp_offload *offload = snapshot_offload(env->snapshot);
    prefer(leg, env->config, offload);
    int r = offload != NULL ? tls_profile_apply(leg->tls, offload) : 0;
    if (r < 0 || leg->prefer == DP_PREFER_OPENSSL)
        return r;
    bool kernels = leg->prefer == DP_PREFER_KTLS || leg->prefer == DP_PREFER_NIC;
    if (kernels && leg->move_at == (uint64_t)NEVER)
        tls_want_kernel_records(leg->tls, env->records, leg->prefer == DP_PREFER_NIC);
    else
        tls_want_user_records(leg->tls, env->records);
    return 0;
}

static void decide(struct stream *s, struct leg *leg, uint8_t fallback)
{
    static const enum stat_id stats[] = {
        [DP_RECORD_OPENSSL] = STAT_RECORDS_OPENSSL, [DP_RECORD_USER] = STAT_RECORDS_USER,
        [DP_RECORD_KTLS] = STAT_RECORDS_KTLS, [DP_RECORD_NIC] = STAT_RECORDS_NIC};
    leg->decided = true;
    leg->fallback = fallback;
    leg->move_at = (uint64_t)NEVER;
    stats_add(s->env->stats, stats[leg->record->ops->layer], 1);
    stats_add(s->env->stats, STAT_FALLBACK_0 + fallback, 1);
}

/* What is known already against moving a leg with records of our own; NONE = nothing. */
static uint8_t known_refusal(const struct leg *leg)
{
    return leg->prefer == DP_PREFER_NIC ? tls_device_refusal(leg->tls) : DP_FALLBACK_NONE;
}

void leg_got_records(struct stream *s, struct leg *leg)
{
    /* Measured (perf, offload): the kernel's records cost a sixth more than ours even with splice,
     * and without VAES on our side. They are for who asks for them, and for a NIC. */
    uint8_t refusal = leg->prefer == DP_PREFER_AUTO ? DP_FALLBACK_DEARER : tls_fallback(leg->tls);
    bool waits = leg->move_at != (uint64_t)NEVER && leg->record->ops->layer == DP_RECORD_USER;
    if (waits)
        refusal = known_refusal(leg);
    if (!waits || refusal != DP_FALLBACK_NONE)
        decide(s, leg, refusal);
}

static uint64_t carried(const struct stream *s)
{
    return s->to_up.bytes + s->to_down.bytes;
}

static void follow(struct stream *s, struct leg *leg)
{
    leg->record = tls_record(leg->tls);
    *(leg == &s->down ? &s->to_up.source : &s->to_down.source) = leg->record;
    *(leg == &s->down ? &s->to_down.target : &s->to_up.target) = leg->record;
}

int leg_move_records(struct stream *s, struct leg *leg)
{
    if (leg->tls == NULL || leg->decided || carried(s) < leg->move_at)
        return 0;
    int r = tls_move_to_kernel(leg->tls, leg->prefer == DP_PREFER_NIC);
    if (r == 0)
        return 0;
    if (r > 0)
        follow(s, leg);
    decide(s, leg, tls_fallback(leg->tls));
    return 1;
}

void leg_settle_records(struct stream *s, struct leg *leg)
{
    if (leg->tls == NULL || leg->record == NULL || leg->decided)
        return;
    decide(s, leg, carried(s) < leg->move_at ? DP_FALLBACK_SMALL : DP_FALLBACK_BUSY);
}

static bool leaves_by(const struct lost_links *lost, const struct leg *leg)
{
    struct sockaddr_storage name = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof(name);
    uint8_t addr[16];
    uint16_t port;
    if (sys->getsockname(leg->source.fd, (struct sockaddr *)&name, &len) < 0)
        return false;
    address_from_socket(&name, addr, &port);
    for (uint32_t i = 0; i < lost->count; i++)
        if (memcmp(lost->addrs[i], addr, sizeof(addr)) == 0)
            return true;
    return false;
}

/* The kernel goes on by itself, also when the link is back, and tells nobody. What the NIC was given
 * since is with it still. */
static bool lose(struct stream *s, struct leg *leg)
{
    const struct lost_links *lost = s->env->lost;
    if (leg->tls == NULL || leg->record == NULL || leg->record->ops->layer != DP_RECORD_NIC ||
        tls_installed_ns(leg->tls) > lost->seen_ns || !leaves_by(lost, leg))
        return false;
    tls_lose_device(leg->tls);
    stats_add(s->env->stats, STAT_SEALS_ONLY_LOST, leg->fallback == DP_FALLBACK_SEALS_ONLY);
    leg->fallback = DP_FALLBACK_LINK_CHANGED;
    stats_add(s->env->stats, STAT_FALLBACK_0 + DP_FALLBACK_LINK_CHANGED, 1);
    return true;
}

void stream_lose_links(struct stream *s)
{
    bool down = lose(s, &s->down), up = lose(s, &s->up);
    if ((down || up) && s->state == STREAM_RELAY)
        stream_post(s, DP_EVENT_UPDATE);
}
