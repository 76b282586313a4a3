// BayesShrink on a CPU, as kernels/shrinkage.py defines it, in double precision. Analysis and synthesis are each other's
// adjoints: one reads x[2k + 1 − tap], the other adds to it; beyond the ends lies a mirror image, or nothing.

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"

namespace cannonade {
namespace {

constexpr double QUARTILE = 0.6744897501960817;  // of the standard normal
constexpr double EPSILON = 0x1p-52;

struct Bank {
    int64_t taps;
    std::vector<double> low, high;

    Bank(const double* filter, int64_t taps) : taps(taps), low(filter, filter + taps), high(taps) {
        for (int64_t tap = 0; tap < taps; ++tap) high[tap] = (tap % 2 ? 1.0 : -1.0) * low[taps - 1 - tap];
    }
    int64_t half(int64_t length) const { return (length + taps - 1) / 2; }
};

enum class Beyond { MIRROR, NOTHING };

// Where a place beyond the ends is found, −1 for nowhere.
inline int64_t found(int64_t place, int64_t length, Beyond beyond) {
    if (place >= 0 && place < length) return place;
    if (beyond == Beyond::NOTHING) return -1;
    place = (place % (2 * length) + 2 * length) % (2 * length);
    return place < length ? place : 2 * length - 1 - place;
}

CLONED void add_scaled(double* __restrict low, double* __restrict high, const double* __restrict from, double a, double b,
                       int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        low[i] += from[i] * a;
        high[i] += from[i] * b;
    }
}

CLONED void add_both(double* __restrict to, const double* __restrict low, const double* __restrict high, double a,
                     double b, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += low[i] * a + high[i] * b;
}

// Down the columns: x [length, wide] to low and high [half, wide].
void analyse_columns(double* low, double* high, const double* x, int64_t length, int64_t wide, const Bank& bank,
                     Beyond beyond) {
    const int64_t half = bank.half(length);
    std::fill_n(low, half * wide, 0.0);
    std::fill_n(high, half * wide, 0.0);
    for (int64_t k = 0; k < half; ++k) {
        for (int64_t tap = 0; tap < bank.taps; ++tap) {
            const int64_t row = found(2 * k + 1 - tap, length, beyond);
            if (row >= 0) add_scaled(low + k * wide, high + k * wide, x + row * wide, bank.low[tap], bank.high[tap], wide);
        }
    }
}

void synthesise_columns(double* x, const double* low, const double* high, int64_t length, int64_t wide,
                        const Bank& bank, Beyond beyond) {
    const int64_t half = bank.half(length);
    std::fill_n(x, length * wide, 0.0);
    for (int64_t k = 0; k < half; ++k) {
        for (int64_t tap = 0; tap < bank.taps; ++tap) {
            const int64_t row = found(2 * k + 1 - tap, length, beyond);
            if (row >= 0) add_both(x + row * wide, low + k * wide, high + k * wide, bank.low[tap], bank.high[tap], wide);
        }
    }
}

// A row apart: its even places, then its odd ones, each from −taps/2 on.
struct Halves {
    int64_t margin, length;
    std::vector<double> even, odd;

    Halves(int64_t half, int64_t taps) : margin(taps / 2), length(half + taps), even(length), odd(length) {}

    // What the tap reads for k = 0, 1, …
    double* of(int64_t tap) { return tap % 2 ? &even[margin - tap / 2] : &odd[margin - tap / 2]; }
};

// Along the rows: x [rows, length] to low and high [rows, half].
void analyse_rows(double* low, double* high, const double* x, int64_t rows, int64_t length, const Bank& bank,
                  Beyond beyond) {
    const int64_t half = bank.half(length);
    Halves halves(half, bank.taps);
    std::vector<int64_t> even(halves.length), odd(halves.length);
    for (int64_t i = 0; i < halves.length; ++i) {
        even[i] = found(2 * (i - halves.margin), length, beyond);
        odd[i] = found(2 * (i - halves.margin) + 1, length, beyond);
    }
    std::fill_n(low, rows * half, 0.0);
    std::fill_n(high, rows * half, 0.0);
    for (int64_t y = 0; y < rows; ++y) {
        const double* row = x + y * length;
        for (int64_t i = 0; i < halves.length; ++i) {
            halves.even[i] = even[i] < 0 ? 0.0 : row[even[i]];
            halves.odd[i] = odd[i] < 0 ? 0.0 : row[odd[i]];
        }
        for (int64_t tap = 0; tap < bank.taps; ++tap) {
            add_scaled(low + y * half, high + y * half, halves.of(tap), bank.low[tap], bank.high[tap], half);
        }
    }
}

void synthesise_rows(double* x, const double* low, const double* high, int64_t rows, int64_t length, const Bank& bank,
                     Beyond beyond) {
    const int64_t half = bank.half(length);
    Halves halves(half, bank.taps);
    std::fill_n(x, rows * length, 0.0);
    for (int64_t y = 0; y < rows; ++y) {
        std::fill(halves.even.begin(), halves.even.end(), 0.0);
        std::fill(halves.odd.begin(), halves.odd.end(), 0.0);
        for (int64_t tap = 0; tap < bank.taps; ++tap) {
            add_both(halves.of(tap), low + y * half, high + y * half, bank.low[tap], bank.high[tap], half);
        }
        double* row = x + y * length;
        for (int64_t i = 0; i < halves.length; ++i) {
            const int64_t even = found(2 * (i - halves.margin), length, beyond);
            const int64_t odd = found(2 * (i - halves.margin) + 1, length, beyond);
            if (even >= 0) row[even] += halves.even[i];
            if (odd >= 0) row[odd] += halves.odd[i];
        }
    }
}

struct Level {
    int64_t height, width, rows, columns;  // of what it is made from, and of its four parts
    int64_t size() const { return rows * columns; }
};

std::vector<Level> levels_of(int64_t height, int64_t width, int64_t depth, const Bank& bank) {
    std::vector<Level> levels;
    for (int64_t level = 0; level < depth; ++level) {
        levels.push_back({height, width, bank.half(height), bank.half(width)});
        height = bank.half(height);
        width = bank.half(width);
    }
    return levels;
}

// The transform of one plane: what is left at the deepest level, and three bands a level (along columns and rows: low and
// high, high and low, high and high).
struct Pyramid {
    const Bank& bank;
    std::vector<Level> levels;
    std::vector<double> approximation, low, high;
    std::vector<std::vector<double>> bands;

