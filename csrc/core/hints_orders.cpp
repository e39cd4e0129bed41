#include "hints_orders.hpp"

#include <utility>

namespace evalkit {

OrderHints::OrderHints(std::vector<int> orders, OrderGates gates, HintSpace& space, std::size_t expected_tokens)
    : orders_(std::move(orders)), gates_(std::move(gates)), space_(space),
      // About 1.4 entries a token of web text, however many orders there are.
      table_(space.first_lines(64, expected_tokens + expected_tokens / 5 * 2)) {
    space_.tables += table_.bytes();
}

void OrderHints::clear() {
    table_.clear();
    walked_ = false;
}

void OrderHints::walk() {
    if (walked_) return;
    walked_ = true;
    const History& text = space_.history;
    depth_ = 0;
    for (int k = 0; k < count() && whole(k); ++k) {
        const int length = context(k);
        HintEntry* e = table_.find(k, text.hash(length), [&](std::uint32_t pos) { return text.same(pos, length); });
        if (e == nullptr) break;
        found_[static_cast<std::size_t>(depth_++)] = e;
        if (e->seen_once()) break;
    }
    reach_ = depth_;
    if (depth_ == 0 || !found_[static_cast<std::size_t>(depth_ - 1)]->seen_once()) return;
    const int common = text.common(found_[static_cast<std::size_t>(depth_ - 1)]->pos, context(count() - 1));
    while (reach_ < count() && context(reach_) <= common) ++reach_;
}

HintRecord OrderHints::peek() {
    walk();
    for (int k = reach_ - 1; k >= 0; --k) {
        const auto at = static_cast<std::size_t>(k);
        const Followers f = found_[static_cast<std::size_t>(k < depth_ ? k : depth_ - 1)]->followers();
        if (f.total < gates_.min_count[at]) continue;
        if (static_cast<double>(f.top) < gates_.min_share[at] * static_cast<double>(f.total)) continue;
        return hint_of(f, k * kCountBuckets + count_bucket(f));
    }
    return {};
}

HintEntry* OrderHints::take(int k, std::uint64_t hash, std::size_t pos, std::uint32_t token, bool keep) {
    if (!space_.takes(table_, keep)) return nullptr;
    HintEntry* e = table_.insert(k, hash, static_cast<std::uint32_t>(pos));
    e->follow(token);
    return e;
}

// The context of order k is met for the second time; `pos` and `token` are of the first.  Store the first occurrence of
// the next order; returns its entry when that is the current context too.
HintEntry* OrderHints::deepen(int k, std::uint32_t pos, std::uint32_t token, bool keep) {
    const int length = context(k + 1);
    if (pos < static_cast<std::uint32_t>(length)) return nullptr;
    const History& text = space_.history;
    if (text.same(pos, length)) return take(k + 1, text.hash(length), pos, token, keep);
    take(k + 1, text.hash_at(pos, length), pos, token, keep);
    return nullptr;
}

void OrderHints::add(std::uint32_t token, bool keep) {
    walk();
    const std::size_t now = space_.history.length();
    for (int k = 0; k < count() && whole(k); ++k) {
        if (k >= depth_) {
            take(k, space_.history.hash(context(k)), now, token, keep);
            break;
        }
        HintEntry* e = found_[static_cast<std::size_t>(k)];
        if (e->seen_once() && k + 1 < count()) {
            HintEntry* next = deepen(k, e->pos, e->followers().token, keep);
            if (next != nullptr) found_[static_cast<std::size_t>(depth_++)] = next;
        }
        e->follow(token);
        if (keep) e->pos = static_cast<std::uint32_t>(now);
    }
    walked_ = false;
    space_.relieve(table_, [&](int k, std::uint32_t pos) { return space_.history.hash_at(pos, context(k)); });
}

void OrderHints::fetch_far(const Ahead& ahead, std::size_t i) const {
    if (ahead.whole(i, context(0))) prefetch(table_.line(ahead.hash(i, context(0))));
}

// The shortest context was seen before, it seems: fetch what names it, and the longer ones.
void OrderHints::fetch_near(const Ahead& ahead, std::size_t i) const {
    if (!ahead.whole(i, context(0))) return;
    const HintEntry* e = table_.guess(0, ahead.hash(i, context(0)));
    if (e == nullptr) return;
    prefetch(space_.history.address(e->pos - 1));
    if (e->seen_once()) return;
    for (int k = 1; k < count() && ahead.whole(i, context(k)); ++k) prefetch(table_.line(ahead.hash(i, context(k))));
}

}  // namespace evalkit
