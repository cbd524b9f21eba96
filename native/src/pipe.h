/* pipe.h: a bounded pool of pipes for splice. First those that the supervisor made (1 MiB: an
 * unprivileged user gets 64 of those, then EPERM), then our own up to a limit. A pipe smaller than
 * PIPE_SIZE_MIN is not worth a splice and is refused. One thread. */
#ifndef SLUICE_PIPE_H
#define SLUICE_PIPE_H

#include "base.h"

enum { PIPE_SIZE = 1 << 20, PIPE_SIZE_MIN = 64 << 10 };

struct pipe_pair { int read_fd, write_fd; uint32_t size; /* bytes it holds */ };
struct pipes;
DP_MUST_CHECK int pipes_new(uint32_t own_max, struct pipes **ret);
void pipes_free(struct pipes *pipes);         /* closes all */
/* Both ends of the number-th pipe that is free. False: there are fewer. */
bool pipes_at(const struct pipes *pipes, uint32_t number, struct pipe_pair *ret);
/* What a predecessor left in it is thrown away, so no two processes may hold the same pipe.
 * -EINVAL: not a pipe, or too small. */
DP_MUST_CHECK int pipes_add_take(struct pipes *pipes, int read_fd, int write_fd);
DP_MUST_CHECK int pipes_get(struct pipes *pipes, struct pipe_pair *ret); /* -ENOBUFS = none left */
/* empty = false: bytes are in it; they are thrown away before it is used again. */
void pipes_put(struct pipes *pipes, struct pipe_pair pair, bool empty);

#endif
