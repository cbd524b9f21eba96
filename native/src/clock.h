/* clock.h: the one seam for time. Tests move it; nothing else reads a clock. */
#ifndef SLUICE_CLOCK_H
#define SLUICE_CLOCK_H

#include "base.h"

int64_t clock_ms(void);          /* monotonic */
uint64_t clock_ns(void);         /* monotonic */
uint64_t clock_real_ns(void);    /* CLOCK_REALTIME */
int64_t clock_real_s(void);
void clock_test_set(uint64_t monotonic_ns, uint64_t real_ns); /* tests: freeze at */
void clock_test_advance(uint64_t ns);
void clock_test_shift_real(int64_t ns); /* tests: it runs on, but this much ahead */
void clock_test_reset(void);     /* back to the real clocks */

#endif
