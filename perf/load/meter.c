/* meter.c: clock, processor time of the processes under test, latency histogram, the window. */
#include "load.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Log-linear: 64 buckets an octave, so a value is off by less than 1.6 %. */
enum { SUB = 64, BUCKETS = SUB * 60 };
struct histogram {
    uint64_t count, buckets[BUCKETS];
};

static uint64_t clock_of(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t now_ns(void)
{
    return clock_of(CLOCK_MONOTONIC);
}

uint64_t cpu_ns_own(void)
{
    return clock_of(CLOCK_PROCESS_CPUTIME_ID);
}

/* First field of schedstat: nanoseconds on a processor, in user space and in the kernel. */
static uint64_t cpu_ns_of_task(const char *path)
{
    unsigned long long ns = 0;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0; /* a thread that ended meanwhile */
    if (fscanf(file, "%llu", &ns) != 1)
        ns = 0;
    fclose(file);
    return ns;
}

uint64_t cpu_ns_of(const int *pids, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        char path[320];
        snprintf(path, sizeof(path), "/proc/%d/task", pids[i]);
        DIR *tasks = opendir(path);
        if (tasks == NULL)
            die("process %d, which is measured: %s", pids[i], strerror(errno));
        for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
            if (task->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pids[i], task->d_name);
            sum += cpu_ns_of_task(path);
        }
        closedir(tasks);
    }
    return sum;
}

struct histogram *histogram_new(void)
{
    struct histogram *histogram = calloc(1, sizeof(*histogram));
    if (histogram == NULL)
        die("no memory");
    return histogram;
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    unsigned shift = ns < 2 * SUB ? 0 : (unsigned)(63 - __builtin_clzll(ns)) - 6;
    size_t at = (size_t)shift * SUB + (size_t)(ns >> shift);
    histogram->buckets[at < BUCKETS ? at : BUCKETS - 1]++;
    histogram->count++;
}

uint64_t histogram_count(const struct histogram *histogram)
{
    return histogram->count;
}

double histogram_us(const struct histogram *histogram, double quantile)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)histogram->count * quantile);
    for (size_t at = 0; at < BUCKETS; at++) {
        seen += histogram->buckets[at];
        if (seen > wanted || (seen == histogram->count && seen > 0)) {
            size_t shift = at < 2 * SUB ? 0 : at / SUB - 1;
            return (double)((uint64_t)(at - shift * SUB) << shift) / 1000.0;
        }
    }
    return 0;
}

void window_open(struct window *window, const struct options *options)
{
    window->options = options;
    window->cpu_ns = cpu_ns_of(options->pids, options->pid_count);
    window->load_cpu_ns = cpu_ns_own();
    window->begin_ns = now_ns();
}

void window_close(struct window *window)
{
    window->end_ns = now_ns();
    window->cpu_ns =
        cpu_ns_of(window->options->pids, window->options->pid_count) - window->cpu_ns;
    window->load_cpu_ns = cpu_ns_own() - window->load_cpu_ns;
}

void window_print(const struct window *window)
{
    printf("{\"seconds\": %.6f, \"cpu_ns\": %" PRIu64 ", \"load_cpu_ns\": %" PRIu64,
           (double)(window->end_ns - window->begin_ns) / 1e9, window->cpu_ns,
           window->load_cpu_ns);
}
