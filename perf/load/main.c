/* main.c: arguments of the load generator. Prints one JSON object.
 *   load bulk|requests|connections|hold --target ADDRESS:PORT [--origin PORT] … [--slices] */
#include "load.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static struct sockaddr_in address(const char *text)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    struct sockaddr_in found = {.sin_family = AF_INET};
    if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
        die("%s: write ADDRESS:PORT", text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    found.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &found.sin_addr) != 1)
        die("%s: write ADDRESS:PORT", text);
    return found;
}

static double number(const char *name, const char *text, double low, double high)
{
    char *rest;
    double value = strtod(text, &rest);
    if (*rest != 0 || !(value >= low && value <= high))
        die("--%s %s: from %g to %g", name, text, low, high);
    return value;
}

static void add_pids(struct options *options, char *text)
{
    for (char *each = strtok(text, ","); each != NULL; each = strtok(NULL, ",")) {
        if (options->pid_count == PIDS_MAX)
            die("--cpu-of: at most %d processes", PIDS_MAX);
        options->pids[options->pid_count++] = (int)number("cpu-of", each, 1, 1 << 30);
    }
}

static void parse(struct options *options, int argc, char **argv)
{
    static const struct option names[] = {
        {"target", required_argument, NULL, 't'},      {"origin", required_argument, NULL, 'o'},
        {"connections", required_argument, NULL, 'c'}, {"seconds", required_argument, NULL, 's'},
        {"warmup", required_argument, NULL, 'w'},      {"rate", required_argument, NULL, 'r'},
        {"total", required_argument, NULL, 'n'},       {"request-bytes", required_argument, NULL, 'q'},
        {"reply-bytes", required_argument, NULL, 'a'}, {"patience", required_argument, NULL, 'p'},
        {"cpu-of", required_argument, NULL, 'u'},      {"bulk", required_argument, NULL, 'b'},
        {"slices", no_argument, NULL, 'S'},            {NULL, 0, NULL, 0},
    };
    for (int at = 0, c; (c = getopt_long(argc, argv, "", names, &at)) != -1;) {
        const char *name = c == '?' ? "" : names[at].name;
        switch (c) {
        case 't': options->target = address(optarg); break;
        case 'o': options->origin = (uint16_t)number(name, optarg, 1, 65535); break;
        case 'c': options->connections = (uint32_t)number(name, optarg, 1, 1000000); break;
        case 'b': options->bulk = (uint32_t)number(name, optarg, 0, 1024); break;
        case 's': options->seconds = number(name, optarg, 0.01, 3600); break;
        case 'w': options->warmup = number(name, optarg, 0, 60); break;
        case 'r': options->rate = number(name, optarg, 0.1, 1e7); break;
        case 'n': options->total = (uint64_t)number(name, optarg, 1, 1e9); break;
        case 'q': options->request_bytes = (uint32_t)number(name, optarg, HTTP_BYTES_MIN, SCRATCH_BYTES); break;
        case 'a': options->reply_bytes = (uint32_t)number(name, optarg, HTTP_BYTES_MIN, SCRATCH_BYTES); break;
        case 'p': options->patience = number(name, optarg, 0.1, 600); break;
        case 'S': options->slices = true; break;
        case 'u': add_pids(options, optarg); break;
        default: exit(2);
        }
    }
    if (optind != argc || options->target.sin_family == 0)
        die("give --target and no other words");
}

int main(int argc, char **argv)
{
    struct options options = {
        .connections = 64, .request_bytes = 100, .reply_bytes = 1000, .seconds = 1,
        .warmup = 0.3, .patience = 10, .mode = argc > 1 ? argv[1] : "",
    };
    if (argc < 2)
        die("give bulk, requests, connections or hold");
    parse(&options, argc - 1, argv + 1);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    loop_init();
    origin_start(&options);
    if (strcmp(options.mode, "bulk") == 0)
        return bulk_run(&options);
    if (strcmp(options.mode, "requests") == 0)
        return exchange_run(&options, false);
    if (strcmp(options.mode, "connections") == 0)
        return exchange_run(&options, true);
    if (strcmp(options.mode, "hold") == 0)
        return hold_run(&options);
    die("%s: bulk, requests, connections or hold", options.mode);
}
