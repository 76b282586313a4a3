// Non-local means on a CPU, as kernels/nlm.py defines them. Shifts come in the same order, each serving both its ends.

#include <algorithm>
#include <vector>

#include "numbers.h"
#include "parallel.h"

namespace cannonade {
namespace {

constexpr float CUTOFF = 5.0f;
constexpr float LEAST = 6.737947e-3f;  // exp(-CUTOFF)

// A volume, extended by mirroring without repeating the edge, and what each of its patches and shifts come to.
struct Volume {
    int64_t channels, height, width, offset, distance;
    int64_t edge() const { return offset + distance; }
    int64_t rows() const { return height + 2 * edge(); }
    int64_t pitch() const { return width + 2 * edge(); }
    int64_t plane() const { return rows() * pitch(); }
};

inline int64_t mirrored(int64_t place, int64_t length) {
    place = place < 0 ? -place : place;
    return place < length ? place : 2 * (length - 1) - place;
}

// The rows of the padded volume that are asked for; the others hold 0.
std::vector<float> padded(const float* images, const Volume& v, Band rows) {
    std::vector<float> out(v.channels * v.plane());
    for (int64_t c = 0; c < v.channels; ++c) {
        for (int64_t y = rows.from; y < rows.to; ++y) {
            const float* from = images + (c * v.height + mirrored(y - v.edge(), v.height)) * v.width;
            float* to = &out[c * v.plane() + y * v.pitch()];
            for (int64_t x = 0; x < v.pitch(); ++x) to[x] = from[mirrored(x - v.edge(), v.width)];
        }
    }
    return out;
}

// p runs over a window of the padded volume, q = p + (down, right); p or q lies in the image.
struct Shift {
    int64_t down, right, top, left, rows, columns;

    Shift(const Volume& v, int64_t down, int64_t right)
        : down(down), right(right), top(v.edge() - std::max<int64_t>(down, 0)), left(v.edge() - right),
          rows(v.height + std::abs(down)), columns(v.width + right) {}

