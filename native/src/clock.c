/* clock.c: reads the system's clocks, or the frozen ones that a test set. */
#include "clock.h"

#include <time.h>

static atomic_bool frozen;
static atomic_uint_fast64_t frozen_monotonic_ns, frozen_real_ns;
static atomic_int_fast64_t shift_real_ns;

static uint64_t read_ns(clockid_t id, atomic_uint_fast64_t *frozen_ns)
{
    if (DP_UNLIKELY(atomic_load_explicit(&frozen, memory_order_acquire)))
        return atomic_load_explicit(frozen_ns, memory_order_relaxed);
    struct timespec ts;
    int r = clock_gettime(id, &ts);
    assert(r == 0);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t clock_ns(void)
{
    return read_ns(CLOCK_MONOTONIC, &frozen_monotonic_ns);
}

int64_t clock_ms(void)
{
    return (int64_t)(clock_ns() / 1000000u);
}

uint64_t clock_real_ns(void)
{
    return read_ns(CLOCK_REALTIME, &frozen_real_ns) +
           (uint64_t)atomic_load_explicit(&shift_real_ns, memory_order_relaxed);
}

int64_t clock_real_s(void)
{
    return (int64_t)(clock_real_ns() / 1000000000u);
}

void clock_test_set(uint64_t monotonic_ns, uint64_t real_ns)
{
    atomic_store_explicit(&frozen_monotonic_ns, monotonic_ns, memory_order_relaxed);
    atomic_store_explicit(&frozen_real_ns, real_ns, memory_order_relaxed);
    atomic_store_explicit(&frozen, true, memory_order_release);
}

void clock_test_advance(uint64_t ns)
{
    assert(atomic_load(&frozen));
    atomic_fetch_add_explicit(&frozen_monotonic_ns, ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&frozen_real_ns, ns, memory_order_relaxed);
}

void clock_test_shift_real(int64_t ns)
{
    atomic_store_explicit(&shift_real_ns, ns, memory_order_relaxed);
}

void clock_test_reset(void)
{
    clock_test_shift_real(0);
    atomic_store_explicit(&frozen, false, memory_order_release);
}
