// Total-variation denoising on a CPU, as kernels/tv.py defines it. An iteration is one sweep down the rows: as soon as two rows
// of u are known, the dual of the upper one is updated.

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "parallel.h"

namespace cannonade {
namespace {

constexpr int64_t SUMS = 8;
// A change of energy so near to the one that stops, relatively, may be on its wrong side by rounding.
constexpr double CLOSE = 1e-4;

struct Volume {
    int64_t channels, height, width;
    int64_t apart;  // of a dual's components, in the operator's memory
    int64_t plane() const { return height * width; }
    int64_t size() const { return channels * plane(); }
    int64_t axes() const { return channels == 1 ? 2 : 3; }
    float tau() const { return 1.0f / static_cast<float>(2 * axes()); }
};

// One array per axis: down, right and, for several channels, across them.
struct Field {
    std::vector<float> down, right, across;

    explicit Field(const Volume& v) : down(v.size()), right(v.size()), across(v.axes() == 3 ? v.size() : 0) {}
    float* of(int axis) { return axis == 0 ? down.data() : axis == 1 ? right.data() : across.data(); }
};

CLONED double sum(const float* values, int64_t count) {
    double parts[SUMS] = {};
    int64_t i = 0;
    for (; i + SUMS <= count; i += SUMS) {
        for (int64_t j = 0; j < SUMS; ++j) parts[j] += values[i + j];
    }
    double total = 0.0;
    for (; i < count; ++i) total += values[i];
    for (const double part : parts) total += part;
    return total;
}

// A row of ∇ᵀp: minus the pixel's own components, plus those of the pixels before it (null where there is none).
CLONED void adjoint_row(float* __restrict out, const float* __restrict down, const float* __restrict right,
                        const float* __restrict across, const float* __restrict above, const float* __restrict before,
                        int64_t width) {
    for (int64_t x = 0; x < width; ++x) out[x] = -(down[x] + right[x]);
    if (across) {
        for (int64_t x = 0; x < width; ++x) out[x] -= across[x];
    }
    if (above) {
        for (int64_t x = 0; x < width; ++x) out[x] += above[x];
    }
    for (int64_t x = 1; x < width; ++x) out[x] += right[x - 1];
    if (before) {
        for (int64_t x = 0; x < width; ++x) out[x] += before[x];
    }
}

// A row of ∇u, 0 at the end of each axis (null where the row has no neighbour).
CLONED void gradient_row(float* __restrict down, float* __restrict right, float* __restrict across,
                         const float* __restrict own, const float* __restrict below, const float* __restrict beyond,
                         int64_t width) {
    for (int64_t x = 0; x < width; ++x) down[x] = below ? below[x] - own[x] : 0.0f;
    for (int64_t x = 0; x + 1 < width; ++x) right[x] = own[x + 1] - own[x];
    right[width - 1] = 0.0f;
    for (int64_t x = 0; x < width; ++x) across[x] = beyond ? beyond[x] - own[x] : 0.0f;
}

CLONED void norm_row(float* __restrict norm, const float* __restrict down, const float* __restrict right,
                     const float* __restrict across, int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        norm[x] = std::sqrt(down[x] * down[x] + right[x] * right[x] + across[x] * across[x]);
    }
}

CLONED void update_row(float* __restrict to, const float* __restrict dual, const float* __restrict gradient,
                       const float* __restrict norm, float tau, float ratio, int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] = (dual[x] - tau * gradient[x]) / (1.0f + ratio * norm[x]);
}

CLONED void move_row(float* __restrict u, float* __restrict moved, const float* __restrict values, int64_t width) {
    for (int64_t x = 0; x < width; ++x) {
        u[x] = values[x] + moved[x];
        moved[x] *= moved[x];
    }
}


struct Rows {
    std::vector<float> down, right, across, norm;
    explicit Rows(int64_t width) : down(width), right(width), across(width), norm(width) {}
};

