// Means over windows on a CPU, as kernels/window.py defines them: sums in raster order, so the bits are PyTorch's.

#include "window.h"

namespace cannonade {
namespace {

constexpr float OUTSIDE = 1e30f;  // above every upper bound, and finite

// Sums of the neighbours of one strip of pixels.
CLONED void sum_strip(float* __restrict out, const Window& window, const Padded<float>& values, int64_t y, int64_t x) {
    float total[STRIP] = {};
    for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
        const float* row = values.row(y + dy) + x;
        for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
            for (int64_t i = 0; i < STRIP; ++i) total[i] += row[dx + i];
        }
    }
    std::copy_n(total, STRIP, out);
}

// Sums and numbers of the neighbours between each pixel's own bounds.
CLONED void member_strip(float* __restrict sum, float* __restrict number, const float* __restrict low,
                         const float* __restrict high, const Window& window, const Padded<float>& values, int64_t y,
                         int64_t x) {
    float total[STRIP] = {}, count[STRIP] = {};
    for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
        const float* row = values.row(y + dy) + x;
        for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
            for (int64_t i = 0; i < STRIP; ++i) {
                const float value = row[dx + i];
                const bool member = (value >= low[i]) & (value <= high[i]);
                total[i] += member ? value : 0.0f;
                count[i] += member ? 1.0f : 0.0f;
            }
        }
    }
    std::copy_n(total, STRIP, sum);
    std::copy_n(count, STRIP, number);
}

// Sums of the shares of the neighbours between whose bounds each pixel lies.
CLONED void share_strip(float* __restrict out, const float* __restrict own, const Window& window,
                        const Padded<float>& low, const Padded<float>& high, const Padded<float>& shares, int64_t y,
                        int64_t x) {
    float total[STRIP] = {};
    for (int64_t dy = -window.reach; dy <= window.reach; ++dy) {
        const float *least = low.row(y + dy) + x, *most = high.row(y + dy) + x, *share = shares.row(y + dy) + x;
        for (int64_t dx = -window.half(dy); dx <= window.half(dy); ++dx) {
            for (int64_t i = 0; i < STRIP; ++i) {
                const bool member = (own[i] >= least[dx + i]) & (own[i] <= most[dx + i]);
                total[i] += member ? share[dx + i] : 0.0f;
            }
        }
    }
    std::copy_n(total, STRIP, out);
}

struct Range {
    float low, high;
};

// The extremes of a plane, between which its means are kept from leaving by rounding.
Range range_of(const float* plane, int64_t pixels) {
    Range range{plane[0], plane[0]};
    for (int64_t i = 1; i < pixels; ++i) {
        range.low = plane[i] < range.low ? plane[i] : range.low;
        range.high = plane[i] > range.high ? plane[i] : range.high;
    }
    return range;
}

inline float clamped(float value, Range range) {
    return value < range.low ? range.low : value > range.high ? range.high : value;
}

struct Shape {
    int64_t planes, height, width, rows;
    int64_t pixels() const { return height * width; }

    // The rows that the windows of a band reach.
    Band around(Band band, const Window& window) const {
        return {std::max<int64_t>(band.from - window.reach, 0), std::min(band.to + window.reach, height)};
    }
};

void mean(float* out, const float* plane, const Window& window, const Shape& shape, Band band) {
    const Band near = shape.around(band, window);
    Padded<float> values(window, shape.height, shape.width, 0.0f);
    for (int64_t y = near.from; y < near.to; ++y) std::copy_n(plane + y * shape.width, shape.width, values.row(y));
    const Range range = range_of(plane, shape.pixels());
    InsideCounts counts(window, shape.height, shape.width);
    std::vector<float> total(completed(shape.width));
    for (int64_t y = band.from; y < band.to; ++y) {
        for (int64_t x = 0; x < shape.width; x += STRIP) sum_strip(&total[x], window, values, y, x);
        const int32_t* count = counts.row(y);
        for (int64_t x = 0; x < shape.width; ++x) {
            out[y * shape.width + x] = clamped(total[x] / static_cast<float>(count[x]), range);
        }
    }
}

void mean_adjoint(float* out, const float* grad, const Window& window, const Shape& shape, Band band) {
    const Band near = shape.around(band, window);
    Padded<float> shares(window, shape.height, shape.width, 0.0f);
    InsideCounts counts(window, shape.height, shape.width);
    for (int64_t y = near.from; y < near.to; ++y) {
        const int32_t* count = counts.row(y);
        float* share = shares.row(y);
        for (int64_t x = 0; x < shape.width; ++x) share[x] = grad[y * shape.width + x] / static_cast<float>(count[x]);
    }
    std::vector<float> total(completed(shape.width));
    for (int64_t y = band.from; y < band.to; ++y) {
        for (int64_t x = 0; x < shape.width; x += STRIP) sum_strip(&total[x], window, shares, y, x);
        std::copy_n(total.data(), shape.width, out + y * shape.width);
    }
}

