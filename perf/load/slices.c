/* slices.c: what is measured in one go. Many load generators take turns: each is connected and at
 * rest until standard input says `alone` or `beside` (with bulk streams), and measures one slice. */
#include "load.h"

#include <stdio.h>
#include <string.h>

int slices_run(const struct options *options, void (*slice)(bool beside))
{
    char line[16];
    if (!options->slices) {
        slice(options->bulk > 0);
        return 0;
    }
    puts("{\"ready\": 1}");
    for (fflush(stdout); fgets(line, sizeof(line), stdin) != NULL; fflush(stdout)) {
        bool beside = strcmp(line, "beside\n") == 0;
        if (!beside && strcmp(line, "alone\n") != 0)
            die("say alone or beside");
        slice(beside);
    }
    return 0;
}