// From p to u and the next p; returns the energy of u.
double sweep(float* u, Field& next, Field& dual, const float* values, float weight, const Volume& v, Rows& rows) {
    const int64_t width = v.width;
    double square = 0.0, norms = 0.0;
    for (int64_t y = 0; y <= v.height; ++y) {
        for (int64_t c = 0; y < v.height && c < v.channels; ++c) {
            const int64_t at = c * v.plane() + y * width;
            adjoint_row(rows.norm.data(), &dual.down[at], &dual.right[at], v.axes() == 3 ? &dual.across[at] : nullptr,
                        y > 0 ? &dual.down[at - width] : nullptr, c > 0 ? &dual.across[at - v.plane()] : nullptr, width);
            move_row(u + at, rows.norm.data(), values + at, width);
            square += sum(rows.norm.data(), width);
        }
        for (int64_t c = 0; y > 0 && c < v.channels; ++c) {
            const int64_t at = c * v.plane() + (y - 1) * width;
            gradient_row(rows.down.data(), rows.right.data(), rows.across.data(), u + at,
                         y < v.height ? u + at + width : nullptr, c + 1 < v.channels ? u + at + v.plane() : nullptr,
                         width);
            norm_row(rows.norm.data(), rows.down.data(), rows.right.data(), rows.across.data(), width);
            norms += sum(rows.norm.data(), width);
            const float* gradients[] = {rows.down.data(), rows.right.data(), rows.across.data()};
            for (int axis = 0; axis < v.axes(); ++axis) {
                update_row(next.of(axis) + at, dual.of(axis) + at, gradients[axis], rows.norm.data(), v.tau(),
                           v.tau() / weight, width);
            }
        }
    }
    return square + static_cast<double>(weight) * norms;
}

// When to stop, by the energies so far.
class Stop {
  public:
    Stop(double tolerance, int64_t most) : tolerance_(tolerance), most_(most) {}

    bool operator()(int64_t step, double energy) {
        const double change = std::abs(previous_ - energy), enough = tolerance_ * first_;
        if (step == 0) first_ = energy;
        previous_ = energy;
        close_ |= step > 0 && std::abs(change - enough) < CLOSE * enough;
        return step == most_ - 1 || (step == 0 ? energy == 0.0 : change < enough);
    }

    bool close() const { return close_; }

  private:
    double tolerance_, first_ = 0.0, previous_ = 0.0;
    int64_t most_;
    bool close_ = false;
};

// The number of steps in double precision, for the few volumes whose stop rounding would decide.
int64_t exact_steps(const float* values, float weight, double tolerance, int64_t most, const Volume& v) {
    const int64_t strides[] = {v.width, 1, v.plane()};
    const int64_t lengths[] = {v.height, v.width, v.channels};
    const double tau = 1.0 / static_cast<double>(2 * v.axes());
    std::vector<double> dual(v.axes() * v.size()), u(v.size());
    Stop stop(tolerance, most);
    const auto place = [&](int64_t at, int64_t axis) { return at / strides[axis] % lengths[axis]; };
    for (int64_t step = 0;; ++step) {
        double square = 0.0, norms = 0.0;
        for (int64_t at = 0; at < v.size(); ++at) {
            double moved = 0.0;
            for (int64_t axis = 0; axis < v.axes(); ++axis) {
                const double* p = &dual[axis * v.size()];
                moved += (place(at, axis) > 0 ? p[at - strides[axis]] : 0.0) - p[at];
            }
            u[at] = static_cast<double>(values[at]) + moved;
            square += moved * moved;
        }
        for (int64_t at = 0; at < v.size(); ++at) {
            double gradient[3], norm = 0.0;
            for (int64_t axis = 0; axis < v.axes(); ++axis) {
                const bool last = place(at, axis) + 1 == lengths[axis];
                gradient[axis] = last ? 0.0 : u[at + strides[axis]] - u[at];
                norm += gradient[axis] * gradient[axis];
            }
            norm = std::sqrt(norm);
            norms += norm;
            for (int64_t axis = 0; axis < v.axes(); ++axis) {
                double& p = dual[axis * v.size() + at];
                p = (p - tau * gradient[axis]) / (1.0 + tau / static_cast<double>(weight) * norm);
            }
        }
        if (stop(step, square + static_cast<double>(weight) * norms)) return step;
    }
}

void solve(float* u, float* dual_out, int64_t* steps, const float* values, float weight, double tolerance,
           int64_t most, const Volume& v) {
    Field dual(v), next(v);
    Rows rows(v.width);
    Stop stop(tolerance, most);
    int64_t step = 0;
    while (!stop(step, sweep(u, next, dual, values, weight, v, rows))) {
        std::swap(dual, next);
        ++step;
    }
    if (stop.close()) {
        *steps = exact_steps(values, weight, tolerance, most, v);
        dual = Field(v);
        for (step = 0; sweep(u, next, dual, values, weight, v, rows), step < *steps; ++step) std::swap(dual, next);
    }
    *steps = step;
    for (int axis = 0; axis < v.axes(); ++axis) std::copy_n(dual.of(axis), v.size(), dual_out + axis * v.apart);
}

