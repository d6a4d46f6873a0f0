// Vectors of the width that this build is for, in the vector language of GCC and Clang.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define IGC_LANE_BITS 4
#define IGC_REGISTER_BITS 4  // 16 registers of a transform at once, of 32
#elif defined(__AVX2__)
#define IGC_LANE_BITS 3
#define IGC_REGISTER_BITS 3  // 8 of 16
#else
#define IGC_LANE_BITS 2
#define IGC_REGISTER_BITS 3
#endif

// Builds differ, and must not be merged by the linker.
namespace igc::IGC_BUILD::simd {

constexpr int lane_bits = IGC_LANE_BITS;
constexpr int lanes = 1 << lane_bits;

typedef float vf __attribute__((vector_size(4 * lanes)));
typedef uint32_t vu __attribute__((vector_size(4 * lanes)));

inline vf load(const float* p) {
    vf v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }

// What was stored past the caches before it, for every thread to see.
inline void finish_stores_past_caches() {
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

// To an aligned place that is not read again before it has left the caches: it is not fetched to be overwritten.
inline void store_past_caches(float* p, vf v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#else
    store(p, v);
#endif
}

inline vf flip(vf v, vu signs) { return (vf)((vu)v ^ signs); }

// The value of the lane whose index differs in one bit.
template <int bit>
inline vf swapped(vf v) {
#if IGC_LANE_BITS == 4
    if constexpr (bit == 0) return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    if constexpr (bit == 1) return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    if constexpr (bit == 2) return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    if constexpr (bit == 3) return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#elif IGC_LANE_BITS == 3
    if constexpr (bit == 0) return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
    if constexpr (bit == 1) return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    if constexpr (bit == 2) return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
#else
    if constexpr (bit == 0) return __builtin_shufflevector(v, v, 1, 0, 3, 2);
    if constexpr (bit == 1) return __builtin_shufflevector(v, v, 2, 3, 0, 1);
#endif
}

// The sign's bit in lanes whose index has `bit` set.
template <int bit>
inline vu upper() {
    vu v;
    for (int i = 0; i < lanes; ++i) v[i] = (i >> bit & 1) ? 0x80000000u : 0u;
    return v;
}

template <int bit>
inline vf one_signed() {
    vf v;
    for (int i = 0; i < lanes; ++i) v[i] = (i >> bit & 1) ? -1.0f : 1.0f;
    return v;
}

// `lanes` consecutive points with the signs of a word's bits from `first` on.
inline vf flip_bits(vf v, uint32_t word, int first) {
#if defined(__AVX512F__)
    __m512i bits = _mm512_castps_si512((__m512)v);
    return (vf)_mm512_castsi512_ps(
        _mm512_mask_xor_epi32(bits, __mmask16(word >> first), bits, _mm512_set1_epi32(int(0x80000000u))));
#else
    vu places;
    for (int i = 0; i < lanes; ++i) places[i] = 31u - i;
    vu all = vu{} + (word >> first);
    return flip(v, (all << places) & 0x80000000u);
#endif
}

// A lane's partner, plus or minus its own: a product with 1 or -1 is exact, so that fusing it changes no bit.
template <int bit>
inline vf lane_stage(vf v) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)v, (__m512)one_signed<bit>(), (__m512)swapped<bit>(v));
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)v, (__m256)one_signed<bit>(), (__m256)swapped<bit>(v));
#else
    return swapped<bit>(v) + flip(v, upper<bit>());
#endif
}

// The transform of the bits within a register.
inline vf lane_transform(vf v) {
    v = lane_stage<0>(v);
    v = lane_stage<1>(v);
#if IGC_LANE_BITS >= 3
    v = lane_stage<2>(v);
#endif
#if IGC_LANE_BITS >= 4
    v = lane_stage<3>(v);
#endif
    return v;
}

// a - b as a fused multiply-add, whose product with 1 is exact: where additions and those have units of their own (AMD's
// Zen), the two halves of a butterfly run side by side.
inline vf difference(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_fnmadd_ps((__m512)b, _mm512_set1_ps(1.0f), (__m512)a);
#elif defined(__FMA__)
    return (vf)_mm256_fnmadd_ps((__m256)b, _mm256_set1_ps(1.0f), (__m256)a);
#else
    return a - b;
#endif
}

// The transform across 2^bits registers.
template <int bits>
inline void butterflies(vf* v) {
#pragma GCC unroll 4
    for (int s = 0; s < bits; ++s)
#pragma GCC unroll 16
        for (int i = 0; i < (1 << bits); ++i)
            if (!(i >> s & 1)) {
                vf a = v[i], b = v[i | 1 << s];
                v[i] = a + b;
                v[i | 1 << s] = difference(a, b);
            }
}

}  // namespace igc::IGC_BUILD::simd
