/* exchange.c: clients that send a request and wait for its reply, over kept connections or each
 * over a connection of its own; as fast as they can, or by the clock.
 *
 * By the clock (open loop), exchange k of client c is due at start + (c + k·clients) / rate, and
 * its latency counts from then, also when the client was still busy: nothing is left out because
 * the proxy was slow (no coordinated omission). */
#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BESIDE_BYTES = 64 * 1024 }; /* small: a send of bulk delays our own clocks */
enum state { ABSENT, CONNECTING, WAITING, IDLE, FAILED };
enum failure { REFUSED, RESET, ENDED, TIMEOUT, OTHER, FAILURES };
static const char *const failure_names[] = {"refused", "reset", "ended", "timeout", "other"};

struct client {
    struct watch watch; /* first; fd -1 = no connection */
    enum state state;
    struct reply reply;
    uint64_t turn;      /* how many exchanges by the clock were begun */
    uint64_t due_ns, begun_ns;
    bool established;   /* one exchange has been made over this connection */
};

static const struct options *options;
static bool fresh, paced, quiet; /* quiet: nothing new is begun */
static struct client *clients;
static struct histogram *latency;
static uint64_t start_ns, arrivals, begun, ended, total, failures[FAILURES];
static uint32_t busy, failed, established;
static char request[SCRATCH_BYTES], scratch[SCRATCH_BYTES];

static void ready(struct watch *watch, uint32_t events);

static uint64_t due(uint64_t arrival)
{
    return start_ns + (uint64_t)((double)arrival * 1e9 / options->rate);
}

static void disconnect(struct client *client)
{
    if (client->watch.fd >= 0)
        close(client->watch.fd);
    client->watch.fd = -1;
    if (client->established)
        established--;
    client->established = false;
}

static void fail(struct client *client, int error)
{
    enum failure failure = error == 0                               ? ENDED
                           : error == ECONNREFUSED                  ? REFUSED
                           : error == ECONNRESET || error == EPIPE ? RESET
                           : error == ETIMEDOUT                     ? TIMEOUT
                                                                    : OTHER;
    failures[failure]++;
    if (client->state == CONNECTING || client->state == WAITING)
        busy--;
    disconnect(client);
    client->state = FAILED; /* tried again in the next turn, so that nothing recurses */
    failed++;
    ended++;
}

static void send_request(struct client *client)
{
    ssize_t n = send(client->watch.fd, request, options->request_bytes, MSG_NOSIGNAL);
    if (n == (ssize_t)options->request_bytes)
        client->state = WAITING;
    else if (n >= 0 || errno != EAGAIN)
        fail(client, n >= 0 ? EIO : errno);
}

static void begin(struct client *client, uint64_t due_ns)
{
    if (quiet || begun >= total) {
        client->state = client->watch.fd >= 0 ? IDLE : ABSENT;
        return;
    }
    begun++;
    busy++;
    client->begun_ns = now_ns();
    client->due_ns = due_ns != 0 ? due_ns : client->begun_ns;
    client->reply.head_bytes = 0;
    client->reply.in_body = false;
    client->state = CONNECTING;
    if (client->watch.fd < 0) {
        int fd = tcp_connect(&options->target);
        if (fd < 0) {
            fail(client, -fd);
            return;
        }
        client->watch = (struct watch){.fd = fd, .ready = ready};
        loop_add(&client->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
        return; /* it becomes writable */
    }
    send_request(client);
}

/* The next exchange, or idle until it is due. */
static void next(struct client *client)
{
    uint64_t due_ns = 0;
    if (paced) {
        uint64_t arrival = (uint64_t)(client - clients) + client->turn * options->connections;
        due_ns = due(arrival);
        if (arrival >= total || due_ns > now_ns()) {
            client->state = client->watch.fd >= 0 ? IDLE : ABSENT;
            return;
        }
        client->turn++;
    }
    begin(client, due_ns);
}

static void done(struct client *client)
{
    histogram_add(latency, now_ns() - client->due_ns);
    ended++;
    busy--;
    if (!client->established) {
        client->established = true;
        established++;
    }
    if (fresh)
        disconnect(client);
    next(client);
}

static void ready(struct watch *watch, uint32_t events)
{
    struct client *client = (struct client *)watch;
    (void)events; /* may be of the connection before: only what the socket says counts */
    if (client->state == CONNECTING)
        send_request(client);
    while (client->state == WAITING || client->state == IDLE) {
        ssize_t n = recv(watch->fd, scratch, sizeof(scratch), 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            fail(client, n == 0 ? 0 : errno);
            return;
        }
        if (client->state == IDLE)
            die("more came than was asked for");
        int whole = reply_take(&client->reply, scratch, (size_t)n);
        if (whole == 0)
            continue;
        if (whole < 0)
            fail(client, -whole);
        else
            done(client);
        return; /* a reply cannot be here yet */
    }
}

static void time_out(uint64_t now)
{
    static uint64_t checked_ns;
    if (now - checked_ns < 100000000)
        return;
    checked_ns = now;
    for (uint32_t i = 0; i < options->connections; i++) {
        struct client *client = &clients[i];
        if ((client->state == CONNECTING || client->state == WAITING) &&
            client->begun_ns + (uint64_t)(options->patience * 1e9) < now)
            fail(client, ETIMEDOUT);
    }
}

static void retry(void)
{
    for (uint32_t i = 0; i < options->connections && failed > 0; i++)
        if (clients[i].state == FAILED) {
            failed--;
            next(&clients[i]);
        }
}

static void turn(void)
{
    uint64_t now = now_ns();
    for (; paced && arrivals < total && due(arrivals) <= now; arrivals++) {
        struct client *client = &clients[arrivals % options->connections];
        if (client->state == IDLE || client->state == ABSENT)
            next(client);
    }
    time_out(now);
    uint32_t had_failed = failed;
    loop_turn(paced ? 0 : had_failed > 0 ? 1 : 100);
    if (had_failed > 0)
        retry();
}

static void run_for(double seconds)
{
    uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end_ns && ended < total)
        turn();
}