    int64_t apart(const Volume& v) const { return down * v.pitch() + right; }
};

template <typename Visit>
void for_shifts(const Volume& v, const Visit& visit) {
    for (int64_t down = -v.distance; down <= v.distance; ++down) {
        for (int64_t right = down > 0 ? 0 : 1; right <= v.distance; ++right) visit(Shift(v, down, right));
    }
}

// Squared differences of a row of pixels and those a shift away, added over the channels.
CLONED void squares(float* __restrict out, const float* __restrict from, int64_t apart, const Volume& v, int64_t count) {
    for (int64_t x = 0; x < count; ++x) {
        const float difference = from[x] - from[x + apart];
        out[x] = difference * difference;
    }
    for (int64_t c = 1; c < v.channels; ++c) {
        from += v.plane();
        for (int64_t x = 0; x < count; ++x) {
            const float difference = from[x] - from[x + apart];
            out[x] += difference * difference;
        }
    }
}

// Sums over boxes of 2·offset by 2·offset, whose rows are given: `across` takes their sums down the columns. A sum is one of
// pairs, in their order.
ALWAYS_INLINE void box_of(float* __restrict out, float* __restrict across, const float* const* rows, int64_t offset,
                          int64_t count) {
    const int64_t wide = count + 2 * offset - 1;
    for (int64_t x = 0; x < wide; ++x) {
        float sum = rows[0][x] + rows[1][x];
        for (int64_t pair = 1; pair < offset; ++pair) sum += rows[2 * pair][x] + rows[2 * pair + 1][x];
        across[x] = sum;
    }
    for (int64_t x = 0; x < count; ++x) {
        float sum = across[x] + across[x + 1];
        for (int64_t pair = 1; pair < offset; ++pair) sum += across[x + 2 * pair] + across[x + 2 * pair + 1];
        out[x] = sum;
    }
}

// Of patches of 5 (and 4), of 7 (and 6) and of others: a known number of terms stays in registers.
CLONED void box_of_4(float* __restrict out, float* __restrict across, const float* const* rows, int64_t count) {
    const float* const own[] = {rows[0], rows[1], rows[2], rows[3]};
    box_of(out, across, own, 2, count);
}

CLONED void box_of_6(float* __restrict out, float* __restrict across, const float* const* rows, int64_t count) {
    const float* const own[] = {rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]};
    box_of(out, across, own, 3, count);
}

CLONED void box_of_any(float* __restrict out, float* __restrict across, const float* const* rows, int64_t offset,
                       int64_t count) {
    const int64_t wide = count + 2 * offset - 1;
    for (int64_t x = 0; x < wide; ++x) across[x] = rows[0][x] + rows[1][x];
    for (int64_t pair = 1; pair < offset; ++pair) {
        const float *first = rows[2 * pair], *second = rows[2 * pair + 1];
        for (int64_t x = 0; x < wide; ++x) across[x] += first[x] + second[x];
    }
    for (int64_t x = 0; x < count; ++x) out[x] = across[x] + across[x + 1];
    for (int64_t pair = 1; pair < offset; ++pair) {
        const float* from = across + 2 * pair;
        for (int64_t x = 0; x < count; ++x) out[x] += from[x] + from[x + 1];
    }
}

void box(float* out, float* across, const float* const* rows, int64_t offset, int64_t count) {
    if (offset == 2) return box_of_4(out, across, rows, count);
    if (offset == 3) return box_of_6(out, across, rows, count);
    box_of_any(out, across, rows, offset, count);
}

// Whether any weight of a stretch of distances is not 0; a little more than those that are.
CLONED bool any_near(const float* __restrict row, int64_t count) {
    int32_t near = 0;
    for (int64_t x = 0; x < count; ++x) near |= row[x] < CUTOFF + 0.01f;
    return near != 0;
}

CLONED void weigh(float* __restrict row, int64_t count) {
    for (int64_t x = 0; x < count; ++x) {
        const float apart = row[x] < CUTOFF + 1 ? row[x] : CUTOFF + 1;
        const float weight = exponential(-apart);
        row[x] = weight > LEAST ? weight : 0.0f;
    }
}

// Parts of a row, a bit each, where something is not 0: most patches of a photo are too far apart for a weight.
class Parts {
  public:
    // Of rows of up to `count`; no part is shorter than a patch, so that what a part adds ends within the next one.
    Parts(int64_t count, int64_t patch)
        : size_(std::max<int64_t>({64, patch, (count + 62) / 63})) {}  // with the next one, 64 at most

    template <typename Live>
    uint64_t find(int64_t count, const Live& live) const {
        uint64_t found = 0;
        for (int64_t at = 0, part = 0; at < count; at += size_, ++part) {
            if (live(at, std::min(size_, count - at))) found |= uint64_t{1} << part;
        }
        return found;
    }

    // Calls visit(start, length) for parts next to each other at a time, within [from, to).
    template <typename Visit>
    void each(uint64_t found, int64_t from, int64_t to, const Visit& visit) const {
        for (int64_t part = 0; part < 64 && found >> part; ++part) {
            if (!(found >> part & 1)) continue;
            int64_t end = part + 1;
            while (end < 64 && found >> end & 1) ++end;
            const int64_t start = std::max(part * size_, from), stop = std::min(end * size_, to);
            if (start < stop) visit(start, stop - start);
            part = end;
        }
    }

  private:
    int64_t size_;
};

// Rows of weights of one shift, one after the other from `first` on: the squares of 2·offset rows are kept.
class Weights {
  public:
    Weights(const Volume& v, const float* values, const Parts& parts)
        : v_(v), values_(values), parts_(parts), pitch_(v.pitch()), kept_(2 * v.offset * pitch_), across_(pitch_),
          row_(pitch_), rows_(2 * v.offset) {}

