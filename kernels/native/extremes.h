// The least and the greatest of many values.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace cannonade {

struct Extremes {
    float low, high;
};

CLONED static Extremes extremes_of(const float* __restrict values, int64_t count) {
    constexpr int64_t STRIP = 64;
    float least[STRIP], most[STRIP];
    for (int64_t i = 0; i < STRIP; ++i) least[i] = most[i] = values[0];
    const int64_t whole = count / STRIP * STRIP;
    for (int64_t start = 0; start < whole; start += STRIP) {
        for (int64_t i = 0; i < STRIP; ++i) {
            const float value = values[start + i];
            least[i] = value < least[i] ? value : least[i];
            most[i] = value > most[i] ? value : most[i];
        }
    }
    for (int64_t i = whole; i < count; ++i) {
        least[0] = values[i] < least[0] ? values[i] : least[0];
        most[0] = values[i] > most[0] ? values[i] : most[0];
    }
    for (int64_t i = 1; i < STRIP; ++i) {
        least[0] = least[i] < least[0] ? least[i] : least[0];
        most[0] = most[i] > most[0] ? most[i] : most[0];
    }
    return {least[0], most[0]};
}

}  // namespace cannonade
