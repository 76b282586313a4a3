// Warps and their adjoints, as kernels/warp.py defines them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "numbers.h"
#include "parallel.h"

namespace cannonade {
namespace {

constexpr int64_t STRIP = 64;

struct Size {
    int64_t height, width;
    int64_t pixels() const { return height * width; }
};

// By angle·exp(−falloff·distance) radians about a place.
struct Turn {
    float angle, falloff, row, column;
};

// Where the pixels of a strip read: four pixels each, and the weights of their rows and columns.
struct Strip {
    float row[STRIP], column[STRIP];
    int32_t above_left[STRIP], above_right[STRIP], below_left[STRIP], below_right[STRIP];
    float above[STRIP], below[STRIP], left[STRIP], right[STRIP];
};

CLONED void turn_strip(Strip& strip, Turn turn, float y, float x, int64_t count) {
    const float down = y - turn.row;
    for (int64_t i = 0; i < count; ++i) {
        const float right = (x + static_cast<float>(static_cast<int32_t>(i))) - turn.column;
        const float fallen = turn.falloff * std::sqrt(down * down + right * right);
        const float angle = turn.angle * exponential(fallen < 87.0f ? -fallen : -87.0f);
        float sine, cosine;
        sine_and_cosine(angle < 0.0f ? -angle : angle, sine, cosine);
        sine = angle < 0.0f ? -sine : sine;
        strip.row[i] = (sine * right + cosine * down) + turn.row;
        strip.column[i] = (cosine * right - sine * down) + turn.column;
    }
}

// Takes places into [0, last], mirrored there.
CLONED void reflect(float* places, float last, int64_t count) {
    const float period = 2.0f * last;
    for (int64_t i = 0; i < count; ++i) {
        float place = places[i] < 0.0f ? -places[i] : places[i];
        place -= period * static_cast<float>(static_cast<int32_t>(place / period));
        place = place < period - place ? place : period - place;
        places[i] = place < 0.0f ? 0.0f : place;
    }
}

ALWAYS_INLINE int32_t lower(float place) {
    const auto whole = static_cast<int32_t>(place);
    return whole - (static_cast<float>(whole) > place);
}

ALWAYS_INLINE int32_t clamped(int32_t place, int32_t last) { return place < 0 ? 0 : place > last ? last : place; }

// The four pixels around each place, with zero weights outside the image.
CLONED void find_pixels(Strip& strip, int32_t height, int32_t width, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const int32_t y = lower(strip.row[i]), x = lower(strip.column[i]);
        const float down = strip.row[i] - static_cast<float>(y), across = strip.column[i] - static_cast<float>(x);
        strip.above[i] = y >= 0 && y < height ? 1.0f - down : 0.0f;
        strip.below[i] = y >= -1 && y < height - 1 ? down : 0.0f;
        strip.left[i] = x >= 0 && x < width ? 1.0f - across : 0.0f;
        strip.right[i] = x >= -1 && x < width - 1 ? across : 0.0f;
        const int32_t first = clamped(y, height - 1) * width, second = clamped(y + 1, height - 1) * width;
        const int32_t near = clamped(x, width - 1), far = clamped(x + 1, width - 1);
        strip.above_left[i] = first + near;
        strip.above_right[i] = first + far;
        strip.below_left[i] = second + near;
        strip.below_right[i] = second + far;
    }
}

CLONED void read(float* __restrict out, const float* __restrict plane, const Strip& strip, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float above = plane[strip.above_left[i]] * strip.left[i] + plane[strip.above_right[i]] * strip.right[i];
        const float below = plane[strip.below_left[i]] * strip.left[i] + plane[strip.below_right[i]] * strip.right[i];
        out[i] = above * strip.above[i] + below * strip.below[i];
    }
}

void scatter(float* plane, const float* grad, const Strip& strip, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float above = grad[i] * strip.above[i], below = grad[i] * strip.below[i];
        plane[strip.above_left[i]] += above * strip.left[i];
        plane[strip.above_right[i]] += above * strip.right[i];
        plane[strip.below_left[i]] += below * strip.left[i];
        plane[strip.below_right[i]] += below * strip.right[i];
    }
}

// Calls use(strip, first pixel, count) for the strips of a row of the result.
template <typename Use>
void over_row(const float* turns, bool mirror, int64_t y, Size size, const Use& use) {
    const Turn turn{turns[0], turns[1], turns[2], turns[3]};
    Strip strip;
    for (int64_t x = 0; x < size.width; x += STRIP) {
        const int64_t count = std::min(STRIP, size.width - x);
        turn_strip(strip, turn, static_cast<float>(y), static_cast<float>(x), count);
        if (mirror) {
            reflect(strip.row, static_cast<float>(size.height - 1), count);
            reflect(strip.column, static_cast<float>(size.width - 1), count);
        }
        find_pixels(strip, static_cast<int32_t>(size.height), static_cast<int32_t>(size.width), count);
        use(strip, y * size.width + x, count);
    }
}

enum Read : int64_t { NEAREST, EDGE, MIRROR };

// A box of a result along one axis: where it starts, and the two pixels that each of its own reads, with their weights.
struct Axis {
    int64_t start;
    std::vector<int32_t> first, second;
    std::vector<float> near, far;
    int64_t size() const { return static_cast<int64_t>(first.size()); }
};

