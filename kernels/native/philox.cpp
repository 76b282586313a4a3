// Words, uniform and normal numbers on a CPU, as kernels/philox.py defines them.
//
// The arithmetic is IEEE additions, multiplications and square roots, and setup.py keeps the compiler from fusing them,
// so that every processor, vector width, batch and number of threads gives the same bits.

#include "numbers.h"
#include "philox.h"

#include <cmath>
#include <cstring>

namespace cannonade {

namespace {

// Lane: what a number of 32 bits is held in. Products of 64 bits from lanes of 32 are several instructions each in vectors;
// lanes of 64 bits need one, where it exists.
template <typename Lane>
ALWAYS_INLINE void make_words(uint32_t* words, const int64_t* coordinates, int64_t first, int64_t blocks) {
    const auto key0 = static_cast<uint32_t>(coordinates[0]), key1 = static_cast<uint32_t>(coordinates[1]);
    const Lane image = static_cast<uint32_t>(coordinates[2]), query = static_cast<uint32_t>(coordinates[3]);
    const Lane site = static_cast<uint32_t>(coordinates[4]);
    for (int64_t block = 0; block < blocks; ++block) {
        Lane c0 = static_cast<Lane>(first + block), c1 = image, c2 = query, c3 = site;  // only 32 bits of each count
        uint32_t k0 = key0, k1 = key1;
        for (int round = 0; round < 10; ++round) {
            const uint64_t p0 = static_cast<uint64_t>(static_cast<uint32_t>(c0)) * 0xD2511F53u;
            const uint64_t p1 = static_cast<uint64_t>(static_cast<uint32_t>(c2)) * 0xCD9E8D57u;
            c0 = static_cast<Lane>(p1 >> 32) ^ c1 ^ k0;
            c1 = static_cast<Lane>(p1);
            c2 = static_cast<Lane>(p0 >> 32) ^ c3 ^ k1;
            c3 = static_cast<Lane>(p0);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        words[4 * block] = static_cast<uint32_t>(c0);
        words[4 * block + 1] = static_cast<uint32_t>(c1);
        words[4 * block + 2] = static_cast<uint32_t>(c2);
        words[4 * block + 3] = static_cast<uint32_t>(c3);
    }
}

CLONED void narrow_lanes(uint32_t* words, const int64_t* coordinates, int64_t first, int64_t blocks) {
    make_words<uint32_t>(words, coordinates, first, blocks);
}

CLONED void wide_lanes(uint32_t* words, const int64_t* coordinates, int64_t first, int64_t blocks) {
    make_words<uint64_t>(words, coordinates, first, blocks);
}

}  // namespace

void fill_words(uint32_t* words, const int64_t* coordinates, int64_t first, int64_t blocks) {
#ifdef WIDE_CLONES
    static const bool wide = __builtin_cpu_supports("avx512dq");
#else
    constexpr bool wide = false;
#endif
    (wide ? wide_lanes : narrow_lanes)(words, coordinates, first, blocks);
}

namespace {

constexpr float UNIT = 0x1p-24f;
constexpr float ANGLE = 3.7450702829239286e-07f;  // 2π·2⁻²⁴

inline float high_bits(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)); }

CLONED void widen(int64_t* out, const uint32_t* words, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = words[i];
}

CLONED void narrow(uint32_t* out, const int64_t* words, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint32_t>(words[i]);
}

CLONED void uniform_numbers(float* out, const uint32_t* words, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = high_bits(words[i]) * UNIT;
}

CLONED void make_pairs(float* __restrict out, const uint32_t* __restrict words, int64_t pairs) {
    for (int64_t i = 0; i < pairs; ++i) {
        const float radius = std::sqrt(logarithm((high_bits(words[2 * i]) + 1.0f) * UNIT) * -2.0f);
        float sine, cosine;
        sine_and_cosine(high_bits(words[2 * i + 1]) * ANGLE, sine, cosine);
        out[2 * i] = radius * cosine;
        out[2 * i + 1] = radius * sine;
    }
}

}  // namespace

void make_uniform(float* out, const uint32_t* words, int64_t count) { uniform_numbers(out, words, count); }

void make_normal(float* out, const uint32_t* words, int64_t count) {
    make_pairs(out, words, count / 2);
    if (count % 2) {
        float pair[2];
        make_pairs(pair, words + count - 1, 1);
        out[count - 1] = pair[0];
    }
}

namespace {

template <typename T>
void draw(T* out, const int64_t* coordinates, int64_t rows, int64_t count, int64_t threads,
          void (*convert)(T*, const uint32_t*, int64_t)) {
    for_tiles(rows, (count + 3) / 4, threads, [=](int64_t row, int64_t first, int64_t blocks) {
        alignas(64) uint32_t words[4 * TILE];
        fill_words(words, coordinates + 5 * row, first, blocks);
        convert(out + row * count + 4 * first, words, std::min(4 * blocks, count - 4 * first));
    });
}

}  // namespace
}  // namespace cannonade

// Streams at coordinates [rows, 5] to numbers [rows, count].
extern "C" void draw_words(int64_t* out, const int64_t* coordinates, int64_t rows, int64_t count, int64_t threads) {
    cannonade::draw(out, coordinates, rows, count, threads, cannonade::widen);
}

extern "C" void draw_uniform(float* out, const int64_t* coordinates, int64_t rows, int64_t count, int64_t threads) {
    cannonade::draw(out, coordinates, rows, count, threads, cannonade::make_uniform);
}

extern "C" void draw_normal(float* out, const int64_t* coordinates, int64_t rows, int64_t count, int64_t threads) {
    cannonade::draw(out, coordinates, rows, count, threads, cannonade::make_normal);
}

// The normal numbers of words drawn before, an even count of them.
extern "C" void convert_normal(float* out, const int64_t* words, int64_t count, int64_t threads) {
    using namespace cannonade;
    for_tiles(1, (count + 3) / 4, threads, [=](int64_t, int64_t first, int64_t blocks) {
        alignas(64) uint32_t narrowed[4 * TILE];
        const int64_t own = std::min(4 * blocks, count - 4 * first);
        narrow(narrowed, words + 4 * first, own);
        make_normal(out + 4 * first, narrowed, own);
    });
}
