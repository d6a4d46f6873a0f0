// The blocked Hadamard projection; see kernel.hpp.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "build.hpp"
#include "memory.hpp"
#include "philox.hpp"
#include "pieces.hpp"
#include "signs.hpp"
#include "simd.hpp"
#include "threads.hpp"

namespace igc::IGC_BUILD {

using namespace simd;

namespace {

constexpr int first_bits = lane_bits + IGC_REGISTER_BITS;  // bits that the first pass transforms
constexpr int64_t first_points = int64_t(1) << first_bits;
constexpr int pass_bits = IGC_REGISTER_BITS;  // bits of any later pass, at most
constexpr int part_bits = 12;  // 16 KB: half of a small first-level cache
// Points this far apart (4 KB) fall into one set of a first-level cache, which holds eight lines as a rule: no more at once.
constexpr int far_bits = 10, far_pass_bits = 3;
// Below this, a block shares its counter of signs with its neighbours, and takes the plain path.
constexpr int64_t smallest = first_points < 128 ? 128 : first_points;
// Floats of partial sums; with it, the number of partial sums is a function of sizes alone, never of threads.
constexpr int64_t partial_floats = 1 << 20;
// Blocks whose sum is worth a partial sum of its own, which costs half a block's time, and that of memory never used before;
// where there would be few tasks otherwise, fewer blocks are.
constexpr int64_t blocks_of_a_part = 64, blocks_of_a_short_part = 16, tasks_of_short_parts = 8;
// Rows that no cache holds until they are read again.
constexpr int64_t more_than_caches = int64_t(1) << 24;

int log2_of(int64_t n) { return 63 - __builtin_clzll(uint64_t(n)); }

// ---- the transform, pass by pass ----

// How the bits of n points are split into passes over them.
struct Schedule {
    explicit Schedule(int64_t n) {
        const int bits = log2_of(n);
        int done = first_bits;
        while (bits - done > pass_bits && done + pass_bits <= part_bits) done += pass_bits, ++inner;
        part = std::min(n, int64_t(1) << done);
        for (;;) {
            const int left = bits - done, widest = done < far_bits ? pass_bits : std::min(pass_bits, far_pass_bits);
            last = left;
            if (left <= widest) return;
            const int passes = (left + widest - 1) / widest;
            outer[outers++] = left / passes;
            done += left / passes;
        }
    }

    int passes() const { return 1 + inner + outers + 1; }

    int64_t part = 0;  // points that the first pass and the inner ones go through together, in cache
    int inner = 0;     // passes of pass_bits within a part
    int outers = 0, outer[32];  // passes over all points, and their bits
    int last = 0;      // bits of the last pass
};

// What comes next in memory, fetched to the second-level cache during the passes over what is at hand. Evenly over all
// of them: a core has few fetches under way at once, so that a burst in one pass waits for memory, and the others leave it idle.
class Ahead {
   public:
    Ahead() = default;
    // `count` floats from each of two places (or one, or none: null), in a number of passes.
    Ahead(const float* first, const float* second, int64_t count, int passes)
        : first_(first), second_(second), left_(first ? count / line_floats : 0), passes_(passes) {}

    // This pass's share, while it works on so many points.
    void fetch(int points) {
        for (int lines = (points / line_floats + passes_ - 1) / passes_; lines > 0 && left_ > 0; --lines, --left_) {
            __builtin_prefetch(first_, 0, 2);
            first_ += line_floats;
            if (!second_) continue;
            __builtin_prefetch(second_, 0, 2);
            second_ += line_floats;
        }
    }

