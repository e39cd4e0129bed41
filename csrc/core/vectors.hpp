// Which vector instructions does this processor have, and how is one loop written for all of them?
//
// A body is a template on the number N of doubles in a vector, inlined into one function for each set of instructions.
// Lanes and the order of sums are fixed by the body, not by N, and every operation is rounded by itself (the build
// forbids contraction), so the bits are the same with SSE2, AVX2, AVX-512 or none of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define EVALKIT_X86 1
#else
#define EVALKIT_X86 0
#endif

// A body with vectors among its arguments can only be inlined into a function of another target, never called from it.
#define EVALKIT_INLINE inline __attribute__((always_inline))

// DEFINE(name, N, target attribute) for each set of instructions that the compiler knows.
#if EVALKIT_X86
#define EVALKIT_EACH_ISA(DEFINE)                         \
    DEFINE(base, 2, )                                    \
    DEFINE(avx2, 4, __attribute__((target("avx2"))))     \
    DEFINE(avx512, 8, __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw"))))
#else
#define EVALKIT_EACH_ISA(DEFINE) DEFINE(base, 2, ) DEFINE(avx2, 2, ) DEFINE(avx512, 2, )
#endif

namespace evalkit {

enum class Isa { kBase, kAvx2, kAvx512 };

inline bool has_isa(Isa isa) {
    if (isa == Isa::kBase) return true;
#if EVALKIT_X86
    __builtin_cpu_init();
    if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2") != 0;
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
           __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512bw") != 0;
#else
    return false;
#endif
}

inline Isa widest_isa() {
    static const Isa widest = has_isa(Isa::kAvx512) ? Isa::kAvx512 : has_isa(Isa::kAvx2) ? Isa::kAvx2 : Isa::kBase;
    return widest;
}

template <class T>
const T& for_isa(Isa isa, const T& base, const T& avx2, const T& avx512) {
    if (!has_isa(isa)) throw std::invalid_argument("this processor does not have these instructions");
    return isa == Isa::kAvx512 ? avx512 : isa == Isa::kAvx2 ? avx2 : base;
}

// N doubles; as many floats in half the bytes, twice as many in as many bytes.
template <int N>
struct Vector;
#define EVALKIT_VECTOR(N)                                              \
    template <>                                                        \
    struct Vector<N> {                                                 \
        typedef double D __attribute__((vector_size(8 * N)));          \
        typedef std::uint64_t U __attribute__((vector_size(8 * N)));   \
        typedef float Half __attribute__((vector_size(4 * N)));        \
        typedef float F __attribute__((vector_size(8 * N)));           \
        typedef std::int32_t I __attribute__((vector_size(8 * N)));    \
    };
EVALKIT_VECTOR(2)
EVALKIT_VECTOR(4)
EVALKIT_VECTOR(8)
#undef EVALKIT_VECTOR

template <class T>
EVALKIT_INLINE void load(const void* from, T& to) {
    std::memcpy(&to, from, sizeof(T));
}

template <class T>
EVALKIT_INLINE void store(const T& from, void* to) {
    std::memcpy(to, &from, sizeof(T));
}

}  // namespace evalkit