    Pyramid(const Bank& bank, int64_t height, int64_t width, int64_t depth)
        : bank(bank), levels(levels_of(height, width, depth, bank)) {
        // A side shorter than the filter grows when it is halved.
        int64_t largest = height * width, tallest = 0;
        for (const Level& level : levels) {
            bands.emplace_back(3 * level.size());
            largest = std::max(largest, level.size());
            tallest = std::max(tallest, level.rows * level.width);
        }
        approximation.resize(largest);
        low.resize(tallest);
        high.resize(tallest);
    }

    void analyse(Beyond beyond) {
        for (size_t i = 0; i < levels.size(); ++i) {
            const Level& level = levels[i];
            double* out = bands[i].data();
            analyse_columns(low.data(), high.data(), approximation.data(), level.height, level.width, bank, beyond);
            analyse_rows(approximation.data(), out, low.data(), level.rows, level.width, bank, beyond);
            analyse_rows(out + level.size(), out + 2 * level.size(), high.data(), level.rows, level.width, bank, beyond);
        }
    }

    void synthesise(Beyond beyond) {
        for (size_t i = levels.size(); i-- > 0;) {
            const Level& level = levels[i];
            const double* from = bands[i].data();
            synthesise_rows(low.data(), approximation.data(), from, level.rows, level.width, bank, beyond);
            synthesise_rows(high.data(), from + level.size(), from + 2 * level.size(), level.rows, level.width, bank, beyond);
            synthesise_columns(approximation.data(), low.data(), high.data(), level.height, level.width, bank, beyond);
        }
    }
};

// The standard deviation of the noise, from the finest diagonal band; NaN where it has no coefficient but 0.
double sigma_of(const double* band, int64_t count) {
    std::vector<double> magnitudes;
    magnitudes.reserve(count);
    for (int64_t i = 0; i < count; ++i) {
        if (band[i] != 0.0) magnitudes.push_back(std::abs(band[i]));
    }
    if (magnitudes.empty()) return NAN;
    const auto middle = magnitudes.begin() + magnitudes.size() / 2;
    std::nth_element(magnitudes.begin(), middle, magnitudes.end());
    const double upper = *middle;
    const double lower = magnitudes.size() % 2 ? upper : *std::max_element(magnitudes.begin(), middle);
    return (lower + upper) / 2.0 / QUARTILE;
}

CLONED void shrink(double* __restrict band, uint8_t* __restrict mask, double threshold, double reach, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const double value = band[i];
        const bool kept = std::abs(value) >= threshold;
        const double part = value < -reach ? -reach : value > reach ? reach : value;
        mask[i] = kept;
        band[i] = kept ? value - part : 0.0;
    }
}

// Thresholds every band and writes its masks.
void shrink_all(Pyramid& pyramid, uint8_t* masks, bool soft) {
    const int64_t finest = pyramid.levels[0].size();
    const double sigma = sigma_of(&pyramid.bands[0][2 * finest], finest), variance = sigma * sigma;
    for (size_t i = 0; i < pyramid.levels.size(); ++i) {
        const int64_t size = pyramid.levels[i].size();
        for (int64_t part = 0; part < 3; ++part, masks += size) {
            double* band = &pyramid.bands[i][part * size];
            double square = 0.0;
            for (int64_t at = 0; at < size; ++at) square += band[at] * band[at];
            const double spread = square / static_cast<double>(size) - variance;
            double threshold = variance / std::sqrt(spread > EPSILON ? spread : EPSILON);
            if (std::isnan(threshold)) threshold = 0.0;
            shrink(band, masks, threshold, soft ? threshold : 0.0, size);
        }
    }
}

