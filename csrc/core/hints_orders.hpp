// What followed the longest context that was seen before?  Token contexts of several orders in one table.
//
// Order k reads k - 1 tokens.  A longer context is stored only when the next shorter one is met again: until then it
// can have had one occurrence at most, which the shorter one names.  So most of a text costs one entry a token however
// many orders there are, and what is read is what eager tables of every order would say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hints_space.hpp"

namespace evalkit {

struct OrderGates {
    std::vector<double> min_share;         // per order: least top / total
    std::vector<std::uint32_t> min_count;  // per order: least total
};

class OrderHints {
 public:
    // orders: rising, 2..24, at most 16.
    OrderHints(std::vector<int> orders, OrderGates gates, HintSpace& space, std::size_t expected_tokens);

    void clear();
    HintRecord peek();
    void add(std::uint32_t token, bool keep);
    // Run ahead of the text to fetch what it will ask for; i rises by 1.
    void fetch_begin() { fetched_to_ = space_.history.length(); }
    void fetch_far(const Ahead& ahead, std::size_t i);
    void fetch_near(const Ahead& ahead, std::size_t i) const;
    int buckets() const { return count() * kCountBuckets; }
    const HintTable& table() const { return table_; }

 private:
    int count() const { return static_cast<int>(orders_.size()); }
    int context(int k) const { return orders_[static_cast<std::size_t>(k)] - 1; }
    bool whole(int k) const { return static_cast<std::size_t>(context(k)) <= space_.history.length(); }
    void walk();
    HintEntry deepen(int k, std::uint32_t pos, std::uint32_t token, bool keep);
    HintEntry take(int k, std::uint64_t hash, std::size_t pos, std::uint32_t token, bool keep, std::uint32_t* open = nullptr);

    std::vector<int> orders_;
    OrderGates gates_;
    HintSpace& space_;
    HintTable table_;
    static constexpr std::size_t kFetched = 64;
    std::array<std::uint64_t, kFetched> fetched_{};  // hashes of the shortest contexts ahead, a ring by position
    std::size_t fetched_to_ = 0;                     // those before this position
    std::array<HintEntry, kHintSources> found_{};    // by order, from the lowest
    int depth_ = 0;                                  // how many of them are stored
    int reach_ = 0;                                  // how many contexts were seen, stored or not
    int missed_ = -1;                                // the order that was looked for in vain, its hash and its place
    std::uint64_t missed_hash_ = 0;
    std::uint32_t* open_ = nullptr;
    bool walked_ = false;
    bool grew_ = false;                              // an entry was added for this token
};

}  // namespace evalkit
