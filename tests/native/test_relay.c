/* test_relay.c: the pump between a simulated source and target, by copy, by splice and by a record
 * layer: the network gives and takes a random number of bytes at a time, and the pump is called
 * only when a real kernel would have announced something. A lost edge is a stalled test. */
#include <stdlib.h>

#include "relay.h"
#include "sys.h"
#include "test.h"

enum {
    SOURCE_FD = 100, TARGET_FD = 101, PIPE_READ_FD = 200, PIPE_WRITE_FD = 201,
    TOTAL_MAX = 3 << 20, PIPE_BYTES = 64 << 10, RECORD_BYTES = 16 << 10, SEEDS = 300,
};

/* The bytes of a direction are numbered; byte i is content(i). */
static uint8_t content(uint64_t i)
{
    return (uint8_t)(i * 2654435761u >> 13);
}

static struct {
    uint64_t rng;
    uint64_t total;              /* bytes the source will send, then its end */
    uint64_t arrived, read;      /* by the network; by us */
    uint64_t taken, room;        /* by target, in order; what it takes before it is full */
    bool fin, nospace, shut;     /* the end arrived; target's edge is owed; target has its end */
    int source_error, target_error; /* from now on */
    uint64_t piped;              /* bytes in the pipe */
    unsigned pipes_open, records; /* records: the source is a record layer */
    bool wrong;                  /* a byte out of order, or bytes after the end */
} net;

static uint64_t roll(uint64_t below)
{
    net.rng ^= net.rng << 13;
    net.rng ^= net.rng >> 7;
    net.rng ^= net.rng << 17;
    return net.rng % below;
}

static ssize_t take_from_source(size_t len)
{
    if (net.source_error != 0)
        return net.source_error;
    uint64_t there = net.arrived - net.read;
    if (there == 0)
        return net.fin ? 0 : -EAGAIN;
    return (ssize_t)(len < there ? len : there);
}

static ssize_t give_to_target(size_t len)
{
    if (net.target_error != 0)
        return net.target_error;
    if (len > net.room)
        net.nospace = true;
    if (net.room == 0)
        return -EAGAIN;
    size_t n = len < net.room ? len : (size_t)net.room;
    net.room -= n;
    net.taken += n;
    net.wrong |= net.shut;
    return (ssize_t)n;
}

static ssize_t sim_recv(int fd, void *buf, size_t len, int flags)
{
    (void)flags;
    net.wrong |= fd != SOURCE_FD;
    ssize_t n = take_from_source(len);
    for (ssize_t i = 0; i < n; i++)
        ((uint8_t *)buf)[i] = content(net.read + (uint64_t)i);
    if (n > 0)
        net.read += (uint64_t)n;
    return n;
}

static ssize_t sim_send(int fd, const void *buf, size_t len, int flags)
{
    (void)flags;
    net.wrong |= fd != TARGET_FD || net.piped > 0;
    uint64_t at = net.taken;
    ssize_t n = give_to_target(len);
    for (ssize_t i = 0; i < n; i++)
        net.wrong |= ((const uint8_t *)buf)[i] != content(at + (uint64_t)i);
    return n;
}

/* What is in the pipe is known by count alone: it is a queue. */
static ssize_t sim_splice(int from, int to, size_t len, unsigned flags)
{
    (void)flags;
    if (from == SOURCE_FD && to == PIPE_WRITE_FD) {
        size_t room = PIPE_BYTES - net.piped;
        ssize_t n = room == 0 ? -EAGAIN : take_from_source(len < room ? len : room);
        if (n > 0) {
            net.read += (uint64_t)n;
            net.piped += (uint64_t)n;
        }
        return n;
    }
    net.wrong |= from != PIPE_READ_FD || to != TARGET_FD || len > net.piped;
    ssize_t n = give_to_target(len);
    if (n > 0)
        net.piped -= (uint64_t)n;
    return n;
}

static int sim_shutdown(int fd, int how)
{
    net.wrong |= fd != TARGET_FD || how != SHUT_WR || net.shut;
    net.shut = true;
    return 0;
}

