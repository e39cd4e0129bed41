#include "gram_table.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace evalkit {

namespace {

constexpr std::uint32_t kLink = 0xFFFFFFFFu;  // key of the last lane when val names the next line of the chain
constexpr int kIndexBits = 8;
constexpr std::uint32_t kVirtual = 248;  // 248..255: single tokens, eight to an address
constexpr int kMinLog2Lines = 5;
constexpr int kMaxLog2Lines = 29;
constexpr std::uint32_t kOne = 256;  // one count, above the followers' byte
constexpr std::uint32_t kNew = kOne | 1;
constexpr std::uint64_t kOdd = 0xBF58476D1CE4E5B9u;
constexpr std::uint32_t kTooWide = 0x80000000u;

int bits_for(std::uint64_t n) {
    int bits = 0;
    while ((std::uint64_t{1} << bits) < n) ++bits;
    return bits;
}

int token_bits(std::uint32_t vocab) { return std::max(1, bits_for(vocab)); }

int smallest_log2(std::uint32_t vocab) { return std::max(kMinLog2Lines, token_bits(vocab) - 3); }

// A token takes at most one new line per order, and sometimes a block of history.
std::size_t largest_step(int max_order) { return 64 * (static_cast<std::size_t>(max_order) + 1); }

std::size_t chunk_bytes(std::size_t bound) {
    std::size_t size = 4096;
    while (size < (std::size_t{2} << 20) && size * 64 < bound) size <<= 1;
    return size;
}

}  // namespace

GramTable::GramTable(std::uint32_t vocab, int max_order, std::size_t bytes, std::size_t expected_tokens)
    : vocab_(vocab),
      max_order_(max_order),
      bound_(bytes),
      expected_tokens_(expected_tokens),
      token_bits_(token_bits(vocab)),
      spill_(chunk_bytes(bytes)),
      history_(chunk_bytes(bytes)) {
    if (vocab < 2 || vocab > kMaxVocab) throw std::invalid_argument("vocab must be 2..262144");
    if (max_order < 1 || max_order > kMaxOrder) throw std::invalid_argument("max_order must be 1..24");
    if (bytes < smallest(vocab, max_order)) throw std::invalid_argument("the memory bound is too small");
    tokens_.resize(vocab);
    ring_.resize(kRing * kStride);
    first_log2_ = smallest_log2(vocab);
    // Real text has 0.5 to 0.7 new n-grams per token and order; lines hold 4 to 5 lanes then.
    const std::size_t lines = expected_tokens * static_cast<std::size_t>(max_order_) / 8;
    while (first_log2_ < kMaxLog2Lines && (std::size_t{1} << first_log2_) < lines &&
           (std::size_t{64} << (first_log2_ + 1)) <= bound_ / 2)
        ++first_log2_;
    allocate(first_log2_);
}

std::size_t GramTable::smallest(std::uint32_t vocab, int max_order) {
    return (std::size_t{64} << smallest_log2(vocab)) + 12 * std::size_t{vocab} + 8 * largest_step(max_order) + 4096;
}

std::size_t GramTable::bytes() const {
    const std::size_t blocks = std::size_t{spill_used_} + (remembered_ + 15) / 16;
    return (std::size_t{64} << log2_lines_) + 64 * blocks + 12 * std::size_t{vocab_};
}

void GramTable::allocate(int log2_lines) {
    const std::size_t size = std::size_t{64} << log2_lines;
    const int width = log2_lines + token_bits_;
    log2_lines_ = log2_lines;
    half_ = (width + 1) / 2;
    mask_ = (std::uint64_t{1} << width) - 1;
    if (main_.size() < size) {
        main_ = Pages();  // give the old one back first: the bound holds while rebuilding too
        main_ = Pages(size);
    } else if (lanes_used_ > 0) {
        std::memset(main_.data(), 0, size);
    }
    lines_ = static_cast<Line*>(main_.data());
    crowded_ = (std::uint64_t{1} << log2_lines) * 11 / 2;
    const std::size_t beside = bound_ - size - 12 * std::size_t{vocab_};
    block_limit_ = (beside - largest_step(max_order_)) / 64;
}

void GramTable::start(std::uint32_t token) {
    allocate(first_log2_);
    clear();
    remembered_ = 0;
    remember(token);
    first(token);
}

void GramTable::clear() {
    if (remembered_ * 8 < vocab_) {  // a short document of a large vocabulary
        for (std::size_t i = 0; i < remembered_; ++i) tokens_[remembered(i)] = Token{};
    } else {
        std::fill(tokens_.begin(), tokens_.end(), Token{});
    }
    unigram_total_ = unigram_distinct_ = spill_used_ = 0;
    lanes_used_ = 0;
    frozen_at_ = -1;
}