// 1/s and the direction f in which ∇u cannot change p (see kernels/tv.py), for a row.
CLONED void linearise_row(float* __restrict shrink, float* __restrict scale, const float* __restrict norm,
                          const float* __restrict inner, float tau, float weight, int64_t width) {
    const float ratio = tau / weight;
    for (int64_t x = 0; x < width; ++x) {
        const float size = norm[x], safe = size > 0.0f ? size : 1.0f;
        shrink[x] = 1.0f / (1.0f + ratio * size);
        const float share = (size * size * tau - inner[x]) * shrink[x] / (safe * weight);
        scale[x] = std::sqrt(share < 0.0f ? 0.0f : share > 1.0f ? 1.0f : share) / safe;
    }
}

CLONED void add_product(float* __restrict to, const float* __restrict a, const float* __restrict b, int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] += a[x] * b[x];
}

CLONED void multiply(float* __restrict to, const float* __restrict a, const float* __restrict b, int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] = a[x] * b[x];
}

CLONED void scale_row(float* __restrict to, const float* __restrict by, int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] *= by[x];
}

// tau·(f (f·μ) − μ) along one axis.
CLONED void inward_row(float* __restrict out, const float* __restrict mu, const float* __restrict fixed,
                       const float* __restrict inner, float tau, int64_t width) {
    for (int64_t x = 0; x < width; ++x) out[x] = inner[x] * tau * fixed[x] - tau * mu[x];
}

CLONED void add_difference(float* __restrict to, const float* __restrict own, const float* __restrict next,
                           int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] = to[x] + next[x] - own[x];
}

CLONED void add_rows(float* __restrict to, const float* __restrict values, int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] += values[x];
}

void linearise(std::vector<float>& shrink, Field& fixed, const float* u, const float* dual, float weight,
               const Volume& v) {
    const int64_t width = v.width;
    Rows rows(width);
    std::vector<float> inner(width), scale(width);
    for (int64_t c = 0; c < v.channels; ++c) {
        for (int64_t y = 0; y < v.height; ++y) {
            const int64_t at = c * v.plane() + y * width;
            gradient_row(rows.down.data(), rows.right.data(), rows.across.data(), u + at,
                         y + 1 < v.height ? u + at + width : nullptr, c + 1 < v.channels ? u + at + v.plane() : nullptr,
                         width);
            norm_row(rows.norm.data(), rows.down.data(), rows.right.data(), rows.across.data(), width);
            const float* gradients[] = {rows.down.data(), rows.right.data(), rows.across.data()};
            std::fill(inner.begin(), inner.end(), 0.0f);
            for (int axis = 0; axis < v.axes(); ++axis) {
                add_product(inner.data(), dual + axis * v.apart + at, gradients[axis], width);
            }
            linearise_row(&shrink[at], scale.data(), rows.norm.data(), inner.data(), v.tau(), weight, width);
            for (int axis = 0; axis < v.axes(); ++axis) {
                multiply(fixed.of(axis) + at, gradients[axis], scale.data(), width);
            }
        }
    }
}

