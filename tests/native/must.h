/* must.h: what tests' helpers, which have no test to fail, cannot go on without. */
#ifndef SLUICE_TEST_MUST_H
#define SLUICE_TEST_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

#endif
