// What every file of native code shares: clones of inner loops for wider registers, and images shared between threads.
#pragma once

#include <cstdint>

// GCC clones the function that carries the attribute, not an OpenMP region inside it, so it belongs on a function that
// holds an inner loop. What picks the clone runs before the address sanitizer is up. The name of a processor picks its clone
// on that processor alone, the name of a level (from GCC 12 on) on all that have its instructions.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#if __GNUC__ >= 12
#define WIDE_CLONES
#define CLONED __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define CLONED __attribute__((target_clones("arch=skylake-avx512", "avx2", "default")))
#endif
#else
#define CLONED
#endif

// Of what is called in an inner loop: it must become part of every clone.
#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace cannonade {

// Calls make(i) for i in [0, count), each on one thread: for images or planes, which take long enough to be shared out.
template <typename Make>
void for_each(int64_t count, int64_t threads, const Make& make) {
    const int team = static_cast<int>(count < threads ? count : threads);
#pragma omp parallel for schedule(dynamic) num_threads(team > 0 ? team : 1)
    for (int64_t i = 0; i < count; ++i) make(i);
}

}  // namespace cannonade
