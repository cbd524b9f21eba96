/* files.h: a thread's own table of descriptors. While threads share one, each call of each of them
 * counts its use of the file by locked instructions (measured: 3 % of a relayed request). */
#ifndef SLUICE_FILES_H
#define SLUICE_FILES_H

#include "base.h"

/* From now on the calling thread's descriptors are copies of standard error and its like, and of
 * kept, which is put in order; their numbers stay. What it opens or closes then is no other
 * thread's, and theirs not its own. 0, or -errno: it shares the process's, as before. */
DP_MUST_CHECK int files_own(int *kept, size_t count);

#endif