int64_t modulo(int64_t value, int64_t length) { return (value % length + length) % length; }

// Rolls a plane by (down, right): out[y + down, x + right] = from[y, x], circularly.
void roll(double* out, const double* from, int64_t down, int64_t right, int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; ++y) {
        double* to = out + modulo(y + down, height) * width;
        for (int64_t x = 0; x < width; ++x) to[modulo(x + right, width)] = from[y * width + x];
    }
}

// The mean of what `work(pyramid, m, shift)` makes of every circular shift of planes m, shifted back. The shifts by so many
// rows are added up first, so that threads can share out a plane by them.
template <typename Work>
void over_shifts(double* out, const double* planes, int64_t shifts, int64_t depth, int64_t count, int64_t height,
                 int64_t width, const Bank& bank, int64_t threads, const Work& work) {
    const int64_t pixels = height * width, rows = shifts + 1;
    const auto add_right = [&](Pyramid& pyramid, double* sum, int64_t m, int64_t down) {
        std::vector<double> back(pixels);
        std::fill_n(sum, pixels, 0.0);
        for (int64_t right = 0; right <= shifts; ++right) {
            roll(pyramid.approximation.data(), planes + m * pixels, down, right, height, width);
            work(pyramid, m, down * rows + right);
            roll(back.data(), pyramid.approximation.data(), -down, -right, height, width);
            for (int64_t i = 0; i < pixels; ++i) sum[i] += back[i];
        }
    };
    const auto add_down = [&](int64_t m, const auto& sum_of) {
        double* own = out + m * pixels;
        std::fill_n(own, pixels, 0.0);
        for (int64_t down = 0; down <= shifts; ++down) {
            const double* sum = sum_of(down);
            for (int64_t i = 0; i < pixels; ++i) own[i] += sum[i];
        }
        for (int64_t i = 0; i < pixels; ++i) own[i] /= static_cast<double>(rows * rows);
    };
    if (bands_of(count, rows, threads) == 1) {
        for_each(count, threads, [&](int64_t m) {
            Pyramid pyramid(bank, height, width, depth);
            std::vector<double> sum(pixels);
            add_down(m, [&](int64_t down) {
                add_right(pyramid, sum.data(), m, down);
                return sum.data();
            });
        });
        return;
    }
    std::vector<double> sums(count * rows * pixels);
    for_each(count * rows, threads, [&](int64_t unit) {
        Pyramid pyramid(bank, height, width, depth);
        add_right(pyramid, &sums[unit * pixels], unit / rows, unit % rows);
    });
    for_each(count, threads, [&](int64_t m) {
        add_down(m, [&](int64_t down) { return &sums[(m * rows + down) * pixels]; });
    });
}

}  // namespace
}  // namespace cannonade

// Planes [M, H, W], soft [M]; masks [M, (shifts + 1)^2, coefficients of all bands], 1 for what was kept.
extern "C" void wavelet_shrink(double* out, uint8_t* masks, const double* planes, const int64_t* soft,
                               const double* filter, int64_t taps, int64_t depth, int64_t shifts, int64_t coefficients,
                               int64_t count, int64_t height, int64_t width, int64_t threads) {
    using cannonade::Beyond;
    const int64_t all = (shifts + 1) * (shifts + 1);
    const cannonade::Bank bank(filter, taps);
    const auto work = [&](cannonade::Pyramid& pyramid, int64_t m, int64_t shift) {
        pyramid.analyse(Beyond::MIRROR);
        cannonade::shrink_all(pyramid, masks + (m * all + shift) * coefficients, soft[m] != 0);
        pyramid.synthesise(Beyond::NOTHING);
    };
    cannonade::over_shifts(out, planes, shifts, depth, count, height, width, bank, threads, work);
}

extern "C" void wavelet_shrink_adjoint(double* out, const uint8_t* masks, const double* grad, const double* filter,
                                       int64_t taps, int64_t depth, int64_t shifts, int64_t coefficients, int64_t count,
                                       int64_t height, int64_t width, int64_t threads) {
    using cannonade::Beyond;
    const int64_t all = (shifts + 1) * (shifts + 1);
    const cannonade::Bank bank(filter, taps);
    const auto work = [&](cannonade::Pyramid& pyramid, int64_t m, int64_t shift) {
        const uint8_t* mask = masks + (m * all + shift) * coefficients;
        pyramid.analyse(Beyond::NOTHING);
        for (std::vector<double>& band : pyramid.bands) {
            for (double& value : band) value *= *mask++;
        }
        pyramid.synthesise(Beyond::MIRROR);
    };
    cannonade::over_shifts(out, grad, shifts, depth, count, height, width, bank, threads, work);
}
