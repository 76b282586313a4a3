// A JPEG round trip with 4:2:0 chroma in libjpeg's integers, and its adjoint, as kernels/jpeg.py defines them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"

namespace cannonade {
namespace {

// Blocks that are coded together, one in each lane of a vector.
constexpr int64_t LANES = 16;

// 2^13·√8 times the DCT, in libjpeg's fixed point.
constexpr int32_t DCT[8][8] = {
    {8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192},
    {11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363},
    {10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703},
    {9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633},
    {8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192},
    {6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437},
    {4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433},
    {2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260},
};

using Lane = int32_t[LANES];

int64_t up_to(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Eight sums of eight products, rounded and shifted. Energy bounds every sum below 2^31: samples have 8 bits.
template <bool TRANSPOSED, int SHIFT, int64_t STRIDE>
ALWAYS_INLINE void one_pass(Lane* __restrict out, const Lane* __restrict in) {
    for (int64_t i = 0; i < 8; ++i) {
        Lane sum;
        for (int64_t lane = 0; lane < LANES; ++lane) sum[lane] = 1 << (SHIFT - 1);
        for (int64_t k = 0; k < 8; ++k) {
            const int32_t factor = TRANSPOSED ? DCT[k][i] : DCT[i][k];
            for (int64_t lane = 0; lane < LANES; ++lane) sum[lane] += factor * in[k * STRIDE][lane];
        }
        for (int64_t lane = 0; lane < LANES; ++lane) out[i * STRIDE][lane] = sum[lane] >> SHIFT;
    }
}

// DCT, quantiser and inverse DCT of 16 blocks [y][x][lane], in place; steps [64].
CLONED void code_blocks(Lane* __restrict blocks, const int32_t* __restrict steps) {
    Lane work[64];
    for (int64_t y = 0; y < 8; ++y) one_pass<false, 11, 1>(work + 8 * y, blocks + 8 * y);
    for (int64_t x = 0; x < 8; ++x) one_pass<false, 15, 8>(blocks + x, work + x);
    for (int64_t i = 0; i < 64; ++i) {
        const int32_t step = steps[i];
        const float eight = static_cast<float>(8 * step);
        for (int64_t lane = 0; lane < LANES; ++lane) {
            const int32_t value = blocks[i][lane], size = value < 0 ? -value : value;
            // The quotient is farther from every whole number than float32 rounds.
            const auto level = static_cast<int32_t>(static_cast<float>(size + 4 * step) / eight) * step;
            blocks[i][lane] = value < 0 ? -level : level;
        }
    }
    for (int64_t x = 0; x < 8; ++x) one_pass<true, 11, 8>(work + x, blocks + x);
    for (int64_t y = 0; y < 8; ++y) one_pass<true, 18, 1>(blocks + 8 * y, work + 8 * y);
}

// A plane of samples; its sides are multiples of 8.
struct Plane {
    int64_t height, width;
    std::vector<uint8_t> samples;

    Plane(int64_t height, int64_t width) : height(height), width(width), samples(height * width) {}

    uint8_t* row(int64_t y) { return samples.data() + y * width; }

    // Repeats column `from − 1` to the right and row `below − 1` downwards.
    void complete(int64_t below, int64_t from) {
        for (int64_t y = 0; y < below; ++y) std::fill(row(y) + from, row(y) + width, row(y)[from - 1]);
        for (int64_t y = below; y < height; ++y) std::copy_n(row(below - 1), width, row(y));
    }
};

// Codes a plane in place, and notes where the clamp to 8 bits did not act, over `high` rows of `wide` places.
void code(Plane& plane, const int32_t* steps, uint8_t* inside, int64_t high, int64_t wide) {
    alignas(64) Lane blocks[64];
    for (int64_t top = 0; top < plane.height; top += 8) {
        for (int64_t left = 0; left < plane.width; left += 8 * LANES) {
            const int64_t count = std::min(LANES, (plane.width - left) / 8);
            for (int64_t y = 0; y < 8; ++y) {
                const uint8_t* line = plane.row(top + y) + left;
                for (int64_t x = 0; x < 8; ++x) {
                    for (int64_t lane = 0; lane < count; ++lane) blocks[8 * y + x][lane] = line[8 * lane + x] - 128;
                    for (int64_t lane = count; lane < LANES; ++lane) blocks[8 * y + x][lane] = 0;
                }
            }
            code_blocks(blocks, steps);
            for (int64_t y = 0; y < 8; ++y) {
                uint8_t* line = plane.row(top + y) + left;
                uint8_t* mask = inside + (top + y) * wide + left;
                const int64_t own = top + y < high ? wide - left : 0;
                for (int64_t lane = 0; lane < count; ++lane) {
                    for (int64_t x = 0; x < 8; ++x) {
                        const int32_t value = blocks[8 * y + x][lane] + 128;
                        const int32_t clamped = value < 0 ? 0 : value > 255 ? 255 : value;
                        line[8 * lane + x] = static_cast<uint8_t>(clamped);
                        if (8 * lane + x < own) mask[8 * lane + x] = value == clamped;
                    }
                }
            }
        }
    }
}

// Luma and, at full size, chroma of a row of RGB in [0, 1].
CLONED void encode_row(uint8_t* __restrict luma, uint8_t* __restrict blue, uint8_t* __restrict red,
                       const float* __restrict image, int64_t plane, int64_t nearest, int64_t width) {
    constexpr float WHOLE = 0x1.8p23f;  // adding and subtracting it rounds to the nearest whole number, halves to even
    for (int64_t x = 0; x < width; ++x) {
        int32_t colour[3];
        for (int64_t c = 0; c < 3; ++c) {
            const float scaled = image[c * plane + x] * 255.0f;
            const float bounded = scaled < 0.0f ? 0.0f : scaled > 255.0f ? 255.0f : scaled;
            colour[c] = static_cast<int32_t>(nearest ? (bounded + WHOLE) - WHOLE : bounded);
        }
        const int32_t r = colour[0], g = colour[1], b = colour[2];
        luma[x] = static_cast<uint8_t>((19595 * r + 38470 * g + 7471 * b + 32768) >> 16);
        blue[x] = static_cast<uint8_t>((-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16);
        red[x] = static_cast<uint8_t>((32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16);
    }
}

CLONED void halve_row(uint8_t* __restrict out, const uint8_t* __restrict upper, const uint8_t* __restrict lower,
                      int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        const int32_t sum = upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1];
        out[x] = static_cast<uint8_t>((sum + 1 + (x & 1)) >> 2);
    }
}

// One row of doubled chroma, less 128, from the nearer row of samples and the farther one.
CLONED void double_row(int32_t* __restrict out, int32_t* __restrict mixed, const uint8_t* __restrict near,
                       const uint8_t* __restrict far, int64_t width) {
    for (int64_t x = 0; x < width; ++x) mixed[x + 1] = 3 * near[x] + far[x];
    mixed[0] = mixed[1];
    mixed[width + 1] = mixed[width];
    for (int64_t x = 0; x < width; ++x) {
        out[2 * x] = ((3 * mixed[x + 1] + mixed[x] + 8) >> 4) - 128;
        out[2 * x + 1] = ((3 * mixed[x + 1] + mixed[x + 2] + 7) >> 4) - 128;
    }
}

ALWAYS_INLINE void finish(float* out, uint8_t* inside, int32_t value) {
    const int32_t clamped = value < 0 ? 0 : value > 255 ? 255 : value;
    *inside = value == clamped;
    *out = static_cast<float>(clamped) / 255.0f;
}

CLONED void decode_row(float* __restrict out, uint8_t* __restrict inside, const uint8_t* __restrict luma,
                       const int32_t* __restrict blue, const int32_t* __restrict red, int64_t plane, int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        finish(out + x, inside + x, luma[x] + ((91881 * red[x] + 32768) >> 16));
        finish(out + plane + x, inside + plane + x, luma[x] + ((-22554 * blue[x] - 46802 * red[x] + 32768) >> 16));
        finish(out + 2 * plane + x, inside + 2 * plane + x, luma[x] + ((116130 * blue[x] + 32768) >> 16));
    }
}

struct Size {
    int64_t height, width;
    int64_t pixels() const { return height * width; }
    Size halved() const { return {(height + 1) / 2, (width + 1) / 2}; }
};

void round_trip(float* out, uint8_t* inside, uint8_t* luma_inside, uint8_t* chroma_inside, const float* image,
                const int32_t* luma_steps, const int32_t* chroma_steps, int64_t nearest, Size size) {
    const Size half = size.halved();
    const int64_t wide = up_to(size.width, 16);
    Plane luma(up_to(size.height, 8), up_to(size.width, 8));
    Plane full[2] = {Plane(size.height + size.height % 2, wide), Plane(size.height + size.height % 2, wide)};
    for (int64_t y = 0; y < size.height; ++y) {
        encode_row(luma.row(y), full[0].row(y), full[1].row(y), image + y * size.width, size.pixels(), nearest, size.width);
    }
    luma.complete(size.height, size.width);
    code(luma, luma_steps, luma_inside, size.height, size.width);
    Plane chroma[2] = {Plane(up_to(half.height, 8), wide / 2), Plane(up_to(half.height, 8), wide / 2)};
    for (int64_t c = 0; c < 2; ++c) {
        full[c].complete(size.height, size.width);
        for (int64_t y = 0; y < half.height; ++y) {
            halve_row(chroma[c].row(y), full[c].row(2 * y), full[c].row(2 * y + 1), wide / 2);
        }
        chroma[c].complete(half.height, wide / 2);
        code(chroma[c], chroma_steps, chroma_inside + c * half.pixels(), half.height, half.width);
    }
    std::vector<int32_t> mixed(half.width + 2), doubled[2] = {std::vector<int32_t>(2 * half.width), {}};
    doubled[1].resize(2 * half.width);
    for (int64_t y = 0; y < size.height; ++y) {
        const int64_t near = y / 2, next = y % 2 ? near + 1 : near - 1;
        const int64_t far = next < 0 ? 0 : next >= half.height ? half.height - 1 : next;
        for (int64_t c = 0; c < 2; ++c) {
            double_row(doubled[c].data(), mixed.data(), chroma[c].row(near), chroma[c].row(far), half.width);
        }
        decode_row(out + y * size.width, inside + y * size.width, luma.row(y), doubled[0].data(), doubled[1].data(),
                   size.pixels(), size.width);
    }
}

// What reaches luma and full-size chroma of a row from the gradient at the result.
CLONED void pull_colour(float* __restrict luma, float* __restrict blue, float* __restrict red, const float* __restrict grad,
                        const uint8_t* __restrict inside, const uint8_t* __restrict luma_inside, int64_t plane,
                        int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        const float r = inside[x] ? grad[x] : 0.0f;
        const float g = inside[plane + x] ? grad[plane + x] : 0.0f;
        const float b = inside[2 * plane + x] ? grad[2 * plane + x] : 0.0f;
        luma[x] = luma_inside[x] ? r + g + b : 0.0f;
        blue[x] = b * (116130.0f / 65536.0f) - g * (22554.0f / 65536.0f);
        red[x] = r * (91881.0f / 65536.0f) - g * (46802.0f / 65536.0f);
    }
}

// Transpose of the doubling of a row, of which the last sample may have been cut off.
CLONED void pull_doubled(float* __restrict out, const float* __restrict row, int64_t half, int64_t width) {
    out[0] = row[0] + 0.75f * row[1];
    if (half > 1) out[0] += 0.25f * row[2];
    for (int64_t x = 1; x < half - 1; ++x) {
        out[x] = 0.25f * (row[2 * x - 1] + row[2 * x + 2]) + 0.75f * (row[2 * x] + row[2 * x + 1]);
    }
    const int64_t last = half - 1;
    if (last == 0) return;
    out[last] = 0.25f * row[2 * last - 1] + 0.75f * row[2 * last];
    if (2 * last + 1 < width) out[last] += row[2 * last + 1];
}

CLONED void add_line(float* __restrict out, const float* __restrict line, float factor, int64_t width) {
    for (int64_t x = 0; x < width; ++x) out[x] += factor * line[x];
}

CLONED void mask_line(float* __restrict line, const uint8_t* __restrict inside, int64_t width) {
    for (int64_t x = 0; x < width; ++x) line[x] = inside[x] ? line[x] : 0.0f;
}

// Chroma samples spread over the pixels of a row that they are the means of.
CLONED void spread_row(float* __restrict out, const float* __restrict half, float share, int64_t pairs) {
    for (int64_t x = 0; x < pairs; ++x) out[2 * x] = out[2 * x + 1] = share * half[x];
}

CLONED void pull_encoded(float* __restrict out, const float* __restrict luma, const float* __restrict blue,
                         const float* __restrict red, int64_t plane, int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        const float l = luma[x] / 65536.0f, b = blue[x] / 65536.0f, r = red[x] / 65536.0f;
        out[x] = 19595.0f * l - 11059.0f * b + 32768.0f * r;
        out[plane + x] = 38470.0f * l - 21709.0f * b - 27439.0f * r;
        out[2 * plane + x] = 7471.0f * l + 32768.0f * b - 5329.0f * r;
    }
}

