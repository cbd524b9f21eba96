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
enum { SUB = 64, BUCKETS = SUB * 60, REST_NS_MAX = 20000000 };
struct histogram {
    uint64_t count, buckets[BUCKETS];
};

static uint64_t clock_of(clockid_t id)
{
    struct timespec ts;
    if (clock_gettime(id, &ts) != 0)
        die("a clock of processor time: %s", strerror(errno));
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

/* In user space and in the kernel, of threads that have ended too. */
uint64_t cpu_ns_of(const int *pids, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        clockid_t id;
        int error = clock_getcpuclockid(pids[i], &id);
        if (error != 0)
            die("process %d, which is measured: %s", pids[i], strerror(error));
        sum += clock_of(id);
    }
    return sum;
}

static bool sleeps(const char *task)
{
    char path[340], line[512] = "";
    snprintf(path, sizeof(path), "%s/stat", task);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return true; /* a thread that ended meanwhile */
    char *got = fgets(line, sizeof(line), file);
    fclose(file);
    const char *name_end = got == NULL ? NULL : strrchr(line, ')');
    return name_end == NULL || name_end[1] == 0 || name_end[2] != 'R';
}

static bool all_sleep(const int *pids, size_t count)
{
    bool asleep = true;
    for (size_t i = 0; i < count && asleep; i++) {
        char path[320];
        snprintf(path, sizeof(path), "/proc/%d/task", pids[i]);
        DIR *tasks = opendir(path);
        if (tasks == NULL)
            die("process %d, which is measured: %s", pids[i], strerror(errno));
        for (struct dirent *task; asleep && (task = readdir(tasks)) != NULL;) {
            if (task->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "/proc/%d/task/%s", pids[i], task->d_name);
            asleep = sleeps(path);
        }
        closedir(tasks);
    }
    return asleep;
}

/* The kernel adds a running thread's time up only at ticks. What has work of its own is not
 * waited for any longer than it takes to drain. */
static void wait_for_rest(const struct options *options)
{
    for (uint64_t end_ns = now_ns() + REST_NS_MAX; now_ns() < end_ns;) {
        if (all_sleep(options->pids, options->pid_count))
            return;
        nanosleep(&(struct timespec){.tv_nsec = REST_NS_MAX / 100}, NULL);
    }
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

void histogram_clear(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
}

void histogram_print(const struct histogram *histogram)
{
    const char *comma = "";
    putchar('[');
    for (size_t at = 0; at < BUCKETS; at++) {
        size_t shift = at < 2 * SUB ? 0 : at / SUB - 1;
        if (histogram->buckets[at] == 0)
            continue;
        printf("%s[%.3f, %" PRIu64 "]", comma,
               (double)((uint64_t)(at - shift * SUB) << shift) / 1000.0, histogram->buckets[at]);
        comma = ", ";
    }
    putchar(']');
}

void window_open(struct window *window, const struct options *options)
{
    window->options = options;
    wait_for_rest(options);
    window->cpu_ns = cpu_ns_of(options->pids, options->pid_count);
    window->load_cpu_ns = cpu_ns_own();
    window->begin_ns = now_ns();
}

void window_close(struct window *window)
{
    window->end_ns = now_ns();
    window->load_cpu_ns = cpu_ns_own() - window->load_cpu_ns;
    wait_for_rest(window->options);
    uint64_t cpu_ns = cpu_ns_of(window->options->pids, window->options->pid_count);
    if (cpu_ns < window->cpu_ns)
        die("a process that is measured has been replaced");
    window->cpu_ns = cpu_ns - window->cpu_ns;
}

void window_print(const struct window *window)
{
    printf("{\"seconds\": %.6f, \"cpu_ns\": %" PRIu64 ", \"load_cpu_ns\": %" PRIu64,
           (double)(window->end_ns - window->begin_ns) / 1e9, window->cpu_ns,
           window->load_cpu_ns);
}
