/* files.c: leaves the process's table of descriptors. Opens and reads nothing. */
#define _GNU_SOURCE
#include "files.h"

#include <limits.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <unistd.h>

#include "sys.h"

#ifdef __SANITIZE_THREAD__ /* it takes equal numbers of two tables for the same descriptor */
enum { TOOL_ALLOWS = false };
#else
enum { TOOL_ALLOWS = true };
#endif

static int by_number(const void *a, const void *b)
{
    int one = *(const int *)a, other = *(const int *)b;
    return (one > other) - (one < other);
}

int files_own(int *kept, size_t count)
{
    if (!TOOL_ALLOWS)
        return -ENOTSUP;
    qsort(kept, count, sizeof(*kept), by_number);
    unsigned next = STDERR_FILENO + 1;
    unsigned above = count > 0 && kept[count - 1] >= (int)next ? (unsigned)kept[count - 1] + 1 : next;
    int r = sys->close_range(above, UINT_MAX, CLOSE_RANGE_UNSHARE);
    for (size_t i = 0; r == 0 && i < count; i++) {
        unsigned number = (unsigned)kept[i];
        if (number > next) /* cannot fail: the first call found all there is to find */
            (void)!sys->close_range(next, number - 1, 0);
        if (number >= next)
            next = number + 1;
    }
    return r;
}
