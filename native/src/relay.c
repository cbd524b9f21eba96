/* relay.c: the pump. Reads only into an empty hand, so that back-pressure is the absence of a
 * read, and goes on until the kernel says EAGAIN, so that no edge is missed. */
#define _GNU_SOURCE
#include "relay.h"

#include <fcntl.h>

#include "sys.h"

enum {
    SMALL_READS_MAX = 8,               /* in a row, until buffers or splice are not worth it */
    SPLICE_RETRY_AFTER = 16 * 1024 * 1024, /* bytes until a pipe is asked for again */
    SPLICE_FLAGS = SPLICE_F_MOVE | SPLICE_F_NONBLOCK,
    SPLICE_SMALL = 4096,
};

static bool is_kernels(const struct record *record)
{
    return record->ops->layer == DP_RECORD_PLAIN || record->ops->layer == DP_RECORD_KTLS ||
           record->ops->layer == DP_RECORD_NIC;
}

static void count_taken(struct pump *pump, size_t n)
{
    size_t ours = n < pump->uncounted ? n : pump->uncounted;
    pump->uncounted -= (uint32_t)ours;
    pump->bytes += n - ours;
}

/* Offers data until target has taken all or is full. Bytes taken; 0 or less than len = full. */
static ssize_t write_some(struct pump *pump, const struct relay *relay, const uint8_t *data,
                          size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pump->target->ops->write(pump->target, data + done, len - done);
        if (n == -EAGAIN)
            break;
        if (n < 0) {
            pump->target_failed = true;
            return n;
        }
        done += (size_t)n;
        count_taken(pump, (size_t)n);
    }
    stats_add(relay->stats, STAT_COPIED_BYTES, (int64_t)done);
    return (ssize_t)done;
}

static int flush_tail(struct pump *pump, const struct relay *relay)
{
    struct buffer *tail = pump->tail;
    ssize_t n = write_some(pump, relay, tail->data + tail->off, tail->len - tail->off);
    if (n < 0)
        return (int)n;
    tail->off += (uint32_t)n;
    if (tail->off < tail->len)
        return -EAGAIN;
    buffers_put(relay->buffers, tail);
    pump->tail = NULL;
    return 0;
}

static int flush_pipe(struct pump *pump, const struct relay *relay)
{
    while (pump->in_pipe > 0) {
        ssize_t n = sys->splice(pump->pipe.read_fd, pump->target->fd, pump->in_pipe, SPLICE_FLAGS);
        if (n == 0)
            n = -EPIPE; /* our count and the pipe's disagree: never spin on it */
        if (n < 0) {
            pump->target_failed = n != -EAGAIN;
            return (int)n;
        }
        pump->in_pipe -= (uint32_t)n;
        pump->bytes += (size_t)n;
        stats_add(relay->stats, STAT_SPLICED_BYTES, n);
    }
    return 0;
}

/* What waits goes out first. 0 = nothing waits any more. */
static int flush(struct pump *pump, const struct relay *relay)
{
    int r = pump->tail != NULL ? flush_tail(pump, relay) : 0;
    return r == 0 && pump->in_pipe > 0 ? flush_pipe(pump, relay) : r;
}

static void give_pipe_back(struct pump *pump, const struct relay *relay)
{
    if (!pump->has_pipe)
        return;
    pipes_put(relay->pipes, pump->pipe, pump->in_pipe == 0);
    pump->has_pipe = false;
    pump->in_pipe = 0;
}

/* A bulky direction between two legs of the kernel's goes by splice, if there is a pipe for it. */
static void consider_splice(struct pump *pump, const struct relay *relay)
{
    uint64_t at = pump->splice_at != 0 ? pump->splice_at : RELAY_SPLICE_AFTER;
    if (pump->bytes < at || !is_kernels(pump->source) || !is_kernels(pump->target))
        return;
    if (pipes_get(relay->pipes, &pump->pipe) < 0) {
        stats_add(relay->stats, STAT_POOL_PIPES_FULL, 1);
        pump->splice_at = pump->bytes + SPLICE_RETRY_AFTER;
        return;
    }
    pump->has_pipe = pump->splicing = true;
    pump->small_reads = 0;
}

/* Big reads earn the large buffer, a row of small ones loses it. */
static void adapt(struct pump *pump, const struct relay *relay, size_t n, size_t len)
{
    if (n == len) {
        pump->large = true;
        pump->small_reads = 0;
        consider_splice(pump, relay);
    } else if (n > BUFFER_SMALL) {
        pump->small_reads = 0;
    } else if (pump->large && ++pump->small_reads >= SMALL_READS_MAX) {
        pump->large = false;
        pump->small_reads = 0;
    }
}

/* How much may be moved at once: the rest of the budget, or a little more than be slow. */
static size_t at_once(size_t budget, size_t cap)
{
    size_t most = budget > RELAY_TURN_MIN ? budget : RELAY_TURN_MIN;
    return cap < most ? cap : most;
}

/* Reads once, len bytes at most, into buffer, which is empty. A source with a short read and nothing up its sleeve is
 * drained: the kernel will tell of more. Bytes; *drained as said. */
