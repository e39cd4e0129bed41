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
    const std::uint32_t tag = tag_of(source, hash);
    for (std::size_t i = hash >> 20 & mask_;; i = (i + 1) & mask_) {
        for (HintEntry& e : lines_[i].entry) {
            if (e.pos != 0) continue;
            e = HintEntry{pos, {tag << 24, (tag >> 8) << 24, (tag >> 16) << 24}};
            ++entries_;
            return &e;
        }
    }
}

void HintTable::take(HintTable& other) {
    mask_ = other.mask_;
    pages_ = std::move(other.pages_);
    lines_ = static_cast<HintLine*>(pages_.data());
    entries_ = other.entries_;
}

}  // namespace evalkit
