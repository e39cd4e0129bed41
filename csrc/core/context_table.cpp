#include "context_table.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace evalkit {

namespace {

constexpr int kMinLog2Lines = 4;
constexpr int kMaxLog2Lines = 29;
// A context with more followers than this moves them from the line into a record of its own.
constexpr std::uint32_t kInlinePairs = 6;
constexpr int kFirstRecordLog2 = 4;
constexpr std::uint32_t kMaxLeader = (1u << kParentBits) - 1;

int bits_for(std::uint32_t vocab) {
    int bits = 1;
    while ((std::uint64_t{1} << bits) < vocab) ++bits;
    return bits;
}

std::size_t chunk_bytes(std::size_t record_lines, std::size_t bound) {
    std::size_t size = 4096;
    while (size < record_lines * 64) size <<= 1;
    while (size < (std::size_t{2} << 20) && size * 64 < bound) size <<= 1;
    return size;
}

// The bijection behind the addresses: xor, odd multiplication and right shift are each invertible on `width` bits.
std::uint64_t mix(std::uint64_t x, int order, int width) {
    const std::uint64_t mask = (std::uint64_t{1} << width) - 1;
    const int half = (width + 1) / 2;
    x = (x ^ (static_cast<std::uint64_t>(order) * 0x9E3779B97F4A7C15u)) & mask;
    x = (x * 0xBF58476D1CE4E5B9u) & mask;
    x ^= x >> half;
    x = (x * 0x94D049BB133111EBu) & mask;
    return x ^ (x >> half);
}

std::uint32_t entry_slot(std::uint32_t token, int log2_entries) {
    // Odd multiplication permutes the low bits: no two tokens meet once there are as many entries as tokens.
    return (token * 0x9E3779B1u) & ((std::uint32_t{1} << log2_entries) - 1);
}

}  // namespace

ContextTable::ContextTable(std::uint32_t vocab, int max_order, std::size_t bytes, std::size_t expected_tokens)
    : vocab_(vocab),
      max_order_(max_order),
      bound_(bytes),
      token_bits_(bits_for(vocab)),
      count_bits_(32 - token_bits_),
      spill_(chunk_bytes(1, bytes)),
      records_(chunk_bytes(record_lines(token_bits_), bytes)),
      unigram_(vocab, 0),
      history_(chunk_bytes(1, bytes)) {
    if (vocab < 2 || vocab > (1u << 18)) throw std::invalid_argument("vocab must be 2..262144");
    if (max_order < 1 || max_order > kMaxOrder) throw std::invalid_argument("max_order must be 1..24");
    if (bytes < smallest(vocab, max_order)) throw std::invalid_argument("the memory bound is too small");
    worst_ = static_cast<std::size_t>(max_order_) * (64 + 64 * record_lines(token_bits_)) + 64;
    first_log2_ = kMinLog2Lines;
    // About two pairs of five counted ones are new, over the orders of real text; a line takes five to six.
    const std::size_t lines = expected_tokens * static_cast<std::size_t>(max_order_) / 12;
    while (first_log2_ < kMaxLog2Lines && (std::size_t{1} << first_log2_) < lines &&
           (std::size_t{64} << (first_log2_ + 1)) + worst_ <= bound_ / 2)
        ++first_log2_;
    allocate(first_log2_);
}

std::size_t ContextTable::smallest(std::uint32_t vocab, int max_order) {
    const std::size_t per_order = 64 + 64 * record_lines(bits_for(vocab));
    return 2 * (static_cast<std::size_t>(max_order) * per_order + (std::size_t{64} << kMinLog2Lines) + 4 * vocab + 4096);
}

std::size_t ContextTable::record_lines(int log2_entries) {
    return (16 + (sizeof(Entry) << log2_entries) + 63) / 64;
}

std::size_t ContextTable::bytes() const {
    const std::size_t blocks = spill_used_ + std::size_t{records_used_} + (remembered_ + 15) / 16;
    return (std::size_t{64} << log2_lines_) + 64 * blocks + 4 * unigram_.size();
}

void ContextTable::allocate(int log2_lines) {
    const std::size_t size = std::size_t{64} << log2_lines;
    log2_lines_ = log2_lines;
    if (main_.size() >= size) {
        std::memset(main_.data(), 0, size);
    } else {
        main_ = Pages();  // give the old one back first: the bound holds while rebuilding too
        main_ = Pages(size);
    }
    lines_ = static_cast<Line*>(main_.data());
}

void ContextTable::clear_counts() {
    spill_used_ = records_used_ = 0;
    for (auto& list : free_records_) list.clear();
    std::fill(unigram_.begin(), unigram_.end(), 0u);
    nodes_[1] = Node{};
    nodes_[1].leader = 0;
    lanes_used_ = pairs_ = 0;
    frozen_at_ = -1;
    length_ = 0;
}

