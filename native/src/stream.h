/* stream.h: one connection and its two legs: down to the client, up to the endpoint. A state
 * table says what follows what; each state's steps are in the file named after its side. A stream
 * belongs to one worker's thread, copies what it needs from the snapshot and lets go of it. */
#ifndef SLUICE_STREAM_H
#define SLUICE_STREAM_H

#include <sys/socket.h>

#include "buffer.h"
#include "endpoints.h"
#include "event.h"
#include "link.h"
#include "loop.h"
#include "mailbox.h"
#include "pool.h"
#include "relay.h"
#include "sets.h"
#include "snapshot.h"
#include "strangers.h"
#include "tls.h"

enum { STREAM_RANDOM_BYTES = 1024 };

struct stream_env {              /* what a worker's streams share; owned by the worker */
    const dp_config *config;     /* borrowed from the engine */
    uint16_t worker;             /* its number */
    struct loop *loop;
    struct timers *timers;       /* the loop's */
    struct stats *stats;
    struct event_ring *events;
    struct relay relay;
    int64_t moved_ms, few_ms;    /* when bytes last moved, and when only a few did, as between a
                                  * request and its reply */
    uint64_t moved_beside;       /* bulk with a few bytes just before, since the worker looked */
    struct tls_context *tls;     /* borrowed from the engine */
    struct tls_sessions *sessions;
    struct tls_chains *chains;
    struct buffers *records;     /* for records of our own */
    const struct dp_snapshot *snapshot; /* counted; set before the first stream */
    struct sets *sets;           /* owned; what the snapshot and later swaps say */
    const struct lost_links *lost; /* borrowed from the worker; see stream_lose_links */
    struct pool *streams, *ejections;
    struct pool *details;        /* of DP_DETAIL_MAX + 1 bytes, one for each stream there can be */
    struct strangers *strangers; /* of the streams: those that have not said who they are */
    struct stream *dead;         /* closed in this turn; freed before the next */
    uint64_t rng;
    uint32_t handshakes_left;    /* in this turn */
    uint32_t random_left;        /* of random */
    uint8_t random[STREAM_RANDOM_BYTES]; /* for flow ids */
};

enum stream_state {
    STREAM_NEW,
    STREAM_HANDSHAKE,            /* down: TLS */
    STREAM_HEADER,               /* down: the PROXY header comes in */
    STREAM_CONNECT,              /* up: TCP to the endpoint that was picked */
    STREAM_UP_HANDSHAKE,         /* up: TLS */
    STREAM_REPLY,                /* up: header and first payload go out, the reply comes in */
    STREAM_RELAY,                /* both: bytes */
    STREAM_REFUSE,               /* down: the reply that says why goes out */
    STREAM_CLOSED,
    STREAM_STATE_COUNT
};

enum outcome {
    OUTCOME_WAIT,                /* stay; readiness, a timer or work goes on */
    OUTCOME_DONE,                /* the state's work is done: on to the next */
    OUTCOME_PLAIN,               /* done, and no TLS follows on this leg */
    OUTCOME_RETRY,               /* this endpoint failed: another one */
    OUTCOME_REFUSED,             /* reason and detail say why */
    OUTCOME_END,                 /* nothing more to say to anyone */
    OUTCOME_COUNT
};

struct leg {
    struct loop_source source;
    struct stream *stream;       /* borrowed: the owner */
    struct record plain;
    struct record *record;       /* borrowed: plain or tls's; NULL = no bytes can pass yet */
    struct tls *tls;             /* owned; NULL = none */
    uint8_t prefer;              /* enum dp_prefer: whose records, by its profile */
    uint8_t fallback;            /* enum dp_fallback: why not those; once decided */
    bool decided;                /* and counted */
    uint64_t move_at;            /* bytes that the stream is to carry before */
    uint64_t started_ns;         /* of its handshake */
    uint8_t addr[16];            /* the other end's */
    uint16_t port;
    bool open;
    bool hangup;                 /* the kernel announced one */
};

struct stream {
    struct stream_env *env;      /* borrowed from the worker */
    struct stream *next_dead;
    uint8_t state;               /* enum stream_state */
    uint8_t kind;                /* enum dp_listener_kind */
    uint8_t flow;                /* enum dp_flow_kind */
    struct stranger_source *stranger; /* counted there until its header is taken; NULL = known */
    struct leg down, up;
    struct pump to_up, to_down;
    struct timer phase, duration;
    struct buffer *early;        /* owned; room for a header, then the client's first bytes,
                                  * kept until no other endpoint can need them */
    struct buffer *input;        /* owned; a link message as it comes in; later the reply */

    /* Who, from where, to what: copies, good without any snapshot. */
    char *src_id, *dst_id, *service; /* owned; NULL = none */
    uint8_t src_addr[16], dst_addr[16];
    uint16_t src_port, dst_port;
    uint8_t flow_id[16];
    uint8_t grade;               /* enum dp_grade */
    bool agent;                  /* src_id is a host's own leaf */
    bool routed;                 /* service is known: publishes concern it */
    bool leaf_expired;           /* the source's; so it counts as having none */
    uint16_t service_port;
    uint8_t source_address;      /* enum dp_source_address */
    uint32_t connect_timeout_ms, attempts_max, idle_timeout_ms, duration_max_ms;
    const struct dp_leaf *leaf;  /* counted; delegated leaf of the source; NULL = none */

    const struct dp_endpoints *set;    /* counted; NULL = not routed */
    const struct endpoint *endpoint;   /* borrowed from set: the last one picked */
    bool endpoint_held;                /* it counts our connection */
    uint64_t tried;
    uint32_t attempts;