void pull_round_trip(float* out, const float* grad, const uint8_t* inside, const uint8_t* luma_inside,
                     const uint8_t* chroma_inside, Size size) {
    const Size half = size.halved();
    std::vector<float> luma(size.pixels()), full[2], chroma[2], line(half.width);
    for (int64_t c = 0; c < 2; ++c) {
        full[c].resize(size.width + 1);
        chroma[c].resize(half.pixels());
    }
    for (int64_t y = 0; y < size.height; ++y) {
        const int64_t at = y * size.width;
        pull_colour(&luma[at], full[0].data(), full[1].data(), grad + at, inside + at, luma_inside + at, size.pixels(), size.width);
        const int64_t near = y / 2, next = y % 2 ? near + 1 : near - 1;
        const int64_t far = next < 0 ? 0 : next >= half.height ? half.height - 1 : next;
        for (int64_t c = 0; c < 2; ++c) {
            pull_doubled(line.data(), full[c].data(), half.width, size.width);
            add_line(&chroma[c][near * half.width], line.data(), 0.75f, half.width);
            add_line(&chroma[c][far * half.width], line.data(), 0.25f, half.width);
        }
    }
    for (int64_t c = 0; c < 2; ++c) mask_line(chroma[c].data(), chroma_inside + c * half.pixels(), half.pixels());
    for (int64_t y = 0; y < size.height; ++y) {
        const int64_t at = y * size.width, from = y / 2 * half.width;
        const bool single = y + 1 == size.height && size.height % 2;  // the mean counted it twice
        for (int64_t c = 0; c < 2; ++c) {
            const float share = single ? 0.5f : 0.25f;
            spread_row(full[c].data(), &chroma[c][from], share, size.width / 2);
            if (size.width % 2) full[c][size.width - 1] = 2.0f * share * chroma[c][from + half.width - 1];
        }
        pull_encoded(out + at, &luma[at], full[0].data(), full[1].data(), size.pixels(), size.width);
    }
}

}  // namespace
}  // namespace cannonade