    // Weights stand where `live` says so; elsewhere they are 0, and the row holds something else.
    const float* row(const Shift& shift, int64_t y, int64_t first, uint64_t& live) {
        const int64_t side = 2 * v_.offset, wide = shift.columns + side - 1;
        for (int64_t below = y == first ? 0 : side - 1; below < side; ++below) {
            const int64_t u = y + below;
            const float* from = values_ + (shift.top + u - v_.offset + 1) * pitch_ + shift.left - v_.offset + 1;
            squares(&kept_[u % side * pitch_], from, shift.apart(v_), v_, wide);
        }
        for (int64_t below = 0; below < side; ++below) rows_[below] = &kept_[(y + below) % side * pitch_];
        box(row_.data(), across_.data(), rows_.data(), v_.offset, shift.columns);
        live = parts_.find(shift.columns, [&](int64_t at, int64_t count) { return any_near(&row_[at], count); });
        parts_.each(live, 0, shift.columns, [&](int64_t at, int64_t count) { weigh(&row_[at], count); });
        return row_.data();
    }

  private:
    const Volume& v_;
    const float* values_;
    const Parts& parts_;
    int64_t pitch_;
    std::vector<float> kept_, across_, row_;
    std::vector<const float*> rows_;
};

CLONED void add_weighted(float* __restrict to, const float* __restrict weight, const float* __restrict values,
                         int64_t count) {
    for (int64_t x = 0; x < count; ++x) to[x] += weight[x] * values[x];
}

CLONED void add(float* __restrict to, const float* __restrict values, int64_t count) {
    for (int64_t x = 0; x < count; ++x) to[x] += values[x];
}

CLONED void divide(float* __restrict to, const float* __restrict by, int64_t count) {
    for (int64_t x = 0; x < count; ++x) to[x] /= by[x];
}

void mean(float* out, float* mass, const float* images, const Volume& v, Band band) {
    const std::vector<float> values = padded(images, v, {band.from, band.to + 2 * v.edge()});
    const int64_t pixels = v.height * v.width, start = band.from * v.width, own_pixels = (band.to - band.from) * v.width;
    for (int64_t c = 0; c < v.channels; ++c) std::copy_n(images + c * pixels + start, own_pixels, out + c * pixels + start);
    std::fill_n(mass + start, own_pixels, 1.0f);
    const Parts parts(v.pitch(), 2 * v.offset);
    Weights weights(v, values.data(), parts);
    for_shifts(v, [&](const Shift& shift) {
        for (int64_t y = band.from; y < band.to + std::abs(shift.down); ++y) {
            uint64_t live;
            const float* weight = weights.row(shift, y, band.from, live);
            // Where the row of p, and that of q, lies in the image; the columns of p that do start at `right`, of q at 0.
            const int64_t own = shift.top + y - v.edge(), other = own + shift.down;
            const float* p = &values[(shift.top + y) * v.pitch() + shift.left];
            const float* q = p + shift.apart(v);
            if (band.has(own)) {
                parts.each(live, shift.right, shift.columns, [&](int64_t at, int64_t count) {
                    const int64_t to = own * v.width + at - shift.right;
                    add(mass + to, weight + at, count);
                    for (int64_t c = 0; c < v.channels; ++c) {
                        add_weighted(out + c * pixels + to, weight + at, q + c * v.plane() + at, count);
                    }
                });
            }
            if (band.has(other)) {
                parts.each(live, 0, v.width, [&](int64_t at, int64_t count) {
                    const int64_t to = other * v.width + at;
                    add(mass + to, weight + at, count);
                    for (int64_t c = 0; c < v.channels; ++c) {
                        add_weighted(out + c * pixels + to, weight + at, p + c * v.plane() + at, count);
                    }
                });
            }
        }
    });
    for (int64_t c = 0; c < v.channels; ++c) divide(out + c * pixels + start, mass + start, own_pixels);
}

// (push_p + push_q − Σ pull_p·x_q − Σ pull_q·x_p)·weight, for a row of p.
CLONED void slope(float* __restrict out, const float* __restrict weight, const float* __restrict push,
                  const float* __restrict pull, const float* __restrict values, int64_t apart, const Volume& v,
                  int64_t count) {
    for (int64_t x = 0; x < count; ++x) out[x] = push[x] + push[x + apart];
    for (int64_t c = 0; c < v.channels; ++c) {
        for (int64_t x = 0; x < count; ++x) {
            out[x] -= pull[x] * values[x + apart] + pull[x + apart] * values[x];
        }
        pull += v.plane();
        values += v.plane();
    }
    for (int64_t x = 0; x < count; ++x) out[x] *= weight[x];
}

// What 2·difference·flow adds to the first ends of a row of pairs, and takes from the second.
CLONED void flow_first(float* __restrict to, const float* __restrict values, int64_t apart, const float* __restrict flow,
                       int64_t count) {
    for (int64_t x = 0; x < count; ++x) to[x] += 2.0f * ((values[x] - values[x + apart]) * flow[x]);
}

CLONED void flow_second(float* __restrict to, const float* __restrict values, int64_t apart, const float* __restrict flow,
                        int64_t count) {
    for (int64_t x = 0; x < count; ++x) to[x] -= 2.0f * ((values[x - apart] - values[x]) * flow[x]);
}

// Gradient of the padded volume, before it is folded back: those of its rows that `band` has.
std::vector<float> padded_gradient(const float* grad, const float* out, const float* mass, const float* images,
                                   const Volume& v, bool constant_weights, Band band) {
    const Band near{std::max<int64_t>(band.from - 2 * v.edge(), 0), std::min(band.to + 2 * v.edge(), v.rows())};
    const std::vector<float> values = padded(images, v, near);
    const int64_t pixels = v.height * v.width, side = 2 * v.offset, margin = side - 1;
    std::vector<float> pull(v.channels * v.plane()), push(v.plane());
    for (int64_t y = std::max<int64_t>(near.from - v.edge(), 0); y < std::min(near.to - v.edge(), v.height); ++y) {
        for (int64_t x = 0; x < v.width; ++x) {
            const int64_t at = y * v.width + x, to = (y + v.edge()) * v.pitch() + x + v.edge();
            float total = 0.0f;
            for (int64_t c = 0; c < v.channels; ++c) {
                pull[c * v.plane() + to] = grad[c * pixels + at] / mass[at];
                total += grad[c * pixels + at] * out[c * pixels + at];
            }
            push[to] = total / mass[at];
        }
    }
    std::vector<float> result = pull;
    const Parts parts(v.pitch() + margin, side);
    Weights weights(v, values.data(), parts);
    const int64_t pitch = v.pitch() + 2 * margin;
    std::vector<float> inner((v.rows() + 2 * margin) * pitch), across(pitch), flow(pitch);
    std::vector<const float*> rows(side);
    std::vector<uint64_t> live(v.rows() + 2 * margin);  // of the rows of `inner`
    for_shifts(v, [&](const Shift& shift) {
        const int64_t apart = shift.apart(v), first = shift.top * v.pitch() + shift.left;
        // Rows u of boxes that reach the band, from either end of the shift, and rows y of weights that lie in these boxes.
        const int64_t start = band.from - v.edge() + v.offset - 1, above = std::max<int64_t>(start, 0);
        const int64_t below = std::min(start + band.to - band.from + std::abs(shift.down), shift.rows + margin);
        const int64_t top = std::max<int64_t>(above - margin, 0), bottom = std::min(below, shift.rows);
        if (!constant_weights) std::fill_n(inner.begin() + above * pitch, (below - above + margin) * pitch, 0.0f);
        std::fill(live.begin() + above, live.begin() + below + margin, 0);
        for (int64_t y = top; y < bottom; ++y) {
            const int64_t at = first + y * v.pitch();
            const bool to_p = band.has(shift.top + y), to_q = band.has(shift.top + y + shift.down);
            const float* weight = weights.row(shift, y, top, live[y + margin]);
            parts.each(live[y + margin], 0, shift.columns, [&](int64_t x, int64_t count) {
                for (int64_t c = 0; c < v.channels; ++c) {
                    float* to = &result[c * v.plane() + at + x];
                    const float* from = &pull[c * v.plane() + at + x];
                    if (to_q) add_weighted(to + apart, weight + x, from, count);
                    if (to_p) add_weighted(to, weight + x, from + apart, count);
                }
                if (constant_weights) return;
                slope(&inner[(y + margin) * pitch + margin + x], weight + x, &push[at + x], &pull[at + x], &values[at + x],
                      apart, v, count);
            });
        }
        if (constant_weights) return;
        for (int64_t u = above; u < below; ++u) {
            const int64_t own = shift.top + u - v.offset + 1;
            const bool to_p = band.has(own), to_q = band.has(own + shift.down);
            uint64_t found = 0;
            for (int64_t row = 0; row < side; ++row) found |= live[u + row];
            // A box reaches a margin farther than what lies in it.
            parts.each(found | found << 1, 0, shift.columns + margin, [&](int64_t x, int64_t count) {
                for (int64_t row = 0; row < side; ++row) rows[row] = &inner[(u + row) * pitch + x];
                box(flow.data(), across.data(), rows.data(), v.offset, count);
                const int64_t at = own * v.pitch() + shift.left - v.offset + 1 + x;
                for (int64_t c = 0; c < v.channels; ++c) {
                    const float* from = &values[c * v.plane() + at];
                    float* to = &result[c * v.plane() + at];
                    if (to_p) flow_first(to, from, apart, flow.data(), count);
                    if (to_q) flow_second(to + apart, from + apart, apart, flow.data(), count);
                }
            });
        }
    });
    return result;
}

void mean_adjoint(float* to, const float* grad, const float* out, const float* mass, const float* images,
                  const Volume& v, bool constant_weights, Band band) {
    // What lies beyond the image is folded into the rows next to its ends, so their bands have it.
    const Band own{band.from == 0 ? 0 : band.from + v.edge(), band.to == v.height ? v.rows() : band.to + v.edge()};
    const std::vector<float> result = padded_gradient(grad, out, mass, images, v, constant_weights, own);
    for (int64_t c = 0; c < v.channels; ++c) {
        std::fill(to + (c * v.height + band.from) * v.width, to + (c * v.height + band.to) * v.width, 0.0f);
        for (int64_t y = own.from; y < own.to; ++y) {
            float* row = to + (c * v.height + mirrored(y - v.edge(), v.height)) * v.width;
            const float* from = &result[c * v.plane() + y * v.pitch()];
            for (int64_t x = 0; x < v.pitch(); ++x) row[mirrored(x - v.edge(), v.width)] += from[x];
        }
    }
}

// Of a band: more than is folded into it, and enough that what its neighbours make too is a small part.
int64_t least_rows(const int64_t* offsets, const int64_t* distances, int64_t count) {
    int64_t widest = 1;
    for (int64_t m = 0; m < count; ++m) widest = std::max(widest, offsets[m] + distances[m]);
    return 4 * widest;
}

}  // namespace
}  // namespace cannonade

