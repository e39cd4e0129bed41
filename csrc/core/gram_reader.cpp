// How is a table read that counts no more?
#include "gram_reader.hpp"

#include <algorithm>

namespace evalkit {

void GramReader::start(std::uint32_t token) {
    if (table_ == nullptr) return;
    ring_.assign(kRing * kStride, 0);
    length_ = frontier_ = 0;
    next_count_ = 0;
    seen_ = found_ = 0;
    total_[1] = table_->unigram_total_;
    distinct_[1] = std::min(table_->unigram_distinct_, kMaxDistinct);
    add(token);
}

void GramReader::look_ahead(const std::int32_t* tokens, std::size_t n) {
    if (table_ == nullptr) return;
    next_ = tokens;
    next_count_ = n;
    frontier_ = std::min(frontier_, length_);
    asked_ = kNoToken;
    while (frontier_ < length_ + std::min(kFar, next_count_))
        step_addresses(static_cast<std::uint32_t>(next_[frontier_ - length_]), true);
}

void GramReader::step_addresses(std::uint32_t token, bool fetch) {
    std::uint32_t* to = addresses(frontier_);
    const std::uint32_t* from = addresses(frontier_ + kRing - 1);
    to[0] = token;
    to[1] = table_->single_home(token);
    ++frontier_;
    const auto longest = static_cast<std::size_t>(table_->max_order());
    const std::uint32_t own = GramTable::scatter(token);
    for (std::size_t k = 2; k <= longest; ++k) {
        to[k] = table_->home_after(from[k - 1], own);
        if (fetch) __builtin_prefetch(&table_->lines_[to[k]]);
    }
}

std::uint32_t* GramReader::child(int order, std::uint32_t token, int* index) const {
    const std::uint32_t from = addresses(length_ - 1)[order - 1];
    return table_->search(table_->home_after(from, GramTable::scatter(token)),
                          gram_[static_cast<std::size_t>(order - 1)] | GramTable::token_part(token), index);
}

void GramReader::look_up(std::uint32_t token) {
    if (table_ == nullptr) return;
    if (frontier_ <= length_ || addresses(length_)[0] != token) {
        frontier_ = length_;  // not the token that was looked ahead to
        step_addresses(token, false);
    }
    asked_ = token;
    hit_[1] = table_->tokens_[token].count;
    child_[1] = table_->single_part(token);
    const std::uint32_t* home = addresses(length_);
    std::size_t k = 2;
    for (; k <= static_cast<std::size_t>(seen_); ++k) {
        int index = 0;
        const std::uint32_t* value = table_->search(home[k], gram_[k - 1] | GramTable::token_part(token), &index);
        if (value == nullptr) break;
        child_[k] = table_->prefix_part(index);
        hit_[k] = *value >> 8;
        followers_[k] = *value & kMaxDistinct;
    }
    found_ = static_cast<int>(k) - 1;
}

void GramReader::counts_of(std::uint32_t token, std::uint32_t* out) const {
    if (table_ == nullptr) return;
    out[1] = table_->tokens_[token].count;
    int k = 2;
    for (; k <= seen_; ++k) {
        int index = 0;
        const std::uint32_t* value = child(k, token, &index);
        if (value == nullptr) break;
        out[k] = *value >> 8;
    }
    for (; k <= table_->max_order(); ++k) out[k] = 0;
}

void GramReader::followers(int order, std::vector<std::uint32_t>& tokens, std::vector<std::uint32_t>& counts) const {
    counts.clear();
    std::size_t kept = 0;
    std::uint32_t left = total(order);
    for (std::size_t i = 0; i < tokens.size() && left > 0; ++i) {
        const std::uint32_t v = tokens[i];
        std::uint32_t n = table_->tokens_[v].count;
        if (order >= 2) {
            int index = 0;
            const std::uint32_t* value = child(order, v, &index);
            n = value == nullptr ? 0 : *value >> 8;
        }
        if (n == 0) continue;
        left -= n;
        tokens[kept++] = v;
        counts.push_back(n);
    }
    tokens.resize(kept);
}

void GramReader::add(std::uint32_t token) {
    if (table_ == nullptr) return;
    find(token);
    const std::uint32_t* home = addresses(length_);
    const std::size_t longest = static_cast<std::size_t>(table_->max_order());
    total_[2] = table_->tokens_[token].followed;
    distinct_[2] = std::min(table_->tokens_[token].followed_by, kMaxDistinct);
    seen_ = total_[1] == 0 ? 0 : longest < 2 || total_[2] == 0 ? 1 : 2;
    for (std::size_t k = 2; k <= static_cast<std::size_t>(found_) && k < longest; ++k) {
        const bool ends = home[k] == table_->last_home_[k] && child_[k] == table_->last_key_[k];
        total_[k + 1] = hit_[k] - (ends ? 1 : 0);
        distinct_[k + 1] = followers_[k];
        if (total_[k + 1] == 0) break;
        seen_ = static_cast<int>(k) + 1;
    }
    gram_ = child_;
    found_ = 0;
    asked_ = kNoToken;
    ++length_;
    if (next_count_ == 0) return;
    ++next_;
    --next_count_;
    if (frontier_ < length_ + std::min(kFar, next_count_))
        step_addresses(static_cast<std::uint32_t>(next_[frontier_ - length_]), true);
}

}  // namespace evalkit
