#include "rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace evalkit {

namespace {

constexpr std::size_t kSlots = 16;
constexpr float kDeepest = -87.0f;  // e^-87 is still a normal float32; V of them are nothing beside the largest term, 1

constexpr double kLog2e = 0x1.71547652b82fep+0;
constexpr double kShift = 0x1.8p52;             // x + kShift: the integer nearest to x stands in the low bits
constexpr double kLn2 = 0x1.62e42fefa39efp-1;
constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;  // k * kLn2High is exact

// (e^r - 1 - r) / r^2 on |r| <= log(2) / 2, by Chebyshev interpolation with mpmath.
// Eight terms: relative error of e^r below 2.5e-14, for sums.  Ten: below 2e-17, for single values.
constexpr double kEight[8] = {0x1.fffffffffe062p-2,  0x1.5555555554f96p-3,  0x1.55555565c7e0ep-5,  0x1.111111170bc08p-7,
                              0x1.6c166bde96885p-10, 0x1.a019c36bc053cp-13, 0x1.a136bf03ec612p-16, 0x1.72ad458027fbcp-19};
constexpr double kTen[10] = {0x1.0000000000001p-1,  0x1.5555555555556p-3,  0x1.5555555553d63p-5,  0x1.11111111109b3p-7,
                             0x1.6c16c1788bd90p-10, 0x1.a01a01a7c41d5p-13, 0x1.a019b90d2ae7ap-16, 0x1.71de0dae63bb3p-19,
                             0x1.289185613a3d6p-22, 0x1.af38a9b0ec855p-26};

// y 2^k, k the integer in the low bits of shifted: into the exponent of y, which is within 1/sqrt(2)..sqrt(2).
template <class D, class U>
EVALKIT_INLINE void scale(const D& y, const D& shifted, D& out) {
    out = (D)((U)y + ((U)shifted << 52));
}

// e^x for -700 <= x <= 0, eight terms.
template <class D, class U>
EVALKIT_INLINE void exp_term(const D& x, D& out) {
    const D shifted = x * kLog2e + kShift;
    const D r = x - (shifted - kShift) * kLn2;
    const D r2 = r * r, r4 = r2 * r2;
    const D q = ((kEight[0] + kEight[1] * r) + (kEight[2] + kEight[3] * r) * r2) +
                ((kEight[4] + kEight[5] * r) + (kEight[6] + kEight[7] * r) * r2) * r4;
    scale<D, U>(1.0 + (r + r2 * q), shifted, out);
}

// e^x for any x, ten terms.
template <class D, class U>
EVALKIT_INLINE void exp_value(const D& any, D& out) {
    const D zero = {};
    const D low = any < -708.0 ? zero - 708.0 : any;
    const D x = low > 709.0 ? zero + 709.0 : low;
    const D shifted = x * kLog2e + kShift;
    const D k = shifted - kShift;
    const D r = (x - k * kLn2High) - k * kLn2Low;
    const D r2 = r * r, r4 = r2 * r2;
    const D q = ((kTen[0] + kTen[1] * r) + (kTen[2] + kTen[3] * r) * r2) +
                (((kTen[4] + kTen[5] * r) + (kTen[6] + kTen[7] * r) * r2) + (kTen[8] + kTen[9] * r) * r4) * r4;
    scale<D, U>(1.0 + (r + r2 * q), shifted, out);
}

// The largest of x; NaN only where x[0] is one (other NaNs show in the sums).
template <int N>
EVALKIT_INLINE float largest(const float* x, std::size_t vocab) {
    using F = typename Vector<N>::F;
    constexpr int kParts = 16 / N;  // 32 floats
    float best = x[0];
    std::size_t v = 0;
    if (vocab >= 32) {
        F m[kParts];
        for (int j = 0; j < kParts; ++j) load(x + j * 2 * N, m[j]);
        for (v = 32; v + 32 <= vocab; v += 32) {
#pragma GCC unroll 8
            for (int j = 0; j < kParts; ++j) {
                F next;
                load(x + v + j * 2 * N, next);
                m[j] = next > m[j] ? next : m[j];
            }
        }
        float all[32];
        std::memcpy(all, m, sizeof all);
        for (float each : all) best = each > best ? each : best;
    }
    for (; v < vocab; ++v) best = x[v] > best ? x[v] : best;
    return best;
}

// Lowest id with x == best; 0 when there is none.
template <int N>
EVALKIT_INLINE std::int32_t first_equal(const float* x, std::size_t vocab, float best) {
    using F = typename Vector<N>::F;
    using I = typename Vector<N>::I;
    constexpr int kParts = 32 / N;  // 64 floats
    std::size_t v = 0;
    for (; v + 64 <= vocab; v += 64) {
        I any = {};
#pragma GCC unroll 16
        for (int j = 0; j < kParts; ++j) {
            F next;
            load(x + v + j * 2 * N, next);
            any |= (I)(next == best);
        }
        std::uint64_t words[N], found = 0;
        std::memcpy(words, &any, sizeof words);
        for (std::uint64_t word : words) found |= word;
        if (found != 0) break;
    }
    for (; v < vocab; ++v)
        if (x[v] == best) return static_cast<std::int32_t>(v);
    return 0;
}

double add_columns(const double* s) {
    double all = s[0];
    for (std::size_t j = 1; j < kSlots; ++j) all += s[j];
    return all;
}

struct Sums {
    double terms, products, narrow;  // sum of e^d, of e^d d, of e^d as float32; d = x - max
};

// What is kept of every term; null: nothing.
struct Keep {
    double* terms;
    float* weights;
};

template <int N, bool kKeepTerms, bool kKeepWeights>
EVALKIT_INLINE Sums sums_of(const float* x, std::size_t vocab, float best, const Keep& keep) {
    using D = typename Vector<N>::D;
    using U = typename Vector<N>::U;
    using Half = typename Vector<N>::Half;
    constexpr int kParts = static_cast<int>(kSlots) / N;
    const double top = best;
    const float least = best + kDeepest;
    Half lowest = {};
    lowest += least;
    D s[kParts] = {}, t[kParts] = {}, w[kParts] = {};
    for (std::size_t v = 0; v < vocab; v += kSlots) {
        const std::size_t here = std::min(kSlots, vocab - v);
        float rest[kSlots];
        const float* from = x + v;
        if (here < kSlots) {
            for (std::size_t j = 0; j < kSlots; ++j) rest[j] = j < here ? from[j] : least;
            from = rest;
        }
#pragma GCC unroll 8
        for (int j = 0; j < kParts; ++j) {
            Half raw;
            load(from + j * N, raw);
            raw = raw < lowest ? lowest : raw;
            D d = __builtin_convertvector(raw, D) - top, e;
            exp_term<D, U>(d, e);
            if (here < kSlots) {
                double mask[N];
                for (int i = 0; i < N; ++i) mask[i] = static_cast<std::size_t>(j * N + i) < here ? 1.0 : 0.0;
                D inside;
                load(mask, inside);
                e *= inside;
            }
            s[j] += e;
            t[j] += e * d;
            if (kKeepTerms || kKeepWeights) {
                const Half narrow = __builtin_convertvector(e, Half);
                if (kKeepWeights) w[j] += __builtin_convertvector(narrow, D);
                if (here == kSlots) {
                    if (kKeepTerms) store(e, keep.terms + v + j * N);
                    if (kKeepWeights) store(narrow, keep.weights + v + j * N);
                } else {
                    for (int i = 0; i < N && static_cast<std::size_t>(j * N + i) < here; ++i) {
                        if (kKeepTerms) keep.terms[v + j * N + i] = e[i];
                        if (kKeepWeights) keep.weights[v + j * N + i] = narrow[i];
                    }
                }
            }
        }
    }
    double all[3][kSlots];
    std::memcpy(all[0], s, sizeof all[0]);
    std::memcpy(all[1], t, sizeof all[1]);
    std::memcpy(all[2], w, sizeof all[2]);
    return {add_columns(all[0]), add_columns(all[1]), add_columns(all[2])};
}

// Sum of e^(a d).
template <int N>
EVALKIT_INLINE double power_sum(const float* x, std::size_t vocab, float best, double a) {
    using D = typename Vector<N>::D;
    using U = typename Vector<N>::U;
    using Half = typename Vector<N>::Half;
    constexpr int kParts = static_cast<int>(kSlots) / N;
    const double top = best;
    const float least = best + kDeepest;
    Half lowest = {};
    lowest += least;
    D s[kParts] = {};
    std::size_t v = 0;
    for (; v + kSlots <= vocab; v += kSlots) {
#pragma GCC unroll 8
        for (int j = 0; j < kParts; ++j) {
            Half raw;
            load(x + v + j * N, raw);
            raw = raw < lowest ? lowest : raw;
            D e;
            exp_term<D, U>((__builtin_convertvector(raw, D) - top) * a, e);
            s[j] += e;
        }
    }
    double all[kSlots];
    std::memcpy(all, s, sizeof all);
    for (std::size_t j = 0; v + j < vocab; ++j) {
        const float raw = x[v + j] < least ? least : x[v + j];
        typename Vector<2>::D e, d = {(static_cast<double>(raw) - top) * a, 0.0};
        exp_term<typename Vector<2>::D, typename Vector<2>::U>(d, e);
        all[j] += e[0];
    }
    return add_columns(all);
}

struct RowResult {
    float best;
    std::int32_t top;
    Sums sums;
};

template <int N>
EVALKIT_INLINE void row_body(const float* x, std::size_t vocab, const Keep& keep, RowResult& out) {
    out.best = largest<N>(x, vocab);
    out.top = first_equal<N>(x, vocab, out.best);
    if (keep.terms != nullptr && keep.weights != nullptr) {
        out.sums = sums_of<N, true, true>(x, vocab, out.best, keep);
    } else if (keep.terms != nullptr) {
        out.sums = sums_of<N, true, false>(x, vocab, out.best, keep);
    } else if (keep.weights != nullptr) {
        out.sums = sums_of<N, false, true>(x, vocab, out.best, keep);
    } else {
        out.sums = sums_of<N, false, false>(x, vocab, out.best, keep);
    }
}

template <int N>
EVALKIT_INLINE void exp_body(const double* x, std::size_t n, double* out) {
    using D = typename Vector<N>::D;
    using U = typename Vector<N>::U;
    D from, to;
    std::size_t i = 0;
    for (; i + N <= n; i += N) {
        load(x + i, from);
        exp_value<D, U>(from, to);
        store(to, out + i);
    }
    if (i == n) return;
    double rest[N] = {};
    std::copy(x + i, x + n, rest);
    load(rest, from);
    exp_value<D, U>(from, to);
    store(to, rest);
    std::copy(rest, rest + (n - i), out + i);
}

template <int N>
EVALKIT_INLINE void probability_body(const float* x, std::size_t n, double lse, double floor, double* out) {
    using D = typename Vector<N>::D;
    using U = typename Vector<N>::U;
    using Half = typename Vector<N>::Half;
    D lowest = {};
    lowest += floor;
    for (std::size_t v = 0; v < n; v += N) {
        const std::size_t here = std::min<std::size_t>(N, n - v);
        float rest[N] = {};
        Half raw;
        if (here == N) {
            load(x + v, raw);
        } else {
            std::copy(x + v, x + n, rest);
            load(rest, raw);
        }
        D p;
        exp_value<D, U>(__builtin_convertvector(raw, D) - lse, p);
        p = p < lowest ? lowest : p;
        if (here == N) {
            store(p, out + v);
        } else {
            for (std::size_t j = 0; j < here; ++j) out[v + j] = p[static_cast<int>(j)];
        }
    }
}

struct Kernels {
    void (*row)(const float*, std::size_t, const Keep&, RowResult&);
    double (*power)(const float*, std::size_t, float, double);
    void (*exp)(const double*, std::size_t, double*);
    void (*probability)(const float*, std::size_t, double, double, double*);
};

#define EVALKIT_KERNELS(NAME, N, TARGET)                                                                                    \
    TARGET void NAME##_row(const float* x, std::size_t n, const Keep& k, RowResult& out) { row_body<N>(x, n, k, out); }     \
    TARGET double NAME##_power(const float* x, std::size_t n, float m, double a) { return power_sum<N>(x, n, m, a); }       \
    TARGET void NAME##_exp(const double* x, std::size_t n, double* out) { exp_body<N>(x, n, out); }                         \
    TARGET void NAME##_probability(const float* x, std::size_t n, double lse, double floor, double* out) {                  \
        probability_body<N>(x, n, lse, floor, out);                                                                         \
    }                                                                                                                       \
    constexpr Kernels NAME = {NAME##_row, NAME##_power, NAME##_exp, NAME##_probability};

EVALKIT_EACH_ISA(EVALKIT_KERNELS)
#undef EVALKIT_KERNELS

const Kernels& kernels(Isa isa) { return for_isa(isa, base, avx2, avx512); }

float from_float16(std::uint16_t h) {
    std::uint32_t bits = static_cast<std::uint32_t>(h & 0x7fffu) << 13;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    x *= 0x1p112f;
    std::memcpy(&bits, &x, sizeof bits);
    if ((h & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
    bits |= static_cast<std::uint32_t>(h & 0x8000u) << 16;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

float from_bfloat16(std::uint16_t h) {
    const std::uint32_t bits = static_cast<std::uint32_t>(h) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

double cell_at(const Logits& logits, std::size_t row, std::size_t id) {
    const std::size_t at = row * logits.stride + id;
    if (logits.cell == Cell::kFloat32) return static_cast<const float*>(logits.cells)[at];
    const std::uint16_t half = static_cast<const std::uint16_t*>(logits.cells)[at];
    return logits.cell == Cell::kBfloat16 ? from_bfloat16(half) : from_float16(half);
}

// The row as float32: where it lies, or in `room`.
const float* row_at(const Logits& logits, std::size_t row, std::vector<float>& room) {
    if (logits.cell == Cell::kFloat32) return static_cast<const float*>(logits.cells) + row * logits.stride;
    const std::uint16_t* from = static_cast<const std::uint16_t*>(logits.cells) + row * logits.stride;
    for (std::size_t v = 0; v < logits.vocab; ++v)
        room[v] = logits.cell == Cell::kBfloat16 ? from_bfloat16(from[v]) : from_float16(from[v]);
    return room.data();
}

struct Room {
    std::vector<float> row;
    std::vector<double> terms;
};

// f(begin, end, room) over slices of n rows, one a thread.  The rooms are made here: no thread may run out of memory.
template <class F>
void share_out(std::size_t n, std::size_t threads, std::size_t row, std::size_t terms, const F& f) {
    const std::size_t many = std::max<std::size_t>(1, std::min(threads, n));
    std::vector<Room> rooms(many, Room{std::vector<float>(row), std::vector<double>(terms)});
    std::vector<std::thread> others;
    others.reserve(many - 1);
    for (std::size_t i = 1; i < many; ++i)
        others.emplace_back([&, i] { f(n * i / many, n * (i + 1) / many, rooms[i]); });
    f(std::size_t{0}, n / many, rooms[0]);
    for (std::thread& other : others) other.join();
}

double group_sum(const double* terms, const std::uint8_t* group, std::size_t vocab) {
    double s[kSlots] = {};
    for (std::size_t v = 0; v < vocab; ++v) s[v % kSlots] += group[v] != 0 ? terms[v] : 0.0;
    return add_columns(s);
}

}  // namespace

void row_sums(const Logits& logits, const RowWants& wants, const RowSums& out, std::size_t threads, Isa isa) {
    const Kernels& k = kernels(isa);
    const std::size_t vocab = logits.vocab, n = logits.n;
    const bool masses = out.masses != nullptr && !wants.groups.empty();
    const bool powers = out.powers != nullptr && !wants.exponents.empty();
    share_out(n, threads, logits.cell == Cell::kFloat32 ? 0 : vocab, masses ? vocab : 0,
              [&](std::size_t begin, std::size_t end, Room& room) {
                  for (std::size_t i = begin; i < end; ++i) {
                      const float* x = row_at(logits, i, room.row);
                      const Keep keep{masses ? room.terms.data() : nullptr,
                                      out.weights == nullptr ? nullptr : out.weights + i * vocab};
                      RowResult row;
                      k.row(x, vocab, keep, row);
                      const double log_terms = std::log(row.sums.terms);
                      out.lse[i] = static_cast<double>(row.best) + log_terms;
                      if (out.entropy != nullptr) out.entropy[i] = log_terms - row.sums.products / row.sums.terms;
                      if (out.top != nullptr) out.top[i] = row.top;
                      if (out.weights != nullptr) out.factors[i] = 1.0 / row.sums.narrow;
                      for (std::size_t g = 0; masses && g < wants.groups.size(); ++g)
                          out.masses[g * n + i] = group_sum(room.terms.data(), wants.groups[g], vocab) / row.sums.terms;
                      for (std::size_t a = 0; powers && a < wants.exponents.size(); ++a)
                          out.powers[a * n + i] = std::log(k.power(x, vocab, row.best, wants.exponents[a])) -
                                                  wants.exponents[a] * log_terms;
                  }
              });
}

void row_pick(const Logits& logits, const double* lse, const std::int32_t* ids, std::size_t k, double* out) {
    for (std::size_t i = 0; i < logits.n; ++i)
        for (std::size_t j = 0; j < k; ++j)
            out[i * k + j] = cell_at(logits, i, static_cast<std::size_t>(std::max(0, ids[i * k + j]))) - lse[i];
}

void row_probabilities(const Logits& logits, const double* lse, double floor, double* out, std::size_t threads, Isa isa) {
    const Kernels& k = kernels(isa);
    share_out(logits.n, threads, logits.cell == Cell::kFloat32 ? 0 : logits.vocab, 0,
              [&](std::size_t begin, std::size_t end, Room& room) {
                  for (std::size_t i = begin; i < end; ++i)
                      k.probability(row_at(logits, i, room.row), logits.vocab, lse[i], floor, out + i * logits.vocab);
              });
}

void exp_values(const double* x, std::size_t n, double* out, Isa isa) { kernels(isa).exp(x, n, out); }

}  // namespace evalkit
