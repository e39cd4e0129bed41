#include "ngram_counts.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace evalkit {

NgramCounts::NgramCounts(std::uint32_t vocab, int max_order, std::size_t bytes)
    : vocab_(vocab), max_order_(max_order), bound_(bytes) {
    if (vocab < 2 || vocab > (1u << 18)) throw std::invalid_argument("vocab must be 2..262144");
    if (max_order < 1 || max_order > kHighestOrder) throw std::invalid_argument("max_order must be 1..24");
    if (bytes < smallest()) throw std::invalid_argument("the memory bound is too small");
    add_segment();
    start(0);
}

void NgramCounts::start(std::uint32_t token) {
    if (slot_pages_.size() == kFirstSlots * sizeof(Slot)) {
        std::memset(slot_pages_.data(), 0, slot_pages_.size());
    } else {
        slot_pages_ = Pages(kFirstSlots * sizeof(Slot));
    }
    mask_ = kFirstSlots - 1;
    chunks_ = 1;
    used_ = 1;  // the root
    at(0) = Node{};
    counted_ = 0;
    frozen_at_ = -1;
    pairs_ = 0;
    located_token_ = kNone;
    left_ = fetched_at_ = added_ = 0;
    context_.fill(kNone);
    hash_.fill(0);
    seen_ = 0;
    stored_ = 1;
    context_[1] = 0;
    hash_[1] = 0x2545F4914F6CDD1Du;
    if (max_order_ < 2) return;
    hash_[2] = extend(hash_[1], token);
    context_[2] = create(0, hash_[2], token);
}

void NgramCounts::add_segment() {
    const std::size_t first = segments_.empty() ? 0 : kChunk << (segments_.size() - 1);
    const std::size_t nodes = segments_.empty() ? kChunk : first;
    segments_.emplace_back(nodes * sizeof(Node));
    nodes_[segments_.size() - 1] = static_cast<Node*>(segments_.back().data()) - first;
}

void NgramCounts::place(Slot s) {
    std::size_t i = s.hash & mask_;
    while (slot()[i].id != 0) i = (i + 1) & mask_;
    slot()[i] = s;
}

std::uint32_t NgramCounts::create(std::uint32_t parent, std::uint64_t hash, std::uint32_t token) {
    const auto id = static_cast<std::uint32_t>(used_++);
    Node& node = at(id);
    node = Node{};
    node.parent = parent;
    node.token = token;
    node.next = at(parent).first;
    at(parent).first = id;
    place(Slot{static_cast<std::uint32_t>(hash), id});
    return id;
}

// True when one more token fits below the bound, whatever it is.
bool NgramCounts::make_room() {
    const std::size_t wanted = used_ + static_cast<std::size_t>(max_order_);
    if (wanted >= kNone / 2) return false;
    if (wanted > chunks_ * kChunk) {
        if (bytes() + kChunk * sizeof(Node) > bound_) return false;
        if (segment_of(static_cast<std::uint32_t>(chunks_ * kChunk)) >= segments_.size()) add_segment();
        ++chunks_;
    }
    if (wanted * 4 <= slots() * 3) return true;
    if (bytes() + 2 * slots() * sizeof(Slot) > bound_) return wanted * 8 <= slots() * 7;  // the old ones stand beside the new
    const Pages old = std::exchange(slot_pages_, Pages(2 * slots() * sizeof(Slot)));
    const Slot* from = static_cast<const Slot*>(old.data());
    const std::size_t many = slots();
    mask_ = 2 * many - 1;
    for (std::size_t i = 0; i < many; ++i)
        if (from[i].id != 0) place(from[i]);
    return true;
}

PairCounts NgramCounts::pair(int order, std::uint32_t token) const {
    if (context_[order] == kNone) return PairCounts{};
    const std::uint32_t id =
        token == located_token_ ? located_[order] : find(context_[order], extend(hash_[order], token), token);
    return id == kNone ? PairCounts{} : PairCounts{at(id).count, at(id).continuations};
}

void NgramCounts::pairs_of(std::uint32_t token, PairCounts* out) const {
    int k = 1;
    for (; k <= stored_; ++k) {
        const std::uint32_t id =
            token == located_token_ ? located_[k] : find(context_[k], extend(hash_[k], token), token);
        if (id == kNone) break;
        out[k] = PairCounts{at(id).count, at(id).continuations};
    }
    for (; k <= max_order_; ++k) out[k] = PairCounts{};
}

void NgramCounts::locate(std::uint32_t token) {
    if (token == located_token_) return;
    located_token_ = token;
    for (int k = 1; k <= max_order_; ++k) located_hash_[k] = extend(hash_[k], token);
    int k = 1;
    for (; k <= stored_; ++k)
        if ((located_[k] = find(context_[k], located_hash_[k], token)) == kNone) break;
    for (; k <= max_order_; ++k) located_[k] = kNone;
}

void NgramCounts::add(std::uint32_t token) {
    if (frozen_at_ < 0 && !make_room()) frozen_at_ = counted_;
    const bool take_new = frozen_at_ < 0;
    locate(token);
    std::uint32_t lower = kNone;
    for (int k = 1; k <= max_order_; ++k) {
        const std::uint32_t parent = context_[k];
        std::uint32_t id = located_[k];
        if (id == kNone && parent != kNone && take_new) id = create(parent, located_hash_[k], token);
        if (id != kNone && (take_new || at(id).count > 0)) count(k, id, lower);
        context_[k] = lower;  // read already: now the context of this order at the next position
        lower = id;
    }
    context_[1] = 0;
    std::copy(located_hash_.begin() + 1, located_hash_.begin() + max_order_, hash_.begin() + 2);
    located_token_ = kNone;
    look_back();
    ++counted_;
    ++added_;
    if (left_ > 0) fetch_ahead();
}

// A longer context was followed only where the shorter one was.
void NgramCounts::look_back() {
    seen_ = 0;
    while (seen_ < max_order_ && context(seen_ + 1).total > 0) ++seen_;
    stored_ = std::max(seen_, 1);
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

void NgramCounts::look_ahead(const std::int32_t* tokens, std::size_t n) {
    ahead_ = tokens;
    left_ = n;
    ahead_hash_ = hash_;
    fetched_at_ = added_ = 0;
    for (std::size_t i = 0; i < kAhead && left_ > 0; ++i) fetch_ahead();
}

// The slots of the token kAhead positions on, and the nodes named by those that were fetched before.
void NgramCounts::fetch_ahead() {
    const auto token = static_cast<std::uint32_t>(*ahead_++);
    --left_;
    const auto orders = static_cast<std::size_t>(max_order_);
    auto& here = fetched_[fetched_at_ % kAhead];
    const auto& near = fetched_[(fetched_at_ + kNear) % kAhead];  // of kAhead - kNear calls ago
    for (std::size_t k = 1; k <= orders; ++k) fetch_slot(here[k] = extend(ahead_hash_[k], token));
    std::copy(here.begin() + 1, here.begin() + max_order_, ahead_hash_.begin() + 2);
    for (std::size_t k = 1; k <= orders; ++k) fetch_node(near[k]);
    ++fetched_at_;
}

}  // namespace evalkit
