// Which of the eight slots of a line hold this key?
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace evalkit {

// Bits 2i and 2i + 1 of the result: key[i] == want.  `key` is aligned to 16 bytes.
inline unsigned slots_equal(const std::uint32_t* key, std::uint32_t want) {
#if defined(__SSE2__)
    const __m128i w = _mm_set1_epi32(static_cast<int>(want));
    const __m128i a = _mm_cmpeq_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(key)), w);
    const __m128i b = _mm_cmpeq_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(key + 4)), w);
    return static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi32(a, b)));
#else
    unsigned mask = 0;
    for (int i = 0; i < 8; ++i) mask |= (key[i] == want ? 3u : 0u) << 2 * i;
    return mask;
#endif
}

inline int lowest(unsigned mask) { return __builtin_ctz(mask) / 2; }

}  // namespace evalkit
