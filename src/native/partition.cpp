// The partition: row i of A has one entry, the row's sign, in column (i mod d + c_t) mod d, where t = i / d and c_t is the
// shift of group t. See docs/projections.md.

#include <memory>

#include "build.hpp"
#include "memory.hpp"
#include "pieces.hpp"
#include "signs.hpp"
#include "threads.hpp"

namespace igc::IGC_BUILD {

using namespace simd;

namespace {

// Columns that are summed together: 256 KB of sums, in the second-level cache; fewer would be read in shorter stretches.
constexpr int64_t columns_at_once = 1 << 16;
// Rows that are summed or moved at once: 16 KB, half of a small first-level cache.
constexpr int64_t rows_at_once = 1 << 12;
// Rows whose sum is worth a partial sum of its own, at most so many floats of them: a function of sizes alone, never of threads.
constexpr int64_t rows_of_a_part = 1 << 18, partial_floats = 1 << 20, most_parts = 64;
// Rows that a thread takes at a time.
constexpr int64_t rows_of_a_task = 1 << 16;

// The shifts of groups, a window of them at a time.
class Shifts {
   public:
    explicit Shifts(const Layout& layout) : layout_(layout) {}

    int64_t of(int64_t group) {
        if (group < begin_ || group >= begin_ + window) {
            begin_ = group / 4 * 4;
            sign_words(layout_.seed, shifts, uint64_t(begin_ / 4), window / 4, words_);
        }
        return int64_t(uint64_t(words_[group - begin_]) * uint64_t(layout_.d) >> 32);
    }

   private:
    static constexpr int64_t window = 64;
    Layout layout_;
    int64_t begin_ = -window;
    uint32_t words_[window];
};

// What one thread works in.
struct Scratch {
    explicit Scratch(const Layout& layout) : signs(layout.seed, row_signs, rows_at_once), shifts(layout) {}

    Signs signs;
    Shifts shifts;
    Buffer<float> points = allocate<float>(rows_at_once);
};

// sums += scale sign x, for n rows from `row` on.
void add_signed(const float* x, float scale, const Signs& signs, int64_t row, float* sums, int64_t n) {
    int64_t i = 0;
    const vf scales = vf{} + scale;
    for (; i + lanes <= n; i += lanes) store(sums + i, load(sums + i) + scales * signs.flipped(load(x + i), row + i));
    for (; i < n; ++i) sums[i] += scale * signs.flipped(x[i], row + i);
}

// y = base + factor sign x, for n rows from `row` on.
void put_signed(const float* x, float factor, const Signs& signs, int64_t row, const float* base, float* y, int64_t n) {
    int64_t i = 0;
    const vf factors = vf{} + factor;
    for (; i + lanes <= n; i += lanes)
        store(y + i, load(base + i) + factors * signs.flipped(load(x + i), row + i));
    for (; i < n; ++i) y[i] = base[i] + factor * signs.flipped(x[i], row + i);
}

}  // namespace

void partition_project(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, float* out, int threads) {
    const Pieces g(pieces, count, start);
    if (g.begin() >= g.end()) return;
    const int64_t d = layout.d, first = g.begin() / d, groups = (g.end() + d - 1) / d - first;
    // Task (part, strip) sums a strip of columns over the groups of one part.
    const int64_t strips = (d + columns_at_once - 1) / columns_at_once;
    const int64_t parts = std::clamp<int64_t>(std::min(partial_floats / d, groups * d / rows_of_a_part), 1, most_parts);
    auto sums = parts > 1 ? allocate<float>(parts * d) : Buffer<float>();
    if (parts > 1) std::memset(sums.get(), 0, size_t(parts * d) * sizeof(float));
    // Rows row .. row + n, which fall into columns `into` and following.
    auto add_rows = [&](int64_t row, int64_t n, float* into, Scratch& scratch) {
        const int64_t low = std::max(row, g.begin()), high = std::min(row + n, g.end());
        for (int64_t at = low; at < high; at += rows_at_once) {
            const int64_t until = std::min(high, at + rows_at_once);
            scratch.signs.reach(at, until - at);
            g.parts(at, until, [&](const Piece& piece, int64_t offset, int64_t from, int64_t many) {
                const bool whole = piece.dtype == Dtype::float32;
                if (!whole) read(piece, offset, scratch.points.get(), many);
                const float* x = whole ? static_cast<const float*>(piece.data) + offset : scratch.points.get();
                add_signed(x, piece.scale, scratch.signs, from, into + (from - row), many);
            });
        }
    };
    in_parallel(parts * strips, g.end() - g.begin(), threads, [&] {
        return [&, scratch = std::make_shared<Scratch>(layout)](int64_t task) {
            const int64_t part = task / strips, low = task % strips * columns_at_once;
            const int64_t high = std::min(d, low + columns_at_once);
            float* into = parts > 1 ? sums.get() + part * d : out;
            for (int64_t t = groups * part / parts; t < groups * (part + 1) / parts; ++t) {
                const int64_t base = (first + t) * d, c = scratch->shifts.of(first + t);
                // Columns from c on hold the group's first rows, columns below c its last.
                const int64_t middle = std::clamp(c, low, high);
                if (middle < high) add_rows(base + middle - c, high - middle, into + middle, *scratch);
                if (low < middle) add_rows(base + d - c + low, middle - low, into + low, *scratch);
            }
        };
    });
    if (parts == 1) return;
    for (int64_t part = 0; part < parts; ++part)
        for (int64_t j = 0; j < d; ++j) out[j] += sums[size_t(part * d + j)];
}

void partition_add_expanded(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, const float* x,
                            float alpha, int threads) {
    const Pieces y(pieces, count, start);
    if (y.begin() >= y.end()) return;
    const int64_t d = layout.d;
    const int64_t tasks = (y.end() - y.begin() + rows_of_a_task - 1) / rows_of_a_task;
    in_parallel(tasks, y.end() - y.begin(), threads, [&] {
        return [&, scratch = std::make_shared<Scratch>(layout)](int64_t task) {
            int64_t row = y.begin() + task * rows_of_a_task;
            const int64_t stop = std::min(y.end(), row + rows_of_a_task);
            while (row < stop) {
                const int64_t t = row / d, column = (row - t * d + scratch->shifts.of(t)) % d;
                const int64_t n = std::min({stop - row, (t + 1) * d - row, d - column, rows_at_once});
                scratch->signs.reach(row, n);
                y.parts(row, row + n, [&](const Piece& piece, int64_t offset, int64_t from, int64_t many) {
                    const float factor = alpha * piece.scale;
                    const float* source = x + column + (from - row);
                    if (piece.dtype == Dtype::float32)
                        return put_signed(source, factor, scratch->signs, from, static_cast<const float*>(piece.base) + offset,
                                          static_cast<float*>(piece.data) + offset, many);
                    float* step = scratch->points.get();
                    std::memset(step, 0, size_t(many) * sizeof(float));
                    add_signed(source, factor, scratch->signs, from, step, many);
                    add(piece, offset, step, many);
                });
                row += n;
            }
        };
    });
}

}  // namespace igc::IGC_BUILD
