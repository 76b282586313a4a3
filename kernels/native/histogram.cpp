// Contrast: histogram equalisation, percentile stretching, and contrast-limited adaptive equalisation, as
// kernels/histogram.py defines them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "extremes.h"
#include "parallel.h"

namespace cannonade {
namespace {

constexpr float LEAST_SPREAD = 0x1p-24f;
constexpr int64_t STRIP = 64;
constexpr int64_t BINS = 256;
constexpr double GREYS = 16383.0;
constexpr int32_t GREYS_PER_BIN = 65;

// Adding and subtracting it rounds to the nearest whole number, halves to even, below 2^51.
constexpr double WHOLE = 0x1.8p52;

// The bin of each of a strip's values, as NumPy finds it: the edges decide, in double precision.
CLONED void find_bins(int32_t* __restrict out, const float* __restrict values, double low, double high, int32_t bins,
                      int64_t count) {
    const double width = (high - low) / bins, scale = bins / (high > low ? high - low : 1.0);
    for (int64_t i = 0; i < count; ++i) {
        const double value = values[i];
        const auto index = static_cast<int32_t>((value - low) * scale - 1e-9);
        const int32_t next = value >= (index + 1) * width + low ? index + 1 : index;
        out[i] = next < bins - 1 ? next : bins - 1;
    }
}

// The share of the values in each bin and those below.
void distribute(float* shares, const float* values, Extremes ends, int64_t bins, int64_t count) {
    constexpr int64_t TABLES = 4;  // equal neighbours would wait for one another's count
    std::vector<int32_t> counts(TABLES * bins);
    int32_t index[STRIP];
    for (int64_t start = 0; start < count; start += STRIP) {
        const int64_t size = std::min(STRIP, count - start);
        find_bins(index, values + start, ends.low, ends.high, static_cast<int32_t>(bins), size);
        for (int64_t i = 0; i < size; ++i) ++counts[i % TABLES * bins + index[i]];
    }
    int64_t sum = 0;
    for (int64_t bin = 0; bin < bins; ++bin) {
        for (int64_t table = 0; table < TABLES; ++table) sum += counts[table * bins + bin];
        shares[bin] = static_cast<float>(static_cast<double>(sum) / static_cast<double>(count));
    }
}

struct Bins {
    float low, scale;
    int32_t last;  // index of the last but one

    Bins(Extremes ends, int64_t bins)
        : low(ends.low), scale(static_cast<float>(bins) / (ends.high - ends.low)), last(static_cast<int32_t>(bins) - 2) {}
};

CLONED void equalise_line(float* __restrict out, const float* __restrict values, const float* __restrict shares,
                          const Bins& bins, int64_t count) {
    const float low = bins.low, scale = bins.scale;
    const int32_t last = bins.last;
    for (int64_t i = 0; i < count; ++i) {
        const float place = (values[i] - low) * scale - 0.5f;
        auto index = static_cast<int32_t>(place);
        index = index < 0 ? 0 : index > last ? last : index;
        const float beyond = place - static_cast<float>(index);
        const float fraction = beyond < 0.0f ? 0.0f : beyond > 1.0f ? 1.0f : beyond;
        const float share = shares[index] + fraction * (shares[index + 1] - shares[index]);
        out[i] = share > 1.0f ? 1.0f : share;
    }
}

// Sums of what two numbers for each of many values come to, in double precision and in an order of their own.
struct Sums {
    double first[STRIP] = {}, second[STRIP] = {};

