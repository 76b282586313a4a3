// Shifts of colours on a CPU, as kernels/pointwise.py defines them; backward computes the forward chain again.

#include <cmath>

#include "numbers.h"
#include "parallel.h"

namespace cannonade {
namespace {

constexpr float NOISE = 0x1p-20f;
constexpr int64_t STRIP = 4096;  // pixels of one task

struct Colour {
    float a, b, c;
};

// Matrices as rows; those of the way back come from Python, which inverts in double precision.
struct Constants {
    float to[9], from[9], white[3];
};

ALWAYS_INLINE Colour times(const float* m, Colour x) {
    return {m[0] * x.a + m[1] * x.b + m[2] * x.c, m[3] * x.a + m[4] * x.b + m[5] * x.c, m[6] * x.a + m[7] * x.b + m[8] * x.c};
}

ALWAYS_INLINE Colour transposed_times(const float* m, Colour x) {
    return {m[0] * x.a + m[3] * x.b + m[6] * x.c, m[1] * x.a + m[4] * x.b + m[7] * x.c, m[2] * x.a + m[5] * x.b + m[8] * x.c};
}

ALWAYS_INLINE float larger(float a, float b) { return a > b ? a : b; }
ALWAYS_INLINE float smaller(float a, float b) { return a < b ? a : b; }
ALWAYS_INLINE float clipped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// The gradient that passes a clip: all of it where the clip changed nothing, the bounds included.
ALWAYS_INLINE float passed(float grad, float x, float low, float high) { return (x >= low) & (x <= high) ? grad : 0.0f; }

// A curve and its slope. A power never sees the linear foot, where it is unbounded.
struct Decode {  // sRGB to linear light
    ALWAYS_INLINE static float value(float x) {
        const float bent = power(larger(x + 0.055f, 0.09f) * (1.0f / 1.055f), 2.4f);
        return x > 0.04045f ? bent : x * (1.0f / 12.92f);
    }
    ALWAYS_INLINE static float slope(float x) {
        const float bent = power(larger(x + 0.055f, 0.09f) * (1.0f / 1.055f), 1.4f) * (2.4f / 1.055f);
        return x > 0.04045f ? bent : 1.0f / 12.92f;
    }
};

struct Encode {  // linear light to sRGB
    ALWAYS_INLINE static float value(float x) {
        return x > 0.0031308f ? 1.055f * power(larger(x, 0.0031308f), 1.0f / 2.4f) - 0.055f : 12.92f * x;
    }
    ALWAYS_INLINE static float slope(float x) {
        return x > 0.0031308f ? power(larger(x, 0.0031308f), 1.0f / 2.4f - 1.0f) * (1.055f / 2.4f) : 12.92f;
    }
};

struct Lab {  // CIE's cube root with a linear foot
    ALWAYS_INLINE static float value(float x) {
        return x > 0.008856f ? power(larger(x, 0.008856f), 1.0f / 3.0f) : 7.787f * x + 16.0f / 116.0f;
    }
    ALWAYS_INLINE static float slope(float x) {
        return x > 0.008856f ? power(larger(x, 0.008856f), -2.0f / 3.0f) * (1.0f / 3.0f) : 7.787f;
    }
};

struct Cube {  // its inverse
    ALWAYS_INLINE static float value(float x) { return x > 0.2068966f ? x * x * x : (x - 16.0f / 116.0f) / 7.787f; }
    ALWAYS_INLINE static float slope(float x) { return x > 0.2068966f ? 3.0f * x * x : 1.0f / 7.787f; }
};

template <typename Curve>
ALWAYS_INLINE Colour curve(Colour x) {
    return {Curve::value(x.a), Curve::value(x.b), Curve::value(x.c)};
}

template <typename Curve>
ALWAYS_INLINE Colour through(Colour grad, Colour x) {
    return {grad.a * Curve::slope(x.a), grad.b * Curve::slope(x.b), grad.c * Curve::slope(x.c)};
}

ALWAYS_INLINE Colour clip(Colour x) { return {clipped(x.a, 0, 1), clipped(x.b, 0, 1), clipped(x.c, 0, 1)}; }

ALWAYS_INLINE Colour passed(Colour grad, Colour x) {
    return {passed(grad.a, x.a, 0, 1), passed(grad.b, x.b, 0, 1), passed(grad.c, x.c, 0, 1)};
}

ALWAYS_INLINE Colour plus(Colour x, Colour y) { return {x.a + y.a, x.b + y.b, x.c + y.c}; }

struct Xyz {
    ALWAYS_INLINE static Colour forward(Colour x, Colour shift, const Constants& k) {
        return clip(curve<Encode>(times(k.from, clip(plus(times(k.to, curve<Decode>(x)), shift)))));
    }
    ALWAYS_INLINE static Colour backward(Colour grad, Colour x, Colour shift, const Constants& k) {
        const Colour moved = plus(times(k.to, curve<Decode>(x)), shift), linear = times(k.from, clip(moved));
        grad = through<Encode>(passed(grad, curve<Encode>(linear)), linear);
        return through<Decode>(transposed_times(k.to, passed(transposed_times(k.from, grad), moved)), x);
    }
};

struct Yuv {
    ALWAYS_INLINE static Colour forward(Colour x, Colour shift, const Constants& k) {
        Colour moved = plus(times(k.to, x), shift);
        moved.a = clipped(moved.a, 0, 1);
        return clip(times(k.from, moved));
    }
    ALWAYS_INLINE static Colour backward(Colour grad, Colour x, Colour shift, const Constants& k) {
        const Colour moved = plus(times(k.to, x), shift);
        grad = transposed_times(k.from, passed(grad, times(k.from, {clipped(moved.a, 0, 1), moved.b, moved.c})));
        grad.a = passed(grad.a, moved.a, 0, 1);
        return transposed_times(k.to, grad);
    }
};

struct LabShift {
    struct Chain {
        Colour share, f, linear;  // XYZ over white, its curve after the shift, linear light
        float lightness, bare_z;  // before their clips
    };