void ContextTable::start(std::uint32_t token) {
    allocate(first_log2_);
    clear_counts();
    remembered_ = 0;
    remember(token);
    first(token);
}

void ContextTable::first(std::uint32_t token) {
    length_ = 1;
    available_ = std::min(max_order_, 2);
    if (max_order_ >= 2) address(2, 0, token, 0, nodes_[2]);
    resolved_ = false;
}

void ContextTable::remember(std::uint32_t token) {
    history_.reserve(remembered_ / 16 + 1);
    static_cast<std::uint32_t*>(history_.at(static_cast<std::uint32_t>(remembered_ / 16)))[remembered_ % 16] = token;
    ++remembered_;
}

void ContextTable::address(int order, std::uint32_t parent_home, std::uint32_t token, std::uint32_t parent_leader,
                           Node& child) const {
    const std::uint64_t x = (std::uint64_t{parent_home} << token_bits_) | token;
    const std::uint64_t y = mix(x, order, log2_lines_ + token_bits_);
    const auto remainder = static_cast<std::uint32_t>(y & ((std::uint64_t{1} << token_bits_) - 1));
    child.home = static_cast<std::uint32_t>(y >> token_bits_);
    child.key = (((static_cast<std::uint32_t>(order) << kParentBits) | parent_leader) << token_bits_ | remainder) << 1;
}

// Step to the contexts that end in `token`: each order's parent is the next lower order at the position before.
void ContextTable::place(std::uint32_t token) {
    available_ = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(max_order_), length_ + 1));
    for (int k = available_; k >= 2; --k) {
        const Node& parent = nodes_[k - 1];
        const bool named = parent.leader >= 0;
        address(k, parent.home, token, named ? static_cast<std::uint32_t>(parent.leader) : 0, nodes_[k]);
        if (!named) nodes_[k].key = 0;
    }
    resolved_ = false;
}

void ContextTable::resolve() {
    if (resolved_) return;
    resolved_ = true;
    int k = 2;
    for (; k <= available_; ++k) {
        find(nodes_[k]);
        if (nodes_[k].leader < 0) break;  // a longer context has not been seen either
    }
    for (; k <= max_order_; ++k) {
        nodes_[k].counts = Counts{};
        nodes_[k].leader = nodes_[k].record = -1;
    }
}

void ContextTable::find(Node& node) const {
    node.counts = Counts{};
    node.leader = node.record = -1;
    if (node.key == 0) return;
    int base = 0;
    for (const Line* line = home(node.home);; line = spill_at(line->val[kLanes - 1]), base += kLanes - 1) {
        for (unsigned m = lanes_equal(line->key, node.key, ~kBig); m != 0; m &= m - 1) {
            const int lane = lowest(m);
            const std::uint32_t val = line->val[lane];
            if (node.leader < 0) node.leader = base + lane;
            if (line->key[lane] & kBig) {
                node.record = static_cast<std::int32_t>(val >> 5);
                node.capacity = static_cast<std::uint8_t>(val & 31);
                const std::uint32_t* h = header(val >> 5);
                node.counts = Counts{h[0], h[1], h[2]};
                return;
            }
            const std::uint32_t count = val & count_mask();
            node.counts.total += count;
            node.counts.distinct += 1;
            node.counts.top = std::max(node.counts.top, count);
        }
        if (line->key[kLanes - 1] != kLink) return;
    }
}

std::uint32_t ContextTable::count_of(int order, std::uint32_t token) const {
    if (order == 1) return unigram_[token];
    const Node& node = nodes_[order];
    if (node.record >= 0) {
        const Entry* e = entries(static_cast<std::uint32_t>(node.record));
        const std::uint32_t mask = (std::uint32_t{1} << node.capacity) - 1;
        for (std::uint32_t i = entry_slot(token, node.capacity); e[i].token_plus_1 != 0; i = (i + 1) & mask) {
            if (e[i].token_plus_1 == token + 1) return e[i].count;
        }
        return 0;
    }
    std::uint32_t found = 0;
    if (node.leader >= 0)
        each(order, [&](std::uint32_t v, std::uint32_t count) { found = v == token ? count : found; });
    return found;
}

void ContextTable::add(std::uint32_t token) {
    resolve();
    if (frozen_at_ < 0 && !room_for_a_token()) frozen_at_ = static_cast<std::int64_t>(length_) - 1;
    const bool take_new = frozen_at_ < 0;
    count_unigram(token, take_new);
    for (int k = 2; k <= available_; ++k) {
        Node& node = nodes_[k];
        if (node.leader >= 0) {
            count_seen(node, token, take_new);
        } else if (!take_new || node.key == 0 || !count_new(node, token)) {
            break;
        }
    }
    ++length_;
    if (take_new && !rebuilding_) remember(token);
    place(token);
    if (take_new && !rebuilding_) grow_if_crowded();
}

