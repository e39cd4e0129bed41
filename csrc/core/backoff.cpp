// Vectors over the vocabulary halve the time of a row.  No bit changes by it.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "backoff.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

namespace evalkit {

Backoff::Backoff(Smoothing smoothing, double discount, std::vector<int> wanted, std::uint32_t vocab)
    : smoothing_(smoothing), discount_(discount), wanted_(std::move(wanted)), vocab_(vocab), excess_(vocab, 0.0), q_(vocab) {
    if (wanted_.empty()) throw std::invalid_argument("at least one order");
    for (std::size_t i = 0; i < wanted_.size(); ++i)
        if (wanted_[i] < 1 || (i > 0 && wanted_[i] <= wanted_[i - 1])) throw std::invalid_argument("orders must rise");
    if (!(discount > 0.0 && discount < 1.0)) throw std::invalid_argument("the discount must lie between 0 and 1");
    steps_.resize(static_cast<std::size_t>(wanted_.back()) + 1);
}

Backoff::Step Backoff::step(const NgramCounts::Node& context, int order) const {
    const bool continued = smoothing_ == Smoothing::kKneserNey && order < wanted_.back();
    const double all = continued ? context.continued_total : context.total;
    const double kinds = continued ? context.continued_distinct : context.distinct;
    if (!(all > 0.0)) return Step{false, continued, 0.0, 0.0, 0.0};
    const bool discounted = smoothing_ != Smoothing::kWittenBell;
    const double scale = 1.0 / (discounted ? all : all + kinds);
    return Step{true, continued, discounted ? discount_ : 0.0, scale, (discounted ? discount_ * kinds : kinds) * scale};
}

void Backoff::resolve(const NgramCounts& counts) {
    for (int k = 1; k <= wanted_.back(); ++k) steps_[static_cast<std::size_t>(k)] = step(counts.context(k), k);
}

void Backoff::one(const NgramCounts& counts, std::uint32_t token, double* out) const {
    double q = 1.0 / vocab_;
    std::size_t next = 0;
    std::array<PairCounts, NgramCounts::kHighestOrder + 1> pairs;
    counts.pairs_of(token, pairs.data());
    for (int k = 1; k <= wanted_.back(); ++k) {
        const Step& s = steps_[static_cast<std::size_t>(k)];
        if (s.seen) {
            const PairCounts pair = pairs[static_cast<std::size_t>(k)];
            q = blend(s, excess(s, s.continued ? pair.continuations : pair.count), q);
        }
        if (k == wanted_[next]) out[next++] = q;
    }
}

void Backoff::rows(const NgramCounts& counts, double* out) {
    std::fill(q_.begin(), q_.end(), 1.0 / vocab_);
    std::size_t next = 0;
    for (int k = 1; k <= wanted_.back(); ++k) {
        const Step& s = steps_[static_cast<std::size_t>(k)];
        if (s.seen) {
            followers_.clear();
            counts.each(k, [&](std::uint32_t v, PairCounts pair) {
                excess_[v] = excess(s, s.continued ? pair.continuations : pair.count);
                followers_.push_back(v);
            });
            for (std::size_t v = 0; v < vocab_; ++v) q_[v] = blend(s, excess_[v], q_[v]);
            for (const std::uint32_t v : followers_) excess_[v] = 0.0;
        }
        if (k == wanted_[next]) std::copy(q_.begin(), q_.end(), out + vocab_ * next++);
    }
}

}  // namespace evalkit
