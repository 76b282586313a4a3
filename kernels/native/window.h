// Windows around every pixel of a plane: the half-widths of their rows, top to bottom, −1 where a row is absent.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"

namespace cannonade {

// Pixels of a row that are worked on together: what is kept for them stays in the first-level cache, and the compiler turns
// the loops over them into vectors without a remainder.
constexpr int64_t STRIP = 64;

// A row's length, completed to whole strips.
inline int64_t completed(int64_t width) { return (width + STRIP - 1) / STRIP * STRIP; }

// The rows of a window that are there: rows are 2·reach + 1 half-widths, the middle one belonging to the pixel's own row.
struct Window {
    int64_t reach = 0, widest = 0;
    std::vector<int64_t> halves;

    Window(const int64_t* rows, int64_t count) {
        const int64_t middle = count / 2;
        for (int64_t row = 0; row < count; ++row) {
            if (rows[row] < 0) continue;
            reach = std::max(reach, std::max(middle - row, row - middle));
            widest = std::max(widest, rows[row]);
        }
        for (int64_t dy = -reach; dy <= reach; ++dy) halves.push_back(rows[middle + dy]);
    }

    int64_t half(int64_t dy) const { return halves[dy + reach]; }
};

// A plane with a margin that every window stays within, and whole strips too.
template <typename T>
struct Padded {
    int64_t pitch, margin;
    std::vector<T> memory;

    Padded(const Window& window, int64_t height, int64_t width, T fill)
        : pitch(2 * window.widest + completed(width)),
          margin(window.reach * pitch + window.widest),
          memory((height + 2 * window.reach) * pitch, fill) {}

    T* row(int64_t y) { return memory.data() + margin + y * pitch; }
    const T* row(int64_t y) const { return memory.data() + margin + y * pitch; }
};

// How many pixels of the window around each pixel of a row lie inside the image; rows away from the border share the answer.
class InsideCounts {
  public:
    InsideCounts(const Window& window, int64_t height, int64_t width)
        : window_(window), height_(height), counts_(completed(width)), width_(width) {}

    const int32_t* row(int64_t y) {
        const int64_t top = std::max(-window_.reach, -y), bottom = std::min(window_.reach, height_ - 1 - y);
        if (top == top_ && bottom == bottom_) return counts_.data();
        top_ = top;
        bottom_ = bottom;
        std::fill(counts_.begin(), counts_.end(), 0);
        for (int64_t dy = top; dy <= bottom; ++dy) {
            const int64_t half = window_.half(dy);
            for (int64_t x = 0; half >= 0 && x < width_; ++x) {
                const int64_t last = x + half < width_ ? x + half : width_ - 1, first = x > half ? x - half : 0;
                counts_[x] += static_cast<int32_t>(last - first + 1);
            }
        }
        return counts_.data();
    }

  private:
    const Window& window_;
    int64_t height_, top_ = 1, bottom_ = -1;
    std::vector<int32_t> counts_;
    int64_t width_;
};

}  // namespace cannonade
