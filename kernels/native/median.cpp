// Where the upper median of a window lies, as kernels/median.py defines it: exact, by bisection over ranks.

#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#include "window.h"

namespace cannonade {
namespace {

constexpr int DIGIT = 11, DIGITS = 3;

// A number that orders as the float does; the two zeros are equal.
inline uint32_t ordered(float value) {
    const float positive = value + 0.0f;  // −0 becomes 0
    uint32_t bits;
    std::memcpy(&bits, &positive, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Pixel {
    uint32_t key, number;
};

// Each value's number among the distinct values, from 0; returns the largest. Least digit first. Keys move along with their
// pixels, as reading them by the pixels' numbers would miss the cache.
uint32_t rank(uint32_t* ranks, const float* values, int64_t count) {
    constexpr int PLACES = 1 << DIGIT;
    const auto place = [](uint32_t key, int digit) { return key >> (DIGIT * digit) & (PLACES - 1); };
    // One block, not filled first: two are given back to the system after each plane, and new pages took a third of the time.
    const std::unique_ptr<Pixel[]> memory(new Pixel[2 * count]);
    Pixel *pixels = memory.get(), *moved = pixels + count;
    std::vector<uint32_t> starts(DIGITS * PLACES);
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t key = ordered(values[i]);
        pixels[i] = {key, static_cast<uint32_t>(i)};
        for (int digit = 0; digit < DIGITS; ++digit) ++starts[digit * PLACES + place(key, digit)];
    }
    for (int digit = 0; digit < DIGITS; ++digit) {
        uint32_t* start = &starts[digit * PLACES];
        uint32_t before = 0;
        for (int i = 0; i < PLACES; ++i) before += std::exchange(start[i], before);
        for (int64_t i = 0; i < count; ++i) moved[start[place(pixels[i].key, digit)]++] = pixels[i];
        std::swap(pixels, moved);
    }
    uint32_t number = 0;
    for (int64_t i = 0; i < count; ++i) {
        number += i > 0 && pixels[i].key != pixels[i - 1].key;
        ranks[pixels[i].number] = number;
    }
    return number;
}

// Ranks are kept as signed numbers, the least of the type standing for 0: AVX2 has no instruction that compares unsigned ones.
template <typename T>
constexpr T ZERO = std::numeric_limits<T>::min();

// How many of a window's pixels, and which of them.
template <typename T>
using Count = std::make_unsigned_t<T>;

// The most pixels of a window, with the gaps in its rows, that a byte counts.
constexpr int64_t MOST = std::numeric_limits<uint8_t>::max();

// A strip of windows: their middle numbers, and how far apart neighbours lie, down and sideways.
template <typename T, int64_t STEP = 1>
struct Around {
    const T* middle;
    int64_t pitch;

    const T* row(int64_t dy) const { return middle + dy * pitch; }
};

// Adds to `level` its last `bits` bits: it is the largest number that has at most `limits` of its window's ranks below it.
template <typename T, int64_t STEP>
ALWAYS_INLINE void bisect(T* __restrict level, const Count<T>* __restrict limits, int bits, const Window& window,
                          const Around<T, STEP>& ranks) {
    T tried[STRIP];
    Count<T> below[STRIP];
    for (int bit = bits - 1; bit >= 0; --bit) {
        for (int64_t i = 0; i < STRIP; ++i) {
            tried[i] = static_cast<T>(level[i] + (int32_t{1} << bit));
            below[i] = 0;
        }
        for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
            const T* row = ranks.row(dy);
            for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
                for (int64_t i = 0; i < STRIP; ++i) below[i] += row[dx * STEP + i] < tried[i] ? 1 : 0;
            }
        }
        for (int64_t i = 0; i < STRIP; ++i) level[i] = below[i] <= limits[i] ? tried[i] : level[i];
    }
}

// Which of its window's pixels, in raster order, is the first whose rank is `level`.
template <typename T>
ALWAYS_INLINE void find(Count<T>* __restrict first, const T* __restrict level, const Window& window, const Around<T>& ranks) {
    Count<T> found[STRIP] = {}, number = 0;
    for (const int64_t half : window.halves) number += static_cast<Count<T>>(half < 0 ? 0 : 2 * half + 1);
    for (int64_t dy = window.reach; dy >= -window.reach; --dy) {
        const T* row = ranks.row(dy);
        for (int64_t dx = window.half(dy); dx >= -window.half(dy); --dx) {
            --number;
            for (int64_t i = 0; i < STRIP; ++i) found[i] = row[dx + i] == level[i] ? number : found[i];
        }
    }
    std::copy_n(found, STRIP, first);
}

// For one strip of pixels: which of its window's pixels, in raster order, is the first with the median's rank. Arrays are
// filled by loops, because with std::fill_n GCC 12 writes the counts of `bisect` to memory at every step.
template <typename T>
ALWAYS_INLINE void select(Count<T>* first, const Count<T>* limits, int bits, const Window& window, const Around<T>& ranks) {
    T level[STRIP];
    for (int64_t i = 0; i < STRIP; ++i) level[i] = ZERO<T>;
    bisect(level, limits, bits, window, ranks);
    find(first, level, window, ranks);
}

CLONED void select_short(uint16_t* first, const uint16_t* limits, int bits, const Window& window,
                         const Around<int16_t>& ranks) {
    select(first, limits, bits, window, ranks);
}

CLONED void select_long(uint32_t* first, const uint32_t* limits, int bits, const Window& window,
                        const Around<int32_t>& ranks) {
    select(first, limits, bits, window, ranks);
}

// The bits of a rank that come after its first byte.
inline int low_bits(int bits) { return std::max(bits - 8, 0); }

// `select` by bytes, of which twice as many are compared at once: `highs` are the ranks without their low bits, which are found
// afterwards. For them a byte says how far a rank lies above the level that the first byte gives: 0 if it lies below, 255 if
// further, as every number that is tried is above the one and none above the other.
CLONED void select_bytes(uint16_t* first, const uint16_t* limits, int bits, const Window& window,
                         const Around<int16_t>& ranks, const Around<int8_t>& highs) {
    const int low = low_bits(bits);
    uint8_t most[STRIP];
    int8_t byte[STRIP];
    int16_t level[STRIP];
    for (int64_t i = 0; i < STRIP; ++i) {
        most[i] = static_cast<uint8_t>(limits[i]);
        byte[i] = ZERO<int8_t>;
    }
    bisect(byte, most, bits - low, window, highs);
    for (int64_t i = 0; i < STRIP; ++i) level[i] = static_cast<int16_t>(((byte[i] - ZERO<int8_t>) << low) + ZERO<int16_t>);
    if (low > 0) {
        int8_t above[MOST * STRIP];
        const int64_t pitch = (2 * window.widest + 1) * STRIP;
        int8_t* middle = above + window.reach * pitch + window.widest * STRIP;
        for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
            const int16_t* row = ranks.row(dy);
            int8_t* to = middle + dy * pitch;
            for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
                for (int64_t i = 0; i < STRIP; ++i) {
                    const int16_t rank = row[dx + i], least = level[i], last = static_cast<int16_t>(least + 0xFF);
                    const int16_t raised = rank > least ? rank : least, near = raised < last ? raised : last;
                    to[dx * STRIP + i] = static_cast<int8_t>(near - least + ZERO<int8_t>);
                }
            }
        }
        for (int64_t i = 0; i < STRIP; ++i) byte[i] = ZERO<int8_t>;
        bisect(byte, most, low, window, Around<int8_t, STRIP>{middle, pitch});
        for (int64_t i = 0; i < STRIP; ++i) level[i] = static_cast<int16_t>(level[i] + byte[i] - ZERO<int8_t>);
    }
    find(first, level, window, ranks);
}