static size_t fill(struct pump *pump, struct buffer *buffer, size_t len, bool hangup, bool *drained)
{
    struct record *source = pump->source;
    ssize_t n = source->ops->read(source, buffer->data, len);
    *drained = n == -EAGAIN ||
               (n > 0 && (size_t)n < len && !hangup && !source->ops->pending(source));
    if (n > 0) {
        buffer->len = (uint32_t)n;
        return (size_t)n;
    }
    if (n == 0)
        pump->source_ended = true;
    else if (n != -EAGAIN)
        pump->source_error = (int32_t)n;
    return 0;
}

/* One read and its write. 0 = go on; PUMP_WAIT's -EAGAIN = drained or target full. */
static int copy_once(struct pump *pump, const struct relay *relay, bool hangup, size_t *budget)
{
    struct buffer *buffer = buffers_get(relay->buffers, pump->large);
    size_t len = at_once(*budget, buffer->cap);
    bool drained;
    size_t n = fill(pump, buffer, len, hangup, &drained);
    ssize_t taken = n > 0 ? write_some(pump, relay, buffer->data, n) : 0;
    if (taken >= 0 && (size_t)taken < n) { /* keep the buffer itself: no tail is copied */
        buffer->off = (uint32_t)taken;
        pump->tail = buffer;
        return -EAGAIN;
    }
    buffers_put(relay->buffers, buffer);
    if (taken < 0)
        return (int)taken;
    *budget -= n < *budget ? n : *budget;
    if (n > 0)
        adapt(pump, relay, n, len);
    return drained ? -EAGAIN : 0;
}

/* One splice into the empty pipe. 0 = go on (flush it); -EAGAIN = source is drained. */
static int splice_once(struct pump *pump, const struct relay *relay, bool hangup, size_t *budget)
{
    if (!pump->has_pipe) { /* given back when it last ran dry */
        if (pipes_get(relay->pipes, &pump->pipe) < 0) {
            stats_add(relay->stats, STAT_POOL_PIPES_FULL, 1);
            pump->splicing = false;
            pump->splice_at = pump->bytes + SPLICE_RETRY_AFTER;
            return 0;
        }
        pump->has_pipe = true;
    }
    size_t len = at_once(*budget, pump->pipe.size);
    ssize_t n = sys->splice(pump->source->fd, pump->pipe.write_fd, len, SPLICE_FLAGS);
    if (n > 0) {
        pump->in_pipe = (uint32_t)n;
        pump->spliced = true;
        pump->small_reads = n < SPLICE_SMALL ? pump->small_reads + 1 : 0;
        *budget -= (size_t)n < *budget ? (size_t)n : *budget;
        return 0;
    }
    give_pipe_back(pump, relay);
    if (pump->small_reads >= SMALL_READS_MAX) { /* no bulk any more */
        pump->splicing = false;
        pump->splice_at = pump->bytes + RELAY_SPLICE_AFTER;
        pump->small_reads = 0;
    }
    /* Of kernel TLS only data can be spliced: what it stopped at, an alert, an empty record, an
     * end without close_notify or a broken record, is read's to judge. */
    if (n != -EAGAIN && pump->source->ops->splice_failed != NULL) {
        pump->source->ops->splice_failed(pump->source, n);
        return copy_once(pump, relay, hangup, budget);
    }
    /* Splice stops at urgent data for good, and calls it the end once the end has come: only a
     * read can tell, and pass it. */
    if (n == 0 || (n == -EAGAIN && hangup)) {
        pump->splicing = false;
        pump->splice_at = UINT64_MAX;
        return 0;
    }
    return (int)n;
}

static int pass_end_on(struct pump *pump, const struct relay *relay)
{
    give_pipe_back(pump, relay);
    int r = pump->target->ops->finish(pump->target);
    if (r == -EAGAIN)
        return PUMP_WAIT;
    if (r < 0) {
        pump->target_failed = true;
        return r;
    }
    pump->finished = true;
    return PUMP_DONE;
}

int pump_run(struct pump *pump, const struct relay *relay, bool hangup)
{
    if (pump->finished)
        return PUMP_DONE;
    size_t budget = relay->turn_bytes > 0 ? relay->turn_bytes : RELAY_TURN_MAX;
    pump->target_failed = false;
    for (;;) {
        int r = flush(pump, relay);
        if (r == 0 && pump->source_error != 0)
            return pump->source_error;
        if (r == 0 && pump->source_ended)
            return pass_end_on(pump, relay);
        if (r == 0 && budget == 0)
            return PUMP_AGAIN;
        if (r == 0)
            r = pump->splicing ? splice_once(pump, relay, hangup, &budget)
                               : copy_once(pump, relay, hangup, &budget);
        if (r == -EAGAIN)
            return PUMP_WAIT;
        if (r < 0)
            return r;
    }
}

bool pump_blocked(const struct pump *pump)
{
    return pump->tail != NULL || pump->in_pipe > 0 ||
           (!pump->finished && (pump->source_ended || pump->source_error != 0));
}

void pump_fini(struct pump *pump, const struct relay *relay)
{
    buffers_put(relay->buffers, pump->tail);
    pump->tail = NULL;
    give_pipe_back(pump, relay);
}