   private:
    static constexpr int line_floats = 16;
    const float* first_ = nullptr;
    const float* second_ = nullptr;
    int64_t left_ = 0;
    int passes_ = 1;
};

// Bits 0 .. first_bits of n points, from src to dst (which may be src), with the signs of `words` first if there are any.
template <bool signs>
Ahead first_pass(const float* src, float* dst, int64_t n, const uint32_t* words, Ahead ahead) {
    constexpr int registers = 1 << IGC_REGISTER_BITS;
    for (int64_t at = 0; at < n; at += first_points) {
        ahead.fetch(int(first_points));
        vf v[registers];
#pragma GCC unroll 16
        for (int r = 0; r < registers; ++r) {
            int64_t i = at + r * lanes;
            v[r] = load(src + i);
            if constexpr (signs) v[r] = flip_bits(v[r], words[i >> 5], int(i & 31));
            v[r] = lane_transform(v[r]);
        }
        butterflies<IGC_REGISTER_BITS>(v);
#pragma GCC unroll 16
        for (int r = 0; r < registers; ++r) store(dst + at + r * lanes, v[r]);
    }
    return ahead;
}

template <int bits>
Ahead middle_pass(float* x, int64_t n, int64_t stride, Ahead ahead) {
    for (int64_t base = 0; base < n; base += stride << bits)
        for (int64_t j = base; j < base + stride; j += lanes) {
            ahead.fetch(lanes << bits);
            vf v[1 << bits];
#pragma GCC unroll 16
            for (int k = 0; k < (1 << bits); ++k) v[k] = load(x + j + k * stride);
            butterflies<bits>(v);
#pragma GCC unroll 16
            for (int k = 0; k < (1 << bits); ++k) store(x + j + k * stride, v[k]);
        }
    return ahead;
}

Ahead middle_pass_of(int bits, float* x, int64_t n, int64_t stride, Ahead ahead) {
    switch (bits) {
        case 0: return ahead;
        case 1: return middle_pass<1>(x, n, stride, ahead);
        case 2: return middle_pass<2>(x, n, stride, ahead);
        case 3: return middle_pass<3>(x, n, stride, ahead);
        default: return middle_pass<pass_bits>(x, n, stride, ahead);
    }
}

// The last pass, with signs of `words`; what becomes of each vector is `use`'s to say: use(place, vector).
template <int bits, class Use>
void last_pass(const float* x, int64_t n, const uint32_t* words, Ahead ahead, Use use) {
    int64_t stride = n >> bits;
    for (int64_t j = 0; j < stride; j += lanes) {
        ahead.fetch(lanes << bits);
        vf v[1 << bits];
#pragma GCC unroll 16
        for (int k = 0; k < (1 << bits); ++k) v[k] = load(x + j + k * stride);
        butterflies<bits>(v);
#pragma GCC unroll 16
        for (int k = 0; k < (1 << bits); ++k) {
            int64_t i = j + k * stride;
            use(i, flip_bits(v[k], words[i >> 5], int(i & 31)));
        }
    }
}

// Every pass but the last, from src to dst.
template <bool signs>
Ahead lower_passes(const Schedule& schedule, const float* src, float* dst, int64_t n, const uint32_t* words, Ahead ahead) {
    const int64_t part = schedule.part;
    for (int64_t at = 0; at < n; at += part) {
        ahead = first_pass<signs>(src + at, dst + at, part, signs ? words + at / 32 : nullptr, ahead);
        for (int i = 0; i < schedule.inner; ++i)
            ahead = middle_pass<pass_bits>(dst + at, part, first_points << (i * pass_bits), ahead);
    }
    int64_t stride = part;
    for (int i = 0; i < schedule.outers; ++i) {
        ahead = middle_pass_of(schedule.outer[i], dst, n, stride, ahead);
        stride <<= schedule.outer[i];
    }
    return ahead;
}

template <class Use>
void last_pass_of(int bits, const float* x, int64_t n, const uint32_t* words, Ahead ahead, Use use) {
    switch (bits) {
        case 0: return last_pass<0>(x, n, words, ahead, use);
        case 1: return last_pass<1>(x, n, words, ahead, use);
        case 2: return last_pass<2>(x, n, words, ahead, use);
        case 3: return last_pass<3>(x, n, words, ahead, use);
        default: return last_pass<pass_bits>(x, n, words, ahead, use);
    }
}

void plain_transform(float* x, int64_t n) {
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t base = 0; base < n; base += 2 * half)
            for (int64_t i = base; i < base + half; ++i) {
                float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
}

// ---- blocks ----

// The columns that a block owns.
struct Segment {
    int64_t offset, size;
};

struct Plan {
    explicit Plan(const Layout& l)
        : layout(l), schedule(l.n), segments((l.d + l.n - 1) / l.n), size(l.d / segments), longer(l.d % segments) {}

    Segment segment(int64_t q) const { return {q * size + std::min(q, longer), size + (q < longer ? 1 : 0)}; }

    Layout layout;
    Schedule schedule;
    int64_t segments, size, longer;
};

// What one thread works in.
struct Scratch {
    explicit Scratch(int64_t n)
        : points(allocate<float>(std::max(n, smallest))),
          rows(allocate<uint32_t>(std::max<int64_t>(n / 32, 4))),
          columns(allocate<uint32_t>(std::max<int64_t>(n / 32, 4))) {}

    // The sign words of block b; `shift` is where they begin, in bits, which is not 0 for small blocks only.
    int signs(const Layout& layout, int64_t b, uint32_t stream, uint32_t* words) const {
        uint64_t first = uint64_t(b) * uint64_t(layout.n);
        sign_words(layout.seed, stream, first / 128, std::max<int64_t>(layout.n / 128, 1), words);
        return int(first % 128);
    }