// One step of the adjoint iteration: from λ to z and the next λ, in place. `inward` holds m of two rows of every channel.
void sweep_adjoint(float* z, Field& cotangent, Field& fixed, const std::vector<float>& shrink, const float* grad,
                   std::vector<float>& inward, std::vector<float>& inner, const Volume& v) {
    const int64_t width = v.width, axes = v.axes();
    const auto m = [&](int64_t y, int64_t c, int64_t axis) {
        return &inward[(((y & 1) * v.channels + c) * axes + axis) * width];
    };
    for (int64_t y = 0; y <= v.height; ++y) {
        for (int64_t c = 0; y < v.height && c < v.channels; ++c) {
            const int64_t at = c * v.plane() + y * width;
            std::fill(inner.begin(), inner.end(), 0.0f);
            for (int axis = 0; axis < axes; ++axis) {
                float* mu = cotangent.of(axis) + at;
                scale_row(mu, &shrink[at], width);
                add_product(inner.data(), mu, fixed.of(axis) + at, width);
            }
            for (int axis = 0; axis < axes; ++axis) {
                inward_row(m(y, c, axis), cotangent.of(axis) + at, fixed.of(axis) + at, inner.data(), v.tau(), width);
            }
            adjoint_row(z + at, m(y, c, 0), m(y, c, 1), axes == 3 ? m(y, c, 2) : nullptr, y > 0 ? m(y - 1, c, 0) : nullptr,
                        c > 0 ? m(y, c - 1, 2) : nullptr, width);
            add_rows(z + at, grad + at, width);
        }
        for (int64_t c = 0; y > 0 && c < v.channels; ++c) {
            const int64_t at = c * v.plane() + (y - 1) * width;
            if (y < v.height) add_difference(&cotangent.down[at], z + at, z + at + width, width);
            add_difference(&cotangent.right[at], z + at, z + at + 1, width - 1);
            if (c + 1 < v.channels) add_difference(&cotangent.across[at], z + at, z + at + v.plane(), width);
        }
    }
}

void solve_adjoint(float* z, const float* grad, const float* u, const float* dual, float weight, int64_t steps,
                   const Volume& v) {
    const int64_t width = v.width;
    std::copy_n(grad, v.size(), z);
    if (steps == 0) return;
    std::vector<float> shrink(v.size()), inward(2 * v.channels * v.axes() * width), inner(width);
    Field fixed(v), cotangent(v);
    linearise(shrink, fixed, u, dual, weight, v);
    Rows rows(width);
    for (int64_t c = 0; c < v.channels; ++c) {
        for (int64_t y = 0; y < v.height; ++y) {
            const int64_t at = c * v.plane() + y * width;
            gradient_row(&cotangent.down[at], &cotangent.right[at],
                         v.axes() == 3 ? &cotangent.across[at] : rows.across.data(), grad + at,
                         y + 1 < v.height ? grad + at + width : nullptr,
                         c + 1 < v.channels ? grad + at + v.plane() : nullptr, width);
        }
    }
    for (int64_t step = 0; step < steps; ++step) {
        sweep_adjoint(z, cotangent, fixed, shrink, grad, inward, inner, v);
    }
}

// Calls solve(volume, its first channel's number of all, its first pixel in the images and in the duals, its image) for every
// volume: an image's channels together, or each by itself.
template <typename Solve>
void for_volumes(const bool* per_channel, int64_t count, int64_t channels, int64_t height, int64_t width, int64_t threads,
                 const Solve& solve) {
    const int64_t plane = height * width, axes = channels == 1 ? 2 : 3;
    for_each(count * channels, threads, [=](int64_t number) {
        const int64_t m = number / channels, c = number % channels;
        if (c > 0 && !per_channel[m]) return;
        const Volume v{per_channel[m] ? 1 : channels, height, width, channels * plane};
        solve(v, number, number * plane, (m * axes * channels + c) * plane, m);
    });
}

}  // namespace
}  // namespace cannonade

// Images [M, C, H, W], weights [M], per_channel [M]; u as the images, duals [M, axes, C, H, W], steps [M, C].
extern "C" void tv_solve(float* u, float* duals, int64_t* steps, const float* images, const float* weights,
                         const bool* per_channel, double tolerance, int64_t most, int64_t count, int64_t channels,
                         int64_t height, int64_t width, int64_t threads) {
    cannonade::for_volumes(per_channel, count, channels, height, width, threads,
                           [=](const cannonade::Volume& v, int64_t number, int64_t at, int64_t dual, int64_t m) {
                               cannonade::solve(u + at, duals + dual, steps + number, images + at, weights[m], tolerance,
                                                most, v);
                           });
}

extern "C" void tv_solve_adjoint(float* out, const float* grad, const float* u, const float* duals,
                                 const int64_t* steps, const float* weights, const bool* per_channel, int64_t count,
                                 int64_t channels, int64_t height, int64_t width, int64_t threads) {
    cannonade::for_volumes(per_channel, count, channels, height, width, threads,
                           [=](const cannonade::Volume& v, int64_t number, int64_t at, int64_t dual, int64_t m) {
                               cannonade::solve_adjoint(out + at, grad + at, u + at, duals + dual, weights[m],
                                                        steps[number], v);
                           });
}