    void add_to(double* sums) const {
        for (int64_t i = 0; i < STRIP; ++i) {
            sums[0] += first[i];
            sums[1] += second[i];
        }
    }
};

template <int64_t FIXED>
ALWAYS_INLINE void equalise_strip_adjoint(float* __restrict out, const float* __restrict grad, const float* __restrict values,
                                          const float* __restrict shares, const Bins& bins, Sums& sums, int64_t rest) {
    const float low = bins.low, scale = bins.scale;
    const int32_t last = bins.last;
    const int64_t count = FIXED ? FIXED : rest;
    float slopes[STRIP], scaled[STRIP];
    for (int64_t i = 0; i < count; ++i) {
        const float above = values[i] - low, place = above * scale - 0.5f;
        auto index = static_cast<int32_t>(place);
        index = index < 0 ? 0 : index > last ? last : index;
        const float beyond = place - static_cast<float>(index);
        const float step = shares[index + 1] - shares[index];
        slopes[i] = beyond >= 0.0f && beyond <= 1.0f ? grad[i] * step : 0.0f;
        scaled[i] = slopes[i] * above;
        out[i] = slopes[i] * scale;
    }
    for (int64_t i = 0; i < count; ++i) sums.first[i] += slopes[i];
    for (int64_t i = 0; i < count; ++i) sums.second[i] += scaled[i];
}

// What reaches each value itself, as if the extremes were constants; sums: what reaches the place, and the scale.
CLONED void equalise_line_adjoint(float* __restrict out, const float* __restrict grad, const float* __restrict values,
                                  const float* __restrict shares, const Bins& bins, double* __restrict sums,
                                  int64_t count) {
    Sums own;
    const int64_t whole = count / STRIP * STRIP;
    for (int64_t i = 0; i < whole; i += STRIP) {
        equalise_strip_adjoint<STRIP>(out + i, grad + i, values + i, shares, bins, own, 0);
    }
    equalise_strip_adjoint<0>(out + whole, grad + whole, values + whole, shares, bins, own, count - whole);
    own.add_to(sums);
}

// Shares a gradient equally between all that have the value.
CLONED void share_out(float* __restrict out, const float* __restrict values, float value, double gradient, int64_t count) {
    int32_t equal = 0;
    for (int64_t i = 0; i < count; ++i) equal += values[i] == value;
    const auto part = static_cast<float>(gradient / static_cast<double>(equal));
    for (int64_t i = 0; i < count; ++i) out[i] += values[i] == value ? part : 0.0f;
}

// Finds order statistics: buckets by value first, so that only a bucket is looked at more closely.
class Ranks {
  public:
    Ranks(const float* values, int64_t count, Extremes ends)
        : values_(values), count_(count), low_(ends.low), buckets_(count), starts_(SIZE + 1) {
        const float spread = ends.high - ends.low;
        scale_ = spread > 0.0f ? static_cast<float>(SIZE - 1) / spread : 0.0f;
        fill();
        for (int64_t i = 0; i < count; ++i) ++starts_[buckets_[i] + 1];
        for (int64_t i = 0; i < SIZE; ++i) starts_[i + 1] += starts_[i];
    }

    // The value that `rank` others precede in ascending order.
    float at(int64_t rank) {
        const auto bucket = std::upper_bound(starts_.begin(), starts_.end(), rank) - starts_.begin() - 1;
        if (bucket != bucket_) {
            bucket_ = bucket;
            members_.clear();
            for (int64_t i = 0; i < count_; ++i) {
                if (buckets_[i] == bucket) members_.push_back(values_[i]);
            }
        }
        const auto place = members_.begin() + (rank - starts_[bucket]);
        std::nth_element(members_.begin(), place, members_.end());
        return *place;
    }

  private:
    static constexpr int64_t SIZE = 4096;

    CLONED void fill() {
        const float* values = values_;
        int32_t* buckets = buckets_.data();
        const float low = low_, scale = scale_;
        for (int64_t i = 0; i < count_; ++i) {
            const auto bucket = static_cast<int32_t>((values[i] - low) * scale);
            buckets[i] = bucket < SIZE - 1 ? bucket : SIZE - 1;
        }
    }

