/* load.h: what the parts of the load generator share. One thread, one epoll loop; everything is
 * on loopback or in namespaces of the bench. A client that says 'B' first sends bulk, one that
 * says 'G' sends requests, GET of a fixed size. */
#ifndef PERF_LOAD_H
#define PERF_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

enum { BULK_BYTE = 'B', REQUEST_BYTE = 'G', SCRATCH_BYTES = 1 << 18, PIDS_MAX = 64 };
enum { HTTP_BYTES_MIN = 64, HEAD_BYTES_MAX = 512 };

struct options {
    const char *mode;
    struct sockaddr_in target;
    uint16_t origin;             /* port on 127.0.0.1 to serve at; 0 = no origin here */
    uint32_t connections;
    uint32_t bulk;               /* bulk streams beside requests */
    uint32_t request_bytes, reply_bytes;
    uint64_t total;              /* exchanges in all; 0 = until the time is over */
    double seconds, warmup, rate; /* rate: exchanges a second by the clock; 0 = closed loop */
    double patience;             /* seconds that one exchange may take */
    bool slices;                 /* one for each line of standard input; else a single one */
    int pids[PIDS_MAX];          /* whose processor time is measured */
    size_t pid_count;
};

/* loop.c */
struct watch {
    int fd;
    void (*ready)(struct watch *watch, uint32_t events);
};
void loop_init(void);
void loop_add(struct watch *watch, uint32_t events);
void loop_remove(struct watch *watch);
void loop_turn(int timeout_ms);
int tcp_listen(uint16_t port);
int tcp_connect(const struct sockaddr_in *to); /* -errno */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...);

/* http.c: requests and replies of at least HTTP_BYTES_MIN */
struct reply { /* that is coming in; zeroed for the next one */
    uint64_t left; /* of the body */
    uint32_t head_bytes;
    bool in_body;
    char head[HEAD_BYTES_MAX];
};
void http_make_request(char *to, size_t bytes);
void http_make_reply(char *to, size_t bytes);
/* tail: the last four bytes that came, also by earlier calls; size > 0 */
bool http_request_ends(char tail[4], const char *data, size_t size);
int reply_take(struct reply *reply, const char *data, size_t size); /* 1: whole; 0: not yet; -EPROTO */

/* meter.c */
struct histogram;
uint64_t now_ns(void);
uint64_t cpu_ns_of(const int *pids, size_t count); /* dies when one is gone */
uint64_t cpu_ns_own(void);
struct histogram *histogram_new(void);
void histogram_add(struct histogram *histogram, uint64_t ns);
uint64_t histogram_count(const struct histogram *histogram);
void histogram_clear(struct histogram *histogram);
void histogram_print(const struct histogram *histogram); /* [[from µs, how many], …] */

/* What is measured, from rest to rest: a thread's processor time is whole only when it sleeps. */
struct window {
    const struct options *options;
    uint64_t begin_ns, end_ns, cpu_ns, load_cpu_ns;
};
void window_open(struct window *window, const struct options *options);
void window_close(struct window *window);
/* The JSON object's first members, without its closing brace. */
void window_print(const struct window *window);

/* origin.c */
extern uint64_t origin_bulk_bytes;   /* taken in so far */
extern uint64_t origin_bulk_streams; /* of which a byte has come */
void origin_start(const struct options *options);

/* bulk.c */
void bulk_open(const struct options *options, uint32_t connections, size_t bytes); /* a send */
void bulk_go(void);
void bulk_rest(void); /* returns when all that was sent has arrived */
int bulk_run(const struct options *options);

/* exchange.c: requests over kept connections, or a connection each */
int exchange_run(const struct options *options, bool fresh);

/* slices.c. beside: bulk streams too */
int slices_run(const struct options *options, void (*slice)(bool beside));

/* hold.c: idle connections */
int hold_run(const struct options *options);

#endif