    uint16_t reason;             /* enum dp_reason, of the refusal or the end */
    char *detail;                /* owned by env->details; NULL = "" */
    bool established, announced; /* announced: CLOSE or REFUSED was posted */
    uint64_t accepted_ns, established_ns;
    int64_t active_ms;           /* last time bytes moved */
    uint64_t reported;           /* bytes both ways in the last event */
    uint32_t discarded;          /* bytes thrown away while refusing */
};

/* Takes fd: a stream, or closed and counted. */
void stream_accept_take(struct stream_env *env, int fd, uint8_t kind,
                        const struct sockaddr_storage *peer);
/* Ends it now, whatever it does; the ends see a reset. detail may be NULL. */
void stream_kill(struct stream *s, uint16_t reason, const char *detail);
/* After a publish: ends it if it would not be let in now. */
void stream_reauthorize(struct stream *s);
void stream_post_update(struct stream *s); /* DP_EVENT_UPDATE if its totals changed */
void stream_lose_links(struct stream *s);  /* env->lost: is any a NIC's that seals for it? */
void stream_free_dead(struct stream_env *env);

/* Between the stream's own files. */
__attribute__((format(printf, 3, 4)))
enum outcome stream_refuse(struct stream *s, uint16_t reason, const char *format, ...);
/* Copies text to a name of the stream. -ENOMEM. */
DP_MUST_CHECK int stream_set_name(char **name, const char *text);
/* A leg's read or write failed, error of record.h: the end, with its reason. */
enum outcome stream_fail(struct stream *s, const struct leg *leg, int error);
void stream_arm(struct stream *s, uint32_t timeout_ms); /* the state's deadline; 0 = none */
DP_MUST_CHECK int leg_open_take(struct stream *s, struct leg *leg, int fd);
void leg_close(struct stream *s, struct leg *leg, bool reset);
/* The kernel's word on a leg that nobody reads from just now. 0, or -errno: it was reset. */
DP_MUST_CHECK int leg_error(const struct leg *leg);
void stream_drop_endpoint(struct stream *s); /* the up leg, and its connection in the set */
/* Tells a new leg's TLS what it may take from the worker and how its records are to be; -ENOMEM. */
DP_MUST_CHECK int leg_prepare_tls(struct stream *s, struct leg *leg);
/* One step of a leg's TLS handshake, within the turn's budget. 1 = done, leg->record is set;
 * 0 = wait; <0 = refused, and tls_reason and tls_detail say why. */
DP_MUST_CHECK int leg_handshake(struct stream *s, struct leg *leg);
void stream_post(struct stream *s, uint16_t kind);

/* stream_records.c: whose records a leg has. Before its handshake; -ENOMEM. */
DP_MUST_CHECK int leg_prefer_records(struct stream *s, struct leg *leg);
void leg_got_records(struct stream *s, struct leg *leg);  /* after it */
/* After the pumps ran. 1 = its records are others now, or no longer wait to be: run the pumps
 * again; 0 = as before. */
DP_MUST_CHECK int leg_move_records(struct stream *s, struct leg *leg);
void leg_settle_records(struct stream *s, struct leg *leg); /* they stay what they are */
void stream_is_known(struct stream *s); /* no stranger from now on */
/* The client's first bytes into early, as many as fit. 0, or -errno of record.h. */
DP_MUST_CHECK int stream_read_early(struct stream *s);
/* Writes header (NULL = none) in front of the client's first bytes and makes early point to it. */
void stream_prepare_early(struct stream *s, const struct link_header *header);

/* stream_route.c: who the source is and which service it means; copies both into the stream.
 * DP_REASON_NONE, or the reason, with detail filled. */
uint16_t stream_route_transparent(struct stream *s, char *detail); /* DP_DETAIL_MAX + 1 bytes */
uint16_t stream_route_mesh(struct stream *s, const struct link_header *header, char *detail);
uint16_t stream_authorize(struct stream *s, char *detail);
/* Would it be let in now? */
uint16_t stream_review(struct stream *s, char *detail);

/* stream_down.c, stream_up.c, stream_relay.c: the states' steps. */
enum outcome down_new(struct stream *s);
enum outcome down_handshake_enter(struct stream *s);
enum outcome down_handshake(struct stream *s);
enum outcome down_handshake_timeout(struct stream *s);
enum outcome down_header_enter(struct stream *s);
enum outcome down_header(struct stream *s);
enum outcome down_header_timeout(struct stream *s);
enum outcome down_watch(struct stream *s);
enum outcome down_refuse_enter(struct stream *s);
enum outcome down_refuse(struct stream *s);
enum outcome down_refuse_timeout(struct stream *s);
enum outcome up_connect_enter(struct stream *s);
enum outcome up_connect(struct stream *s);
enum outcome up_connect_timeout(struct stream *s);
enum outcome up_handshake_enter(struct stream *s);
enum outcome up_handshake(struct stream *s);
enum outcome up_handshake_timeout(struct stream *s);
enum outcome up_reply_enter(struct stream *s);
enum outcome up_reply(struct stream *s);
enum outcome up_reply_down(struct stream *s);
enum outcome up_reply_timeout(struct stream *s);
enum outcome relay_enter(struct stream *s);
enum outcome relay_down(struct stream *s);
enum outcome relay_up(struct stream *s);
enum outcome relay_timeout(struct stream *s);

/* For tests: what follows outcome in state, or STREAM_STATE_COUNT when it cannot happen. */
enum stream_state stream_next(enum stream_state state, enum outcome outcome);

#endif