    const float* values_;
    int64_t count_;
    float low_, scale_ = 0.0f;
    std::vector<int32_t> buckets_;
    std::vector<int64_t> starts_;
    std::vector<float> members_;
    int64_t bucket_ = -1;
};

int64_t first_of(const float* values, float value, int64_t count) {
    return std::find(values, values + count, value) - values;
}

struct Percentile {
    float value, fraction;
    int64_t places[2];
};

// Between the two values that `share` of all lie below, counted from the least, or from the greatest.
Percentile percentile_of(Ranks& ranks, const float* values, double share, int64_t count, bool from_above) {
    const double place = share * static_cast<double>(count - 1);
    const int64_t lower = std::min(static_cast<int64_t>(std::floor(place)), count - 2);
    float ends[2];
    for (int64_t i = 0; i < 2; ++i) ends[i] = ranks.at(from_above ? count - 1 - (lower + i) : lower + i);
    const auto fraction = static_cast<float>(place - static_cast<double>(lower));
    Percentile found{ends[0] + (ends[1] - ends[0]) * fraction, fraction, {}};
    for (int64_t i = 0; i < 2; ++i) found.places[i] = first_of(values, ends[i], count);
    return found;
}

CLONED void stretch_line(float* __restrict out, const float* __restrict values, float floor, float spread, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float share = (values[i] - floor) / spread;
        out[i] = share < 0.0f ? 0.0f : share > 1.0f ? 1.0f : share;
    }
}

template <int64_t FIXED>
ALWAYS_INLINE void stretch_strip_adjoint(float* __restrict out, const float* __restrict grad, const float* __restrict values,
                                         float floor, float spread, Sums& sums, int64_t rest) {
    const int64_t count = FIXED ? FIXED : rest;
    float slopes[STRIP], scaled[STRIP];
    for (int64_t i = 0; i < count; ++i) {
        const float share = (values[i] - floor) / spread;
        slopes[i] = share >= 0.0f && share <= 1.0f ? grad[i] / spread : 0.0f;
        scaled[i] = slopes[i] * share;
        out[i] = slopes[i];
    }
    for (int64_t i = 0; i < count; ++i) sums.first[i] += slopes[i];
    for (int64_t i = 0; i < count; ++i) sums.second[i] += scaled[i];
}

// What reaches each value itself; sums: what reaches the floor's subtraction, and the spread.
CLONED void stretch_line_adjoint(float* __restrict out, const float* __restrict grad, const float* __restrict values,
                                 float floor, float spread, double* __restrict sums, int64_t count) {
    Sums own;
    const int64_t whole = count / STRIP * STRIP;
    for (int64_t i = 0; i < whole; i += STRIP) {
        stretch_strip_adjoint<STRIP>(out + i, grad + i, values + i, floor, spread, own, 0);
    }
    stretch_strip_adjoint<0>(out + whole, grad + whole, values + whole, floor, spread, own, count - whole);
    own.add_to(sums);
}

// CLAHE's bins: 14-bit grey values of the 16-bit ones, stretched; `spread` is at least 1.
CLONED void grey_bins(uint8_t* __restrict bins, const float* __restrict values, double low, double spread, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const double sixteen = (static_cast<double>(values[i]) * 65535.0 + WHOLE) - WHOLE;
        const double grey = ((sixteen - low) / spread * GREYS + WHOLE) - WHOLE;
        bins[i] = static_cast<uint8_t>(static_cast<int32_t>(grey) / GREYS_PER_BIN);
    }
}

double sixteen_bits(float value) { return (static_cast<double>(value) * 65535.0 + WHOLE) - WHOLE; }

// Clips a histogram and hands out the excess, as scikit-image.
void clip_counts(int32_t* counts, int32_t limit) {
    int32_t excess = 0;
    for (int64_t bin = 0; bin < BINS; ++bin) {
        excess += std::max(counts[bin] - limit, 0);
        counts[bin] = std::min(counts[bin], limit);
    }
    const int32_t increment = excess / static_cast<int32_t>(BINS);
    for (int64_t bin = 0; bin < BINS; ++bin) {
        if (counts[bin] < limit - increment) {
            counts[bin] += increment;
            excess -= increment;
        }
    }
    for (int64_t bin = 0; bin < BINS; ++bin) {
        if (counts[bin] >= limit - increment) {
            excess -= limit - counts[bin];
            counts[bin] = limit;
        }
    }
    for (int64_t first = 0; excess > 0; first = (first + 1) % BINS) {
        int32_t free = 0;
        for (int64_t bin = 0; bin < BINS; ++bin) free += counts[bin] < limit;
        if (free == 0) return;
        const int32_t step = std::max(free / excess, 1);
        for (int64_t bin = first; bin < BINS; bin += step) {
            if (counts[bin] < limit) {
                ++counts[bin];
                --excess;
            }
        }
    }
}

