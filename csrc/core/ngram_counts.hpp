// How often did each token follow each context, and after how many different longer contexts?
//
// An exact trie: a node is an n-gram, its children the tokens that followed it.  The node of (context, token) is found
// through a hash of the n-gram's tokens that is verified against the node itself (parent and token), and is at the next
// position the context of the order above.  So one look-up per order and token does all.  A slot holds 32 bits of the hash
// beside the node's id: slots that belong to others are passed over, and the slots doubled, without a look at any node.  As
// the hash follows from the tokens alone, what a known text will read is fetched many positions ahead.
//
// Whenever an n-gram is stored, so is the shorter one without its first token: a look-up ends at the first order without.
//
// Besides the count n(c, v) every node keeps the number of different tokens u with (u, c, v) seen: the continuation
// count of Kneser and Ney (1995), which says how freely v turns up in new surroundings.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pages.hpp"

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
    // Highest order whose context was followed before, 0 when none: beyond it nothing is looked for.
    int seen() const { return seen_; }
    PairCounts pair(int order, std::uint32_t token) const;
    // Call f(token, PairCounts) for every stored follower of the context of this order.
    template <class F>
    void each(int order, F&& f) const {
        if (context(order).distinct > vocab_ / 8) {
            for (std::uint32_t from = 0; from < vocab_; from += kTogether)
                each_of(order, from, from + kTogether < vocab_ ? from + kTogether : vocab_, f);
            return;
        }
        for (std::uint32_t i = context(order).first; i != 0; i = at(i).next)
            f(at(i).token, PairCounts{at(i).count, at(i).continuations});
    }
    // Look `token` up after the contexts of all orders at once.  pair() and add() of the same token then cost nothing more.
    void locate(std::uint32_t token);
    // out[1..max_order]: pair() of every order.
    void pairs_of(std::uint32_t token, PairCounts* out) const;
    // The tokens that will be added next, none of them the start of another text.  What add() and locate() of them will read
    // is fetched while those before them are counted; nothing else changes.
    void look_ahead(const std::int32_t* tokens, std::size_t n);
    // What pairs_of(token) will read `ahead` positions on, at most kAhead: its slots, or the nodes that they name.
    static constexpr std::size_t kAhead = 16;
    void fetch_slots(std::size_t ahead, std::uint32_t token) const {
        each_ahead(ahead, token, [this](std::uint64_t hash) { fetch_slot(hash); });
    }
    void fetch_nodes(std::size_t ahead, std::uint32_t token) const {
        each_ahead(ahead, token, [this](std::uint64_t hash) { fetch_node(hash); });
    }

    int max_order() const { return max_order_; }
    std::size_t bytes() const { return chunks_ * sizeof(Node) * kChunk + slots() * sizeof(Slot); }
    // Number of counted tokens when the bound was met; -1: never.
    std::int64_t frozen_at() const { return frozen_at_; }
    std::uint64_t pairs() const { return pairs_; }
    static std::size_t smallest() { return kChunk * sizeof(Node) + kFirstSlots * sizeof(Slot); }

 private:
    static constexpr std::uint32_t kNone = 0xFFFFFFFFu;
    static constexpr std::size_t kChunk = std::size_t{1} << 12;
    static constexpr std::size_t kFirstSlots = std::size_t{1} << 13;
    static constexpr std::uint32_t kTogether = 32;  // tokens looked up side by side
    static constexpr std::size_t kNear = 8;         // positions ahead: the nodes; their slots kAhead

    struct Slot {
        std::uint32_t hash;  // the lowest bits say where it wants to stand
        std::uint32_t id;    // 0 where free: the root is never looked up
    };
    using Hashes = std::array<std::uint64_t, kHighestOrder + 2>;  // by order, of the context

    static std::uint64_t extend(std::uint64_t hash, std::uint32_t token) {
        std::uint64_t x = (hash ^ token) * 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 32)) * 0xBF58476D1CE4E5B9u;
        return x ^ (x >> 29);
    }
    // Segment 0 holds kChunk nodes, each further one as many as all before it.
    static std::size_t segment_of(std::uint32_t id) {
        return 31u - static_cast<std::size_t>(__builtin_clz(2u * (id / kChunk) + 1u));
    }
    Node& at(std::uint32_t id) { return nodes_[segment_of(id)][id]; }
    const Node& at(std::uint32_t id) const { return nodes_[segment_of(id)][id]; }
    Slot* slot() const { return static_cast<Slot*>(slot_pages_.data()); }
    std::size_t slots() const { return mask_ + 1; }

    std::uint32_t find(std::uint32_t parent, std::uint64_t hash, std::uint32_t token) const {
        const auto tag = static_cast<std::uint32_t>(hash);
        for (std::size_t i = tag & mask_;; i = (i + 1) & mask_) {
            const Slot s = slot()[i];
            if (s.id == 0) return kNone;
            if (s.hash == tag && at(s.id).parent == parent && at(s.id).token == token) return s.id;
        }
    }
    void fetch_slot(std::uint64_t hash) const { __builtin_prefetch(&slot()[static_cast<std::uint32_t>(hash) & mask_]); }
    void fetch_node(std::uint64_t hash) const {
        const Slot s = slot()[static_cast<std::uint32_t>(hash) & mask_];
        if (s.id != 0) __builtin_prefetch(&at(s.id));
    }
    template <class F>
    void each_ahead(std::size_t ahead, std::uint32_t token, F&& f) const {
        const std::size_t at = added_ + ahead;  // its context ends with the token fetched just before
        if (at == 0 || at > fetched_at_) return;
        const auto& context = fetched_[(at - 1) % kAhead];
        for (std::size_t k = 2; k <= static_cast<std::size_t>(max_order_); ++k) f(extend(context[k - 1], token));
    }
    template <class F>
    void each_of(int order, std::uint32_t from, std::uint32_t to, F&& f) const {
        const std::uint32_t parent = context_[order];
        std::array<std::uint64_t, kTogether> hash;
        for (std::uint32_t v = from; v < to; ++v) fetch_slot(hash[v - from] = extend(hash_[order], v));
        for (std::uint32_t v = from; v < to; ++v) fetch_node(hash[v - from]);
        for (std::uint32_t v = from; v < to; ++v) {
            const std::uint32_t id = find(parent, hash[v - from], v);
            if (id != kNone) f(v, PairCounts{at(id).count, at(id).continuations});
        }
    }
    std::uint32_t create(std::uint32_t parent, std::uint64_t hash, std::uint32_t token);
    void place(Slot s);
    void count(int order, std::uint32_t id, std::uint32_t lower);
    bool make_room();
    void add_segment();
    void look_back();
    void fetch_ahead();

    std::uint32_t vocab_;
    int max_order_;
    std::size_t bound_;
    std::vector<Pages> segments_;
    std::array<Node*, 22> nodes_{};  // of each segment, minus its first id
    std::size_t chunks_ = 0;         // of kChunk nodes, in use
    Pages slot_pages_;
    std::size_t mask_ = 0;
    std::size_t used_ = 0;
    std::array<std::uint32_t, kHighestOrder + 2> context_{};
    int seen_ = 0;
    int stored_ = 1;  // highest order whose context may have nodes after it: the first token has one before it is counted
    Hashes hash_{};
    // Of located_token_, until the next add().
    std::array<std::uint32_t, kHighestOrder + 1> located_{};
    std::array<std::uint64_t, kHighestOrder + 1> located_hash_{};
    std::uint32_t located_token_ = kNone;
    // The text that is known: the next token to be fetched for, the contexts there, and what was fetched before.
    const std::int32_t* ahead_ = nullptr;
    std::size_t left_ = 0;
    Hashes ahead_hash_{};
    std::array<std::array<std::uint64_t, kHighestOrder + 1>, kAhead> fetched_{};
    std::size_t fetched_at_ = 0, added_ = 0;  // positions since look_ahead()
    Node empty_{};
    std::int64_t counted_ = 0;
    std::int64_t frozen_at_ = -1;
    std::uint64_t pairs_ = 0;
};

}  // namespace evalkit
