// bfloat16 and float16 to float32 and back, rounding to nearest even; NaN stays NaN.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

// Builds differ, and must not be merged by the linker.
namespace igc::IGC_BUILD {

inline float as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t as_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float from_bfloat16(uint16_t h) { return as_float(uint32_t(h) << 16); }

inline uint16_t to_bfloat16(float value) {
    uint32_t bits = as_bits(value);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40u;
    return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#if defined(__F16C__)
inline float from_float16(uint16_t h) { return _cvtsh_ss(h); }
inline uint16_t to_float16(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
#else
inline float from_float16(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) return as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13 | ((magnitude & 0x3ffu) ? 0x400000u : 0u));
    // Subnormals and normals alike: shift into place, then scale by 2^112, which is exact.
    return as_float(sign | as_bits(as_float(magnitude << 13) * as_float(0x77800000u)));
}
inline uint16_t to_float16(float value) {
    uint32_t bits = as_bits(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return uint16_t(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
    if (bits >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to infinity
    if (bits < 0x38800000u) {                                  // subnormal: an addition rounds it to multiples of 2^-24
        return uint16_t(sign | (as_bits(as_float(bits) + 0.5f) - 0x3f000000u));
    }
    return uint16_t(sign | ((bits + 0xfffu + (bits >> 13 & 1u) - 0x38000000u) >> 13));
}
#endif

}  // namespace igc::IGC_BUILD