    Buffer<float> points;
    Buffer<uint32_t> rows, columns;
};

// Where a block lies within rows of one scale, it is scaled after the transform, else before: that depends on where tensors
// lie in the flat view alone, and never on their dtypes or on how they lie in memory.

// sums (n) += C_b H R_b (scale g)_b. Meanwhile, the block that comes next, `step` blocks on, is fetched from memory.
void project_block(const Plan& plan, const Pieces& g, int64_t b, int64_t step, Scratch& scratch, float* sums) {
    const int64_t n = plan.layout.n, low = b * n;
    float* x = scratch.points.get();
    const float common = g.scale(low, low + n), after = common != 0.0f ? common : 1.0f;
    const float* source = n >= smallest ? g.whole(low, low + n).data : nullptr;
    if (!source) {
        if (low < g.begin() || low + n > g.end()) std::memset(x, 0, size_t(n) * sizeof(float));
        g.parts(low, low + n, [&](const Piece& piece, int64_t offset, int64_t row, int64_t count) {
            read(piece, offset, x + (row - low), count);
            if (common == 0.0f) multiply(x + (row - low), piece.scale, count);
        });
        source = x;
    }
    uint32_t *rows = scratch.rows.get(), *columns = scratch.columns.get();
    int shift = scratch.signs(plan.layout, b, row_signs, rows);
    scratch.signs(plan.layout, b, column_signs, columns);
    if (n < smallest) {
        flip_plainly(x, n, rows, shift);
        plain_transform(x, n);
        flip_plainly(x, n, columns, shift);
        for (int64_t i = 0; i < n; ++i) sums[i] += after * x[i];
        return;
    }
    const vf afters = vf{} + after;
    const Schedule& schedule = plan.schedule;
    Ahead ahead(g.whole(low + step * n, low + step * n + n).data, nullptr, n, schedule.passes());
    ahead = lower_passes<true>(schedule, source, x, n, rows, ahead);
    last_pass_of(schedule.last, x, n, columns, ahead,
                 [sums, afters](int64_t i, vf v) { store(sums + i, load(sums + i) + afters * v); });
}

// y_b = base_b + scale factor R_b H C_b x_q; past_caches: y is not read again before it has left the caches.
void expand_block(const Plan& plan, const Pieces& y, int64_t b, const float* x, float alpha, bool past_caches,
                  Scratch& scratch) {
    const int64_t n = plan.layout.n, low = b * n;
    const Segment segment = plan.segment(b % plan.segments);
    const float common = y.scale(low, low + n);
    const float plain = alpha * float(1.0 / std::sqrt(double(segment.size)));
    const float factor = common != 0.0f ? plain * common : plain;
    float* points = scratch.points.get();
    const float* source = x + segment.offset;
    if (segment.size < n || n < smallest) {
        std::memcpy(points, source, size_t(segment.size) * sizeof(float));
        std::memset(points + segment.size, 0, size_t(n - segment.size) * sizeof(float));
        source = points;
    }
    uint32_t *rows = scratch.rows.get(), *columns = scratch.columns.get();
    int shift = scratch.signs(plan.layout, b, row_signs, rows);
    scratch.signs(plan.layout, b, column_signs, columns);
    if (n < smallest) {
        flip_plainly(points, n, columns, shift);
        plain_transform(points, n);
        flip_plainly(points, n, rows, shift);
        for (int64_t i = 0; i < n; ++i) points[i] *= factor;
    } else {
        const vf factors = vf{} + factor;
        const Schedule& schedule = plan.schedule;
        const Pieces::Rows at = y.whole(low, low + n), next = y.whole(low + n, low + 2 * n);
        const bool past = past_caches && at && at.base != at.data && uintptr_t(at.data) % sizeof(vf) == 0;
        Ahead ahead(next.base, past || next.base == next.data ? nullptr : next.data, n, schedule.passes());
        ahead = lower_passes<true>(schedule, source, points, n, columns, ahead);
        if (past) {
            last_pass_of(schedule.last, points, n, rows, ahead, [at, factors](int64_t i, vf v) {
                store_past_caches(at.data + i, load(at.base + i) + factors * v);
            });
            finish_stores_past_caches();
            return;
        }
        if (at) {
            last_pass_of(schedule.last, points, n, rows, ahead,
                         [at, factors](int64_t i, vf v) { store(at.data + i, load(at.base + i) + factors * v); });
            return;
        }
        last_pass_of(schedule.last, points, n, rows, ahead,
                     [points, factors](int64_t i, vf v) { store(points + i, factors * v); });
    }
    y.parts(low, low + n, [&](const Piece& piece, int64_t offset, int64_t row, int64_t count) {
        if (common == 0.0f) multiply(points + (row - low), piece.scale, count);
        add(piece, offset, points + (row - low), count);
    });
}

// Blocks, or rows of n points, in groups of about 2^16 points: the counter of tasks is no bottleneck where n is small.
int64_t rows_of_a_task(int64_t n) { return std::max<int64_t>((1 << 16) / n, 1); }

}  // namespace

void project(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, float* out, int threads) {
    const Plan plan(layout);
    const Pieces g(pieces, count, start);
    if (g.begin() >= g.end()) return;
    const int64_t n = layout.n, S = plan.segments;
    const int64_t first = g.begin() / n, last = (g.end() + n - 1) / n;
    const int64_t deep = (last - first + S - 1) / S;  // blocks of a segment, at most
    const int64_t few = std::min(tasks_of_short_parts / S, deep / blocks_of_a_short_part);
    const int64_t parts = std::clamp<int64_t>(std::min(partial_floats / (S * n), std::max(few, deep / blocks_of_a_part)), 1, 64);
    // Task (part, q) sums the blocks of segment q that fall in one part of the rows.
    auto sums = parts > 1 ? allocate<float>(parts * S * n) : Buffer<float>();
    auto sum_blocks = [&](int64_t part, int64_t q, Scratch& scratch, float* into) {
        std::memset(into, 0, size_t(n) * sizeof(float));
        int64_t offset = ((q - first) % S + S) % S;
        int64_t blocks = first + offset < last ? (last - first - offset + S - 1) / S : 0;
        for (int64_t i = blocks * part / parts; i < blocks * (part + 1) / parts; ++i)
            project_block(plan, g, first + offset + i * S, S, scratch, into);
    };
    auto fold = [&](int64_t q, auto value) {
        Segment segment = plan.segment(q);
        float scale = float(1.0 / std::sqrt(double(segment.size)));
        for (int64_t j = 0; j < segment.size; ++j) out[segment.offset + j] += scale * value(j);
    };
    in_parallel(parts * S, g.end() - g.begin(), threads, [&] {
        return [&, scratch = std::make_shared<Scratch>(n), own = parts > 1 ? Buffer<float>() : allocate<float>(n)](
                   int64_t task) {
            int64_t part = task / S, q = task % S;
            sum_blocks(part, q, *scratch, parts > 1 ? sums.get() + task * n : own.get());
            if (parts == 1) fold(q, [&](int64_t j) { return own[size_t(j)]; });
        };
    });
    if (parts == 1) return;
    for (int64_t q = 0; q < S; ++q) {
        float* total = sums.get() + q * n;
        for (int64_t part = 1; part < parts; ++part) {
            const float* more = sums.get() + (part * S + q) * n;
            for (int64_t j = 0; j < n; ++j) total[j] += more[j];
        }
        fold(q, [&](int64_t j) { return total[j]; });
    }
}

void add_expanded(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, const float* x, float alpha,
                  int threads) {
    const Plan plan(layout);
    const Pieces y(pieces, count, start);
    if (y.begin() >= y.end()) return;
    const int64_t n = layout.n, first = y.begin() / n, last = (y.end() + n - 1) / n;
    const int64_t group = rows_of_a_task(n), tasks = (last - first + group - 1) / group;
    const bool past_caches = y.end() - y.begin() >= more_than_caches;
    in_parallel(tasks, y.end() - y.begin(), threads, [&] {
        return [&, scratch = std::make_shared<Scratch>(n)](int64_t task) {
            int64_t from = first + task * group, until = std::min(last, from + group);
            for (int64_t b = from; b < until; ++b) expand_block(plan, y, b, x, alpha, past_caches, *scratch);
        };
    });
}

void fwht(float* x, int64_t n, int64_t rows, int threads) {
    const Schedule schedule(n);
    auto transform = [n, &schedule](float* points) {
        if (n < smallest) return plain_transform(points, n);
        lower_passes<false>(schedule, points, points, n, nullptr, {});
        middle_pass_of(schedule.last, points, n, n >> schedule.last, {});
    };
    const int64_t group = rows_of_a_task(n), tasks = (rows + group - 1) / group;
    in_parallel(tasks, rows * n, threads, [&] {
        return [&](int64_t task) {
            const int64_t until = std::min(rows, (task + 1) * group);
            for (int64_t row = task * group; row < until; ++row) transform(x + row * n);
        };
    });
}

}  // namespace igc::IGC_BUILD
