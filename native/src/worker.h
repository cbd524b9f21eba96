/* worker.h: one thread with its loop, listeners and streams. Everything it uses is its own but
 * the TLS context and what comes by mailbox. */
#ifndef SLUICE_WORKER_H
#define SLUICE_WORKER_H

#include "event.h"
#include "mailbox.h"
#include "stats.h"
#include "tls.h"

enum { WORKER_LISTENERS_MAX = 32 };

struct worker;
/* config, tls and event_fd are borrowed for the worker's life. */
DP_MUST_CHECK int worker_new(const dp_config *config, uint16_t number, struct tls_context *tls,
                             int event_fd, struct worker **ret);
void worker_free(struct worker *worker);      /* accepts NULL; not started, or joined */
/* Before start. The descriptors are taken, also on failure. */
DP_MUST_CHECK int worker_add_listener_take(struct worker *worker, int fd, uint8_t kind);
DP_MUST_CHECK int worker_add_pipe_take(struct worker *worker, int read_fd, int write_fd);
DP_MUST_CHECK int worker_start(struct worker *worker);
void worker_join(struct worker *worker);      /* after MESSAGE_STOP; not started: no-op */

/* Any thread. */
void worker_put_take(struct worker *worker, struct message *message);
void worker_collect(struct worker *worker);   /* frees what the messages that it took replaced */
uint64_t worker_applied(const struct worker *worker); /* sequence of the last publish it runs */
const struct stats *worker_stats(const struct worker *worker);
struct event_ring *worker_events(struct worker *worker);

#endif
