// Seam carving on a CPU, as kernels/seams.py defines it: where each pixel of the carved image comes from.

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"

namespace cannonade {
namespace {

constexpr double ENERGY_UNIT = 0x1p-30;

// A table whose rows get shorter by one with every seam: what is left of a row stands at its beginning.
template <typename T>
struct Table {
    int64_t rows, pitch;
    std::vector<T> memory;

    Table(int64_t rows, int64_t pitch) : rows(rows), pitch(pitch), memory(rows * pitch) {}
    T* row(int64_t y) { return &memory[y * pitch]; }
    const T* row(int64_t y) const { return &memory[y * pitch]; }

    void remove(int64_t y, int64_t place, int64_t width) { std::copy(row(y) + place + 1, row(y) + width, row(y) + place); }
};

CLONED void luminance(double* __restrict out, const float* __restrict red, const float* __restrict green,
                      const float* __restrict blue, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<double>(red[i]) * 0.2125 + static_cast<double>(green[i]) * 0.7154 +
                 static_cast<double>(blue[i]) * 0.0721;
    }
}

// Sobel magnitudes of `width` pixels of a row in whole units; the three rows have a pixel more on either side.
CLONED void sobel(double* __restrict out, const double* __restrict above, const double* __restrict own,
                  const double* __restrict below, int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        const double left = below[x] - above[x], middle = below[x + 1] - above[x + 1], right = below[x + 2] - above[x + 2];
        const double down = ((left + right) + 2.0 * middle) / 4.0;
        const double upper = above[x + 2] - above[x], centre = own[x + 2] - own[x], lower = below[x + 2] - below[x];
        const double across = ((upper + lower) + 2.0 * centre) / 4.0;
        out[x] = std::nearbyint(std::sqrt((down * down + across * across) / 2.0) / ENERGY_UNIT);
    }
}

// Energy of a grey image [H, width], edges replicated.
Table<double> energy_of(const Table<double>& grey, int64_t width) {
    Table<double> out(grey.rows, width);
    std::vector<double> framed((grey.rows + 2) * (width + 2));
    for (int64_t y = -1; y <= grey.rows; ++y) {
        const double* from = grey.row(std::clamp<int64_t>(y, 0, grey.rows - 1));
        double* to = &framed[(y + 1) * (width + 2)];
        std::copy_n(from, width, to + 1);
        to[0] = from[0];
        to[width + 1] = from[width - 1];
    }
    for (int64_t y = 0; y < grey.rows; ++y) {
        const double* above = &framed[y * (width + 2)];
        sobel(out.row(y), above, above + width + 2, above + 2 * (width + 2), width);
    }
    return out;
}

// A row of least costs; `above` has a place more on either side.
CLONED void extend(double* __restrict cost, const double* __restrict above, const double* __restrict energy,
                   int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        const double sides = above[x] < above[x + 2] ? above[x] : above[x + 2];
        cost[x] = (sides < above[x + 1] ? sides : above[x + 1]) + energy[x];
    }
}

// Takes `count` vertical seams out of the energy; returns which columns are left in each row, at the row's beginning.
Table<int32_t> carve(Table<double>& energy, int64_t width, int64_t count) {
    Table<int32_t> kept(energy.rows, width);
    for (int64_t y = 0; y < energy.rows; ++y) {
        for (int64_t x = 0; x < width; ++x) kept.row(y)[x] = static_cast<int32_t>(x);
    }
    Table<double> cost(energy.rows, width + 2);
    for (int64_t seam = 0; seam < count; ++seam, --width) {
        for (int64_t y = 0; y < energy.rows; ++y) {
            double* row = cost.row(y);
            if (y == 0) {
                std::copy_n(energy.row(0), width, row + 1);
            } else {
                extend(row + 1, cost.row(y - 1), energy.row(y), width);
            }
            row[0] = row[width + 1] = INFINITY;
        }
        const double* last = cost.row(energy.rows - 1) + 1;
        int64_t place = std::min_element(last, last + width) - last;
        for (int64_t y = energy.rows - 1; y >= 0; --y) {
            energy.remove(y, place, width);
            kept.remove(y, place, width);
            if (y > 0) {
                const double* three = cost.row(y - 1) + place;
                place += std::min_element(three, three + 3) - three - 1;
            }
        }
    }
    return kept;
}

void carved_index(int64_t* index, const float* image, int64_t vertical, int64_t horizontal, int64_t height,
                  int64_t width) {
    Table<double> grey(height, width);
    const int64_t pixels = height * width, left = width - vertical;
    luminance(grey.memory.data(), image, image + pixels, image + 2 * pixels, pixels);
    Table<double> energy = energy_of(grey, width);
    const Table<int32_t> columns = carve(energy, width, vertical);
    Table<double> carved(height, left);
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < left; ++x) carved.row(y)[x] = grey.row(y)[columns.row(y)[x]];
    }
    const Table<double> upright = energy_of(carved, left);
    Table<double> turned(left, height);
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < left; ++x) turned.row(x)[y] = upright.row(y)[x];
    }
    const Table<int32_t> rows = carve(turned, height, horizontal);
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
            // The carved image stands in the bottom right corner; before it, its first row and column are repeated.
            const int64_t column = std::max<int64_t>(x - vertical, 0), row = std::max<int64_t>(y - horizontal, 0);
            const int64_t source = rows.row(column)[row];
            index[y * width + x] = source * width + columns.row(source)[column];
        }
    }
}

}  // namespace
}  // namespace cannonade

// Images [N, 3, H, W], numbers of seams [N]; index [N, H, W].
extern "C" void seams_index(int64_t* index, const float* images, const int64_t* vertical, const int64_t* horizontal,
                            int64_t count, int64_t height, int64_t width, int64_t threads) {
    cannonade::for_each(count, threads, [=](int64_t n) {
        cannonade::carved_index(index + n * height * width, images + 3 * n * height * width, vertical[n], horizontal[n],
                                height, width);
    });
}