int64_t mirrored(int64_t place, int64_t side) {
    if (side == 1) return 0;
    const int64_t period = 2 * (side - 1), inside = place % period;
    return std::min(inside, period - inside);
}

// The grey value that each tile gives each bin.
std::vector<float> tables_of(const uint8_t* bins, int64_t height, int64_t width, int64_t rows, int64_t columns,
                             double clip_limit) {
    const int64_t down = (height + rows - 1) / rows, across = (width + columns - 1) / columns;
    const auto area = static_cast<double>(rows * columns);
    const auto limit = static_cast<int32_t>(std::max(std::floor(clip_limit * area), 1.0));
    std::vector<float> tables(down * across * BINS);
    std::vector<int32_t> counts(across * BINS);
    for (int64_t tile_row = 0; tile_row < down; ++tile_row) {
        std::fill(counts.begin(), counts.end(), 0);
        for (int64_t y = tile_row * rows; y < (tile_row + 1) * rows; ++y) {
            const uint8_t* line = bins + mirrored(y, height) * width;
            for (int64_t tile = 0; tile < across; ++tile) {
                int32_t* own = &counts[tile * BINS];
                const int64_t end = (tile + 1) * columns;
                for (int64_t x = tile * columns; x < end; ++x) ++own[line[x < width ? x : mirrored(x, width)]];
            }
        }
        for (int64_t tile = 0; tile < across; ++tile) {
            int32_t* own = &counts[tile * BINS];
            clip_counts(own, limit);
            float* table = &tables[(tile_row * across + tile) * BINS];
            const double scale = GREYS / area;
            double sum = 0.0;
            for (int64_t bin = 0; bin < BINS; ++bin) {
                sum += own[bin];
                const double grey = sum * scale;
                table[bin] = static_cast<float>(std::floor(grey < GREYS ? grey : GREYS));
            }
        }
    }
    return tables;
}

// The two tiles that a coordinate lies between, and the weight of the second.
struct Between {
    int64_t before, after;
    double weight;

    Between(int64_t place, int64_t size, int64_t last) {
        const int64_t shifted = place + size / 2;
        before = std::max<int64_t>(shifted / size - 1, 0);
        after = std::min(shifted / size, last);
        weight = static_cast<double>(shifted % size);
    }
};

// Entries of the four tiles around each pixel of a row, weighted; whole numbers until the division by the tile's area.
void blend_row(double* out, const uint8_t* bins, const std::vector<float>& tables, const Between& vertical,
               const std::vector<Between>& horizontal, int64_t rows, int64_t columns, int64_t across, int64_t width) {
    const double below = vertical.weight, above = static_cast<double>(rows) - below;
    const auto area = static_cast<double>(rows * columns);
    const float* upper = &tables[vertical.before * across * BINS];
    const float* lower = &tables[vertical.after * across * BINS];
    for (int64_t x = 0; x < width; ++x) {
        const Between& own = horizontal[x];
        const int64_t left = own.before * BINS + bins[x], right = own.after * BINS + bins[x];
        const double to_right = own.weight, to_left = static_cast<double>(columns) - to_right;
        const double top = upper[left] * to_left + upper[right] * to_right;
        const double bottom = lower[left] * to_left + lower[right] * to_right;
        out[x] = (top * above + bottom * below) / area;
    }
}

CLONED void finish_value(float* __restrict out, const double* __restrict looked_up, double low, double spread, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>((looked_up[i] - low) / spread);
}

