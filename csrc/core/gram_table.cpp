// How is a token looked up and counted?
#include "gram_table.hpp"

#include <algorithm>
#include <cstring>

namespace evalkit {

namespace {

constexpr std::uint32_t kLink = 0xFFFFFFFFu;  // key of the last slot when val names the next line of the chain
constexpr std::uint32_t kOne = 256;  // one count, above the followers' byte
constexpr std::uint32_t kNew = kOne | 1;
constexpr std::uint32_t kTooWide = 0x80000000u;

}  // namespace

void GramTable::first(std::uint32_t token) {
    length_ = 1;
    last_token_ = token;
    asked_ = kNoToken;
    next_count_ = 0;
    frontier_ = 0;
    seen_ = 0;
    step_addresses(token, false, orders());
    for (Keys& keys : keys_) keys.fill(0);
    gram()[1] = single_part(token);
}

inline std::uint32_t GramTable::child_home(int order, std::uint32_t token) const {
    return home_after(addresses(length_ - 1)[order - 1], scatter(token));
}

// Addresses of the n-grams that end in `token` at position frontier_; their prefixes end at the position before.
inline void GramTable::step_addresses(std::uint32_t token, bool fetch, std::size_t longest) {
    std::uint32_t* to = addresses(frontier_);
    const std::uint32_t* from = addresses(frontier_ + kRing - 1);
    const std::uint32_t mask = mask_, own = scatter(token);
    const Line* lines = lines_;
    to[0] = token;
    to[1] = single_home(token);
    if (frontier_++ == 0) return;
#pragma GCC unroll 8
    for (std::size_t k = 2; k <= longest; ++k) {
        const std::size_t home = (from[k - 1] * kOdd + own) & mask;
        to[k] = static_cast<std::uint32_t>(home);
        if (fetch) __builtin_prefetch(&lines[home], 1);
    }
}

void GramTable::look_ahead(const std::int32_t* tokens, std::size_t n) {
    next_ = tokens;
    next_count_ = n;
    frontier_ = std::min(frontier_, length_);
    asked_ = kNoToken;
    while (frontier_ < length_ + std::min(kFar, next_count_))
        fetch_step();
}

std::uint32_t* GramTable::search(std::uint32_t home, std::uint32_t key, int* index) const {
    int base = 0;
    for (Line* line = &lines_[home];; line = spill_at(line->val[kSlots - 1]), base += kSlots - 1) {
        const unsigned m = slots_equal(line->key, key);
        if (m != 0) {
            *index = base + lowest(m);
            return &line->val[lowest(m)];
        }
        if (line->key[kSlots - 1] != kLink) return nullptr;
    }
}

inline void GramTable::look_up_here(std::uint32_t token) {
    if (frontier_ <= length_ || addresses(length_)[0] != token) {
        frontier_ = length_;  // not the token that was looked ahead to
        step_addresses(token, false, orders());
    }
    asked_ = token;
    hit_[1] = tokens_[token].count;
    const std::uint32_t* home = addresses(length_);
    const std::uint32_t* prefix = gram().data();
    std::uint32_t* child = this->child().data();
    std::uint32_t** value = child_value().data();
    Line* lines = lines_;
    const int shift = token_bits_ + 1;
    const auto seen = static_cast<std::size_t>(seen_);
    const std::uint32_t own = token_part(token);
    std::uint32_t wide = 0;
    child[1] = single_part(token);
    std::size_t k = 2;
    for (; k <= seen; ++k) {
        Line* line = &lines[home[k]];
        const unsigned m = slots_equal(line->key, prefix[k - 1] | own);
        int index = 0;
        if (m != 0) {
            index = lowest(m);
            value[k] = &line->val[index];
        } else {
            if (line->key[kSlots - 1] != kLink) break;
            value[k] = search(home[k], prefix[k - 1] | own, &index);
            if (value[k] == nullptr) break;
        }
        child[k] = static_cast<std::uint32_t>(index) << shift;
        const std::uint32_t val = *value[k];
        hit_[k] = val >> 8;
        wide |= val;
    }
    wide_ = (wide & kTooWide) != 0;
    found_ = static_cast<int>(k) - 1;
}

void GramTable::look_up(std::uint32_t token) { look_up_here(token); }

inline void GramTable::counts(std::uint32_t* out, std::size_t longest) const {
    const auto found = static_cast<std::size_t>(found_), seen = static_cast<std::size_t>(seen_);
    const std::uint32_t *hits = hit_.data(), *totals = total_.data();
#pragma GCC unroll 8
    for (std::size_t k = 1; k <= longest; ++k, out += 2) {
        out[0] = k <= found ? hits[k] : 0;
        out[1] = k <= seen ? totals[k] : 0;
    }
}

void GramTable::counts_of(std::uint32_t token, std::uint32_t* out) const {
    out[1] = tokens_[token].count;
    int k = 2;
    for (; k <= seen_; ++k) {
        int index = 0;
        const std::uint32_t* val = search(child_home(k, token), key_of(k, token), &index);
        if (val == nullptr) break;
        out[k] = *val >> 8;
    }
    for (; k <= max_order_; ++k) out[k] = 0;
}

void GramTable::followers(int order, std::vector<std::uint32_t>& tokens, std::vector<std::uint32_t>& counts) const {
    counts.clear();
    std::size_t kept = 0;
    std::uint32_t left = total(order);
    for (std::size_t i = 0; i < tokens.size() && left > 0; ++i) {
        const std::uint32_t v = tokens[i];
        std::uint32_t n = tokens_[v].count;
        if (order >= 2) {
            if (i + 16 < tokens.size()) __builtin_prefetch(&lines_[child_home(order, tokens[i + 16])]);
            int index = 0;
            const std::uint32_t* val = search(child_home(order, v), key_of(order, v), &index);
            n = val == nullptr ? 0 : *val >> 8;
        }
        if (n == 0) continue;
        left -= n;
        tokens[kept++] = v;
        counts.push_back(n);
    }
    tokens.resize(kept);
}

// Give every new n-gram of this position a slot.  It is seen once now, and will have one follower when it is seen
// again: both are written at once.  False when one would lie too deep to be named; then none is left with a count.
inline bool GramTable::take_new(std::uint32_t token, int last) {
    moved_ = false;
    const std::uint32_t* home = addresses(length_);
    const std::uint32_t* prefix = gram().data();
    std::uint32_t* child = this->child().data();
    Line* lines = lines_;
    const int shift = token_bits_ + 1;
    const auto from = static_cast<std::size_t>(found_ + 1), end = static_cast<std::size_t>(last);
    const std::uint32_t own = token_part(token);
    std::size_t k = from;
    for (; k <= end; ++k) {
        Line* line = &lines[home[k]];
        const std::uint32_t key = prefix[k - 1] | own;
        const unsigned open = slots_equal(line->key, 0);
        int index = 0;
        if (open != 0) {
            index = lowest(open);
            line->key[index] = key;
            line->val[index] = kNew;
        } else {
            index = insert_in_chain(home[k], key);
            if (index < 0) break;
        }
        child[k] = static_cast<std::uint32_t>(index) << shift;
    }
    slots_used_ += k - from;
    if (moved_) relocate(static_cast<int>(k) - 1);
    if (k > end) return true;
    for (std::size_t j = from; j < k; ++j) *slot_value(home[j], index_of(child[j])) = 0;
    return false;
}

void GramTable::relocate(int last) {
    const std::uint32_t *home = addresses(length_), *before = addresses(length_ - 1);
    for (std::size_t k = 2; k <= static_cast<std::size_t>(std::min(found_, last)); ++k)
        child_value()[k] = slot_value(home[k], index_of(child()[k]));
    for (std::size_t k = 2; k < static_cast<std::size_t>(seen_); ++k)
        gram_value()[k] = slot_value(before[k], index_of(gram()[k]));
}

// The first line is full.  A full last line gives its last slot to a new line, to make place for the link; the moved
// slot keeps its index: 7 slots a line, and an eighth in the last.  Returns the index, -1 when it lies too deep.
int GramTable::insert_in_chain(std::uint32_t home, std::uint32_t key) {
    int base = 0;
    Line* line = &lines_[home];
    unsigned open = 0;
    while (open == 0) {
        if (line->key[kSlots - 1] != kLink) {
            const std::uint32_t index = spill_used_++;
            spill_.reserve(spill_used_);
            Line* next = spill_at(index);
            std::memset(static_cast<void*>(next), 0, sizeof(Line));
            next->key[0] = line->key[kSlots - 1];
            next->val[0] = line->val[kSlots - 1];
            line->key[kSlots - 1] = kLink;
            line->val[kSlots - 1] = index;
            moved_ = true;
        }
        line = spill_at(line->val[kSlots - 1]);
        base += kSlots - 1;
        open = slots_equal(line->key, 0);
    }
    const int slot = lowest(open);
    if (base + slot >= kVirtual) return -1;
    line->key[slot] = key;
    line->val[slot] = kNew;
    return base + slot;
}

std::uint32_t* GramTable::slot_value(std::uint32_t home, int index) const {
    Line* line = &lines_[home];
    while (index >= kSlots - 1 && line->key[kSlots - 1] == kLink) {
        line = spill_at(line->val[kSlots - 1]);
        index -= kSlots - 1;
    }
    return &line->val[index];
}

// Count `token`, whose new n-grams have slots, and read the contexts of the next position on the way: each n-gram that
// was found was followed as often as it was seen before now.
inline void GramTable::count_found(std::uint32_t token) {
    const auto found = static_cast<std::size_t>(found_), seen = static_cast<std::size_t>(seen_);
    std::uint32_t* const* prefixes = gram_value().data();
    for (std::size_t k = std::max<std::size_t>(found + 1, 3); k <= seen; ++k) {  // contexts that get a new follower
        std::uint32_t& prefix = *prefixes[k - 1];
        prefix += (prefix & kMaxDistinct) != kMaxDistinct;
    }
    std::uint32_t* const* values = child_value().data();
    for (std::size_t k = 2; k <= found; ++k) {
        const std::uint32_t val = *values[k] + kOne;
        *values[k] = val;
        total_[k + 1] = hit_[k];  // of the longest order: written, not read
        distinct_[k + 1] = val & kMaxDistinct;
    }
    unigram_distinct_ += tokens_[token].count++ == 0;
    total_[1] = ++unigram_total_;
    distinct_[1] = std::min(unigram_distinct_, kMaxDistinct);
    ++tokens_[last_token_].followed;
    tokens_[last_token_].followed_by += found_ < 2;
}

inline void GramTable::fetch_step() {
    const auto token = static_cast<std::uint32_t>(next_[frontier_ - length_]);
    max_order_ == kUsual ? step_addresses(token, true, kUsual) : step_addresses(token, true, orders());
}

// `token` is counted: go to the next position.
inline void GramTable::step(std::uint32_t token) {
    last_token_ = token;
    asked_ = kNoToken;
    ++length_;
    phase_ = 1 - phase_;
    total_[2] = tokens_[token].followed;
    distinct_[2] = std::min(tokens_[token].followed_by, kMaxDistinct);
    seen_ = std::min(max_order_, found_ >= 2 ? found_ + 1 : total_[2] > 0 ? 2 : 1);
    if (!rebuilding_ && frozen_at_ < 0) remember(token);
    if (next_count_ > 0) {
        ++next_;
        --next_count_;
        if (frontier_ < length_ + std::min(kFar, next_count_))
            fetch_step();
    }
}

void GramTable::freeze() {
    frozen_at_ = static_cast<std::int64_t>(length_) - 1;
    last_key_ = gram();
    for (std::size_t k = 0; k < last_home_.size(); ++k)
        last_home_[k] = k <= length_ ? addresses(length_ - 1)[k] : ~std::uint32_t{0};  // no line
}

void GramTable::seal() {
    if (!frozen()) freeze();
    look_ahead(nullptr, 0);
    history_ = Chunks(4096);
    remembered_ = 0;
}

// Nothing is counted any more.  A context was followed as often as it was seen, but for those that end the counted text.
void GramTable::add_frozen(std::uint32_t token) {
    const int found = found_;
    found_ = 1;
    for (int k = 2; k <= found && k < max_order_; ++k) {
        const auto i = static_cast<std::size_t>(k);
        const bool ends = addresses(length_)[k] == last_home_[i] && child()[i] == last_key_[i];
        const std::uint32_t val = *child_value()[i];
        total_[i + 1] = (val >> 8) - (ends ? 1 : 0);
        distinct_[i + 1] = val & kMaxDistinct;
        if (total_[i + 1] == 0) break;
        found_ = k;
    }
    step(token);
}

// `token` was looked up.
inline void GramTable::add_here(std::uint32_t token) {
    if (frozen_at_ >= 0) return add_frozen(token);
    // The longest n-gram that is whole at this position.
    const int last = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(max_order_), length_ + 1));
    if (wide_ || spill_used_ + (remembered_ >> 4) >= block_limit_ || !take_new(token, last)) {
        freeze();
        return add_frozen(token);
    }
    count_found(token);
    step(token);
    if (slots_used_ > crowded_ && !rebuilding_) grow();
}

void GramTable::add(std::uint32_t token) {
    find(token);
    add_here(token);
}

void GramTable::count(const std::int32_t* tokens, std::size_t n, std::uint32_t* out) {
    look_ahead(tokens, n);
    for (std::size_t i = 0; i < n; ++i, out += 2 * max_order_) {
        const auto token = static_cast<std::uint32_t>(tokens[i]);
        look_up_here(token);
        max_order_ == kUsual ? counts(out, kUsual) : counts(out, orders());
        add_here(token);
    }
    look_ahead(nullptr, 0);
}

}  // namespace evalkit
