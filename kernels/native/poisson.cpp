// Poisson numbers on a CPU, as kernels/poisson.py defines them.

#include "philox.h"

namespace cannonade {
namespace {

// Quantiles of Poisson(step·row): keys ascend through all rows, and row r has its own from start[r] on.
struct Table {
    const int64_t *keys, *first, *start;
};

// What the rates and words of one tile come to; every loop below runs over it.
struct Tile {
    int64_t count;
    alignas(64) uint32_t words[4 * TILE];
    alignas(64) int32_t whole[TILE];
    alignas(64) double fraction[TILE];
    alignas(64) int64_t total[TILE];
    alignas(64) double term[TILE], below[TILE];
};

// exp(-x) to about 1e-16 for x in [0, 1): e^-½ times Taylor's sum around ½.
inline double decay(double x) {
    const double y = 0.5 - x;
    double sum = 1.0;
    for (int k = 14; k > 0; --k) sum = sum * y * (1.0 / k) + 1.0;
    return sum * 0.6065306597126334;
}

// Splits rates into whole and fraction; returns the largest whole.
template <typename T>
inline int32_t split(Tile& tile, const T* rates) {
    int32_t largest = 0;
    for (int64_t i = 0; i < tile.count; ++i) {
        const double rate = rates[i];
        const auto whole = static_cast<int32_t>(rate);
        tile.whole[i] = whole;
        tile.fraction[i] = rate - static_cast<double>(whole);
        largest = whole > largest ? whole : largest;
    }
    return largest;
}

CLONED int32_t split_float(Tile& tile, const float* rates) { return split(tile, rates); }

CLONED int32_t split_double(Tile& tile, const double* rates) { return split(tile, rates); }

// Starts the totals with the Poisson numbers of the fractions: each law is summed until it passes word 0.
CLONED void start_with_fractions(Tile& tile) {
    for (int64_t i = 0; i < tile.count; ++i) {
        tile.term[i] = tile.below[i] = decay(tile.fraction[i]);
        tile.total[i] = 0;
    }
    int64_t open = tile.count;
    for (int k = 1; k < 14 && open > 0; ++k) {
        open = 0;
        for (int64_t i = 0; i < tile.count; ++i) {
            const double target = tile.words[4 * i] * 0x1p-32;
            const int64_t above = target >= tile.below[i] ? 1 : 0;
            tile.total[i] += above;
            open += above;
            tile.term[i] *= tile.fraction[i] * (1.0 / k);
            tile.below[i] += tile.term[i];
        }
    }
}

// Adds the quantiles at word LANE of the row for rate / STEP % ROWS. All searches have one length, so that they run side
// by side: rows have fewer than 2^BITS keys, keys of later rows are larger than what is searched for, and 2^BITS more
// follow the last row's.
template <int32_t STEP, int32_t ROWS, int BITS, int LANE>
inline void add_quantiles(Tile& tile, const Table& table) {
    const int64_t* __restrict keys = table.keys;
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.count; ++i) {
        const int64_t row = tile.whole[i] / STEP % ROWS;
        const int64_t value = row * (int64_t{1} << 33) + tile.words[4 * i + LANE];
        const int64_t start = table.start[row];
        int64_t place = start;
#pragma GCC unroll 16
        for (int bit = BITS - 1; bit >= 0; --bit) {
            place += keys[place + (1 << bit) - 1] <= value ? 1 << bit : 0;
        }
        tile.total[i] += place - start + table.first[row];
    }
}

CLONED void add_ones(Tile& tile, const Table& table) { add_quantiles<1, 128, 8, 1>(tile, table); }

CLONED void add_hundreds(Tile& tile, const Table& table) { add_quantiles<128, 64, 11, 2>(tile, table); }

CLONED void add_thousands(Tile& tile, const Table& table) { add_quantiles<8192, 33, 13, 3>(tile, table); }

CLONED void finish(float* out, const Tile& tile) {
    for (int64_t i = 0; i < tile.count; ++i) out[i] = static_cast<float>(static_cast<int32_t>(tile.total[i]));
}

template <typename T>
void poisson(float* out, const int64_t* coordinates, const T* rates, const Table (&tables)[3], int64_t rows,
             int64_t count, int64_t threads, int32_t (*split)(Tile&, const T*)) {
    for_tiles(rows, count, threads, [&](int64_t row, int64_t first, int64_t blocks) {
        Tile tile;
        tile.count = blocks;
        fill_words(tile.words, coordinates + 5 * row, first, blocks);
        const int32_t largest = split(tile, rates + row * count + first);
        start_with_fractions(tile);
        add_ones(tile, tables[0]);
        if (largest >= 128) add_hundreds(tile, tables[1]);
        if (largest >= 8192) add_thousands(tile, tables[2]);
        finish(out + row * count + first, tile);
    });
}

}  // namespace
}  // namespace cannonade

// Streams at coordinates [rows, 5] and rates [rows, count] in [0, 270336) to numbers [rows, count]; element e takes
// counter e. Three tables, of steps 1, 128 and 8192, each as keys, first number by row, and start by row.
#define DRAW_POISSON(NAME, TYPE, SPLIT)                                                                              \
    extern "C" void NAME(float* out, const int64_t* coordinates, const TYPE* rates, const int64_t* keys1,            \
                         const int64_t* first1, const int64_t* start1, const int64_t* keys2, const int64_t* first2,  \
                         const int64_t* start2, const int64_t* keys3, const int64_t* first3, const int64_t* start3,  \
                         int64_t rows, int64_t count, int64_t threads) {                                             \
        const cannonade::Table tables[] = {{keys1, first1, start1},                                                  \
                                           {keys2, first2, start2},                                                  \
                                           {keys3, first3, start3}};                                                 \
        cannonade::poisson(out, coordinates, rates, tables, rows, count, threads, cannonade::SPLIT);                 \
    }

DRAW_POISSON(draw_poisson_float, float, split_float)
DRAW_POISSON(draw_poisson_double, double, split_double)