    ALWAYS_INLINE static Chain chain(Colour x, Colour shift, const Constants& k) {
        const Colour xyz = times(k.to, curve<Decode>(x));
        const Colour share{xyz.a / k.white[0], xyz.b / k.white[1], xyz.c / k.white[2]};
        const Colour f = curve<Lab>(share);
        const float lightness = 116.0f * f.b - 16.0f + shift.a;
        const float y = (clipped(lightness, 0, 100) + 16.0f) / 116.0f;
        const float bare_z = f.c - f.b - shift.c / 200.0f + y;
        const Colour moved{f.a - f.b + shift.b / 500.0f + y, y, larger(bare_z, 0.0f)};
        const Colour back = curve<Cube>(moved);
        return {share, moved, times(k.from, {back.a * k.white[0], back.b * k.white[1], back.c * k.white[2]}), lightness, bare_z};
    }
    ALWAYS_INLINE static Colour forward(Colour x, Colour shift, const Constants& k) {
        return clip(curve<Encode>(chain(x, shift, k).linear));
    }
    ALWAYS_INLINE static Colour backward(Colour grad, Colour x, Colour shift, const Constants& k) {
        const Chain c = chain(x, shift, k);
        grad = transposed_times(k.from, through<Encode>(passed(grad, curve<Encode>(c.linear)), c.linear));
        grad = through<Cube>({grad.a * k.white[0], grad.b * k.white[1], grad.c * k.white[2]}, c.f);
        grad.c = c.bare_z > 0.0f ? grad.c : 0.0f;
        const float y = passed(grad.a + grad.b + grad.c, c.lightness, 0, 100);
        grad = through<Lab>({grad.a, y - grad.a - grad.c, grad.c}, c.share);
        return through<Decode>(transposed_times(k.to, {grad.a / k.white[0], grad.b / k.white[1], grad.c / k.white[2]}), x);
    }
};

struct Hsv {
    struct Chain {
        float value, least, chroma, difference;
        float hue, saturation, light;  // shifted, before their clips
        bool blue, green, coloured;
    };