// Volumes [M, C, H, W] scaled such that D is a sum of squares; offsets and distances [M]; out as the volumes, mass [M, H, W].
extern "C" void nlm_mean(float* out, float* mass, const float* images, const int64_t* offsets, const int64_t* distances,
                         int64_t count, int64_t channels, int64_t height, int64_t width, int64_t threads) {
    const int64_t pixels = height * width, least = cannonade::least_rows(offsets, distances, count);
    cannonade::for_each_band(count, height, least, threads, [=](int64_t m, cannonade::Band band) {
        const cannonade::Volume volume{channels, height, width, offsets[m], distances[m]};
        const int64_t at = m * channels * pixels;
        cannonade::mean(out + at, mass + m * pixels, images + at, volume, band);
    });
}

extern "C" void nlm_mean_adjoint(float* to, const float* grad, const float* out, const float* mass, const float* images,
                                 const int64_t* offsets, const int64_t* distances, int64_t constant_weights,
                                 int64_t count, int64_t channels, int64_t height, int64_t width, int64_t threads) {
    const int64_t pixels = height * width, least = cannonade::least_rows(offsets, distances, count);
    cannonade::for_each_band(count, height, least, threads, [=](int64_t m, cannonade::Band band) {
        const cannonade::Volume volume{channels, height, width, offsets[m], distances[m]};
        const int64_t at = m * channels * pixels;
        cannonade::mean_adjoint(to + at, grad + at, out + at, mass + m * pixels, images + at, volume, constant_weights,
                                band);
    });
}