static int sim_pipe(int ret_fds[2])
{
    ret_fds[0] = PIPE_READ_FD;
    ret_fds[1] = PIPE_WRITE_FD;
    net.pipes_open++;
    return 0;
}

static int sim_pipe_size(int fd)
{
    (void)fd;
    return PIPE_BYTES;
}

static int sim_pipe_set_size(int fd, int bytes)
{
    (void)fd;
    (void)bytes;
    return PIPE_BYTES;
}

static ssize_t sim_read(int fd, void *buf, size_t len) /* a pipe that is thrown away is emptied */
{
    (void)fd;
    (void)buf;
    size_t n = len < net.piped ? len : (size_t)net.piped;
    net.piped -= n;
    return n > 0 ? (ssize_t)n : -EAGAIN;
}

static int sim_close(int fd)
{
    net.pipes_open -= fd == PIPE_READ_FD;
    return 0;
}

static const struct sys_table sim = {
    .recv = sim_recv, .send = sim_send, .splice = sim_splice, .shutdown = sim_shutdown,
    .pipe = sim_pipe, .pipe_size = sim_pipe_size, .pipe_set_size = sim_pipe_set_size,
    .read = sim_read, .close = sim_close,
};

/* A record layer: at most a record a read, and more may wait inside that no edge tells of. */
static ssize_t record_read(struct record *rec, void *buf, size_t len)
{
    return sim_recv(rec->fd, buf, len < RECORD_BYTES ? len : RECORD_BYTES, 0);
}

static ssize_t record_write(struct record *rec, const void *buf, size_t len)
{
    return sim_send(rec->fd, buf, len < RECORD_BYTES ? len : RECORD_BYTES, 0);
}

static int record_finish(struct record *rec)
{
    if (net.target_error != 0)
        return net.target_error;
    if (net.room == 0) { /* close_notify is bytes too */
        net.nospace = true;
        return -EAGAIN;
    }
    return sim_shutdown(rec->fd, SHUT_WR);
}

static bool record_pending(const struct record *rec)
{
    (void)rec;
    return net.arrived > net.read || net.fin;
}

static const struct record_ops record_ops = {
    .layer = DP_RECORD_OPENSSL, .read = record_read, .write = record_write,
    .finish = record_finish, .pending = record_pending,
};

/* A worker's part, with the sizes that a test wants. */
static struct relay relay;

static bool relay_init(uint32_t small, uint32_t large, uint32_t pipes)
{
    bool good = stats_new(&relay.stats) == 0;
    good = good && buffers_new(small, large, relay.stats, &relay.buffers) == 0;
    return good && pipes_new(pipes, &relay.pipes) == 0;
}

static void relay_fini(void)
{
    pipes_free(relay.pipes);
    buffers_free(relay.buffers);
    stats_free(relay.stats);
}

struct run {
    struct pump pump;
    struct record source, target;
    int result;
};

static void run_init(struct run *run, bool record_source, bool record_target)
{
    memset(run, 0, sizeof(*run));
    record_plain_init(&run->source, SOURCE_FD);
    record_plain_init(&run->target, TARGET_FD);
    if (record_source)
        run->source.ops = &record_ops;
    if (record_target)
        run->target.ops = &record_ops;
    run->pump.source = &run->source;
    run->pump.target = &run->target;
}

static void step(struct run *run)
{
    run->result = pump_run(&run->pump, &relay, net.fin);
}

/* The network does one thing; the pump hears of it as from an edge-triggered epoll. */
static void network(struct run *run)
{
    static const uint32_t sizes[] = {1, 100, 4000, 70000, 400000};
    uint64_t some = 1 + roll(sizes[roll(DP_COUNT(sizes))]);
    if (roll(2) == 0 && !net.fin) {
        uint64_t left = net.total - net.arrived;
        net.arrived += some < left ? some : left;
        net.fin = net.arrived == net.total && (left == 0 || roll(2) == 0);
        if (!pump_blocked(&run->pump))
            step(run);
        return;
    }
    net.room = net.room + some > 1 << 20 ? net.room : net.room + some;
    if (net.nospace) {
        net.nospace = false;
        if (pump_blocked(&run->pump))
            step(run);
    }
}

