#include "hints_table.hpp"

#include <cstring>
#include <utility>

namespace evalkit {

void HintEntry::halve() {
    for (int i = 0; i < kFollowers; ++i) {
        if (count(i) > 0) put(i, token(i), (count(i) + 1) / 2);
    }
}

void HintEntry::follow(std::uint32_t next) {
    int i = 0;
    while (i < kFollowers && !(count(i) > 0 && token(i) == next)) ++i;
    if (i == kFollowers) {
        for (i = 0; i < kFollowers && count(i) > 0; ++i) {
        }
        if (i == kFollowers) i = count(1) < count(2) ? 1 : 2;
        put(i, next, 1);
        return;
    }
    if (count(i) == 63) halve();
    put(i, next, count(i) + 1);
    if (i == 0 || count(i) <= count(0)) return;
    const std::uint32_t top = token(0), top_count = count(0);
    put(0, next, count(i));
    put(i, top, top_count);
}

HintTable::HintTable(std::size_t first_lines)
    : first_lines_(first_lines),
      mask_(first_lines - 1),
      pages_(first_lines * sizeof(HintLine)),
      lines_(static_cast<HintLine*>(pages_.data())) {}

void HintTable::clear() {
    mask_ = first_lines_ - 1;
    entries_ = 0;
    std::memset(static_cast<void*>(lines_), 0, first_lines_ * sizeof(HintLine));
}

HintEntry* HintTable::insert(int source, std::uint64_t hash, std::uint32_t pos) {
    const HintTag tag(source, hash, kWholeTag);
    for (std::size_t i = hash >> 20 & mask_;; i = (i + 1) & mask_) {
        const unsigned empty = tag.scan(lines_[i]).empty;
        if (empty == 0) continue;
        HintEntry& e = lines_[i].entry[__builtin_ctz(empty) / 4];
        e = HintEntry{pos, {tag.word(0), tag.word(1), tag.word(2)}};
        ++entries_;
        return &e;
    }
}

void HintTable::take(HintTable& other) {
    mask_ = other.mask_;
    pages_ = std::move(other.pages_);
    lines_ = static_cast<HintLine*>(pages_.data());
    entries_ = other.entries_;
}

}  // namespace evalkit
