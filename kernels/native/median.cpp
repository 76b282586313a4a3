// Where the upper median of a window lies, as kernels/median.py defines it: exact, by bisection over ranks.

#include <cstring>

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

// Each value's number among the distinct values, from 0; returns the largest. Least digit first.
uint32_t rank(uint32_t* ranks, const float* values, int64_t count) {
    std::vector<uint32_t> keys(count), order(count), moved(count);
    for (int64_t i = 0; i < count; ++i) {
        keys[i] = ordered(values[i]);
        order[i] = static_cast<uint32_t>(i);
    }
    for (int digit = 0; digit < DIGITS; ++digit) {
        std::vector<uint32_t> starts((1 << DIGIT) + 1);
        const auto place = [&](uint32_t item) { return keys[item] >> (DIGIT * digit) & ((1 << DIGIT) - 1); };
        for (int64_t i = 0; i < count; ++i) ++starts[place(order[i]) + 1];
        for (int64_t i = 0; i < 1 << DIGIT; ++i) starts[i + 1] += starts[i];
        for (int64_t i = 0; i < count; ++i) moved[starts[place(order[i])]++] = order[i];
        std::swap(order, moved);
    }
    uint32_t number = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (i > 0 && keys[order[i]] != keys[order[i - 1]]) ++number;
        ranks[order[i]] = number;
    }
    return number;
}

// For one strip of pixels: which of its window's pixels, in raster order, is the first with the median's rank. The rank is the
// largest number that has at most `limits` of the window's ranks below it.
template <typename T>
ALWAYS_INLINE void select(T* __restrict first, const T* __restrict limits, int bits, const Window& window,
                          const Padded<T>& ranks, int64_t y, int64_t x) {
    T level[STRIP] = {}, tried[STRIP], below[STRIP];
    for (int bit = bits - 1; bit >= 0; --bit) {
        for (int64_t i = 0; i < STRIP; ++i) {
            tried[i] = static_cast<T>(level[i] + (T{1} << bit));
            below[i] = 0;
        }
        for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
            const T* row = ranks.row(y + dy) + x;
            for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
                for (int64_t i = 0; i < STRIP; ++i) below[i] += row[dx + i] < tried[i] ? T{1} : T{0};
            }
        }
        for (int64_t i = 0; i < STRIP; ++i) level[i] = below[i] <= limits[i] ? tried[i] : level[i];
    }
    T found[STRIP] = {}, number = 0;
    for (const int64_t half : window.halves) number += static_cast<T>(half < 0 ? 0 : 2 * half + 1);
    for (int64_t dy = window.reach; dy >= -window.reach; --dy) {
        const T* row = ranks.row(y + dy) + x;
        for (int64_t dx = window.half(dy); dx >= -window.half(dy); --dx) {
            --number;
            for (int64_t i = 0; i < STRIP; ++i) found[i] = row[dx + i] == level[i] ? number : found[i];
        }
    }
    std::copy_n(found, STRIP, first);
}

CLONED void select_short(uint16_t* first, const uint16_t* limits, int bits, const Window& window,
                         const Padded<uint16_t>& ranks, int64_t y, int64_t x) {
    select(first, limits, bits, window, ranks, y, x);
}

CLONED void select_long(uint32_t* first, const uint32_t* limits, int bits, const Window& window,
                        const Padded<uint32_t>& ranks, int64_t y, int64_t x) {
    select(first, limits, bits, window, ranks, y, x);
}

template <typename T, typename Select>
void places(int32_t* out, const std::vector<uint32_t>& numbers, int bits, const Window& window, int64_t height,
            int64_t width, const Select& select_strip) {
    Padded<T> ranks(window, height, width, static_cast<T>(-1));
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) ranks.row(y)[x] = static_cast<T>(numbers[y * width + x]);
    }
    std::vector<int32_t> offsets;
    for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
        for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
            offsets.push_back(static_cast<int32_t>(dy * width + dx));
        }
    }
    InsideCounts counts(window, height, width);
    std::vector<T> limits(completed(width)), first(completed(width));
    for (int64_t y = 0; y < height; ++y) {
        const int32_t* count = counts.row(y);
        for (int64_t x = 0; x < width; ++x) limits[x] = static_cast<T>(count[x] / 2);
        for (int64_t x = 0; x < width; x += STRIP) select_strip(&first[x], &limits[x], bits, window, ranks, y, x);
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
    // The largest number of a type stands for a pixel outside, and a window must not have more pixels than it counts.
    if (most < 0xFFFF && window.halves.size() * (2 * window.widest + 1) < 0xFFFF) {
        places<uint16_t>(out, numbers, bits, window, height, width, select_short);
    } else {
        places<uint32_t>(out, numbers, bits, window, height, width, select_long);
    }
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