static void run_to_end(struct run *run)
{
    step(run);
    for (unsigned idle = 0; run->result >= 0 && run->result != PUMP_DONE && idle < 100000; idle++) {
        while (run->result == PUMP_AGAIN)
            step(run);
        network(run);
    }
}

static void all_bytes_in_order(void)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        memset(&net, 0, sizeof(net));
        net.rng = seed * 0x9e3779b97f4a7c15u;
        net.total = roll(4) == 0 ? roll(20000) : roll(TOTAL_MAX);
        unsigned kind = (unsigned)roll(4);
        struct run run;
        if (!CHECK(relay_init(2, 1 + (uint32_t)roll(2), (uint32_t)roll(2))))
            return;
        run_init(&run, kind & 1, kind & 2);
        run_to_end(&run);
        bool good = CHECK_INT(run.result, PUMP_DONE) && CHECK_INT(net.taken, net.total) &&
                    CHECK_INT(run.pump.bytes, net.total) && CHECK(net.shut) && CHECK(!net.wrong) &&
                    CHECK(!pump_blocked(&run.pump)) && CHECK(run.pump.tail == NULL) &&
                    CHECK(!run.pump.has_pipe) &&
                    CHECK_INT(stats_get(relay.stats, STAT_COPIED_BYTES) +
                                  stats_get(relay.stats, STAT_SPLICED_BYTES), net.total);
        pump_fini(&run.pump, &relay);
        relay_fini();
        good = CHECK_INT(net.pipes_open, 0) && good;
        if (!good) {
            printf("# seed %" PRIu64 "\n", seed);
            return;
        }
    }
}

/* A reset or a truncation at any moment ends the pump with that error, and nothing leaks. */
static void errors_at_any_moment(void)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        memset(&net, 0, sizeof(net));
        net.rng = seed * 0x9e3779b97f4a7c15u;
        net.total = UINT64_C(1) << 40; /* no end before the error */
        bool at_source = roll(2) == 0, records = roll(2) == 0;
        struct run run;
        if (!CHECK(relay_init(2, 1, 1)))
            return;
        run_init(&run, records, records);
        step(&run);
        for (uint64_t left = roll(200); left > 0 && run.result >= 0; left--) {
            while (run.result == PUMP_AGAIN)
                step(&run);
            network(&run);
        }
        *(at_source ? &net.source_error : &net.target_error) = -ECONNRESET;
        net.room = 1 << 20;
        net.arrived += 1 << 20; /* something to write, so that the target's error is met */
        step(&run);
        while (run.result == PUMP_AGAIN)
            step(&run);
        bool good = CHECK_INT(run.result, -ECONNRESET) && CHECK(!net.wrong) && CHECK(!net.shut) &&
                    CHECK_INT(run.pump.target_failed, !at_source);
        pump_fini(&run.pump, &relay);
        relay_fini();
        good = CHECK_INT(net.pipes_open, 0) && good;
        if (!good) {
            printf("# seed %" PRIu64 ", %s\n", seed, at_source ? "source" : "target");
            return;
        }
    }
}

static void truncation_is_no_end(void)
{
    memset(&net, 0, sizeof(net));
    net.total = 100;
    net.arrived = 10;
    net.room = 100;
    struct run run;
    REQUIRE(relay_init(2, 1, 0));
    run_init(&run, true, false);
    step(&run);
    CHECK_INT(run.result, PUMP_WAIT);
    net.source_error = -ENODATA;
    step(&run);
    CHECK_INT(run.result, -ENODATA);
    CHECK_INT(net.taken, 10);
    CHECK(!net.shut);
    pump_fini(&run.pump, &relay);
    relay_fini();
}

