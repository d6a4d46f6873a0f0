// Philox4x32-10 (Salmon et al., SC 2011): sign bits, 128 to a counter, as docs/projections.md lays them out.
#pragma once

#include <cstdint>
#include <cstddef>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace igc {

enum Stream : uint32_t { row_signs = 0, column_signs = 1, shifts = 4 };

// Builds differ, and must not be merged by the linker.
namespace IGC_BUILD {

constexpr uint32_t multiplier_0 = 0xD2511F53u, multiplier_1 = 0xCD9E8D57u;
constexpr uint32_t step_0 = 0x9E3779B9u, step_1 = 0xBB67AE85u;

#if defined(__AVX512F__) || defined(__AVX2__)

// A word of a counter lies in the low half of 64 bits, as the multiplication takes it; what is in the high half is never
// looked at, so that products need no masks.
#if defined(__AVX512F__)
constexpr int group = 8;  // counters at once
typedef __m512i Words;
inline Words all(uint32_t value) { return _mm512_set1_epi64(int64_t(value)); }
inline Words times(Words a, Words b) { return _mm512_mul_epu32(a, b); }
inline Words high(Words a) { return _mm512_srli_epi64(a, 32); }
inline Words exclusive(Words a, Words b, Words c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
inline Words from(uint64_t first) {
    return _mm512_add_epi64(_mm512_set1_epi64(int64_t(first)), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Words paired(Words a, Words b) { return _mm512_mask_blend_epi32(0xAAAA, a, _mm512_slli_epi64(b, 32)); }
inline void put(uint32_t* out, Words w01, Words w23) {
    _mm512_storeu_si512(out, _mm512_permutex2var_epi64(w01, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), w23));
    _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi64(w01, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), w23));
}
#else
constexpr int group = 4;
typedef __m256i Words;
inline Words all(uint32_t value) { return _mm256_set1_epi64x(int64_t(value)); }
inline Words times(Words a, Words b) { return _mm256_mul_epu32(a, b); }
inline Words high(Words a) { return _mm256_srli_epi64(a, 32); }
inline Words exclusive(Words a, Words b, Words c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
inline Words from(uint64_t first) {
    return _mm256_add_epi64(_mm256_set1_epi64x(int64_t(first)), _mm256_setr_epi64x(0, 1, 2, 3));
}
inline Words paired(Words a, Words b) { return _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xAA); }
inline void put(uint32_t* out, Words w01, Words w23) {
    Words even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), _mm256_permute2x128_si256(even, odd, 0x31));
}
#endif

inline void sign_group(uint64_t seed, uint32_t stream, uint64_t first, uint32_t* out) {
    Words c0 = from(first), c1 = high(c0), c2 = all(stream), c3 = all(0);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        Words p0 = times(c0, all(multiplier_0)), p1 = times(c2, all(multiplier_1));
        c0 = exclusive(high(p1), c1, all(k0)), c1 = p1;
        c2 = exclusive(high(p0), c3, all(k1)), c3 = p0;
        k0 += step_0, k1 += step_1;
    }
    put(out, paired(c0, c1), paired(c2, c3));
}

#else

constexpr int group = 8;  // for the compiler to vectorise

inline void sign_group(uint64_t seed, uint32_t stream, uint64_t first, uint32_t* out) {
    uint32_t c0[group], c1[group], c2[group], c3[group];
    for (int i = 0; i < group; ++i) {
        uint64_t index = first + uint64_t(i);
        c0[i] = uint32_t(index), c1[i] = uint32_t(index >> 32), c2[i] = stream, c3[i] = 0;
    }
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < group; ++i) {
            uint64_t p0 = uint64_t(c0[i]) * multiplier_0, p1 = uint64_t(c2[i]) * multiplier_1;
            c0[i] = uint32_t(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = uint32_t(p1);
            c2[i] = uint32_t(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = uint32_t(p0);
        }
        k0 += step_0, k1 += step_1;
    }
    for (int i = 0; i < group; ++i) {
        uint32_t* w = out + 4 * i;
        w[0] = c0[i], w[1] = c1[i], w[2] = c2[i], w[3] = c3[i];
    }
}

#endif

// Sign words of the counters first .. first + count of a stream; four words a counter.
inline void sign_words(uint64_t seed, uint32_t stream, uint64_t first, int64_t count, uint32_t* out) {
    int64_t base = 0;
    for (; base + group <= count; base += group) sign_group(seed, stream, first + uint64_t(base), out + 4 * base);
    if (base == count) return;
    uint32_t rest[4 * group];
    sign_group(seed, stream, first + uint64_t(base), rest);
    std::memcpy(out + 4 * base, rest, size_t(count - base) * 4 * sizeof(uint32_t));
}

}  // namespace IGC_BUILD
}  // namespace igc
