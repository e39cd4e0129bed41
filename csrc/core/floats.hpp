// Numbers whose bits are published: the log of booked scores, exact sums, and the bands of a row of probabilities.
//
// log: the C library's, one element at a time: vectorised versions differ in the last bit with the length and alignment of
// the array.  (exp: rows.hpp.)
// Sums: correctly rounded, so in any order; Python's math.fsum gives the same bits twenty times slower.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace evalkit {

inline void neg_log_each(const double* p, std::size_t n, double* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = -std::log(p[i]);
}

// The exact sum of up to 2^30 doubles, as an integer in units of 2^-1074: word w has the weight 2^(32 w - 1074), and takes 32
// bits of each number.  (Neal, Fast exact summation using small and large superaccumulators, arXiv:1505.05571.)
class ExactSum {
 public:
    void add(double x) {
        std::uint64_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        const auto exponent = static_cast<unsigned>(bits >> 52) & 0x7ffu;
        std::uint64_t m = bits & 0xfffffffffffffu;
        if (exponent == 0x7ffu) {
            odd_ += x;
            is_odd_ = true;
            return;
        }
        const unsigned place = exponent == 0 ? 0 : exponent - 1;
        if (exponent != 0) m |= std::uint64_t{1} << 52;
        const unsigned low = place & 31u;
        std::int64_t* at = &words_[place >> 5];
        const std::uint64_t first = (m << low) & 0xffffffffu, rest = m >> (32 - low);  // low < 32, m < 2^53
        const std::int64_t sign = -static_cast<std::int64_t>(bits >> 63);              // 0 or -1
        at[0] += (static_cast<std::int64_t>(first) ^ sign) - sign;
        at[1] += (static_cast<std::int64_t>(rest & 0xffffffffu) ^ sign) - sign;
        at[2] += (static_cast<std::int64_t>(rest >> 32) ^ sign) - sign;
    }

    void add(const ExactSum& other) {
        for (std::size_t i = 0; i < kWords; ++i) words_[i] += other.words_[i];
        odd_ += other.odd_;
        is_odd_ = is_odd_ || other.is_odd_;
    }

    // Rounded to nearest, ties to even.  With NaN or infinity among the numbers: their plain sum.
    double total() const {
        if (is_odd_) return odd_;
        std::array<std::int64_t, kWords> w = words_;
        const bool negative = carry(w);
        if (negative) {
            for (std::int64_t& word : w) word = -word;
            carry(w);
        }
        std::size_t top = kWords;
        while (top > 0 && w[top - 1] == 0) --top;
        if (top == 0) return 0.0;
        const double x = rounded(w, top - 1);
        return negative ? -x : x;
    }

 private:
    static constexpr std::size_t kWords = 68;  // 2,098 bits of the largest double, 30 of the number of terms, a sign

    // Every word but the last into 0..2^32-1; true when the number is negative.
    static bool carry(std::array<std::int64_t, kWords>& w) {
        for (std::size_t i = 0; i + 1 < kWords; ++i) {
            w[i + 1] += w[i] >> 32;
            w[i] &= 0xffffffff;
        }
        return w[kWords - 1] < 0;
    }

    static double rounded(const std::array<std::int64_t, kWords>& w, std::size_t top) {
        const auto word = [&](std::size_t back) {
            return back > top ? std::uint64_t{0} : static_cast<std::uint64_t>(w[top - back]);
        };
        const int free = __builtin_clzll(word(0)) - 32;  // zeros above the highest bit of its word: 0..31
        std::uint64_t m = word(0) << 32 | word(1);
        m = free == 0 ? m : m << free | word(2) >> (32 - free);
        bool rest = (word(2) << free & 0xffffffffu) != 0;
        for (std::size_t back = 3; !rest && back <= top; ++back) rest = word(back) != 0;
        const std::uint64_t tail = m & 0x7ffu, half = 0x400u;  // below the 53 bits that stay
        m >>= 11;
        if (tail > half || (tail == half && (rest || (m & 1u) != 0))) ++m;
        return std::ldexp(static_cast<double>(m), static_cast<int>(32 * top) - 32 - free + 11 - 1074);
    }

    std::array<std::int64_t, kWords> words_{};
    double odd_ = 0.0;
    bool is_odd_ = false;
};

// out[s] = sum of x[edges[s]] .. x[edges[s + 1] - 1].
inline void exact_sums(const double* x, const std::int64_t* edges, std::size_t segments, double* out) {
    for (std::size_t s = 0; s < segments; ++s) {
        ExactSum even, odd;  // two, because an addition waits for the one before in the same word
        std::int64_t i = edges[s];
        for (; i + 1 < edges[s + 1]; i += 2) {
            even.add(x[i]);
            odd.add(x[i + 1]);
        }
        if (i < edges[s + 1]) even.add(x[i]);
        even.add(odd);
        out[s] = even.total();
    }
}

// Of the entries of a row in each band: how many, and their sum in order.  A band is [edges[b - 1], edges[b]).
// entries, mass: [edges + 1], added to.
inline void count_bands(const double* p, std::size_t n, const double* edges, std::size_t m, std::int64_t* entries,
                        double* mass) {
    for (std::size_t v = 0; v < n; ++v) {
        std::size_t b = 0;
        while (b < m && p[v] >= edges[b]) ++b;
        ++entries[b];
        mass[b] += p[v];
    }
}

}  // namespace evalkit