static void nothing_is_read_while_the_target_is_full(void)
{
    memset(&net, 0, sizeof(net));
    net.total = net.arrived = 1 << 20;
    net.room = 1000;
    struct run run;
    REQUIRE(relay_init(2, 1, 1));
    run_init(&run, false, false);
    step(&run);
    CHECK_INT(run.result, PUMP_WAIT);
    CHECK_INT(net.read, BUFFER_SMALL);
    for (int i = 0; i < 5; i++)
        step(&run);
    CHECK_INT(net.read, BUFFER_SMALL);
    CHECK_INT(net.taken, 1000);
    pump_fini(&run.pump, &relay);
    relay_fini();
}

static void a_turn_is_bounded(void)
{
    memset(&net, 0, sizeof(net));
    net.total = net.arrived = 3 << 20;
    net.room = 8 << 20;
    struct run run;
    REQUIRE(relay_init(2, 1, 1));
    run_init(&run, false, false);
    step(&run);
    CHECK_INT(run.result, PUMP_AGAIN);
    CHECK(net.taken >= RELAY_TURN_MAX && net.taken <= RELAY_TURN_MAX + BUFFER_LARGE);
    CHECK(run.pump.spliced);
    pump_fini(&run.pump, &relay);
    relay_fini();
}

static void a_share(void)
{
    CHECK_INT(relay_share(0, false), RELAY_TURN_MAX);
    CHECK_INT(relay_share(1, false), RELAY_TURN_MAX);
    CHECK_INT(relay_share(64, false), RELAY_TURN_ALL / 64);
    CHECK_INT(relay_share(UINT32_MAX, false), RELAY_TURN_MIN);
    CHECK_INT(relay_share(0, true), RELAY_TURN_BRIEF);
    CHECK_INT(relay_share(64, true), RELAY_TURN_BRIEF);
    CHECK_INT(relay_share(UINT32_MAX, true), RELAY_TURN_MIN);
}

static void the_end_of_a_batch_is_no_request(void)
{
    struct pump pump = {.splicing = false};
    CHECK(relay_is_few(&pump, 1) && relay_is_few(&pump, RELAY_FEW));
    CHECK(!relay_is_few(&pump, RELAY_FEW + 1));
    pump.splicing = true;
    CHECK(!relay_is_few(&pump, 1));
}

/* A smaller turn, for being one of many: by read as by splice, and nothing is left behind. */
static void a_small_share_is_kept(void)
{
    enum { TOTAL = 3 << 20 };
    memset(&net, 0, sizeof(net));
    net.total = net.arrived = TOTAL;
    net.room = 8 << 20;
    net.fin = true;
    struct run run;
    REQUIRE(relay_init(2, 1, 1));
    relay.turn_bytes = RELAY_TURN_MIN;
    run_init(&run, false, false);
    run.pump.large = true;
    uint64_t before = 0;
    unsigned turns = 0;
    for (step(&run); run.result == PUMP_AGAIN; step(&run)) {
        CHECK(net.taken > before && net.taken - before < 2 * RELAY_TURN_MIN);
        before = net.taken;
        turns++;
    }
    CHECK_INT(run.result, PUMP_DONE);
    CHECK(run.pump.spliced);
    CHECK_INT(net.taken, TOTAL);
    CHECK(turns >= TOTAL / (2 * RELAY_TURN_MIN));
    pump_fini(&run.pump, &relay);
    relay.turn_bytes = 0;
    relay_fini();
}

/* They came with one edge; no other will tell of those that a read leaves inside. */
static void records_that_wait_inside_are_read(void)
{
    memset(&net, 0, sizeof(net));
    net.total = 1 << 20;
    net.arrived = 3 * RECORD_BYTES;
    net.room = 1 << 20;
    struct run run;
    REQUIRE(relay_init(2, 1, 0));
    run_init(&run, true, false);
    run.pump.large = true;
    step(&run);
    CHECK_INT(run.result, PUMP_WAIT);
    CHECK_INT(net.taken, 3 * RECORD_BYTES);
    pump_fini(&run.pump, &relay);
    relay_fini();
}

