// Tensors of any of the three dtypes that lie end to end in the flat view.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "half.hpp"
#include "kernel.hpp"

namespace igc::IGC_BUILD {

class Pieces {
   public:
    Pieces(const Piece* pieces, int64_t count, int64_t start) : pieces_(pieces), begins_(size_t(count) + 1) {
        begins_[0] = start;
        for (int64_t i = 0; i < count; ++i) begins_[size_t(i) + 1] = begins_[size_t(i)] + pieces[i].size;
    }

    int64_t begin() const { return begins_.front(); }
    int64_t end() const { return begins_.back(); }

    struct Rows {
        float* data;
        const float* base;
        explicit operator bool() const { return data; }
    };

    // Rows low .. high as they lie in memory, if that is in one float32 piece.
    Rows whole(int64_t low, int64_t high) const {
        if (low < begin() || high > end()) return {nullptr, nullptr};
        size_t p = find(low);
        const Piece& piece = pieces_[p];
        if (high > begins_[p + 1] || piece.dtype != Dtype::float32) return {nullptr, nullptr};
        int64_t offset = low - begins_[p];
        return {static_cast<float*>(piece.data) + offset, static_cast<const float*>(piece.base) + offset};
    }

    // The scale that all of rows low .. high have, as far as they are there; 0 where they differ.
    float scale(int64_t low, int64_t high) const {
        const int64_t row = std::max(low, begin()), stop = std::min(high, end());
        if (row >= stop) return 1.0f;
        size_t p = find(row);
        const float first = pieces_[p].scale;
        while (begins_[++p] < stop)
            if (pieces_[p].size > 0 && pieces_[p].scale != first) return 0.0f;
        return first;
    }

    // Calls visit(piece, offset in piece, row, count) for each part of rows low .. high that is there.
    template <class Visit>
    void parts(int64_t low, int64_t high, Visit visit) const {
        int64_t row = std::max(low, begin()), stop = std::min(high, end());
        if (row >= stop) return;
        for (size_t p = find(row); row < stop; ++p) {
            int64_t until = std::min(stop, begins_[p + 1]);
            if (until > row) visit(pieces_[p], row - begins_[p], row, until - row);
            row = std::max(row, until);
        }
    }

   private:
    // The piece that holds a row; empty pieces hold none.
    size_t find(int64_t row) const {
        return size_t(std::upper_bound(begins_.begin(), begins_.end(), row) - begins_.begin()) - 1;
    }

    const Piece* pieces_;
    std::vector<int64_t> begins_;
};

inline void read(const Piece& piece, int64_t offset, float* to, int64_t count) {
    if (piece.dtype == Dtype::float32) {
        std::memcpy(to, static_cast<const float*>(piece.data) + offset, size_t(count) * sizeof(float));
        return;
    }
    const uint16_t* from = static_cast<const uint16_t*>(piece.data) + offset;
    if (piece.dtype == Dtype::bfloat16)
        for (int64_t i = 0; i < count; ++i) to[i] = from_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < count; ++i) to[i] = from_float16(from[i]);
}

inline void multiply(float* x, float factor, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

inline void add(const Piece& piece, int64_t offset, const float* step, int64_t count) {
    if (piece.dtype == Dtype::float32) {
        float* to = static_cast<float*>(piece.data) + offset;
        const float* from = static_cast<const float*>(piece.base) + offset;
        for (int64_t i = 0; i < count; ++i) to[i] = from[i] + step[i];
        return;
    }
    uint16_t* to = static_cast<uint16_t*>(piece.data) + offset;
    const uint16_t* from = static_cast<const uint16_t*>(piece.base) + offset;
    if (piece.dtype == Dtype::bfloat16)
        for (int64_t i = 0; i < count; ++i) to[i] = to_bfloat16(from_bfloat16(from[i]) + step[i]);
    else
        for (int64_t i = 0; i < count; ++i) to[i] = to_float16(from_float16(from[i]) + step[i]);
}

}  // namespace igc::IGC_BUILD
