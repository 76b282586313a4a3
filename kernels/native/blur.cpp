// Gaussian blur of planes along one dimension, and its adjoint.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "extremes.h"
#include "parallel.h"

namespace cannonade {
namespace {

constexpr int64_t STRIP = 64;

// Symmetric weights from the centre outwards; all of them, both sides, sum to 1.
std::vector<float> weights_of(double sigma, int64_t half) {
    std::vector<double> exact(half + 1);
    double sum = 0.0;
    for (int64_t i = 0; i <= half; ++i) {
        const double distance = static_cast<double>(i) / sigma;
        exact[i] = std::exp(-0.5 * distance * distance);
        sum += i ? 2.0 * exact[i] : exact[i];
    }
    std::vector<float> weights(half + 1);
    for (int64_t i = 0; i <= half; ++i) weights[i] = static_cast<float>(exact[i] / sum);
    return weights;
}

template <int64_t FIXED>
ALWAYS_INLINE void weigh_strip(float* __restrict out, const float* const* taps, int64_t start, const float* weights,
                               int64_t half, int64_t rest) {
    const int64_t count = FIXED ? FIXED : rest;
    const float* centre = taps[0] + start;
    float sum[STRIP];
    for (int64_t i = 0; i < count; ++i) sum[i] = centre[i] * weights[0];
    for (int64_t tap = half; tap > 0; --tap) {
        const float *before = taps[-tap] + start, *after = taps[tap] + start;
        const float weight = weights[tap];
        for (int64_t i = 0; i < count; ++i) sum[i] += (before[i] + after[i]) * weight;
    }
    for (int64_t i = 0; i < count; ++i) out[start + i] = sum[i];
}

// The weighted sum of 2·half + 1 lines; `taps` points at the middle one.
CLONED void weigh(float* out, const float* const* taps, const float* weights, int64_t half, int64_t width) {
    int64_t start = 0;
    for (; start + STRIP <= width; start += STRIP) weigh_strip<STRIP>(out, taps, start, weights, half, 0);
    if (start < width) weigh_strip<0>(out, taps, start, weights, half, width - start);
}

// Keeps a plane's blur between the extremes of the plane, which rounding would let it leave.
CLONED void clamp_plane(float* out, Extremes ends, int64_t pixels) {
    for (int64_t i = 0; i < pixels; ++i) {
        const float value = out[i];
        out[i] = value < ends.low ? ends.low : value > ends.high ? ends.high : value;
    }
}

CLONED void add_line(float* __restrict out, const float* __restrict line, int64_t width) {
    for (int64_t i = 0; i < width; ++i) out[i] += line[i];
}

// The pixel that stands outside at `place`: the edge, or the image mirrored without repeating its edge.
int64_t inside(int64_t place, int64_t length, bool mirror) {
    if (place >= 0 && place < length) return place;
    if (!mirror) return place < 0 ? 0 : length - 1;
    return place < 0 ? -place : 2 * (length - 1) - place;
}

void down(float* out, const float* plane, const std::vector<float>& weights, int64_t height, int64_t width, bool mirror) {
    const auto half = static_cast<int64_t>(weights.size()) - 1;
    std::vector<const float*> taps(2 * half + 1);
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t t = -half; t <= half; ++t) taps[half + t] = plane + inside(y + t, height, mirror) * width;
        weigh(out + y * width, &taps[half], weights.data(), half, width);
    }
    clamp_plane(out, extremes_of(plane, height * width), height * width);
}

void across(float* out, const float* plane, const std::vector<float>& weights, int64_t height, int64_t width, bool mirror) {
    const auto half = static_cast<int64_t>(weights.size()) - 1;
    std::vector<float> line(width + 2 * half);
    std::vector<const float*> taps(2 * half + 1);
    for (int64_t t = 0; t <= 2 * half; ++t) taps[t] = &line[t];
    for (int64_t y = 0; y < height; ++y) {
        const float* row = plane + y * width;
        std::copy_n(row, width, &line[half]);
        for (int64_t x = 1; x <= half; ++x) {
            line[half - x] = row[inside(-x, width, mirror)];
            line[half + width - 1 + x] = row[inside(width - 1 + x, width, mirror)];
        }
        weigh(out + y * width, &taps[half], weights.data(), half, width);
    }
    clamp_plane(out, extremes_of(plane, height * width), height * width);
}

