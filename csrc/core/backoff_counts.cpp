#include "backoff_counts.hpp"

#include <algorithm>
#include <stdexcept>

namespace evalkit {

NgramCounts::NgramCounts(std::uint32_t vocab, int max_order, std::size_t bytes)
    : vocab_(vocab), max_order_(max_order), bound_(bytes) {
    if (vocab < 2 || vocab > (1u << 18)) throw std::invalid_argument("vocab must be 2..262144");
    if (max_order < 1 || max_order > kHighestOrder) throw std::invalid_argument("max_order must be 1..24");
    if (bytes < smallest()) throw std::invalid_argument("the memory bound is too small");
    start(0);
}

void NgramCounts::start(std::uint32_t token) {
    chunks_.clear();
    chunks_.emplace_back(new Node[kChunk]());
    slots_.assign(kFirstSlots, 0u);
    slots_.shrink_to_fit();
    used_ = 1;  // the root
    counted_ = 0;
    frozen_at_ = -1;
    pairs_ = 0;
    located_token_ = kNone;
    context_.fill(kNone);
    context_[1] = 0;
    if (max_order_ >= 2) context_[2] = create(0, token);
}

std::size_t NgramCounts::slot_of(std::uint32_t parent, std::uint32_t token) const {
    std::uint64_t x = (std::uint64_t{parent} << 18 | token) + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return static_cast<std::size_t>(x ^ (x >> 31)) & (slots_.size() - 1);
}

std::uint32_t NgramCounts::find(std::uint32_t parent, std::uint32_t token) const {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t i = slot_of(parent, token); slots_[i] != 0; i = (i + 1) & mask) {
        const Node& node = at(slots_[i]);
        if (node.parent == parent && node.token == token) return slots_[i];
    }
    return kNone;
}

void NgramCounts::place(std::uint32_t id) {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = slot_of(at(id).parent, at(id).token);
    while (slots_[i] != 0) i = (i + 1) & mask;
    slots_[i] = id;
}

std::uint32_t NgramCounts::create(std::uint32_t parent, std::uint32_t token) {
    const auto id = static_cast<std::uint32_t>(used_++);
    Node& node = at(id);
    node = Node{};
    node.parent = parent;
    node.token = token;
    node.next = at(parent).first;
    at(parent).first = id;
    place(id);
    return id;
}

// True when one more token fits below the bound, whatever it is.
bool NgramCounts::make_room() {
    const std::size_t wanted = used_ + static_cast<std::size_t>(max_order_);
    if (wanted >= kNone) return false;
    if (wanted > chunks_.size() * kChunk) {
        if (bytes() + kChunk * sizeof(Node) > bound_) return false;
        chunks_.emplace_back(new Node[kChunk]());
    }
    if (wanted * 4 <= slots_.size() * 3) return true;
    const std::size_t doubled = slots_.size() * 2;
    if (bytes() + slots_.size() * sizeof(std::uint32_t) > bound_) return wanted * 8 <= slots_.size() * 7;
    slots_ = std::vector<std::uint32_t>();  // give the old ones back first: the nodes hold all the keys
    slots_.assign(doubled, 0u);
    for (std::size_t id = 1; id < used_; ++id) place(static_cast<std::uint32_t>(id));
    return true;
}

std::uint32_t NgramCounts::found(int order, std::uint32_t token) const {
    if (token == located_token_) return located_[order];
    return context_[order] == kNone ? kNone : find(context_[order], token);
}

PairCounts NgramCounts::pair(int order, std::uint32_t token) const {
    const std::uint32_t id = found(order, token);
    return id == kNone ? PairCounts{} : PairCounts{at(id).count, at(id).continuations};
}

void NgramCounts::locate(std::uint32_t token) {
    std::array<std::size_t, kHighestOrder + 1> slot;
    for (int k = 1; k <= max_order_; ++k) {
        if (context_[k] == kNone) continue;
        slot[k] = slot_of(context_[k], token);
        __builtin_prefetch(&slots_[slot[k]]);
    }
    for (int k = 1; k <= max_order_; ++k)
        if (context_[k] != kNone && slots_[slot[k]] != 0) __builtin_prefetch(&at(slots_[slot[k]]));
    located_token_ = kNone;
    for (int k = 1; k <= max_order_; ++k) located_[k] = found(k, token);
    located_token_ = token;
}

void NgramCounts::add(std::uint32_t token) {
    if (frozen_at_ < 0 && !make_room()) frozen_at_ = counted_;
    const bool take_new = frozen_at_ < 0;
    std::uint32_t lower = kNone;
    for (int k = 1; k <= max_order_; ++k) {
        const std::uint32_t parent = context_[k];
        std::uint32_t id = found(k, token);
        if (id == kNone && parent != kNone && take_new) id = create(parent, token);
        if (id != kNone && (take_new || at(id).count > 0)) count(k, id, lower);
        context_[k] = lower;  // read already: now the context of this order at the next position
        lower = id;
    }
    context_[1] = 0;
    located_token_ = kNone;
    ++counted_;
}

// `lower`: the node of the same token after the context of the order below.
void NgramCounts::count(int order, std::uint32_t id, std::uint32_t lower) {
    Node& node = at(id);
    Node& context = at(node.parent);
    const bool fresh = node.count == 0;
    ++node.count;
    ++context.total;
    context.top = std::max(context.top, node.count);
    if (!fresh) return;
    ++context.distinct;
    ++pairs_;
    if (order == 1 || lower == kNone) return;
    Node& shorter = at(lower);
    Node& below = at(shorter.parent);
    if (shorter.continuations == 0) ++below.continued_distinct;
    ++shorter.continuations;
    ++below.continued_total;
}

}  // namespace evalkit
