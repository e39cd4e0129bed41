#include "hints_table.hpp"

#include <cstring>
#include <utility>

namespace evalkit {

void HintEntry::halve() const {
    for (int i = 0; i < kFollowers; ++i) word(i) = (word(i) & ~63u) | ((word(i) & 63) + 1) / 2;
}

HintTable::HintTable(std::size_t first_lines)
    : first_lines_(first_lines),
      pages_(first_lines * sizeof(HintLine)),
      lines_(static_cast<HintLine*>(pages_.data())) {
    resize(first_lines);
}

void HintTable::resize(std::size_t lines) {
    mask_ = lines - 1;
    crowded_ = (lines * 4 * 65 + 99) / 100;
    full_ = (lines * 4 * 90 + 99) / 100;
}

void HintTable::clear() {
    resize(first_lines_);
    entries_ = 0;
    std::memset(static_cast<void*>(lines_), 0, first_lines_ * sizeof(HintLine));
}

HintEntry HintTable::insert(std::uint64_t home, std::uint32_t tag, std::uint32_t mark, std::uint32_t* open) {
    for (std::size_t i = home & mask_; open == nullptr || *open != 0; i = (i + 1) & mask_) {
        const unsigned empty = equal_slots(lines_[i].cell, 0, 0);
        if (empty != 0) open = lines_[i].cell + __builtin_ctz(empty);
    }
    const HintEntry e(open);
    e.set_mark(mark);
    for (int i = 0; i < kFollowers; ++i) e.word(i) = tag >> 8 * i << 24;
    ++entries_;
    return e;
}

void HintTable::take(HintTable& other) {
    resize(other.mask_ + 1);
    pages_ = std::move(other.pages_);
    lines_ = static_cast<HintLine*>(pages_.data());
    entries_ = other.entries_;
}

}  // namespace evalkit