// Images [N, 3, H, W]; steps [N, 64]; kept for backward, 1 where a clamp to 8 bits did not act: inside [N, 3, H, W],
// luma_inside [N, H, W] and chroma_inside [N, 2, half H, half W].
extern "C" void jpeg(float* out, uint8_t* inside, uint8_t* luma_inside, uint8_t* chroma_inside, const float* images,
                     const int32_t* luma_steps, const int32_t* chroma_steps, int64_t nearest, int64_t count, int64_t height,
                     int64_t width, int64_t threads) {
    const cannonade::Size size{height, width};
    const int64_t pixels = size.pixels(), half = size.halved().pixels();
    cannonade::for_each(count, threads, [&](int64_t n) {
        cannonade::round_trip(out + 3 * n * pixels, inside + 3 * n * pixels, luma_inside + n * pixels,
                              chroma_inside + 2 * n * half, images + 3 * n * pixels, luma_steps + 64 * n,
                              chroma_steps + 64 * n, nearest, size);
    });
}

extern "C" void jpeg_adjoint(float* out, const float* grad, const uint8_t* inside, const uint8_t* luma_inside,
                             const uint8_t* chroma_inside, int64_t count, int64_t height, int64_t width, int64_t threads) {
    const cannonade::Size size{height, width};
    const int64_t pixels = size.pixels(), half = size.halved().pixels();
    cannonade::for_each(count, threads, [&](int64_t n) {
        cannonade::pull_round_trip(out + 3 * n * pixels, grad + 3 * n * pixels, inside + 3 * n * pixels,
                                   luma_inside + n * pixels, chroma_inside + 2 * n * half, size);
    });
}