    ALWAYS_INLINE static Chain chain(Colour x, Colour shift) {
        Chain c;
        c.value = larger(larger(x.a, x.b), x.c);
        c.least = smaller(smaller(x.a, x.b), x.c);
        c.chroma = c.value - c.least;
        c.blue = x.c == c.value;
        c.green = x.b == c.value;
        c.coloured = c.chroma > NOISE;
        c.difference = c.blue ? x.a - x.b : c.green ? x.c - x.a : x.b - x.c;
        const float sextant = c.blue ? 4.0f : c.green ? 2.0f : 0.0f;
        const float turn = (c.difference / (c.coloured ? c.chroma : 1.0f) + sextant) / 6.0f;
        const float hue = turn < 0.0f ? turn + 1.0f : turn;
        c.hue = (c.coloured ? hue : 0.0f) + shift.a;
        c.saturation = c.chroma / (c.value > NOISE ? c.value : 1.0f) + shift.b;
        c.light = c.value + shift.c;
        return c;
    }
    ALWAYS_INLINE static float place(float hue, float offset) {
        const float at = hue * 6.0f + offset;
        return at >= 6.0f ? at - 6.0f : at;
    }
    ALWAYS_INLINE static float part(float place) { return clipped(smaller(place, 4.0f - place), 0, 1); }

    ALWAYS_INLINE static Colour forward(Colour x, Colour shift, const Constants&) {
        const Chain c = chain(x, shift);
        const float hue = clipped(c.hue, 0, 1), value = clipped(c.light, 0, 1);
        const float chroma = value * clipped(c.saturation, 0, 1);
        return {value - chroma * part(place(hue, 5)), value - chroma * part(place(hue, 3)), value - chroma * part(place(hue, 1))};
    }
    ALWAYS_INLINE static float slope(float place) {
        const float most = smaller(place, 4.0f - place);
        const float rise = place < 2.0f ? 1.0f : place > 2.0f ? -1.0f : 0.0f;
        return (most > 0.0f) & (most < 1.0f) ? rise : 0.0f;
    }
    ALWAYS_INLINE static Colour backward(Colour grad, Colour x, Colour shift, const Constants&) {
        const Chain c = chain(x, shift);
        const float hue = clipped(c.hue, 0, 1), saturation = clipped(c.saturation, 0, 1), value = clipped(c.light, 0, 1);
        const Colour places{place(hue, 5), place(hue, 3), place(hue, 1)};
        const float pull = grad.a * part(places.a) + grad.b * part(places.b) + grad.c * part(places.c);
        const float turn = grad.a * slope(places.a) + grad.b * slope(places.b) + grad.c * slope(places.c);
        const float of_hue = passed(-6.0f * value * saturation * turn, c.hue, 0, 1);
        const float of_saturation = passed(-value * pull, c.saturation, 0, 1);
        float of_value = passed(grad.a + grad.b + grad.c - saturation * pull, c.light, 0, 1);
        const float chroma = c.coloured ? c.chroma : 1.0f, bright = c.value > NOISE ? c.value : 1.0f;
        const float of_difference = c.coloured ? of_hue / 6.0f / chroma : 0.0f;
        const float of_chroma = of_saturation / bright - of_difference * c.difference / chroma;
        of_value -= c.value > NOISE ? of_saturation * c.chroma / (bright * bright) : 0.0f;
        of_value += of_chroma;
        // Largest and smallest channels share their gradients among equals.
        const float most = (x.a == c.value ? 1.0f : 0.0f) + (x.b == c.value ? 1.0f : 0.0f) + (x.c == c.value ? 1.0f : 0.0f);
        const float few = (x.a == c.least ? 1.0f : 0.0f) + (x.b == c.least ? 1.0f : 0.0f) + (x.c == c.least ? 1.0f : 0.0f);
        const float up = of_value / most, down = of_chroma / few;
        const float red = c.blue ? of_difference : c.green ? -of_difference : 0.0f;
        const float green = c.blue ? -of_difference : c.green ? 0.0f : of_difference;
        const float blue = c.blue ? 0.0f : c.green ? of_difference : -of_difference;
        return {red + (x.a == c.value ? up : 0.0f) - (x.a == c.least ? down : 0.0f),
                green + (x.b == c.value ? up : 0.0f) - (x.b == c.least ? down : 0.0f),
                blue + (x.c == c.value ? up : 0.0f) - (x.c == c.least ? down : 0.0f)};
    }
};

template <typename Space>
ALWAYS_INLINE void run_forward(float* __restrict out, const float* __restrict in, Colour shift, const Constants& k,
                               int64_t plane, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const Colour y = Space::forward({in[i], in[i + plane], in[i + 2 * plane]}, shift, k);
        out[i] = y.a;
        out[i + plane] = y.b;
        out[i + 2 * plane] = y.c;
    }
}

template <typename Space>
ALWAYS_INLINE void run_backward(float* __restrict out, const float* __restrict grad, const float* __restrict in,
                                Colour shift, const Constants& k, int64_t plane, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const Colour g{grad[i], grad[i + plane], grad[i + 2 * plane]};
        const Colour y = Space::backward(g, {in[i], in[i + plane], in[i + 2 * plane]}, shift, k);
        out[i] = y.a;
        out[i + plane] = y.b;
        out[i + 2 * plane] = y.c;
    }
}