/* Every client has made an exchange, or this dies. */
static void connect_all(void)
{
    uint64_t deadline_ns = now_ns() + (uint64_t)(options->patience * 1e9);
    for (uint32_t i = 0; i < options->connections; i++)
        next(&clients[i]);
    while (established < options->connections) {
        turn();
        if (now_ns() > deadline_ns)
            die("%u of %u connections after %.0f s: %" PRIu64 " refused, %" PRIu64
                " reset, %" PRIu64 " ended",
                established, options->connections, options->patience, failures[REFUSED],
                failures[RESET], failures[ENDED]);
    }
}

/* By the clock: what is due within the time is begun, however late, and its end awaited. */
static void run_by_clock(void)
{
    double limit = options->seconds * options->rate;
    total = options->total != 0 && (double)options->total < limit ? options->total
                                                                  : (uint64_t)limit;
    run_for((double)total / options->rate + options->patience);
    failures[TIMEOUT] += total - ended; /* none is left out */
}

/* What was begun ends, or runs into its time limit. */
static void settle(void)
{
    quiet = true;
    while (busy > 0)
        turn();
    quiet = false;
}

static void print(const struct window *window, uint64_t bytes)
{
    window_print(window);
    printf(", \"count\": %" PRIu64, histogram_count(latency));
    for (int i = 0; i < FAILURES; i++)
        printf(", \"%s\": %" PRIu64, failure_names[i], failures[i]);
    printf(", \"bytes\": %" PRIu64 ", \"latency\": ", bytes);
    histogram_print(latency);
    puts("}");
}

/* As fast as they can, for that long; then nothing is under way. */
static void run_closed(double seconds)
{
    for (uint32_t i = 0; i < options->connections; i++)
        if (clients[i].state == ABSENT || clients[i].state == IDLE)
            next(&clients[i]);
    run_for(seconds);
    settle();
}

static void begin_anew(void)
{
    histogram_clear(latency);
    begun = ended = arrivals = 0;
    total = UINT64_MAX;
    for (uint32_t i = 0; i < options->connections; i++)
        clients[i].turn = 0;
}

static void slice(bool beside)
{
    struct window window;
    if (beside)
        bulk_go();
    if (options->warmup > 0)
        run_closed(options->warmup);
    if (beside)
        bulk_rest();
    begin_anew();
    uint64_t bulk_before = origin_bulk_bytes;
    window_open(&window, options);
    if (beside)
        bulk_go();
    start_ns = window.begin_ns;
    paced = options->rate > 0;
    if (options->total != 0)
        total = options->total;
    if (paced) {
        run_by_clock();
        paced = false;
    } else {
        run_closed(options->seconds);
    }
    if (beside)
        bulk_rest();
    window_close(&window);
    print(&window, origin_bulk_bytes - bulk_before);
    memset(failures, 0, sizeof(failures)); /* those of connecting and of warming up count too */
    begin_anew();
}

int exchange_run(const struct options *given, bool fresh_connections)
{
    options = given;
    fresh = fresh_connections;
    clients = calloc(options->connections, sizeof(*clients));
    if (clients == NULL)
        die("no memory");
    http_make_request(request, options->request_bytes);
    for (uint32_t i = 0; i < options->connections; i++)
        clients[i].watch.fd = -1;
    latency = histogram_new();
    total = UINT64_MAX;
    if (options->bulk > 0)
        bulk_open(options, options->bulk, BESIDE_BYTES);
    if (!fresh) {
        connect_all();
        settle();
    }
    return slices_run(options, slice);
}
