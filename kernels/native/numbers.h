// Arithmetic that compilers do not turn into vectors by themselves.
#pragma once

#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace cannonade {

template <typename To, typename From>
ALWAYS_INLINE To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Natural logarithm of a normal positive number to about 1 ulp: Cephes' logf (Moshier), its mantissa in [√½, √2).
ALWAYS_INLINE float logarithm(float x) {
    const auto bits = bits_as<int32_t>(x);
    const int32_t exponent = (bits - 0x3F3504F3) >> 23;
    const auto e = static_cast<float>(exponent);
    const float f = bits_as<float>(bits - exponent * (1 << 23)) - 1.0f;
    const float z = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    const float small = p * f * z + e * -2.12194440e-4f - 0.5f * z;
    return (f + small) + e * 0.693359375f;
}

// exp(x) for x in [-87, 87] to 2e-7 of it: 2^k·exp(f) with |f| ≤ ½·ln 2, the latter by Taylor's sum.
ALWAYS_INLINE float exponential(float x) {
    const auto k = static_cast<int32_t>(x * 1.44269504f + 128.5f) - 128;  // the nearest: what is cut off is positive
    const float whole = static_cast<float>(k);
    const float f = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
    float sum = 1.3888889e-3f;
    sum = sum * f + 8.3333333e-3f;
    sum = sum * f + 4.1666667e-2f;
    sum = sum * f + 1.6666667e-1f;
    sum = sum * f + 0.5f;
    sum = sum * f + 1.0f;
    sum = sum * f + 1.0f;
    return sum * bits_as<float>((k + 127) << 23);
}

// x^p for x in [1e-30, 1e30] and moderate p, to 2e-7·(1 + |p·ln x|) of it.
ALWAYS_INLINE float power(float x, float p) { return exponential(p * logarithm(x)); }

// Sine and cosine of an angle in [0, 10⁴] to about 1 ulp of 1: Cephes' sinf, the angle reduced to [-π/4, π/4].
ALWAYS_INLINE void sine_and_cosine(float angle, float& sine, float& cosine) {
    const auto quarter = static_cast<int32_t>(angle * 0.63661977f + 0.5f);
    const auto q = static_cast<float>(quarter);
    // π/2 in three parts, of which q times the first two is exact.
    const float r = ((angle - q * 1.5703125f) - q * 4.837512969970703e-4f) - q * 7.54978995489188e-8f;
    const float z = r * r;
    const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
    const float c =
        ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    const bool odd = quarter & 1;
    sine = bits_as<float>(bits_as<int32_t>(odd ? c : s) ^ ((quarter >> 1 & 1) * INT32_MIN));
    cosine = bits_as<float>(bits_as<int32_t>(odd ? s : c) ^ (((quarter + 1) >> 1 & 1) * INT32_MIN));
}

}  // namespace cannonade