bool ContextTable::room_for_a_token() const { return bytes() + worst_ <= bound_; }

void ContextTable::count_unigram(std::uint32_t token, bool take_new) {
    std::uint32_t& count = unigram_[token];
    if (count == 0 && !take_new) return;
    Counts& all = nodes_[1].counts;
    if (count == 0) ++all.distinct, ++pairs_;
    ++count;
    ++all.total;
    all.top = std::max(all.top, count);
}

void ContextTable::count_seen(Node& node, std::uint32_t token, bool take_new) {
    if (node.record >= 0) return record_add(node, token, take_new);
    for (Line* line = home(node.home);; line = spill_at(line->val[kLanes - 1])) {
        for (unsigned m = lanes_equal(line->key, node.key, ~kBig); m != 0; m &= m - 1) {
            std::uint32_t& val = line->val[lowest(m)];
            if (val >> count_bits_ != token) continue;
            if ((val & count_mask()) < count_mask()) {
                ++val;
                return;
            }
            if (!take_new) return;  // no room for a wider count: this pair stays at what is stored
            promote(node);
            return record_add(node, token, take_new);
        }
        if (line->key[kLanes - 1] != kLink) break;
    }
    if (!take_new) return;
    if (node.counts.distinct >= kInlinePairs) {
        promote(node);
        return record_add(node, token, take_new);
    }
    int index = 0;
    insert_lane(node, node.leader, node.key, (token << count_bits_) | 1u, &index);
    ++pairs_;
}

bool ContextTable::count_new(Node& node, std::uint32_t token) {
    int index = 0;
    if (!insert_lane(node, -1, node.key, (token << count_bits_) | 1u, &index)) return false;
    node.leader = index;
    ++pairs_;
    return true;
}

// Take the first free lane after index `after` of the chain.  The first lane of a context never moves and stays its
// lowest: it is the context's name.  False when a new context (after < 0) would lie too deep to be named.
bool ContextTable::insert_lane(const Node& node, int after, std::uint32_t key, std::uint32_t val, int* index) {
    int base = 0;
    for (Line* line = home(node.home);; base += kLanes - 1) {
        unsigned open = lanes_equal(line->key, 0, ~0u);
        if (after >= base) open &= ~0u << (after - base + 1 < kLanes ? after - base + 1 : kLanes);
        const bool last = line->key[kLanes - 1] != kLink;
        const int lane = open != 0 ? lowest(open) : kLanes;
        if (lane < kLanes) {
            if (after < 0 && base + lane > static_cast<int>(kMaxLeader)) return false;
            line->key[lane] = key;
            line->val[lane] = val;
            ++lanes_used_;
            *index = base + lane;
            return true;
        }
        line = last ? extend(line) : spill_at(line->val[kLanes - 1]);
    }
}

// Append a line to a chain: the last lane moves into it and makes place for the link.  Indices do not change.
Line* ContextTable::extend(Line* last) {
    const std::uint32_t index = spill_used_++;
    spill_.reserve(spill_used_);
    Line* line = spill_at(index);
    std::memset(static_cast<void*>(line), 0, sizeof(Line));
    line->key[0] = last->key[kLanes - 1];
    line->val[0] = last->val[kLanes - 1];
    last->key[kLanes - 1] = kLink;
    last->val[kLanes - 1] = index;
    return line;
}

std::uint32_t* ContextTable::lane_at(const Node& node, int index, std::uint32_t** val) const {
    Line* line = home(node.home);
    while (index >= kLanes - 1 && line->key[kLanes - 1] == kLink) {
        line = spill_at(line->val[kLanes - 1]);
        index -= kLanes - 1;
    }
    *val = &line->val[index];
    return &line->key[index];
}

// Move the pairs of a context into a record; its first lane stays and points there.
void ContextTable::promote(Node& node) {
    const int log2_entries = std::min(kFirstRecordLog2, token_bits_);
    const std::uint32_t block = record_new(log2_entries);
    Node inlined = node;
    node.record = static_cast<std::int32_t>(block);
    node.capacity = static_cast<std::uint8_t>(log2_entries);
    each_lane(inlined, [&](std::uint32_t v, std::uint32_t count) {
        record_insert(node, v, count);
        --pairs_;
    });
    for (Line* line = home(node.home);; line = spill_at(line->val[kLanes - 1])) {
        for (unsigned m = lanes_equal(line->key, node.key, ~kBig); m != 0; m &= m - 1) {
            line->key[lowest(m)] = 0;
            --lanes_used_;
        }
        if (line->key[kLanes - 1] != kLink) break;
    }
    std::uint32_t* val = nullptr;
    std::uint32_t* key = lane_at(node, node.leader, &val);
    *key = node.key | kBig;
    *val = (block << 5) | static_cast<std::uint32_t>(log2_entries);
    ++lanes_used_;
}