static void splice_ends_when_the_bulk_does(void)
{
    memset(&net, 0, sizeof(net));
    net.total = 4 << 20;
    net.arrived = 1 << 20;
    net.room = 8 << 20;
    struct run run;
    REQUIRE(relay_init(2, 1, 1));
    run_init(&run, false, false);
    do
        step(&run);
    while (run.result == PUMP_AGAIN);
    CHECK(run.pump.splicing);
    CHECK(!run.pump.has_pipe); /* dry: others may have it */
    for (int i = 0; i < 10; i++) {
        net.arrived += 10;
        step(&run);
    }
    CHECK(!run.pump.splicing);
    CHECK_INT(net.taken, (1 << 20) + 100);
    pump_fini(&run.pump, &relay);
    relay_fini();
}

static void bytes_of_ours_are_not_payload(void)
{
    memset(&net, 0, sizeof(net));
    net.total = 100;
    net.room = 40;
    struct run run;
    REQUIRE(relay_init(2, 1, 0));
    run_init(&run, false, false);
    run.pump.tail = buffers_get(relay.buffers, false);
    for (uint32_t i = 0; i < 50; i++)
        run.pump.tail->data[i] = content(i);
    run.pump.tail->len = 50;
    run.pump.uncounted = 45;
    step(&run);
    CHECK_INT(run.pump.bytes, 0);
    net.room = 60;
    net.arrived = net.read = 50;
    net.arrived = 100;
    net.fin = true;
    step(&run);
    CHECK_INT(run.result, PUMP_DONE);
    CHECK_INT(run.pump.bytes, 55);
    CHECK(!net.wrong);
    pump_fini(&run.pump, &relay);
    relay_fini();
}

static void small_buffers_when_large_ones_run_out(void)
{
    struct stats *stats;
    struct buffers *buffers;
    REQUIRE_INT(stats_new(&stats), 0);
    REQUIRE_INT(buffers_new(2, 1, stats, &buffers), 0);
    struct buffer *a = buffers_get(buffers, true), *b = buffers_get(buffers, true);
    CHECK_INT(a->cap, BUFFER_LARGE);
    CHECK_INT(b->cap, BUFFER_SMALL);
    CHECK_INT(stats_get(stats, STAT_POOL_BUFFERS_FULL), 1);
    buffers_put(buffers, a);
    struct buffer *c = buffers_get(buffers, true);
    CHECK(c == a);
    buffers_put(buffers, b);
    buffers_put(buffers, c);
    buffers_put(buffers, NULL);
    buffers_free(buffers);
    stats_free(stats);
}

static void simulated(void (*fn)(void))
{
    sys = &sim;
    fn();
    sys = &sys_real;
}

static void sim_order(void) { simulated(all_bytes_in_order); }
static void sim_errors(void) { simulated(errors_at_any_moment); }
static void sim_truncation(void) { simulated(truncation_is_no_end); }
static void sim_back_pressure(void) { simulated(nothing_is_read_while_the_target_is_full); }
static void sim_turn(void) { simulated(a_turn_is_bounded); }
static void sim_share(void) { simulated(a_small_share_is_kept); }
static void sim_records(void) { simulated(records_that_wait_inside_are_read); }
static void sim_small(void) { simulated(splice_ends_when_the_bulk_does); }
static void sim_uncounted(void) { simulated(bytes_of_ours_are_not_payload); }

TEST_MAIN({"all_bytes_in_order", sim_order}, {"errors_at_any_moment", sim_errors},
          {"truncation_is_no_end", sim_truncation},
          {"nothing_is_read_while_the_target_is_full", sim_back_pressure},
          {"a_turn_is_bounded", sim_turn}, TEST(a_share), TEST(the_end_of_a_batch_is_no_request),
          {"a_small_share_is_kept", sim_share},
          {"records_that_wait_inside_are_read", sim_records},
          {"splice_ends_when_the_bulk_does", sim_small},
          {"bytes_of_ours_are_not_payload", sim_uncounted},
          TEST(small_buffers_when_large_ones_run_out))