void down_adjoint(float* out, const float* grad, const std::vector<float>& weights, int64_t height, int64_t width,
                  bool mirror) {
    const auto half = static_cast<int64_t>(weights.size()) - 1;
    const std::vector<float> nothing(width);
    std::vector<float> line(width);
    std::vector<const float*> taps(2 * half + 1);
    const auto spread = [&](float* to, int64_t y) {
        for (int64_t t = -half; t <= half; ++t) {
            taps[half + t] = y + t < 0 || y + t >= height ? nothing.data() : grad + (y + t) * width;
        }
        weigh(to, &taps[half], weights.data(), half, width);
    };
    for (int64_t y = 0; y < height; ++y) spread(out + y * width, y);
    for (int64_t beyond = 1; beyond <= half; ++beyond) {
        for (const int64_t y : {-beyond, height - 1 + beyond}) {
            spread(line.data(), y);
            add_line(out + inside(y, height, mirror) * width, line.data(), width);
        }
    }
}

void across_adjoint(float* out, const float* grad, const std::vector<float>& weights, int64_t height, int64_t width,
                    bool mirror) {
    const auto half = static_cast<int64_t>(weights.size()) - 1;
    std::vector<float> line(width + 4 * half), spread(width + 2 * half);
    std::vector<const float*> taps(2 * half + 1);
    for (int64_t t = 0; t <= 2 * half; ++t) taps[t] = &line[t];
    for (int64_t y = 0; y < height; ++y) {
        float* to = out + y * width;
        std::copy_n(grad + y * width, width, &line[2 * half]);
        weigh(spread.data(), &taps[half], weights.data(), half, width + 2 * half);
        std::copy_n(&spread[half], width, to);
        for (int64_t beyond = 1; beyond <= half; ++beyond) {
            to[inside(-beyond, width, mirror)] += spread[half - beyond];
            to[inside(width - 1 + beyond, width, mirror)] += spread[half + width - 1 + beyond];
        }
    }
}

}  // namespace
}  // namespace cannonade

// Planes [P, H, W]; sigma and halves [P, 2], vertical and horizontal.
extern "C" void gaussian_blur(float* out, const float* planes, const double* sigma, const int64_t* halves, int64_t mirror,
                              int64_t count, int64_t height, int64_t width, int64_t threads) {
    const int64_t pixels = height * width;
    cannonade::for_each(count, threads, [&](int64_t p) {
        std::vector<float> between(pixels);
        const auto vertical = cannonade::weights_of(sigma[2 * p], halves[2 * p]);
        const auto horizontal = cannonade::weights_of(sigma[2 * p + 1], halves[2 * p + 1]);
        cannonade::down(between.data(), planes + p * pixels, vertical, height, width, mirror);
        cannonade::across(out + p * pixels, between.data(), horizontal, height, width, mirror);
    });
}

extern "C" void gaussian_blur_adjoint(float* out, const float* grad, const double* sigma, const int64_t* halves,
                                      int64_t mirror, int64_t count, int64_t height, int64_t width, int64_t threads) {
    const int64_t pixels = height * width;
    cannonade::for_each(count, threads, [&](int64_t p) {
        std::vector<float> between(pixels);
        const auto vertical = cannonade::weights_of(sigma[2 * p], halves[2 * p]);
        const auto horizontal = cannonade::weights_of(sigma[2 * p + 1], halves[2 * p + 1]);
        cannonade::across_adjoint(between.data(), grad + p * pixels, horizontal, height, width, mirror);
        cannonade::down_adjoint(out + p * pixels, between.data(), vertical, height, width, mirror);
    });
}
