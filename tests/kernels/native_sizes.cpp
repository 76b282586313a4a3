// Calls the native random numbers on exactly allocated memory of odd sizes; built with sanitizers by test_native.py.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" {
void draw_words(int64_t*, const int64_t*, int64_t, int64_t, int64_t);
void draw_uniform(float*, const int64_t*, int64_t, int64_t, int64_t);
void draw_normal(float*, const int64_t*, int64_t, int64_t, int64_t);
void convert_normal(float*, const int64_t*, int64_t, int64_t);
void draw_poisson_float(float*, const int64_t*, const float*, const int64_t*, const int64_t*, const int64_t*,
                        const int64_t*, const int64_t*, const int64_t*, const int64_t*, const int64_t*, const int64_t*,
                        int64_t, int64_t, int64_t);
void draw_poisson_double(float*, const int64_t*, const double*, const int64_t*, const int64_t*, const int64_t*,
                         const int64_t*, const int64_t*, const int64_t*, const int64_t*, const int64_t*, const int64_t*,
                         int64_t, int64_t, int64_t);
}

struct Table {
    std::vector<int64_t> keys, first, start;

    // Rows of one key beyond every word, whose quantile is always `step * row`.
    Table(int64_t step, int64_t rows, int64_t padding) {
        for (int64_t row = 0; row < rows; ++row) {
            keys.push_back((row << 33) + (int64_t{1} << 32));
            first.push_back(step * row);
            start.push_back(row);
        }
        keys.resize(keys.size() + padding, INT64_MAX);
    }
};

void expect(bool good, const char* what, int64_t rows, int64_t count) {
    if (good) return;
    std::printf("%s is wrong at %lld rows of %lld\n", what, static_cast<long long>(rows), static_cast<long long>(count));
    std::exit(1);
}

template <typename T, typename Draw>
void check_poisson(Draw draw, const std::vector<int64_t>& coordinates, int64_t rows, int64_t count, int64_t threads) {
    static const Table a(1, 128, 255), b(128, 64, 2047), c(8192, 33, 8191);
    std::vector<T> rates(rows * count);
    for (size_t i = 0; i < rates.size(); ++i) rates[i] = static_cast<T>(i * 97 % 270336);
    std::vector<float> numbers(rows * count, -1.0f);
    draw(numbers.data(), coordinates.data(), rates.data(), a.keys.data(), a.first.data(), a.start.data(), b.keys.data(),
         b.first.data(), b.start.data(), c.keys.data(), c.first.data(), c.start.data(), rows, count, threads);
    for (size_t i = 0; i < rates.size(); ++i) expect(numbers[i] == rates[i], "poisson", rows, count);
}

int main() {
    for (const int64_t rows : {0, 1, 3, 70}) {
        for (const int64_t count : {0, 1, 2, 3, 5, 511, 513, 2047, 2049, 4098}) {
            for (const int64_t threads : {1, 2}) {
                const std::vector<int64_t> coordinates(rows * 5, 0xFFFFFFFF);
                std::vector<int64_t> words(rows * count, -1);
                std::vector<float> uniform(rows * count, -1.0f), normal(rows * count, 9.0f);
                draw_words(words.data(), coordinates.data(), rows, count, threads);
                draw_uniform(uniform.data(), coordinates.data(), rows, count, threads);
                draw_normal(normal.data(), coordinates.data(), rows, count, threads);
                for (int64_t i = 0; i < rows * count; ++i) {
                    expect(words[i] >= 0 && words[i] < int64_t{1} << 32, "words", rows, count);
                    expect(uniform[i] >= 0.0f && uniform[i] < 1.0f, "uniform", rows, count);
                    expect(normal[i] > -5.8f && normal[i] < 5.8f, "normal", rows, count);
                }
                words.resize(words.size() / 2 * 2);
                std::vector<float> converted(words.size(), 9.0f);
                convert_normal(converted.data(), words.data(), static_cast<int64_t>(words.size()), threads);
                for (const float value : converted) expect(value > -5.8f && value < 5.8f, "convert", rows, count);
                check_poisson<float>(draw_poisson_float, coordinates, rows, count, threads);
                check_poisson<double>(draw_poisson_double, coordinates, rows, count, threads);
            }
        }
    }
    std::puts("ok");
}