#define SPACE(name, Space)                                                                                             \
    CLONED void name##_forward(float* out, const float* in, Colour shift, const Constants& k, int64_t plane, int64_t n) { \
        run_forward<Space>(out, in, shift, k, plane, n);                                                               \
    }                                                                                                                  \
    CLONED void name##_backward(float* out, const float* grad, const float* in, Colour shift, const Constants& k,      \
                                int64_t plane, int64_t n) {                                                            \
        run_backward<Space>(out, grad, in, shift, k, plane, n);                                                        \
    }

SPACE(hsv, Hsv)
SPACE(lab, LabShift)
SPACE(xyz, Xyz)
SPACE(yuv, Yuv)

constexpr decltype(&hsv_forward) FORWARD[] = {hsv_forward, lab_forward, xyz_forward, yuv_forward};
constexpr decltype(&hsv_backward) BACKWARD[] = {hsv_backward, lab_backward, xyz_backward, yuv_backward};

// A new value in HSV: colours scale with it, black becomes grey.
CLONED void replace_forward(float* __restrict out, const float* __restrict in, const float* __restrict fresh, float noise,
                            int64_t plane, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float a = in[i], b = in[i + plane], c = in[i + 2 * plane];
        const float ab = a > b ? a : b, value = ab > c ? ab : c;
        const bool coloured = value > noise;
        const float by = coloured ? value : 1.0f;
        out[i] = (coloured ? a / by : 1.0f) * fresh[i];
        out[i + plane] = (coloured ? b / by : 1.0f) * fresh[i];
        out[i + 2 * plane] = (coloured ? c / by : 1.0f) * fresh[i];
    }
}