void GramTable::first(std::uint32_t token) {
    length_ = 1;
    last_token_ = token;
    asked_ = kNoToken;
    next_count_ = 0;
    frontier_ = 0;
    seen_ = 0;
    step_addresses(token, false);
    for (Grams& grams : grams_) grams.fill(Gram{});
}

// The bijection between (address, token) and (address, remainder): xor with a shift to the right and multiplication by
// an odd number can both be undone.  The address is the high bits of the product.
inline GramTable::Address GramTable::place(std::uint64_t x) const {
    x ^= x >> half_;
    x *= kOdd;
    const std::uint32_t low = (1u << token_bits_) - 1;
    return Address{static_cast<std::uint32_t>((x & mask_) >> token_bits_), (static_cast<std::uint32_t>(x) & low) << 1 | 1u};
}

// Single tokens have no lane: eight share an address, told apart by their index.  The index salts what is mixed.
inline std::uint64_t GramTable::after_token(std::uint32_t prefix, std::uint32_t token) const {
    const std::uint64_t salt = ((prefix & 7u) + 1u) * 0x9E3779B97F4A7C15u;
    return ((std::uint64_t{prefix >> 3} << token_bits_ | token) ^ salt) & mask_;
}

inline std::uint64_t GramTable::after_gram(Address prefix, std::uint32_t token) const {
    return std::uint64_t{prefix.home} << token_bits_ | token;
}

inline GramTable::Address GramTable::child_address(int order, std::uint32_t token) const {
    if (order == 2) return place(after_token(last_token_, token));
    return place(after_gram(addresses(length_ - 1)[order - 1], token));
}

// The key of an n-gram of this order: its remainder, and the lane index of its prefix, which is the order's context.
inline std::uint32_t GramTable::key_of(Address at, int order) const {
    const std::uint32_t prefix = order == 2 ? kVirtual + (last_token_ & 7u)
                                            : static_cast<std::uint32_t>(gram()[static_cast<std::size_t>(order - 1)].index);
    return prefix << (token_bits_ + 1) | at.low;
}

// Addresses of the n-grams that end in `token` at position frontier_; their prefixes end at the position before.
inline void GramTable::step_addresses(std::uint32_t token, bool fetch) {
    Address* to = addresses(frontier_);
    const Address* from = addresses(frontier_ + kRing - 1);
    to[0].home = token;
    if (frontier_++ == 0) return;
    const int bits = token_bits_, half = half_, longest = max_order_;
    const std::uint64_t mask = mask_;
    const std::uint32_t low = (1u << bits) - 1;
    const Line* lines = lines_;
    std::uint64_t x = after_token(from[0].home, token);
    for (int k = 2; k <= longest; ++k) {  // place(), with what does not change kept out of memory
        x ^= x >> half;
        x *= kOdd;
        const Address at{static_cast<std::uint32_t>((x & mask) >> bits), (static_cast<std::uint32_t>(x) & low) << 1 | 1u};
        to[k] = at;
        if (fetch) __builtin_prefetch(&lines[at.home], 1);
        x = std::uint64_t{from[k].home} << bits | token;
    }
}

void GramTable::look_ahead(const std::int32_t* tokens, std::size_t n) {
    next_ = tokens;
    next_count_ = n;
    frontier_ = std::min(frontier_, length_);
    asked_ = kNoToken;
    while (frontier_ < length_ + std::min(kFar, next_count_))
        step_addresses(static_cast<std::uint32_t>(next_[frontier_ - length_]), true);
}

std::uint32_t* GramTable::search(std::uint32_t home, std::uint32_t key, std::int32_t* index) const {
    int base = 0;
    for (Line* line = &lines_[home];; line = spill_at(line->val[kLanes - 1]), base += kLanes - 1) {
        const unsigned m = lanes_equal(line->key, key);
        if (m != 0) {
            *index = base + lowest(m);
            return &line->val[lowest(m)];
        }
        if (line->key[kLanes - 1] != kLink) return nullptr;
    }
}

