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

// exp(x) for x in [-87, 0] to 2e-7 of it: 2^k·2^f with f in [-½, ½], the latter by Taylor's sum.
ALWAYS_INLINE float exponential(float x) {
    const float exponent = x * 1.44269504f;
    const auto k = static_cast<int32_t>(exponent - 0.5f);  // towards zero: the nearest whole number, as x ≤ 0
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

}  // namespace cannonade
