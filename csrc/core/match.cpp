#include "match.hpp"

#include <algorithm>

namespace evalkit {

namespace {

constexpr std::uint32_t kLongest = 65535;

}  // namespace

MatchHints::MatchHints(MatchSettings settings, HintSpace& space, std::size_t expected_tokens)
    : settings_(settings), space_(space), table_(space.first_lines(64, expected_tokens)) {
    space_.tables += table_.bytes();
}

void MatchHints::clear() {
    table_.clear();
    at_ = length_ = run_ = misses_ = 0;
    looked_ = false;
}

// Find where the last tokens stood before; take it up when there is no match of that length already.
void MatchHints::look() {
    if (looked_) return;
    looked_ = true;
    const History& text = space_.history;
    const int least = settings_.min_length;
    entry_ = HintEntry{};
    whole_ = text.length() >= static_cast<std::size_t>(least);
    if (at_ >= text.stored()) at_ = 0;
    if (!whole_) return;
    hash_ = text.hash(least);
    entry_ = table_.find(hint_home(hash_), hint_tag(0, hash_), &open_, [&](std::uint32_t pos) { return text.same(pos, least); });
    if (!entry_ || (at_ > 0 && length_ >= static_cast<std::uint32_t>(least))) return;
    if (at_ != entry_.mark()) misses_ = 0;
    at_ = entry_.mark();
    length_ = static_cast<std::uint32_t>(text.common(at_, settings_.max_length));
    run_ = 0;
}

int MatchHints::bucket() const {
    const std::uint32_t length = length_ < 16 ? length_ : 16 + std::min((length_ - 16) / 4, 8u);
    const auto missed = std::min(static_cast<std::uint32_t>(__builtin_popcount(misses_)), 3u);
    const std::uint32_t run = run_ < 4 ? run_ : 4 + std::min(run_ / 8, 4u);
    return static_cast<int>((length * 4 + missed) * 9 + run);
}

HintRecord MatchHints::peek() {
    look();
    if (at_ == 0) return {};
    HintRecord hint;
    hint.token = static_cast<std::int32_t>(space_.history.at(at_));
    hint.bucket = static_cast<std::uint16_t>(bucket());
    return hint;
}

void MatchHints::step(std::uint32_t token) {
    const bool hit = space_.history.at(at_++) == token;
    misses_ = (misses_ << 1 | (hit ? 0 : 1)) & 0xFF;
    length_ = hit ? std::min(length_ + 1, kLongest) : 0;
    run_ = hit ? std::min(run_ + 1, kLongest) : 0;
    if (hit || __builtin_popcount(misses_) <= settings_.misses) return;
    at_ = misses_ = 0;
}

void MatchHints::add(std::uint32_t token, bool keep) {
    look();
    const std::size_t now = space_.history.length();
    if (at_ > 0) step(token);
    if (entry_ && keep) entry_.set_mark(static_cast<std::uint32_t>(now));
    if (whole_ && !entry_ && space_.takes(table_, keep))
        table_.insert(hint_home(hash_), hint_tag(0, hash_), static_cast<std::uint32_t>(now), open_);
    looked_ = false;
    const int least = settings_.min_length;
    space_.relieve(table_, [&](int, std::uint32_t pos) { return hint_home(space_.history.hash_at(pos, least)); });
}

void MatchHints::fetch_far(const Ahead& ahead, std::size_t i) const {
    if (ahead.whole(i, settings_.min_length)) prefetch(table_.line(hint_home(ahead.hash(i, settings_.min_length))));
}

void MatchHints::fetch_near(const Ahead& ahead, std::size_t i) const {
    if (!ahead.whole(i, settings_.min_length)) return;
    const std::uint64_t hash = ahead.hash(i, settings_.min_length);
    const HintEntry e = table_.guess(hint_home(hash), hint_tag(0, hash));
    if (e) prefetch(space_.history.address(e.mark() - 1));
}

}  // namespace evalkit
