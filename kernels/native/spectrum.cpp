// Weights of half spectra and the clip after them, as kernels/spectrum.py defines them.

#include <cmath>
#include <vector>

#include "parallel.h"
#include "philox.h"

namespace cannonade {
namespace {

constexpr int64_t RUN = 1 << 14;

CLONED void scale(float* values, float scale, float low, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = values[i] * scale + low;
}

// The first `count` numbers of a stream.
std::vector<float> factors(const int64_t* coordinates, float width, float low, int64_t count) {
    std::vector<float> out(count);
    alignas(64) uint32_t words[4 * TILE];
    for (int64_t start = 0; start < count; start += 4 * TILE) {
        const int64_t own = std::min(4 * TILE, count - start);
        fill_words(words, coordinates, start / 4, (own + 3) / 4);
        make_uniform(&out[start], words, own);
    }
    scale(out.data(), width, low, count);
    return out;
}

// 1 for the frequencies along an axis that stay, 0 for those in the band; one more, the first again, stands at the end.
std::vector<float> kept(float keep, int64_t size) {
    const double wide = keep, length = static_cast<double>(size);
    const auto first = static_cast<int64_t>(std::floor(wide * length));
    const auto end = static_cast<int64_t>(std::floor((1.0 - wide) * length));
    std::vector<float> out(size + 1);
    for (int64_t i = 0; i <= size; ++i) out[i] = i % size < first || i % size >= end ? 1.0f : 0.0f;
    return out;
}

// Of the frequencies 0 to count − 1 of a row; `opposite` points at the factor of −0 = width, those of −1, … before it.
CLONED void weigh(float* __restrict half, const float* __restrict factor, const float* __restrict opposite,
                  const float* __restrict columns, const float* __restrict opposite_columns, float row, float opposite_row,
                  int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float own = factor[i] * row * columns[i];
        const float weight = (own + opposite[-i] * opposite_row * opposite_columns[-i]) * 0.5f;
        half[2 * i] *= weight;
        half[2 * i + 1] *= weight;
    }
}

void weigh_image(float* half, const float* keep, const int64_t* coordinates, float span, float low, int64_t channels,
                 int64_t height, int64_t width) {
    const std::vector<float> factor = factors(coordinates, span, low, height * width);
    const int64_t bins = width / 2 + 1;
    std::vector<float> opposite(width + 1);
    for (int64_t c = 0; c < channels; ++c) {
        const std::vector<float> rows = kept(keep[c], height), columns = kept(keep[c], width);
        for (int64_t y = 0; y < height; ++y, half += 2 * bins) {
            const float* row = &factor[(height - y) % height * width];
            std::copy_n(row, width, opposite.begin());
            opposite[width] = row[0];
            weigh(half, &factor[y * width], &opposite[width], columns.data(), &columns[width], rows[y], rows[height - y],
                  bins);
        }
    }
}

CLONED void clip(float* __restrict values, uint8_t* __restrict inside, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float value = values[i];
        inside[i] = value >= 0.0f && value <= 1.0f;
        values[i] = value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
    }
}

CLONED void mask(float* __restrict out, const float* __restrict grad, const uint8_t* __restrict inside, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = inside[i] ? grad[i] : 0.0f;
}

template <typename Work>
void over_runs(int64_t count, int64_t threads, const Work& work) {
    for_each((count + RUN - 1) / RUN, threads, [&](int64_t run) { work(run * RUN, std::min(RUN, count - run * RUN)); });
}

}  // namespace
}  // namespace cannonade

// Half spectra [N, C, H, W/2 + 1] of real and imaginary parts, in place; keep [N, C], coordinates [N, 5].
extern "C" void weigh_spectrum(float* half, const float* keep, const int64_t* coordinates, double span, double low,
                               int64_t count, int64_t channels, int64_t height, int64_t width, int64_t threads) {
    const int64_t values = channels * height * (width / 2 + 1) * 2;
    cannonade::for_each(count, threads, [&](int64_t n) {
        cannonade::weigh_image(half + n * values, keep + n * channels, coordinates + 5 * n, static_cast<float>(span),
                               static_cast<float>(low), channels, height, width);
    });
}

// Clips to [0, 1] in place, and says where that changed nothing.
extern "C" void clip_values(float* values, uint8_t* inside, int64_t count, int64_t threads) {
    cannonade::over_runs(count, threads,
                         [&](int64_t at, int64_t number) { cannonade::clip(values + at, inside + at, number); });
}

extern "C" void mask_values(float* out, const float* grad, const uint8_t* inside, int64_t count, int64_t threads) {
    cannonade::over_runs(count, threads,
                         [&](int64_t at, int64_t number) { cannonade::mask(out + at, grad + at, inside + at, number); });
}
