// After how many different tokens was each n-gram seen?  The face of GramTable over continuation counts.
//
// Below the longest order a count is not how often v followed the context but after how many different tokens the context
// and v were seen together; the longest order keeps its occurrences.  (Kneser and Ney, 1995.)  Either way the total of a
// context is the sum over its followers.  When memory is full no new n-gram is taken and known ones go on counting:
// continuations stand still then, as no n-gram is new.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ngram_counts.hpp"

namespace evalkit {

class ContinuationTable {
 public:
    ContinuationTable(std::uint32_t vocab, int max_order, std::size_t bytes, std::size_t)
        : counts_(vocab, max_order, bytes) {}

    void start(std::uint32_t token) { counts_.start(token); }
    // The tokens that will be added next, so that what they need can be fetched early.
    void look_ahead(const std::int32_t* tokens, std::size_t n) { counts_.look_ahead(tokens, n); }
    void add(std::uint32_t token) { counts_.add(token); }
    // What counts_of(token) will read some positions on.
    void fetch_far(std::uint32_t token) const { counts_.fetch_slots(kFar, token); }
    void fetch_near(std::uint32_t token) const { counts_.fetch_nodes(kNear, token); }
    static constexpr std::size_t kFar = 8, kNear = 3;

    // Highest order whose context was followed before, 0 when none.
    int seen() const { return counts_.seen(); }
    std::uint32_t total(int order) const {
        const NgramCounts::Node& node = counts_.context(order);
        return is_longest(order) ? node.total : node.continued_total;
    }
    // Different followers that are counted, exact.
    std::uint32_t distinct(int order) const {
        const NgramCounts::Node& node = counts_.context(order);
        return is_longest(order) ? node.distinct : node.continued_distinct;
    }
    void find(std::uint32_t token) {
        counts_.locate(token);
        found_ = token;
    }
    std::uint32_t hit(int order) const { return count(order, counts_.pair(order, found_)); }

    // out[1..max_order]
    void counts_of(std::uint32_t token, std::uint32_t* out) const {
        std::array<PairCounts, NgramCounts::kHighestOrder + 1> pairs;
        counts_.pairs_of(token, pairs.data());
        for (int k = 1; k <= counts_.max_order(); ++k) out[k] = count(k, pairs[static_cast<std::size_t>(k)]);
    }
    // Every follower with a count, whatever `tokens` held.
    void followers(int order, std::vector<std::uint32_t>& tokens, std::vector<std::uint32_t>& counts) const {
        tokens.clear();
        counts.clear();
        counts_.each(order, [&](std::uint32_t token, PairCounts pair) {
            const std::uint32_t n = count(order, pair);
            if (n == 0) return;
            tokens.push_back(token);
            counts.push_back(n);
        });
    }

    std::size_t bytes() const { return counts_.bytes(); }
    std::int64_t frozen_at() const { return counts_.frozen_at(); }
    std::uint64_t grams() const { return counts_.pairs(); }

 private:
    bool is_longest(int order) const { return order == counts_.max_order(); }
    std::uint32_t count(int order, PairCounts pair) const { return is_longest(order) ? pair.count : pair.continuations; }

    NgramCounts counts_;
    std::uint32_t found_ = 0;
};

}  // namespace evalkit
