// How large is a table, what does it reserve, and how does it grow?
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "gram_table.hpp"

namespace evalkit {

namespace {

constexpr int kMinLog2Lines = 5;
constexpr int kMaxLog2Lines = 29;

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
    // Real text has 0.5 to 0.7 new n-grams per token and order, more of a large vocabulary: 2 to 4.5 slots in a line then.
    const std::size_t lines = expected_tokens * static_cast<std::size_t>(max_order_ * token_bits_) / 96;
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
    log2_lines_ = log2_lines;
    mask_ = (std::uint32_t{1} << log2_lines) - 1;
    if (main_.size() < size) {
        main_ = Pages();  // give the old one back first: the bound holds while rebuilding too
        main_ = Pages(size);
    } else if (slots_used_ > 0) {
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
    slots_used_ = 0;
    frozen_at_ = -1;
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
