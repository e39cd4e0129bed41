#include "hints_words.hpp"

#include <algorithm>
#include <utility>

namespace evalkit {

void WordHints::Starts::push(std::size_t position) {
    for (std::size_t j = kMaxWords - 1; j > 0; --j) at[j] = at[j - 1];
    at[0] = position;
    known = std::min<std::size_t>(known + 1, kMaxWords);
}

int WordHints::Starts::length(int words, std::size_t now) const {
    const auto j = static_cast<std::size_t>(words - 1);
    if (j >= known || now - at[j] > kWordTokens) return 0;
    return static_cast<int>(now - at[j]);
}

WordHints::WordHints(std::vector<int> words, const std::vector<WordRole>& roles, std::int64_t reset_at,
                     HintSpace& space, std::size_t expected_tokens)
    : words_(std::move(words)),
      roles_(roles),
      reset_at_(reset_at),
      space_(space),
      // A document's table is emptied at its end: small, so that this is cheap.
      table_(reset_at >= 0 ? space.first_lines(1024, 0) : space.first_lines(64, expected_tokens)) {
    space_.tables += table_.bytes();
}

void WordHints::start(std::uint32_t first_token) {
    table_.clear();
    starts_ = Starts{};
    fetched_to_ = 0;
    if (roles_[first_token] != WordRole::inside) starts_.push(0);
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
        found_[2 * j] = found_[2 * j + 1] = nullptr;
        if (c.length == 0) continue;
        table_.find_pair(2 * static_cast<int>(j), c.hash, &found_[2 * j],
                         [&](std::uint32_t pos) { return text.same(pos, c.length); });
    }
}

void WordHints::peek(HintRecord* out) {
    find();
    for (std::size_t s = 0; s < 2 * words_.size(); ++s) {
        out[s] = HintRecord{};
        if (found_[s] == nullptr) continue;
        const Followers f = found_[s]->followers();
        out[s] = hint_of(f, count_bucket(f));
    }
}

void WordHints::add(std::uint32_t token, bool keep) {
    find();
    const std::size_t now = space_.history.length();
    const WordRole role = roles_[token];
    for (std::size_t j = 0; j < words_.size() && role != WordRole::control; ++j) {
        if (context_[j].length == 0) continue;
        const std::size_t s = 2 * j + (role == WordRole::start ? 1 : 0);
        HintEntry* e = found_[s];
        if (e != nullptr && keep) e->pos = static_cast<std::uint32_t>(now);
        if (e == nullptr && space_.takes(table_, keep))
            e = table_.insert(static_cast<int>(s), context_[j].hash, static_cast<std::uint32_t>(now));
        if (e != nullptr) e->follow(token);
    }
    if (role != WordRole::inside) starts_.push(now);
    if (static_cast<std::int64_t>(token) == reset_at_) table_.clear();
    looked_ = false;
    space_.relieve(table_, [&](int source, std::uint32_t pos) { return hash_at(source, pos); });
}

// Hash of the context that ended before stored position pos: back to the start of the word that it began with.
std::uint64_t WordHints::hash_at(int source, std::uint32_t pos) const {
    int words = words_[static_cast<std::size_t>(source / 2)];
    std::size_t from = pos;
    while (words > 0) words -= roles_[space_.history.at(--from)] != WordRole::inside;
    return space_.history.hash_at(pos, static_cast<int>(pos - from));
}

void WordHints::fetch_begin() {
    ahead_ = starts_;
    fetched_to_ = space_.history.length();
}

void WordHints::fetch_far(const Ahead& ahead, std::size_t i, const std::int32_t* tokens) {
    const std::size_t at = fetched_to_++;
    if (i > 0 && roles_[static_cast<std::size_t>(tokens[i - 1])] != WordRole::inside) ahead_.push(at - 1);
    for (std::size_t j = 0; j < words_.size(); ++j) {
        Context& c = fetched_[at % kFetched][j];
        c.length = ahead_.length(words_[j], at);
        if (c.length == 0) continue;
        c.hash = ahead.hash(i, c.length);
        prefetch(table_.line(c.hash));
    }
}

void WordHints::fetch_near(std::size_t at) const {
    for (std::size_t j = 0; j < words_.size(); ++j) {
        const Context& c = fetched_[at % kFetched][j];
        if (c.length == 0) continue;
        table_.guess_pair(2 * static_cast<int>(j), c.hash,
                          [&](std::uint32_t pos) { prefetch(space_.history.address(pos - 1)); });
    }
}

}  // namespace evalkit