// Cuts the fractions of non-negative values off; returns the least of what is left.
CLONED double floor_all(double* __restrict values, int64_t count, double* __restrict most) {
    double least = static_cast<double>(static_cast<int32_t>(values[0])), greatest = least;
    for (int64_t i = 0; i < count; ++i) {
        const auto whole = static_cast<double>(static_cast<int32_t>(values[i]));
        values[i] = whole;
        least = whole < least ? whole : least;
        greatest = whole > greatest ? whole : greatest;
    }
    *most = greatest;
    return least;
}

void clahe_plane(float* out, float* slope, const float* plane, int64_t rows, int64_t columns, double clip_limit,
                 int64_t height, int64_t width) {
    const int64_t pixels = height * width, across = (width + columns - 1) / columns;
    const Extremes ends = extremes_of(plane, pixels);
    const double low = sixteen_bits(ends.low), high = sixteen_bits(ends.high), spread = high > low ? high - low : 1.0;
    std::vector<uint8_t> bins(pixels);
    grey_bins(bins.data(), plane, low, spread, pixels);
    const std::vector<float> tables = tables_of(bins.data(), height, width, rows, columns, clip_limit);
    std::vector<Between> vertical, horizontal;
    for (int64_t y = 0; y < height; ++y) vertical.emplace_back(y, rows, (height - 1) / rows);
    for (int64_t x = 0; x < width; ++x) horizontal.emplace_back(x, columns, (width - 1) / columns);
    std::vector<double> looked_up(pixels);
    for (int64_t y = 0; y < height; ++y) {
        blend_row(&looked_up[y * width], &bins[y * width], tables, vertical[y], horizontal, rows, columns, across, width);
    }
    double most = 0.0;
    const double least = floor_all(looked_up.data(), pixels, &most);
    if (!(high > low && most > least)) {
        std::copy_n(plane, pixels, out);
        if (slope) std::fill_n(slope, pixels, 1.0f);
        return;
    }
    finish_value(out, looked_up.data(), least, most - least, pixels);
    if (!slope) return;
    const double factor = 1.0 / (most - least) * (GREYS / spread) * (65535.0 / GREYS_PER_BIN);
    std::vector<float> density(tables.size());
    for (size_t i = 0; i < tables.size(); ++i) density[i] = tables[i] - (i % BINS ? tables[i - 1] : 0.0f);
    for (int64_t y = 0; y < height; ++y) {
        double* line = looked_up.data();
        blend_row(line, &bins[y * width], density, vertical[y], horizontal, rows, columns, across, width);
        for (int64_t x = 0; x < width; ++x) slope[y * width + x] = static_cast<float>(line[x] * factor);
    }
}

}  // namespace
}  // namespace cannonade

// Planes [P, M], bins [P]; shares [P, size] are kept for backward.
extern "C" void equalise(float* out, float* shares, const float* planes, const int64_t* bins, int64_t size, int64_t count,
                         int64_t pixels, int64_t threads) {
    cannonade::for_each(count, threads, [&](int64_t p) {
        const float* plane = planes + p * pixels;
        const auto ends = cannonade::extremes_of(plane, pixels);
        float* own = shares + p * size;
        cannonade::distribute(own, plane, ends, bins[p], pixels);
        if (!(ends.high - ends.low >= cannonade::LEAST_SPREAD)) {
            std::copy_n(plane, pixels, out + p * pixels);
        } else {
            cannonade::equalise_line(out + p * pixels, plane, own, cannonade::Bins(ends, bins[p]), pixels);
        }
    });
}

