/* pipe.h: a bounded pool of pipes for splice. First those that the supervisor made (1 MiB: an
 * unprivileged user gets 64 of those, then EPERM), then our own up to a limit. One thread. */
#ifndef SLUICE_PIPE_H
#define SLUICE_PIPE_H

#include "base.h"

struct pipe_pair { int read_fd, write_fd; uint32_t size; /* bytes it holds */ };
struct pipes;
DP_MUST_CHECK int pipes_new(uint32_t own_max, struct pipes **ret);
void pipes_free(struct pipes *pipes);         /* closes all */
DP_MUST_CHECK int pipes_add_take(struct pipes *pipes, int read_fd, int write_fd);
DP_MUST_CHECK int pipes_get(struct pipes *pipes, struct pipe_pair *ret); /* -ENOBUFS = none left */
/* empty = false: bytes are in it, so it cannot be used again: closed and made anew. */
void pipes_put(struct pipes *pipes, struct pipe_pair pair, bool empty);

#endif
