#include "hints_orders.hpp"

#include <utility>

namespace evalkit {

OrderHints::OrderHints(std::vector<int> orders, OrderGates gates, HintSpace& space, std::size_t expected_tokens)
    : orders_(std::move(orders)), gates_(std::move(gates)), space_(space),
      // One entry a token of web text, and up to 0.4 for all longer orders together.
      table_(space.first_lines(64, expected_tokens + (orders_.size() > 1 ? expected_tokens / 5 * 2 : 0))) {
    space_.tables += table_.bytes();
}

void OrderHints::clear() {
    table_.clear();
    fetched_to_ = 0;
    walked_ = false;
}

void OrderHints::walk() {
    if (walked_) return;
    walked_ = true;
    const History& text = space_.history;
    const std::size_t now = text.length();
    depth_ = 0;
    missed_ = -1;
    for (int k = 0; k < count() && whole(k); ++k) {
        const int length = context(k);
        const std::uint64_t hash = k == 0 && now < fetched_to_ ? fetched_[now % kFetched] : text.hash(length);
        const HintEntry e = table_.find(hint_home(hash), hint_tag(k, hash), &open_,
                                        [&](std::uint32_t pos) { return text.same(pos, length); });
        if (!e) {
            missed_ = k;
            missed_hash_ = hash;
            break;
        }
        found_[static_cast<std::size_t>(depth_++)] = e;
        if (e.seen_once()) break;
    }
    reach_ = depth_;
    if (depth_ == 0 || !found_[static_cast<std::size_t>(depth_ - 1)].seen_once()) return;
    const int common = text.common(found_[static_cast<std::size_t>(depth_ - 1)].mark(), context(count() - 1));
    while (reach_ < count() && context(reach_) <= common) ++reach_;
}

HintRecord OrderHints::peek() {
    walk();
    for (int k = reach_ - 1; k >= 0; --k) {
        const auto at = static_cast<std::size_t>(k);
        const Followers f = found_[static_cast<std::size_t>(k < depth_ ? k : depth_ - 1)].followers();
        if (f.total < gates_.min_count[at]) continue;
        if (static_cast<double>(f.top) < gates_.min_share[at] * static_cast<double>(f.total)) continue;
        return hint_of(f, k * kCountBuckets + count_bucket(f));
    }
    return {};
}

HintEntry OrderHints::take(int k, std::uint64_t hash, std::size_t pos, std::uint32_t token, bool keep,
                           std::uint32_t* open) {
    if (!space_.takes(table_, keep)) return {};
    const HintEntry e = table_.insert(hint_home(hash), hint_tag(k, hash), static_cast<std::uint32_t>(pos), open);
    e.follow_first(token);
    grew_ = true;
    return e;
}

// The context of order k is met for the second time; `pos` and `token` are of the first.  Store the first occurrence of
// the next order; returns its entry when that is the current context too.
HintEntry OrderHints::deepen(int k, std::uint32_t pos, std::uint32_t token, bool keep) {
    const int length = context(k + 1);
    if (pos < static_cast<std::uint32_t>(length)) return {};
    const History& text = space_.history;
    if (text.same(pos, length)) return take(k + 1, text.hash(length), pos, token, keep);
    take(k + 1, text.hash_at(pos, length), pos, token, keep);
    return {};
}

void OrderHints::add(std::uint32_t token, bool keep) {
    walk();
    const std::size_t now = space_.history.length();
    grew_ = false;
    for (int k = 0; k < count() && whole(k); ++k) {
        if (k >= depth_) {
            const bool known = k == missed_;
            take(k, known ? missed_hash_ : space_.history.hash(context(k)), now, token, keep, known ? open_ : nullptr);
            break;
        }
        const HintEntry e = found_[static_cast<std::size_t>(k)];
        if (k + 1 < count() && e.seen_once()) {
            const HintEntry next = deepen(k, e.mark(), e.followers().token, keep);
            if (next) found_[static_cast<std::size_t>(depth_++)] = next;
        }
        e.follow(token);
        if (keep) e.set_mark(static_cast<std::uint32_t>(now));
    }
    walked_ = false;
    if (!grew_) return;
    space_.relieve(table_, [&](int k, std::uint32_t pos) { return hint_home(space_.history.hash_at(pos, context(k))); });
}

void OrderHints::fetch_far(const Ahead& ahead, std::size_t i) {
    const std::size_t at = fetched_to_++;
    if (!ahead.whole(i, context(0))) return;
    const std::uint64_t hash = ahead.hash(i, context(0));
    fetched_[at % kFetched] = hash;
    prefetch(table_.line(hint_home(hash)));
}

// The shortest context was seen before, it seems: fetch what names it, and the longer ones.
void OrderHints::fetch_near(const Ahead& ahead, std::size_t i) const {
    if (count() == 1 || !ahead.whole(i, context(0))) return;
    const std::uint64_t hash = fetched_[ahead.position(i) % kFetched];
    const HintEntry e = table_.guess(hint_home(hash), hint_tag(0, hash));
    if (!e) return;
    prefetch(space_.history.address(e.mark() - 1));
    if (e.seen_once()) return;
    for (int k = 1; k < count() && ahead.whole(i, context(k)); ++k)
        prefetch(table_.line(hint_home(ahead.hash(i, context(k)))));
}

}  // namespace evalkit
