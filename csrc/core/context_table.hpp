// Which tokens followed which contexts, exactly?
//
// A trie of contexts laid out as one 64-byte line per hashed address.  A context of order k (k - 1 tokens) at position
// t is the child, by token x[t-1], of the context of order k - 1 at position t - 1.  Its address is computed from the
// parent's *address* and the token by a bijection g:
//
//     (parent address, token)  <->  (address, remainder)
//
// so no memory is read to know where to look, and a whole chunk can be prefetched.  A lane of the line holds the
// remainder and the index of the parent's first lane inside the parent's chain.  By induction that names the context
// exactly: g is inverted to (parent address, token), the index picks the parent among those that share the address,
// and the parent is named the same way.  The hash picks the slot; it never decides identity.  (Quotienting: Cleary
// 1984; Darragh, Cleary, Witten, "Bonsai", 1993.)
//
// The count of a context is the sum of its pairs by construction, whatever is stored.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lanes.hpp"
#include "pages.hpp"

namespace evalkit {

constexpr int kLanes = 8;
constexpr int kMaxOrder = 24;
constexpr std::uint32_t kBig = 1u;                // lane flag: val names a record instead of (token, count)
constexpr std::uint32_t kLink = 0xFFFFFFFFu;      // key of the last lane when the chain goes on
constexpr int kParentBits = 8;                    // index of a context's first lane inside its chain

struct alignas(64) Line {
    std::uint32_t key[kLanes];
    std::uint32_t val[kLanes];
};

struct Counts {
    std::uint32_t total = 0;     // sum of the counts of all pairs of the context
    std::uint32_t distinct = 0;  // number of pairs
    std::uint32_t top = 0;       // largest count
};

struct Entry {
    std::uint32_t token_plus_1;
    std::uint32_t count;
};

class ContextTable {
 public:
    // vocab: number of token ids, at most 2^18.  max_order: 1..24.  bytes: memory bound.
    // expected_tokens: reserve space for a stream of this many tokens at once (0: grow as needed).
    ContextTable(std::uint32_t vocab, int max_order, std::size_t bytes, std::size_t expected_tokens);

    // Forget everything, then take `token` as the first one: context, never counted.
    void start(std::uint32_t token);

    // Look up the contexts of all orders at the current position.  Order k is seen when counts(k).total > 0.
    void resolve();
    const Counts& counts(int order) const { return nodes_[order].counts; }
    std::uint32_t count_of(int order, std::uint32_t token) const;
    // Call f(token, count) for every pair of the context of this order; after resolve().
    template <class F>
    void each(int order, F&& f) const {
        if (order == 1) return each_unigram(f);
        const Node& node = nodes_[order];
        if (node.record >= 0) return each_entry(node, f);
        if (node.leader >= 0) each_lane(node, f);
    }

    // Count `token` in every order, and step to the next position.
    void add(std::uint32_t token);

    // Smallest bound that the constructor takes.
    static std::size_t smallest(std::uint32_t vocab, int max_order);

    std::size_t bytes() const;
    std::size_t bound() const { return bound_; }
    // Tokens taken since start(), the first one included.
    std::size_t length() const { return length_; }
    bool frozen() const { return frozen_at_ >= 0; }
    // Number of counted tokens when the table stopped taking new pairs; -1 while it takes them.
    std::int64_t frozen_at() const { return frozen_at_; }
    std::uint64_t pairs() const { return pairs_; }
    std::uint64_t rebuilds() const { return rebuilds_; }
    std::uint64_t spilled() const { return spill_used_; }

 private:
    struct Node {
        Counts counts;
        std::uint32_t home = 0;      // address of the line
        std::uint32_t key = 0;       // wanted key, without kBig
        std::int32_t leader = -1;    // index of the first lane in the chain, -1: never seen
        std::int32_t record = -1;    // record block when the context has many followers
        std::uint8_t capacity = 0;   // log2 of the record's entries
    };

