// Philox-4x32-10 for the files of this folder: the words of a run of counters, and how the work is cut.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"

namespace cannonade {

// Counters made at once: their words take 8 KB of a first-level cache.
constexpr int64_t TILE = 512;
// Counters that one thread makes alone, in about 0.5 ms. Where other programs keep the cores busy, waiting for a second
// thread to get its turn costs milliseconds.
constexpr int64_t ALONE = 1 << 16;

// Words 0 to 3 of counters first, ..., first + blocks - 1 of one stream; coordinates: key, key, image, query, site.
void fill_words(uint32_t* words, const int64_t* coordinates, int64_t first, int64_t blocks);

// Numbers from words; those of normal ones go on to the end of the last pair, `out` need not.
void make_uniform(float* out, const uint32_t* words, int64_t count);
void make_normal(float* out, const uint32_t* words, int64_t count);

// Calls make(row, first, blocks) for runs of at most TILE counters that cover `blocks` counters of each row.
template <typename Make>
void for_tiles(int64_t rows, int64_t blocks, int64_t threads, const Make& make) {
    const int64_t tiles = (blocks + TILE - 1) / TILE;
    const int team = rows * blocks > ALONE ? static_cast<int>(threads) : 1;
#pragma omp parallel for schedule(guided) num_threads(team)
    for (int64_t tile = 0; tile < rows * tiles; ++tile) {
        const int64_t first = tile % tiles * TILE;
        make(tile / tiles, first, std::min(TILE, blocks - first));
    }
}

}  // namespace cannonade