// `places`: start and length in the result, start and length in the image.
Axis axis_of(const int64_t* places, int64_t read) {
    const int64_t size = places[1], begin = places[2], length = places[3];
    Axis axis{places[0], std::vector<int32_t>(size), std::vector<int32_t>(size), std::vector<float>(size),
              std::vector<float>(size)};
    const float scale = static_cast<float>(length) / static_cast<float>(size), last = static_cast<float>(length - 1);
    for (int64_t i = 0; i < size; ++i) {
        float source = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
        if (read == NEAREST) source = static_cast<float>(i * length / size);
        if (read == MIRROR) {
            source = std::fabs(source);
            source = std::min(source, 2.0f * last - source);
        }
        source = std::min(std::max(source, 0.0f), last);
        const auto whole = static_cast<int64_t>(source);
        axis.first[i] = static_cast<int32_t>(begin + whole);
        axis.second[i] = static_cast<int32_t>(begin + std::min(whole + 1, length - 1));
        axis.far[i] = source - static_cast<float>(whole);
        axis.near[i] = 1.0f - axis.far[i];
    }
    return axis;
}

CLONED void mix(float* __restrict out, const float* __restrict first, const float* __restrict second, float near, float far,
                int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = first[i] * near + second[i] * far;
}

CLONED void pick(float* __restrict out, const float* __restrict line, const int32_t* first, const int32_t* second,
                 const float* near, const float* far, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = line[first[i]] * near[i] + line[second[i]] * far[i];
}

CLONED void add_weighed(float* __restrict out, const float* __restrict line, float weight, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] += line[i] * weight;
}

void resize_plane(float* out, const float* plane, const Axis& rows, const Axis& columns, float fill, Size from, Size to) {
    std::fill_n(out, to.pixels(), fill);
    std::vector<float> line(from.width);
    for (int64_t i = 0; i < rows.size(); ++i) {
        mix(line.data(), plane + rows.first[i] * from.width, plane + rows.second[i] * from.width, rows.near[i], rows.far[i],
            from.width);
        pick(out + (rows.start + i) * to.width + columns.start, line.data(), columns.first.data(), columns.second.data(),
             columns.near.data(), columns.far.data(), columns.size());
    }
}

void resize_plane_adjoint(float* out, const float* grad, const Axis& rows, const Axis& columns, Size from, Size to) {
    std::fill_n(out, from.pixels(), 0.0f);
    std::vector<float> line(from.width);
    for (int64_t i = 0; i < rows.size(); ++i) {
        const float* own = grad + (rows.start + i) * to.width + columns.start;
        std::fill(line.begin(), line.end(), 0.0f);
        for (int64_t j = 0; j < columns.size(); ++j) {
            line[columns.first[j]] += own[j] * columns.near[j];
            line[columns.second[j]] += own[j] * columns.far[j];
        }
        add_weighed(out + rows.first[i] * from.width, line.data(), rows.near[i], from.width);
        add_weighed(out + rows.second[i] * from.width, line.data(), rows.far[i], from.width);
    }
}

}  // namespace
}  // namespace cannonade

// Images [N, C, H, W]; turns [N, 4]: angle, falloff, row and column.
extern "C" void turn(float* out, const float* images, const float* turns, int64_t mirror, int64_t count, int64_t channels,
                     int64_t height, int64_t width, int64_t threads) {
    const cannonade::Size size{height, width};
    cannonade::for_each(count * height, threads, [&](int64_t line) {
        const int64_t image = line / height, first = image * channels * size.pixels();
        cannonade::over_row(turns + 4 * image, mirror, line % height, size, [&](const auto& strip, int64_t at, int64_t number) {
            for (int64_t c = 0; c < channels; ++c) {
                const int64_t plane = first + c * size.pixels();
                cannonade::read(out + plane + at, images + plane, strip, number);
            }
        });
    });
}

// One thread an image, so that sums have one order.
extern "C" void turn_adjoint(float* out, const float* grad, const float* turns, int64_t mirror, int64_t count,
                             int64_t channels, int64_t height, int64_t width, int64_t threads) {
    const cannonade::Size size{height, width};
    cannonade::for_each(count, threads, [&](int64_t image) {
        const int64_t first = image * channels * size.pixels();
        std::fill_n(out + first, channels * size.pixels(), 0.0f);
        for (int64_t y = 0; y < height; ++y) {
            cannonade::over_row(turns + 4 * image, mirror, y, size, [&](const auto& strip, int64_t at, int64_t number) {
                for (int64_t c = 0; c < channels; ++c) {
                    const int64_t plane = first + c * size.pixels();
                    cannonade::scatter(out + plane, grad + plane + at, strip, number);
                }
            });
        }
    });
}

// Images [N, C, H, W] to [N, C, H', W']; places [N, 2, 4] of rows and columns.
extern "C" void resize(float* out, const float* images, const int64_t* places, int64_t read, double fill, int64_t count,
                       int64_t channels, int64_t height, int64_t width, int64_t out_height, int64_t out_width,
                       int64_t threads) {
    const cannonade::Size from{height, width}, to{out_height, out_width};
    cannonade::for_each(count * channels, threads, [&](int64_t plane) {
        const int64_t* own = places + plane / channels * 8;
        cannonade::resize_plane(out + plane * to.pixels(), images + plane * from.pixels(), cannonade::axis_of(own, read),
                                cannonade::axis_of(own + 4, read), static_cast<float>(fill), from, to);
    });
}

extern "C" void resize_adjoint(float* out, const float* grad, const int64_t* places, int64_t read, int64_t count,
                               int64_t channels, int64_t height, int64_t width, int64_t grad_height, int64_t grad_width,
                               int64_t threads) {
    const cannonade::Size from{height, width}, to{grad_height, grad_width};
    cannonade::for_each(count * channels, threads, [&](int64_t plane) {
        const int64_t* own = places + plane / channels * 8;
        cannonade::resize_plane_adjoint(out + plane * from.pixels(), grad + plane * to.pixels(),
                                        cannonade::axis_of(own, read), cannonade::axis_of(own + 4, read), from, to);
    });
}