void bilateral(float* out, float* counts, const float* plane, const float* bounds, const Window& window,
               const Shape& shape, Band band) {
    const int64_t width = shape.width;
    const Band near = shape.around(band, window);
    Padded<float> values(window, shape.height, width, OUTSIDE);
    for (int64_t y = near.from; y < near.to; ++y) std::copy_n(plane + y * width, width, values.row(y));
    const Range range = range_of(plane, shape.pixels());
    std::vector<float> low(completed(width)), high(completed(width)), total(completed(width)), number(completed(width));
    for (int64_t y = band.from; y < band.to; ++y) {
        for (int64_t x = 0; x < width; ++x) {
            low[x] = plane[y * width + x] - bounds[0];
            high[x] = plane[y * width + x] + bounds[1];
        }
        for (int64_t x = 0; x < width; x += STRIP) {
            member_strip(&total[x], &number[x], &low[x], &high[x], window, values, y, x);
        }
        for (int64_t x = 0; x < width; ++x) {
            out[y * width + x] = clamped(total[x] / number[x], range);
            counts[y * width + x] = number[x];
        }
    }
}

void bilateral_adjoint(float* out, const float* grad, const float* counts, const float* plane, const float* bounds,
                       const Window& window, const Shape& shape, Band band) {
    const int64_t width = shape.width;
    const Band near = shape.around(band, window);
    // Outside, no value lies between the bounds.
    Padded<float> low(window, shape.height, width, OUTSIDE), high(window, shape.height, width, -OUTSIDE);
    Padded<float> shares(window, shape.height, width, 0.0f);
    for (int64_t y = near.from; y < near.to; ++y) {
        for (int64_t x = 0; x < width; ++x) {
            const int64_t at = y * width + x;
            low.row(y)[x] = plane[at] - bounds[0];
            high.row(y)[x] = plane[at] + bounds[1];
            shares.row(y)[x] = grad[at] / counts[at];
        }
    }
    std::vector<float> own(completed(width)), total(completed(width));
    for (int64_t y = band.from; y < band.to; ++y) {
        std::copy_n(plane + y * width, width, own.data());
        for (int64_t x = 0; x < width; x += STRIP) {
            share_strip(&total[x], &own[x], window, low, high, shares, y, x);
        }
        std::copy_n(total.data(), width, out + y * width);
    }
}

}  // namespace
}  // namespace cannonade

// Everywhere: planes [P, H, W], windows [P, rows] half-widths (see window.h), bounds [P, 2] below and above.
using cannonade::Shape;
using cannonade::Window;

extern "C" void window_mean(float* out, const float* planes, const int64_t* windows, int64_t count, int64_t height,
                            int64_t width, int64_t rows, int64_t threads) {
    const Shape shape{count, height, width, rows};
    cannonade::for_each_band(count, height, rows, threads, [=](int64_t p, cannonade::Band band) {
        cannonade::mean(out + p * shape.pixels(), planes + p * shape.pixels(), Window(windows + p * rows, rows), shape,
                        band);
    });
}

extern "C" void window_mean_adjoint(float* out, const float* grad, const int64_t* windows, int64_t count,
                                    int64_t height, int64_t width, int64_t rows, int64_t threads) {
    const Shape shape{count, height, width, rows};
    cannonade::for_each_band(count, height, rows, threads, [=](int64_t p, cannonade::Band band) {
        const int64_t at = p * shape.pixels();
        cannonade::mean_adjoint(out + at, grad + at, Window(windows + p * rows, rows), shape, band);
    });
}

extern "C" void window_bilateral(float* out, float* counts, const float* planes, const float* bounds,
                                 const int64_t* windows, int64_t count, int64_t height, int64_t width, int64_t rows,
                                 int64_t threads) {
    const Shape shape{count, height, width, rows};
    cannonade::for_each_band(count, height, rows, threads, [=](int64_t p, cannonade::Band band) {
        const int64_t at = p * shape.pixels();
        cannonade::bilateral(out + at, counts + at, planes + at, bounds + 2 * p, Window(windows + p * rows, rows),
                             shape, band);
    });
}

extern "C" void window_bilateral_adjoint(float* out, const float* grad, const float* counts, const float* planes,
                                         const float* bounds, const int64_t* windows, int64_t count, int64_t height,
                                         int64_t width, int64_t rows, int64_t threads) {
    const Shape shape{count, height, width, rows};
    cannonade::for_each_band(count, height, rows, threads, [=](int64_t p, cannonade::Band band) {
        const int64_t at = p * shape.pixels();
        cannonade::bilateral_adjoint(out + at, grad + at, counts + at, planes + at, bounds + 2 * p,
                                     Window(windows + p * rows, rows), shape, band);
    });
}