void ContextTable::record_add(Node& node, std::uint32_t token, bool take_new) {
    Entry* e = entries(static_cast<std::uint32_t>(node.record));
    const std::uint32_t mask = (std::uint32_t{1} << node.capacity) - 1;
    for (std::uint32_t i = entry_slot(token, node.capacity); e[i].token_plus_1 != 0; i = (i + 1) & mask) {
        if (e[i].token_plus_1 != token + 1) continue;
        std::uint32_t* h = header(static_cast<std::uint32_t>(node.record));
        ++h[0];
        h[2] = std::max(h[2], ++e[i].count);
        return;
    }
    if (take_new) record_insert(node, token, 1);
}

void ContextTable::record_insert(Node& node, std::uint32_t token, std::uint32_t count) {
    const std::uint32_t have = header(static_cast<std::uint32_t>(node.record))[1];
    if (node.capacity < token_bits_ && (have + 1) * 4 > (std::uint32_t{3} << node.capacity)) record_grow(node);
    std::uint32_t* h = header(static_cast<std::uint32_t>(node.record));
    Entry* e = entries(static_cast<std::uint32_t>(node.record));
    const std::uint32_t mask = (std::uint32_t{1} << node.capacity) - 1;
    std::uint32_t i = entry_slot(token, node.capacity);
    while (e[i].token_plus_1 != 0) i = (i + 1) & mask;
    e[i] = Entry{token + 1, count};
    h[0] += count;
    h[1] += 1;
    h[2] = std::max(h[2], count);
    ++pairs_;
}

void ContextTable::record_grow(Node& node) {
    const auto old = static_cast<std::uint32_t>(node.record);
    const int old_log2 = node.capacity;
    const std::uint32_t block = record_new(old_log2 + 1);
    const std::uint32_t mask = (std::uint32_t{2} << old_log2) - 1;
    std::copy_n(header(old), 4, header(block));
    Entry* to = entries(block);
    for (std::size_t j = 0; j < std::size_t{1} << old_log2; ++j) {
        const Entry from = entries(old)[j];
        if (from.token_plus_1 == 0) continue;
        std::uint32_t i = entry_slot(from.token_plus_1 - 1, old_log2 + 1);
        while (to[i].token_plus_1 != 0) i = (i + 1) & mask;
        to[i] = from;
    }
    record_free(old, old_log2);
    node.record = static_cast<std::int32_t>(block);
    node.capacity = static_cast<std::uint8_t>(old_log2 + 1);
    std::uint32_t* val = nullptr;
    lane_at(node, node.leader, &val);
    *val = (block << 5) | static_cast<std::uint32_t>(old_log2 + 1);
}

std::uint32_t ContextTable::record_new(int log2_entries) {
    const auto lines = static_cast<std::uint32_t>(record_lines(log2_entries));
    auto& list = free_records_[static_cast<std::size_t>(log2_entries)];
    std::uint32_t block = 0;
    if (!list.empty()) {
        block = list.back();
        list.pop_back();
    } else {
        const std::uint32_t span = records_.span();
        if (records_used_ % span + lines > span) records_used_ += span - records_used_ % span;
        block = records_used_;
        records_used_ += lines;
        records_.reserve(records_used_);
    }
    std::memset(records_.at(block), 0, std::size_t{lines} * 64);
    return block;
}

void ContextTable::record_free(std::uint32_t block, int log2_entries) {
    free_records_[static_cast<std::size_t>(log2_entries)].push_back(block);
}

void ContextTable::grow_if_crowded() {
    const std::uint64_t lines = std::uint64_t{1} << log2_lines_;
    if (lanes_used_ * 10 < lines * 56 && spill_used_ * std::uint64_t{4} < lines) return;
    for (int step : {2, 1}) {
        const int wanted = log2_lines_ + step;
        if (wanted > kMaxLog2Lines) continue;
        const std::size_t more = (std::size_t{64} << wanted) - (std::size_t{64} << log2_lines_);
        if (bytes() + more + worst_ <= bound_ - bound_ / 8) return rebuild(wanted);
    }
}

// Addresses depend on the number of lines: replay the history into a larger table.
void ContextTable::rebuild(int log2_lines) {
    allocate(log2_lines);
    clear_counts();
    rebuilding_ = true;
    const auto at = [&](std::size_t i) {
        return static_cast<std::uint32_t*>(history_.at(static_cast<std::uint32_t>(i / 16)))[i % 16];
    };
    first(at(0));
    for (std::size_t i = 1; i < remembered_; ++i) add(at(i));
    rebuilding_ = false;
    ++rebuilds_;
}

}  // namespace evalkit