CLONED void replace_backward(float* __restrict out, const float* __restrict grad, const float* __restrict in,
                             const float* __restrict fresh, const float* __restrict slope, float noise, int64_t plane,
                             int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float a = in[i], b = in[i + plane], c = in[i + 2 * plane];
        const float ab = a > b ? a : b, value = ab > c ? ab : c;
        const bool coloured = value > noise;
        const float by = coloured ? value : 1.0f;
        const float ga = grad[i], gb = grad[i + plane], gc = grad[i + 2 * plane];
        const float to_fresh = coloured ? (ga * a + gb * b + gc * c) / by : ga + gb + gc;
        const float scale = coloured ? fresh[i] / by : 0.0f;
        const float to_value = to_fresh * slope[i] - to_fresh * scale;
        const float is_a = a == value ? 1.0f : 0.0f, is_b = b == value ? 1.0f : 0.0f, is_c = c == value ? 1.0f : 0.0f;
        const float part = to_value / (is_a + is_b + is_c);
        out[i] = ga * scale + is_a * part;
        out[i + plane] = gb * scale + is_b * part;
        out[i + 2 * plane] = gc * scale + is_c * part;
    }
}

template <typename Work>
void over_strips(int64_t count, int64_t pixels, int64_t threads, const Work& work) {
    const int64_t strips = (pixels + STRIP - 1) / STRIP;
    for_each(count * strips, threads, [&](int64_t task) {
        const int64_t first = task % strips * STRIP;
        work(task / strips, first, pixels - first < STRIP ? pixels - first : STRIP);
    });
}

Constants constants_of(const float* values) {
    Constants k;
    for (int i = 0; i < 9; ++i) {
        k.to[i] = values[i];
        k.from[i] = values[9 + i];
    }
    for (int i = 0; i < 3; ++i) k.white[i] = values[18 + i];
    return k;
}

}  // namespace
}  // namespace cannonade

// Images [N, 3, pixels], shifts [N, 3]; space 0 HSV, 1 LAB, 2 XYZ, 3 YUV; constants: two matrices and the white.
extern "C" void shift_colours(float* out, const float* images, const float* shifts, const float* constants, int64_t space,
                              int64_t count, int64_t pixels, int64_t threads) {
    const cannonade::Constants k = cannonade::constants_of(constants);
    cannonade::over_strips(count, pixels, threads, [&](int64_t n, int64_t first, int64_t length) {
        const int64_t at = 3 * n * pixels + first;
        const float* s = shifts + 3 * n;
        cannonade::FORWARD[space](out + at, images + at, {s[0], s[1], s[2]}, k, pixels, length);
    });
}

extern "C" void shift_colours_adjoint(float* out, const float* grad, const float* images, const float* shifts,
                                      const float* constants, int64_t space, int64_t count, int64_t pixels,
                                      int64_t threads) {
    const cannonade::Constants k = cannonade::constants_of(constants);
    cannonade::over_strips(count, pixels, threads, [&](int64_t n, int64_t first, int64_t length) {
        const int64_t at = 3 * n * pixels + first;
        const float* s = shifts + 3 * n;
        cannonade::BACKWARD[space](out + at, grad + at, images + at, {s[0], s[1], s[2]}, k, pixels, length);
    });
}

// Images [N, 3, pixels], new values and slopes [N, pixels].
extern "C" void replace_values(float* out, const float* images, const float* fresh, double noise, int64_t count,
                               int64_t pixels, int64_t threads) {
    cannonade::over_strips(count, pixels, threads, [&](int64_t n, int64_t first, int64_t length) {
        const int64_t at = 3 * n * pixels + first;
        const auto least = static_cast<float>(noise);
        cannonade::replace_forward(out + at, images + at, fresh + n * pixels + first, least, pixels, length);
    });
}

extern "C" void replace_values_adjoint(float* out, const float* grad, const float* images, const float* fresh,
                                       const float* slopes, double noise, int64_t count, int64_t pixels, int64_t threads) {
    cannonade::over_strips(count, pixels, threads, [&](int64_t n, int64_t first, int64_t length) {
        const int64_t at = 3 * n * pixels + first, own = n * pixels + first;
        const auto least = static_cast<float>(noise);
        cannonade::replace_backward(out + at, grad + at, images + at, fresh + own, slopes + own, least, pixels, length);
    });
}