// Ranks without their last `low` bits; the largest number of the type stands for a pixel outside.
template <typename T>
Padded<T> lay(const std::vector<uint32_t>& numbers, int low, const Window& window, int64_t height, int64_t width) {
    Padded<T> ranks(window, height, width, std::numeric_limits<T>::max());
    for (int64_t y = 0; y < height; ++y) {
        const uint32_t* from = &numbers[y * width];
        T* to = ranks.row(y);
        for (int64_t x = 0; x < width; ++x) to[x] = static_cast<T>((from[x] >> low) + static_cast<uint32_t>(ZERO<T>));
    }
    return ranks;
}

template <typename Number, typename Select>
void places(int32_t* out, const Window& window, int64_t height, int64_t width, const Select& select_strip) {
    std::vector<int32_t> offsets;
    for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
        for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
            offsets.push_back(static_cast<int32_t>(dy * width + dx));
        }
    }
    InsideCounts counts(window, height, width);
    std::vector<Number> limits(completed(width)), first(completed(width));
    for (int64_t y = 0; y < height; ++y) {
        const int32_t* count = counts.row(y);
        for (int64_t x = 0; x < width; ++x) limits[x] = static_cast<Number>(count[x] / 2);
        for (int64_t x = 0; x < width; x += STRIP) select_strip(&first[x], &limits[x], y, x);
        for (int64_t x = 0; x < width; ++x) {
            out[y * width + x] = static_cast<int32_t>(y * width + x) + offsets[first[x]];
        }
    }
}

void median_place(int32_t* out, const float* plane, const Window& window, int64_t height, int64_t width) {
    std::vector<uint32_t> numbers(height * width);
    const uint32_t most = rank(numbers.data(), plane, height * width);
    int bits = 0;
    while (most >> bits) ++bits;
    const int64_t pixels = static_cast<int64_t>(window.halves.size()) * (2 * window.widest + 1);
    // The largest number of a type stands for a pixel outside, and a window must not have more pixels than it counts.
    if (most >= 0xFFFF || pixels >= 0xFFFF) {
        const auto ranks = lay<int32_t>(numbers, 0, window, height, width);
        places<uint32_t>(out, window, height, width, [&](uint32_t* first, const uint32_t* limits, int64_t y, int64_t x) {
            select_long(first, limits, bits, window, {ranks.row(y) + x, ranks.pitch});
        });
        return;
    }
    const auto ranks = lay<int16_t>(numbers, 0, window, height, width);
    if (pixels > MOST) {
        places<uint16_t>(out, window, height, width, [&](uint16_t* first, const uint16_t* limits, int64_t y, int64_t x) {
            select_short(first, limits, bits, window, {ranks.row(y) + x, ranks.pitch});
        });
        return;
    }
    const auto highs = lay<int8_t>(numbers, low_bits(bits), window, height, width);
    places<uint16_t>(out, window, height, width, [&](uint16_t* first, const uint16_t* limits, int64_t y, int64_t x) {
        select_bytes(first, limits, bits, window, {ranks.row(y) + x, ranks.pitch}, {highs.row(y) + x, highs.pitch});
    });
}

}  // namespace
}  // namespace cannonade

// Places [P, H, W], the number in its plane of the pixel selected; planes and windows as in window.cpp.
extern "C" void window_median_place(int32_t* out, const float* planes, const int64_t* windows, int64_t count,
                                    int64_t height, int64_t width, int64_t rows, int64_t threads) {
    cannonade::for_each(count, threads, [=](int64_t p) {
        const int64_t at = p * height * width;
        cannonade::median_place(out + at, planes + at, cannonade::Window(windows + p * rows, rows), height, width);
    });
}
