/* relay.h: moves one direction of a stream from a source to a target record: by copying, or by
 * splice once both ends are the kernel's, plain or TLS, and the direction proves bulky. Holds at
 * most one tail or one pipe's worth: while the target is slow nothing is read. Knows no streams,
 * timers or loops. */
#ifndef SLUICE_RELAY_H
#define SLUICE_RELAY_H

#include "base.h"
#include "buffer.h"
#include "pipe.h"
#include "record.h"
#include "stats.h"

struct relay {                   /* what a worker's pumps share; all borrowed from the worker */
    struct buffers *buffers;
    struct pipes *pipes;
    struct stats *stats;
    size_t turn_bytes;           /* what a pump may move before others run; 0 = the most */
};

enum { PUMP_WAIT = 0, PUMP_AGAIN = 1, PUMP_DONE = 2 };
enum {
    RELAY_SPLICE_AFTER = 256 * 1024,
    RELAY_TURN_MAX = 1024 * 1024, RELAY_TURN_MIN = 64 * 1024, /* a pump, a turn */
    RELAY_TURN_BRIEF = 128 * 1024,        /* a pump, while others exchange RELAY_FEW bytes */
    RELAY_FEW = 16 * 1024,
    RELAY_TURN_ALL = 16 * RELAY_TURN_MAX, /* all of them together, while the least allows it */
};

/* turn_bytes in a turn with so many sources: it lasts no longer for being asked more, and not long
 * when others have just exchanged a few bytes and may want to again (brief). */
static inline size_t relay_share(uint32_t sources, bool brief)
{
    size_t most = brief ? RELAY_TURN_BRIEF : RELAY_TURN_MAX;
    size_t share = sources > 0 ? RELAY_TURN_ALL / sources : most;
    return share > most ? most : share < RELAY_TURN_MIN ? RELAY_TURN_MIN : share;
}

struct pump {                    /* zeroed, then source and target set */
    struct record *source, *target; /* borrowed from the legs */
    struct buffer *tail;         /* owned; bytes that target has not taken; NULL = none */
    uint32_t uncounted;          /* leading bytes of tail that are ours, not payload */
    struct pipe_pair pipe;       /* owned while has_pipe */
    uint32_t in_pipe;            /* bytes */
    uint64_t bytes;              /* payload that target took */
    uint64_t splice_at;          /* bytes from which splice is tried; 0 = RELAY_SPLICE_AFTER */
    int32_t source_error;        /* -errno of the last read; 0 = none */
    uint8_t small_reads;         /* in a row, since the last big one */
    bool has_pipe, splicing, spliced; /* spliced: at least once, for the record layer shown */
    bool large;                  /* reads fill the small buffer: take the large one */
    bool source_ended;           /* clean end seen; what waits, then target's end, follows */
    bool target_failed;          /* which side an error of pump_run came from */
    bool finished;               /* target has its end */
};

/* A request or a reply, by its size; the last bytes of a bulky direction's batch are none. */
static inline bool relay_is_few(const struct pump *pump, uint64_t moved)
{
    return moved <= RELAY_FEW && !pump->splicing;
}

/* Moves bytes until source is drained, target is full or the turn's budget is spent. hangup: a
 * hang-up of source was announced, so a short read does not mean that it is drained. PUMP_AGAIN =
 * call again next turn; PUMP_WAIT = on readiness; PUMP_DONE = source's end has been passed on.
 * -errno of record.h: the stream cannot go on; target_failed says which side. */
DP_MUST_CHECK int pump_run(struct pump *pump, const struct relay *relay, bool hangup);
/* Bytes or an end wait for target. */
bool pump_blocked(const struct pump *pump);
/* Gives buffer and pipe back. */
void pump_fini(struct pump *pump, const struct relay *relay);

#endif
