// Pixels of a decoded image to planes of floats, as kernels/planes.py defines it.

#include <cstdint>
#include <vector>

#include "parallel.h"

namespace cannonade {
namespace {

CLONED void split(float* __restrict red, float* __restrict green, float* __restrict blue, const uint8_t* __restrict pixels,
                  int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        red[i] = static_cast<float>(pixels[3 * i]) / 255.0f;
        green[i] = static_cast<float>(pixels[3 * i + 1]) / 255.0f;
        blue[i] = static_cast<float>(pixels[3 * i + 2]) / 255.0f;
    }
}

CLONED void reverse(float* __restrict out, const float* __restrict values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = values[count - 1 - i];
}

}  // namespace
}  // namespace cannonade

// Pixels [height, width, 3] to out [3, height, width] in [0, 1], on the caller's thread.
extern "C" void planes(float* out, const uint8_t* pixels, int64_t height, int64_t width, int64_t mirrored, int64_t) {
    const int64_t area = height * width;
    std::vector<float> row(mirrored ? 3 * width : 0);
    for (int64_t y = 0; y < height; ++y) {
        float* to = out + y * width;
        const uint8_t* from = pixels + 3 * y * width;
        if (mirrored) {
            cannonade::split(row.data(), row.data() + width, row.data() + 2 * width, from, width);
            for (int64_t c = 0; c < 3; ++c) cannonade::reverse(to + c * area, row.data() + c * width, width);
        } else {
            cannonade::split(to, to + area, to + 2 * area, from, width);
        }
    }
}
