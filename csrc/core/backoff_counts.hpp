// How often did each token follow each context, and after how many different longer contexts?
//
// An exact trie: a node is an n-gram, its children the tokens that followed it.  The node of (context, token) is found
// through a hash of (parent node, token) that is verified against the node itself, and is at the next position the
// context of the order above.  So one look-up per order and token does all.
//
// Besides the count n(c, v) every node keeps the number of different tokens u with (u, c, v) seen: the continuation
// count of Kneser and Ney (1995), which says how freely v turns up in new surroundings.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace evalkit {

struct PairCounts {
    std::uint32_t count = 0;
    std::uint32_t continuations = 0;
};

class NgramCounts {
 public:
    static constexpr int kHighestOrder = 24;

    // vocab: at most 2^18 ids.  max_order: 1..24 (order k reads k - 1 tokens of context).  bytes: memory bound.
    // At the bound nothing new is taken and what is stored goes on counting.
    NgramCounts(std::uint32_t vocab, int max_order, std::size_t bytes);

    // Forget everything, then take `token` as context that is never counted.
    void start(std::uint32_t token);
    void add(std::uint32_t token);

    struct Node {
        std::uint32_t parent, token, next, first;          // ids; 0 is the root and, for next and first, the end
        std::uint32_t count, continuations;                // of this n-gram as (context, token)
        std::uint32_t total, distinct, top;                // of the tokens after it
        std::uint32_t continued_total, continued_distinct;  // the same of continuation counts
    };

    // The context of this order at the current position; total == 0 when nothing ever followed it.
    const Node& context(int order) const { return context_[order] == kNone ? empty_ : at(context_[order]); }
    PairCounts pair(int order, std::uint32_t token) const;
    // Call f(token, PairCounts) for every stored follower of the context of this order.
    template <class F>
    void each(int order, F&& f) const {
        for (std::uint32_t i = context(order).first; i != 0; i = at(i).next)
            f(at(i).token, PairCounts{at(i).count, at(i).continuations});
    }
    // Look `token` up after the contexts of all orders at once: the misses of one order hide those of the others.
    // pair() and add() of the same token then cost nothing more.
    void locate(std::uint32_t token);
    // Bring what locate() of this token will read first nearer; nothing else changes.
    void fetch(std::uint32_t token) const {
        for (int k = 1; k <= max_order_; ++k)
            if (context_[k] != kNone) __builtin_prefetch(&slots_[slot_of(context_[k], token)]);
    }
    // And what it will read next, once fetch() has had its time.
    void fetch_nodes(std::uint32_t token) const {
        for (int k = 1; k <= max_order_; ++k) {
            if (context_[k] == kNone) continue;
            const std::uint32_t id = slots_[slot_of(context_[k], token)];
            if (id != 0) __builtin_prefetch(&at(id));
        }
    }

    int max_order() const { return max_order_; }
    std::size_t bytes() const { return chunks_.size() * sizeof(Node) * kChunk + slots_.size() * sizeof(std::uint32_t); }
    // Number of counted tokens when the bound was met; -1: never.
    std::int64_t frozen_at() const { return frozen_at_; }
    std::uint64_t pairs() const { return pairs_; }
    static std::size_t smallest() { return kChunk * sizeof(Node) + kFirstSlots * sizeof(std::uint32_t); }

 private:
    static constexpr std::uint32_t kNone = 0xFFFFFFFFu;
    static constexpr std::size_t kChunk = std::size_t{1} << 12;
    static constexpr std::size_t kFirstSlots = std::size_t{1} << 13;

    Node& at(std::uint32_t id) { return chunks_[id / kChunk][id % kChunk]; }
    const Node& at(std::uint32_t id) const { return chunks_[id / kChunk][id % kChunk]; }
    std::size_t slot_of(std::uint32_t parent, std::uint32_t token) const;
    std::uint32_t find(std::uint32_t parent, std::uint32_t token) const;
    std::uint32_t found(int order, std::uint32_t token) const;
    std::uint32_t create(std::uint32_t parent, std::uint32_t token);
    void place(std::uint32_t id);
    void count(int order, std::uint32_t id, std::uint32_t lower);
    bool make_room();

    std::uint32_t vocab_;
    int max_order_;
    std::size_t bound_;
    std::vector<std::unique_ptr<Node[]>> chunks_;
    std::vector<std::uint32_t> slots_;  // node id, 0 where free: the root is never looked up
    std::size_t used_ = 0;
    std::array<std::uint32_t, kHighestOrder + 2> context_{};
    std::array<std::uint32_t, kHighestOrder + 1> located_{};  // by order; of located_token_, until the next add()
    std::uint32_t located_token_ = kNone;
    Node empty_{};
    std::int64_t counted_ = 0;
    std::int64_t frozen_at_ = -1;
    std::uint64_t pairs_ = 0;
};

}  // namespace evalkit