extern "C" void equalise_adjoint(float* out, const float* grad, const float* shares, const float* planes,
                                 const int64_t* bins, int64_t size, int64_t count, int64_t pixels, int64_t threads) {
    cannonade::for_each(count, threads, [&](int64_t p) {
        const float *plane = planes + p * pixels, *from = grad + p * pixels;
        float* to = out + p * pixels;
        const auto ends = cannonade::extremes_of(plane, pixels);
        const float spread = ends.high - ends.low;
        if (!(spread >= cannonade::LEAST_SPREAD)) {
            std::copy_n(from, pixels, to);
            return;
        }
        const cannonade::Bins own(ends, bins[p]);
        double sums[2] = {};
        cannonade::equalise_line_adjoint(to, from, plane, shares + p * size, own, sums, pixels);
        const double to_spread = -sums[1] * static_cast<double>(own.scale) / static_cast<double>(spread);
        cannonade::share_out(to, plane, ends.low, -sums[0] * static_cast<double>(own.scale) - to_spread, pixels);
        cannonade::share_out(to, plane, ends.high, to_spread, pixels);
    });
}

// Planes [P, M], low and high [P]; kept for backward: places [P, 4] of the values that the percentiles lie between, and
// numbers [P, 4], the floor, the spread and how far each percentile is from the first of its two values.
extern "C" void stretch(float* out, int64_t* places, float* numbers, const float* planes, const double* low,
                        const double* high, int64_t count, int64_t pixels, int64_t threads) {
    cannonade::for_each(count, threads, [&](int64_t p) {
        const float* plane = planes + p * pixels;
        cannonade::Ranks ranks(plane, pixels, cannonade::extremes_of(plane, pixels));
        const auto floor = cannonade::percentile_of(ranks, plane, low[p], pixels, false);
        const auto ceiling = cannonade::percentile_of(ranks, plane, 1.0 - high[p], pixels, true);
        const float spread = ceiling.value - floor.value;
        const float kept[4] = {floor.value, spread, floor.fraction, ceiling.fraction};
        std::copy_n(kept, 4, numbers + 4 * p);
        std::copy_n(floor.places, 2, places + 4 * p);
        std::copy_n(ceiling.places, 2, places + 4 * p + 2);
        if (spread >= cannonade::LEAST_SPREAD) {
            cannonade::stretch_line(out + p * pixels, plane, floor.value, spread, pixels);
        } else {
            std::fill_n(out + p * pixels, pixels, floor.value);
        }
    });
}

extern "C" void stretch_adjoint(float* out, const float* grad, const int64_t* places, const float* numbers,
                                const float* planes, int64_t count, int64_t pixels, int64_t threads) {
    cannonade::for_each(count, threads, [&](int64_t p) {
        const float *plane = planes + p * pixels, *from = grad + p * pixels, *own = numbers + 4 * p;
        float* to = out + p * pixels;
        double to_floor = 0.0, to_ceiling = 0.0;
        if (own[1] >= cannonade::LEAST_SPREAD) {
            double sums[2] = {};
            cannonade::stretch_line_adjoint(to, from, plane, own[0], own[1], sums, pixels);
            to_ceiling = -sums[1];
            to_floor = -sums[0] - to_ceiling;
        } else {
            for (int64_t i = 0; i < pixels; ++i) to_floor += from[i];
            std::fill_n(to, pixels, 0.0f);
        }
        const int64_t* at = places + 4 * p;
        to[at[0]] += static_cast<float>(to_floor * (1.0 - own[2]));
        to[at[1]] += static_cast<float>(to_floor * own[2]);
        to[at[2]] += static_cast<float>(to_ceiling * (1.0 - own[3]));
        to[at[3]] += static_cast<float>(to_ceiling * own[3]);
    });
}

// Planes [P, H, W], rows, columns and limits [P]; slope may be absent.
extern "C" void clahe(float* out, float* slope, const float* planes, const int64_t* rows, const int64_t* columns,
                      const double* limits, int64_t with_slope, int64_t count, int64_t height, int64_t width,
                      int64_t threads) {
    const int64_t pixels = height * width;
    cannonade::for_each(count, threads, [&](int64_t p) {
        cannonade::clahe_plane(out + p * pixels, with_slope ? slope + p * pixels : nullptr, planes + p * pixels, rows[p],
                               columns[p], limits[p], height, width);
    });
}
