#include "hints_words.hpp"

#include <utility>

namespace evalkit {

namespace {

// Web text has few different words so far, 0.06 to 0.15 per token, the fewer the longer it is: twice that for short ways.
// After a whole word it has 0.4 to 0.6, and longer contexts are mostly new.
std::size_t expected_contexts(const std::vector<int>& words, std::size_t tokens) {
    std::size_t tenths = 0;
    for (const int w : words) tenths += w == 1 ? 2 : w == 2 ? 6 : 9;
    return tokens / 10 * tenths;
}

}  // namespace

WordHints::WordHints(std::vector<int> words, const std::vector<WordRole>& roles, std::int64_t reset_at,
                     HintSpace& space, std::size_t expected_tokens)
    : words_(std::move(words)),
      roles_(roles),
      reset_at_(reset_at),
      space_(space),
      // A document's table is emptied at its end: small, so that this is cheap.
      table_(reset_at >= 0 ? space.first_lines(1024, 0) : space.first_lines(64, expected_contexts(words_, expected_tokens))) {
    space_.tables += table_.bytes();
}

void WordHints::start(std::uint32_t first_token) {
    table_.clear();
    starts_ = Starts{};
    fetched_to_ = 0;
    starts_.pass(0, starts_word(first_token));
    looked_ = false;
}

void WordHints::find() {
    if (looked_) return;
    looked_ = true;
    const History& text = space_.history;
    const std::size_t now = text.length();
    for (std::size_t j = 0; j < words_.size(); ++j) {
        Context& c = context_[j];
        if (now < fetched_to_) {
            c = fetched_[now % kFetched][j];
        } else {
            c.length = starts_.length(words_[j], now);
            c.hash = c.length > 0 ? text.hash(c.length) : 0;
        }
        if (c.length == 0) {
            found_[2 * j] = found_[2 * j + 1] = HintEntry{};
            continue;
        }
        const std::uint32_t mark = mark_of(c.hash);
        table_.find_pair(home_of(mark), hint_tag(2 * static_cast<int>(j), c.hash), mark, &found_[2 * j], &open_[j]);
    }
}

void WordHints::peek(HintRecord* out) {
    find();
    for (std::size_t s = 0; s < 2 * words_.size(); ++s) {
        const bool known = static_cast<bool>(found_[s]);
        const Followers f = (known ? found_[s] : HintEntry(nothing_.cell)).followers();
        out[s] = hint_of(f, count_bucket(f));
        out[s].token = known ? out[s].token : -1;
    }
}

void WordHints::add(std::uint32_t token, bool keep) {
    find();
    const std::size_t now = space_.history.length();
    const WordRole role = roles_[token];
    const std::size_t starts = role == WordRole::start ? 1 : 0;
    bool grew = false;
    for (std::size_t j = 0; j < words_.size() && role != WordRole::control; ++j) {
        const Context& c = context_[j];
        if (c.length == 0) continue;
        if (found_[2 * j + starts]) {
            found_[2 * j + starts].follow(token);
        } else if (space_.takes(table_, keep)) {
            const std::uint32_t mark = mark_of(c.hash), tag = hint_tag(static_cast<int>(2 * j + starts), c.hash);
            table_.insert(home_of(mark), tag, mark, open_[j]).follow_first(token);
            grew = true;
        }
    }
    starts_.pass(now, starts_word(token));
    if (static_cast<std::int64_t>(token) == reset_at_) table_.clear();
    looked_ = false;
    if (grew) space_.relieve(table_, [](int, std::uint32_t mark) { return home_of(mark); });
}

void WordHints::fetch_begin() {
    ahead_ = starts_;
    fetched_to_ = space_.history.length();
}

void WordHints::fetch_far(const Ahead& ahead, std::size_t i, const std::int32_t* tokens) {
    const std::size_t at = fetched_to_++;
    if (i > 0) ahead_.pass(at - 1, starts_word(static_cast<std::uint32_t>(tokens[i - 1])));
    for (std::size_t j = 0; j < words_.size(); ++j) {
        Context& c = fetched_[at % kFetched][j];
        c.length = ahead_.length(words_[j], at);
        if (c.length == 0) continue;
        c.hash = ahead.hash(i, c.length);
        prefetch(table_.line(home_of(mark_of(c.hash))));
    }
}

}  // namespace evalkit
