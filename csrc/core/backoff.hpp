// What do exact n-gram counts alone say of the next token?  A proper distribution per order, each resting on the one
// below and the lowest on the uniform one.
//
//     witten_bell   q_k(v) = (n_k(v) + D_k q_{k-1}(v)) / (N_k + D_k)          D_k: distinct followers of the context
//     absolute      q_k(v) = (max(n_k(v) - d, 0) + d D_k q_{k-1}(v)) / N_k
//     kneser_ney    as absolute, with continuation counts in every order but the highest
//
// An order whose context was never seen is passed over.  Each sums to 1 because N_k is the sum of the stored counts and
// D_k their number.  (Witten and Bell 1991; Ney, Essen and Kneser 1994; Kneser and Ney 1995, interpolated.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ngram_counts.hpp"

namespace evalkit {

enum class Smoothing { kWittenBell, kAbsolute, kKneserNey };

class Backoff {
 public:
    // wanted: the orders whose distributions are asked for, rising; the last one is the highest of the counts.
    Backoff(Smoothing smoothing, double discount, std::vector<int> wanted, std::uint32_t vocab);

    // Read the contexts of the current position; the calls below speak of it.
    void resolve(const NgramCounts& counts);
    // Probability of one token by each wanted order: out [wanted].
    void one(const NgramCounts& counts, std::uint32_t token, double* out) const;
    // The same for all tokens: out [wanted][vocab].
    void rows(const NgramCounts& counts, double* out);
    std::size_t size() const { return wanted_.size(); }

 private:
    struct Step {
        bool seen;
        bool continued;
        double cut;    // taken off every count
        double scale;  // one over the denominator
        double lower;  // weight of the order below
    };

    Step step(const NgramCounts::Node& context, int order) const;
    static double excess(const Step& s, double n) { return n > s.cut ? n - s.cut : 0.0; }
    static double blend(const Step& s, double excess, double below) { return excess * s.scale + s.lower * below; }

    Smoothing smoothing_;
    double discount_;
    std::vector<int> wanted_;
    std::uint32_t vocab_;
    std::vector<Step> steps_;     // [highest + 1], by order
    std::vector<double> excess_;  // [vocab], zero between calls
    std::vector<double> q_;       // [vocab]
    std::vector<std::uint32_t> followers_;  // scratch of rows()
};

}  // namespace evalkit
