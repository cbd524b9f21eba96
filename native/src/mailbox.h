/* mailbox.h: how the publisher reaches a worker: a list taken whole by one atomic exchange, and
 * an eventfd that wakes its loop. Many writers, one reader; messages keep their order. The reader
 * frees nothing: messages go back, with what they replaced in them, for a writer to collect. */
#ifndef SLUICE_MAILBOX_H
#define SLUICE_MAILBOX_H

#include "sets.h"
#include "snapshot.h"

enum message_kind { MESSAGE_SNAPSHOT, MESSAGE_SET, MESSAGE_LOST, MESSAGE_DRAIN, MESSAGE_STOP };

struct lost_links {
    uint64_t seen_ns;
    uint32_t count;
    uint8_t addrs[DP_LOST_MAX][16];
};

struct message {                 /* allocated and freed by senders */
    struct message *next;
    enum message_kind kind;
    uint64_t sequence;           /* SNAPSHOT, SET, LOST: of the publish */
    const struct dp_snapshot *snapshot; /* SNAPSHOT: counted */
    struct sets *sets;           /* SNAPSHOT: owned; built by the sender so that taking cannot fail */
    struct dp_endpoints *endpoints; /* SET: counted */
    uint32_t set;                /* SET */
    struct lost_links *lost;     /* LOST: owned */
    uint32_t deadline_ms;        /* DRAIN */
};

struct mailbox {
    _Atomic(struct message *) newest;   /* to the reader */
    _Atomic(struct message *) returned; /* by it */
    int fd;                      /* owned eventfd: readable when there may be messages */
};

DP_MUST_CHECK int mailbox_init(struct mailbox *mailbox);
void mailbox_fini(struct mailbox *mailbox);
void mailbox_put_take(struct mailbox *mailbox, struct message *message);
struct message *mailbox_take(struct mailbox *mailbox); /* oldest first; NULL = none */
void mailbox_clear(struct mailbox *mailbox);           /* the eventfd, before taking */
void mailbox_return_take(struct mailbox *mailbox, struct message *message);
void mailbox_collect(struct mailbox *mailbox);         /* frees what was returned; any writer */

struct message *message_new(enum message_kind kind);   /* NULL = no memory */
void message_free(struct message *message);            /* accepts NULL; drops what is left in it */

#endif