    template <class F>
    void each_unigram(F&& f) const {
        for (std::uint32_t v = 0; v < vocab_; ++v)
            if (unigram_[v] > 0) f(v, unigram_[v]);
    }
    template <class F>
    void each_entry(const Node& node, F&& f) const {
        const Entry* e = entries(static_cast<std::uint32_t>(node.record));
        for (std::size_t i = 0; i < std::size_t{1} << node.capacity; ++i)
            if (e[i].token_plus_1 != 0) f(e[i].token_plus_1 - 1, e[i].count);
    }
    template <class F>
    void each_lane(const Node& node, F&& f) const {
        for (const Line* line = home(node.home);; line = spill_at(line->val[kLanes - 1])) {
            for (unsigned m = lanes_equal(line->key, node.key, ~kBig); m != 0; m &= m - 1) {
                const std::uint32_t val = line->val[lowest(m)];
                f(val >> count_bits_, val & count_mask());
            }
            if (line->key[kLanes - 1] != kLink) return;
        }
    }

    std::uint32_t count_mask() const { return (std::uint32_t{1} << count_bits_) - 1; }
    void allocate(int log2_lines);
    void clear_counts();
    void first(std::uint32_t token);
    void place(std::uint32_t token);
    void address(int order, std::uint32_t parent_home, std::uint32_t token, std::uint32_t parent_leader,
                 Node& child) const;
    std::uint32_t* lane_at(const Node& node, int index, std::uint32_t** val) const;
    void remember(std::uint32_t token);
    void find(Node& node) const;
    void count_unigram(std::uint32_t token, bool take_new);
    void count_seen(Node& node, std::uint32_t token, bool take_new);
    bool count_new(Node& node, std::uint32_t token);
    bool insert_lane(const Node& node, int after, std::uint32_t key, std::uint32_t val, int* index);
    void promote(Node& node);
    void record_add(Node& node, std::uint32_t token, bool take_new);
    void record_insert(Node& node, std::uint32_t token, std::uint32_t count);
    void record_grow(Node& node);
    Line* extend(Line* last);
    void grow_if_crowded();
    void rebuild(int log2_lines);
    bool room_for_a_token() const;
    std::uint32_t record_new(int log2_entries);
    void record_free(std::uint32_t block, int log2_entries);
    static std::size_t record_lines(int log2_entries);

    Line* home(std::uint32_t address) const { return lines_ + address; }
    Line* spill_at(std::uint32_t index) const { return static_cast<Line*>(spill_.at(index)); }
    std::uint32_t* header(std::uint32_t block) const { return static_cast<std::uint32_t*>(records_.at(block)); }
    Entry* entries(std::uint32_t block) const { return reinterpret_cast<Entry*>(header(block) + 4); }

    std::uint32_t vocab_;
    int max_order_;
    std::size_t bound_;
    int token_bits_;
    int count_bits_;
    int first_log2_;
    int log2_lines_ = 0;
    Pages main_;
    Line* lines_ = nullptr;
    Chunks spill_;
    std::uint32_t spill_used_ = 0;
    Chunks records_;
    std::uint32_t records_used_ = 0;
    std::array<std::vector<std::uint32_t>, 20> free_records_;
    std::vector<std::uint32_t> unigram_;
    Chunks history_;         // 16 tokens a block; what a rebuild replays, so kept until the table is frozen
    std::size_t remembered_ = 0;
    std::array<Node, kMaxOrder + 1> nodes_;
    int available_ = 0;     // highest order whose context is whole at the current position
    bool resolved_ = false;
    bool rebuilding_ = false;
    std::int64_t frozen_at_ = -1;
    std::size_t worst_ = 0;  // bytes that one token can take at most
    std::size_t length_ = 0;
    std::uint64_t lanes_used_ = 0;
    std::uint64_t pairs_ = 0;
    std::uint64_t rebuilds_ = 0;
};

}  // namespace evalkit
