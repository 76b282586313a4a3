// What every file of native code shares: clones of inner loops for wider registers, and images shared between threads.
#pragma once

#include <algorithm>
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

// Rows of an image that one thread makes.
struct Band {
    int64_t from, to;
    bool has(int64_t row) const { return row >= from && row < to; }
};

// The fewest bands an image, of at most `most`, with which the threads work nine tenths of the time: neighbours do some work
// twice. Where no number does, the best.
inline int64_t bands_of(int64_t count, int64_t most, int64_t threads) {
    int64_t best = 1;
    double busy = 0.0;
    for (int64_t bands = 1; count > 0 && bands <= most && busy < 0.9; ++bands) {
        const int64_t units = count * bands, rounds = (units + threads - 1) / threads;
        const double share = static_cast<double>(units) / static_cast<double>(rounds * threads);
        if (share > busy) {
            busy = share;
            best = bands;
        }
    }
    return best;
}

// Calls make(i, band) for the bands of i in [0, count), images or planes; none has less than `least` of the `height` rows,
// unless it has them all. What becomes of a row must not depend on its band.
template <typename Make>
void for_each_band(int64_t count, int64_t height, int64_t least, int64_t threads, const Make& make) {
    const int64_t bands = bands_of(count, std::max<int64_t>(1, height / least), threads);
    for_each(count * bands, threads, [&](int64_t unit) {
        const int64_t band = unit % bands;
        make(unit / bands, Band{height * band / bands, height * (band + 1) / bands});
    });
}

}  // namespace cannonade