void GramTable::look_up(std::uint32_t token) {
    if (frontier_ <= length_ || addresses(length_)[0].home != token) {
        frontier_ = length_;  // not the token that was looked ahead to
        step_addresses(token, false);
    }
    asked_ = token;
    hit_[1] = tokens_[token].count;
    const Address* at = addresses(length_);
    const Gram* prefix = gram().data();
    Gram* gram = child().data();
    std::uint32_t** value = child_value().data();
    Line* lines = lines_;
    const int shift = token_bits_ + 1, seen = seen_;
    std::uint32_t wide = 0, index = kVirtual + (last_token_ & 7u);
    int k = 2;
    for (; k <= seen; ++k) {
        Line* line = &lines[at[k].home];
        const std::uint32_t key = index << shift | at[k].low;
        const unsigned m = lanes_equal(line->key, key);
        gram[k].home = at[k].home;
        if (m != 0) {
            gram[k].index = lowest(m);
            value[k] = &line->val[lowest(m)];
        } else {
            if (line->key[kLanes - 1] != kLink) break;
            value[k] = search(at[k].home, key, &gram[k].index);
            if (value[k] == nullptr) break;
        }
        const std::uint32_t val = *value[k];
        hit_[static_cast<std::size_t>(k)] = val >> 8;
        wide |= val;
        index = static_cast<std::uint32_t>(prefix[k].index);
    }
    wide_ = (wide & kTooWide) != 0;
    found_ = k - 1;
}

void GramTable::counts_of(std::uint32_t token, std::uint32_t* out) const {
    out[1] = tokens_[token].count;
    int k = 2;
    for (; k <= seen_; ++k) {
        const Address at = child_address(k, token);
        std::int32_t index = 0;
        const std::uint32_t* val = search(at.home, key_of(at, k), &index);
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
            if (i + 16 < tokens.size()) __builtin_prefetch(&lines_[child_address(order, tokens[i + 16]).home]);
            const Address at = child_address(order, v);
            std::int32_t index = 0;
            const std::uint32_t* val = search(at.home, key_of(at, order), &index);
            n = val == nullptr ? 0 : *val >> 8;
        }
        if (n == 0) continue;
        left -= n;
        tokens[kept++] = v;
        counts.push_back(n);
    }
    tokens.resize(kept);
}

// Give every new n-gram of this position a lane.  It is seen once now, and will have one follower when it is seen
// again: both are written at once.  False when one would lie too deep to be named; then none is left with a count.
inline bool GramTable::take_new(int last) {
    moved_ = false;
    const Address* at = addresses(length_);
    const Gram* prefix = gram().data();
    Gram* gram = child().data();
    Line* lines = lines_;
    const int shift = token_bits_ + 1, from = std::max(found_ + 1, 2);
    std::uint32_t index = from == 2 ? kVirtual + (last_token_ & 7u) : static_cast<std::uint32_t>(prefix[from - 1].index);
    int k = from;
    for (; k <= last; ++k) {
        Line* line = &lines[at[k].home];
        const std::uint32_t key = index << shift | at[k].low;
        const unsigned open = lanes_equal(line->key, 0);
        gram[k].home = at[k].home;
        if (open != 0) {
            gram[k].index = lowest(open);
            line->key[lowest(open)] = key;
            line->val[lowest(open)] = kNew;
        } else if (!insert_in_chain(gram[k], key)) {
            break;
        }
        index = static_cast<std::uint32_t>(prefix[k].index);
    }
    lanes_used_ += static_cast<std::uint64_t>(k - from);
    if (moved_) relocate(k - 1);
    if (k > last) return true;
    for (int j = from; j < k; ++j) *lane_value(gram[j]) = 0;
    return false;
}

void GramTable::relocate(int last) {
    for (int k = 2; k <= std::min(found_, last); ++k) child_value()[k] = lane_value(child()[k]);
    for (int k = 2; k < seen_; ++k) gram_value()[k] = lane_value(gram()[k]);
}

// The first line is full.  A full last line gives its last lane to a new line, to make place for the link; the moved
// lane keeps its index: 7 lanes a line, and an eighth in the last.
bool GramTable::insert_in_chain(Gram& gram, std::uint32_t key) {
    int base = 0;
    Line* line = &lines_[gram.home];
    unsigned open = 0;
    while (open == 0) {
        if (line->key[kLanes - 1] != kLink) {
            const std::uint32_t index = spill_used_++;
            spill_.reserve(spill_used_);
            Line* next = spill_at(index);
            std::memset(static_cast<void*>(next), 0, sizeof(Line));
            next->key[0] = line->key[kLanes - 1];
            next->val[0] = line->val[kLanes - 1];
            line->key[kLanes - 1] = kLink;
            line->val[kLanes - 1] = index;
            moved_ = true;
        }
        line = spill_at(line->val[kLanes - 1]);
        base += kLanes - 1;
        open = lanes_equal(line->key, 0);
    }
    const int lane = lowest(open);
    if (base + lane >= static_cast<int>(kVirtual)) return false;
    line->key[lane] = key;
    line->val[lane] = kNew;
    gram.index = base + lane;
    return true;
}

