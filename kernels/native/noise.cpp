// Noise drawn and applied in one pass, as kernels/noise.py defines it.

#include "philox.h"

namespace cannonade {
namespace {

enum Kind : int64_t { ADDED, MULTIPLIED, REPLACED };

struct Settings {
    float mean, sigma, amount;
    bool clip;
};

CLONED void add(float* __restrict out, const float* __restrict image, const float* __restrict noise, Settings s, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = image[i] + (noise[i] * s.sigma + s.mean);
}

CLONED void multiply(float* __restrict out, const float* __restrict image, const float* __restrict noise, Settings s,
                     int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = image[i] + image[i] * (noise[i] * s.sigma + s.mean);
}

CLONED void replace(float* __restrict out, const float* __restrict image, const float* __restrict uniform, float amount,
                    float salt, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float extreme = uniform[i] < salt ? 1.0f : 0.0f;
        out[i] = uniform[i] < amount ? extreme : image[i];
    }
}

CLONED void clip(float* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float value = values[i];
        values[i] = value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
    }
}

// The gradient at the image, from that at the result; `value` is the result before it is clipped.
CLONED void pull(float* __restrict out, const float* __restrict grad, const float* __restrict value,
                 const float* __restrict slope, bool clipped, int64_t count) {
    if (!clipped) {
        for (int64_t i = 0; i < count; ++i) out[i] = grad[i] * slope[i];
        return;
    }
    for (int64_t i = 0; i < count; ++i) out[i] = value[i] >= 0.0f && value[i] <= 1.0f ? grad[i] * slope[i] : 0.0f;
}

CLONED void slope_of_product(float* __restrict slope, const float* __restrict noise, Settings s, int64_t count) {
    for (int64_t i = 0; i < count; ++i) slope[i] = 1.0f + (noise[i] * s.sigma + s.mean);
}

CLONED void slope_of_kept(float* __restrict slope, const float* __restrict uniform, float amount, int64_t count) {
    for (int64_t i = 0; i < count; ++i) slope[i] = uniform[i] < amount ? 0.0f : 1.0f;
}

// The result of a run of values before it is clipped, and its slope by the image where that is asked for.
void apply(float* out, float* slope, const float* image, const uint32_t* words, int64_t kind, float salt, Settings s,
           int64_t count) {
    alignas(64) float drawn[4 * TILE];
    if (kind == REPLACED) {
        make_uniform(drawn, words, count);
        replace(out, image, drawn, s.amount, salt, count);
        if (slope) slope_of_kept(slope, drawn, s.amount, count);
        return;
    }
    make_normal(drawn, words, count);
    if (kind == MULTIPLIED) {
        multiply(out, image, drawn, s, count);
        if (slope) slope_of_product(slope, drawn, s, count);
    } else {
        add(out, image, drawn, s, count);
        if (slope) std::fill_n(slope, count, 1.0f);
    }
}

template <typename Work>
void over_images(const int64_t* coordinates, int64_t images, int64_t values, int64_t threads, const Work& work) {
    for_tiles(images, (values + 3) / 4, threads, [&](int64_t image, int64_t first, int64_t blocks) {
        alignas(64) uint32_t words[4 * TILE];
        fill_words(words, coordinates + 5 * image, first, blocks);
        work(image, image * values + 4 * first, words, std::min(4 * blocks, values - 4 * first));
    });
}

}  // namespace
}  // namespace cannonade

// Images [N, values], coordinates [N, 5], kinds [N], and salts [N]: uniform numbers below them make a 1.
extern "C" void add_noise(float* out, const float* images, const int64_t* coordinates, const int64_t* kinds,
                          const float* salts, double mean, double sigma, double amount, int64_t clip, int64_t count,
                          int64_t values, int64_t threads) {
    using namespace cannonade;
    const Settings s{static_cast<float>(mean), static_cast<float>(sigma), static_cast<float>(amount), clip != 0};
    over_images(coordinates, count, values, threads, [&](int64_t n, int64_t at, const uint32_t* words, int64_t length) {
        apply(out + at, nullptr, images + at, words, kinds[n], salts[n], s, length);
        if (s.clip) cannonade::clip(out + at, length);
    });
}

extern "C" void add_noise_adjoint(float* out, const float* grad, const float* images, const int64_t* coordinates,
                                  const int64_t* kinds, const float* salts, double mean, double sigma, double amount,
                                  int64_t clip, int64_t count, int64_t values, int64_t threads) {
    using namespace cannonade;
    const Settings s{static_cast<float>(mean), static_cast<float>(sigma), static_cast<float>(amount), clip != 0};
    over_images(coordinates, count, values, threads, [&](int64_t n, int64_t at, const uint32_t* words, int64_t length) {
        alignas(64) float value[4 * TILE], slope[4 * TILE];
        apply(value, slope, images + at, words, kinds[n], salts[n], s, length);
        pull(out + at, grad + at, value, slope, s.clip, length);
    });
}