std::uint32_t* GramTable::lane_value(Gram gram) const {
    Line* line = &lines_[gram.home];
    int index = gram.index;
    while (index >= kLanes - 1 && line->key[kLanes - 1] == kLink) {
        line = spill_at(line->val[kLanes - 1]);
        index -= kLanes - 1;
    }
    return &line->val[index];
}

// Count `token`, whose new n-grams have lanes, and read the contexts of the next position on the way: each n-gram that
// was found was followed as often as it was seen before now.
inline void GramTable::count(std::uint32_t token) {
    for (int k = std::max(found_ + 1, 3); k <= seen_; ++k) {  // contexts that get a new follower
        std::uint32_t& prefix = *gram_value()[static_cast<std::size_t>(k - 1)];
        prefix += (prefix & kMaxDistinct) != kMaxDistinct;
    }
    for (int k = 2; k <= found_; ++k) {
        std::uint32_t& val = *child_value()[static_cast<std::size_t>(k)];
        val += kOne;
        if (k == max_order_) break;
        total_[static_cast<std::size_t>(k + 1)] = hit_[static_cast<std::size_t>(k)];
        distinct_[static_cast<std::size_t>(k + 1)] = val & kMaxDistinct;
    }
    unigram_distinct_ += tokens_[token].count++ == 0;
    total_[1] = ++unigram_total_;
    distinct_[1] = std::min(unigram_distinct_, kMaxDistinct);
    ++tokens_[last_token_].followed;
    tokens_[last_token_].followed_by += found_ < 2;
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
            step_addresses(static_cast<std::uint32_t>(next_[frontier_ - length_]), true);
    }
}

void GramTable::freeze() {
    frozen_at_ = static_cast<std::int64_t>(length_) - 1;
    last_counted_ = gram();
}

// Nothing is counted any more.  A context was followed as often as it was seen, but for those that end the counted text.
void GramTable::add_frozen(std::uint32_t token) {
    for (int k = found_ + 1; k <= max_order_; ++k) child()[static_cast<std::size_t>(k)].index = -1;
    const int found = found_;
    found_ = 1;
    for (int k = 2; k <= found && k < max_order_; ++k) {
        const auto i = static_cast<std::size_t>(k);
        const bool ends = child()[i].home == last_counted_[i].home && child()[i].index == last_counted_[i].index;
        const std::uint32_t val = *child_value()[i];
        total_[i + 1] = (val >> 8) - (ends ? 1 : 0);
        distinct_[i + 1] = val & kMaxDistinct;
        if (total_[i + 1] == 0) break;
        found_ = k;
    }
    step(token);
}

void GramTable::add(std::uint32_t token) {
    find(token);
    if (frozen_at_ >= 0) return add_frozen(token);
    // The longest n-gram that is whole at this position.
    const int last = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(max_order_), length_ + 1));
    if (wide_ || spill_used_ + (remembered_ >> 4) >= block_limit_ || !take_new(last)) {
        freeze();
        return add_frozen(token);
    }
    count(token);
    for (int k = last + 1; k <= max_order_; ++k) child()[static_cast<std::size_t>(k)].index = -1;
    step(token);
    if (lanes_used_ > crowded_ && !rebuilding_) grow();
}

void GramTable::open_block() {
    history_.reserve(remembered_ / 16 + 1);
    tail_ = static_cast<std::uint32_t*>(history_.at(static_cast<std::uint32_t>(remembered_ / 16)));
}

void GramTable::grow() {
    for (int step : {2, 1}) {
        const int wanted = log2_lines_ + step;
        const std::size_t more = (std::size_t{64} << wanted) - (std::size_t{64} << log2_lines_);
        if (wanted <= kMaxLog2Lines && bytes() + more <= bound_ - bound_ / 8) return rebuild(wanted);
    }
    crowded_ = ~std::uint64_t{0};  // no room: lines overflow into chains until the bound is met
}

// Addresses depend on the number of lines: replay the history into a larger table.
void GramTable::rebuild(int log2_lines) {
    const std::int32_t* next = next_;
    const std::size_t next_count = next_count_;
    allocate(log2_lines);
    clear();
    rebuilding_ = true;
    replay_.resize(kReplay);
    first(remembered(0));
    for (std::size_t i = 1; i < remembered_; i += kReplay) {
        const std::size_t n = std::min(kReplay, remembered_ - i);
        for (std::size_t j = 0; j < n; ++j) replay_[j] = static_cast<std::int32_t>(remembered(i + j));
        look_ahead(replay_.data(), n);
        for (std::size_t j = 0; j < n; ++j) add(static_cast<std::uint32_t>(replay_[j]));
    }
    rebuilding_ = false;
    ++rebuilds_;
    look_ahead(next, next_count);
}

}  // namespace evalkit
