// Which few tokens followed this context, and where did it last stand?
//
// Open addressing over lines of four entries, stored by columns so that one comparison asks all four.  An entry keeps a
// 32-bit mark, a 24-bit tag (source of the context, 20 bits of its hash) and up to three followers with 6-bit counts; a
// fourth takes the place of the rarer of the last two.  So counts are exact while a context has had at most three
// different followers and none more than 63 times; then they are halved, and stay near the recent past.
//
// What the mark is is up to the caller: a place in the text, by which contexts are told apart (the tag only chooses whom
// to ask), or 31 more bits of the hash, which then decide.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "pages.hpp"

namespace evalkit {

constexpr int kFollowers = 3;
constexpr int kHintSources = 16;  // different kinds of context in one table

struct Followers {
    std::uint32_t token = 0;  // the most frequent; the earlier one to get there wins a tie
    std::uint32_t top = 0;
    std::uint32_t total = 0;  // sum of the counts kept
};

// Cells 0..3: marks, not 0 where an entry is in use.  Cells 4 + 4i..7 + 4i, for i in 0..2: tag byte i | token 18 | count 6.
struct alignas(64) HintLine {
    std::uint32_t cell[16];
};

// Where an entry is, or nowhere.
class HintEntry {
 public:
    HintEntry() = default;
    explicit HintEntry(std::uint32_t* mark) : at_(mark) {}
    explicit operator bool() const { return at_ != nullptr; }

    std::uint32_t mark() const { return at_[0]; }
    void set_mark(std::uint32_t mark) const { at_[0] = mark; }
    std::uint32_t tag() const { return word(0) >> 24 | word(1) >> 24 << 8 | word(2) >> 24 << 16; }
    Followers followers() const {
        const std::uint32_t first = word(0);
        return {(first & 0xFFFFFF) >> 6, first & 63, (first & 63) + (word(1) & 63) + (word(2) & 63)};
    }
    bool seen_once() const { return (word(0) & 63) == 1 && ((word(1) | word(2)) & 63) == 0; }
    void follow(std::uint32_t token) const;
    // The same for an entry without followers.
    void follow_first(std::uint32_t token) const { word(0) |= token << 6 | 1u; }
    void copy(HintEntry from) const {
        for (int i = 0; i < 16; i += 4) at_[i] = from.at_[i];
    }

 private:
    friend class HintTable;
    std::uint32_t& word(int i) const { return at_[4 + 4 * i]; }
    void halve() const;

    std::uint32_t* at_ = nullptr;
};

// The slots, of four cells side by side, whose `shift` high bits are these: one bit each.
inline unsigned equal_slots(const std::uint32_t* cell, std::uint32_t want, int shift) {
#if defined(__SSE2__)
    const __m128i x = _mm_srli_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(cell)), shift);
    const __m128i same = _mm_cmpeq_epi32(x, _mm_set1_epi32(static_cast<int>(want)));
    return static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(same)));
#else
    unsigned m = 0;
    for (int i = 0; i < 4; ++i) m |= static_cast<unsigned>(cell[i] >> shift == want) << i;
    return m;
#endif
}

inline std::uint32_t hint_tag(int source, std::uint64_t hash) {
    return static_cast<std::uint32_t>(source) << 20 | static_cast<std::uint32_t>(hash & 0xFFFFF);
}
inline int source_of(std::uint32_t tag) { return static_cast<int>(tag >> 20); }

class HintTable {
 public:
    // first_lines: a power of two, what clear() goes back to.
    explicit HintTable(std::size_t first_lines);

    void clear();
    // home: a number whose low bits choose the line; the same for one context always.
    const void* line(std::uint64_t home) const { return lines_ + (home & mask_); }

    // The entry with this tag for whose mark same(mark) holds, or nowhere.  Then *open is a free place for it.
    template <class Same>
    HintEntry find(std::uint64_t home, std::uint32_t tag, std::uint32_t** open, Same&& same) {
        for (std::size_t i = home & mask_;; i = (i + 1) & mask_) {
            std::uint32_t* cell = lines_[i].cell;
            const unsigned empty = equal_slots(cell, 0, 0);
            for (unsigned m = equal_slots(cell + 4, tag & 0xFF, 24) & ~empty; m != 0; m &= m - 1) {
                const HintEntry e(cell + __builtin_ctz(m));
                if (e.tag() == tag && same(e.mark())) return e;
            }
            if (empty != 0) {
                *open = cell + __builtin_ctz(empty);
                return {};
            }
        }
    }
    // The entries with this mark and this tag or, in out[1], the tag of the next source; tag is of an even one.
    void find_pair(std::uint64_t home, std::uint32_t tag, std::uint32_t mark, HintEntry* out, std::uint32_t** open) {
        out[0] = out[1] = HintEntry{};
        for (std::size_t i = home & mask_;; i = (i + 1) & mask_) {
            std::uint32_t* cell = lines_[i].cell;
            for (unsigned m = equal_slots(cell, mark, 0); m != 0; m &= m - 1) {
                const HintEntry e(cell + __builtin_ctz(m));
                const std::uint32_t differs = e.tag() ^ tag;
                if ((differs & ~kNextSource) == 0) out[differs != 0] = e;
            }
            const unsigned empty = equal_slots(cell, 0, 0);
            if (empty != 0) *open = cell + __builtin_ctz(empty);
            if (empty != 0 || (out[0] && out[1])) return;
        }
    }
    // First entry in the home line with that tag, unverified: a guess at what find() will look at.
    HintEntry guess(std::uint64_t home, std::uint32_t tag) const {
        std::uint32_t* cell = lines_[home & mask_].cell;
        for (unsigned m = equal_slots(cell + 4, tag & 0xFF, 24); m != 0; m &= m - 1) {
            const HintEntry e(cell + __builtin_ctz(m));
            if (e.tag() == tag && e.mark() != 0) return e;
        }
        return {};
    }
    // A new entry, without followers; the caller knows that there is none.  open: a place that may be free, or null.
    // Never invalidates entries.
    HintEntry insert(std::uint64_t home, std::uint32_t tag, std::uint32_t mark, std::uint32_t* open);

    // Time to grow?  65 % full; past 90 % of a table that may not grow, insert must not be called.
    bool crowded() const { return entries_ >= crowded_; }
    bool full() const { return entries_ >= full_; }
    // home_of(source, mark) must give the number that an entry was inserted with.
    template <class HomeOf>
    void grow(int log2_factor, HomeOf&& home_of) {
        HintTable larger((mask_ + 1) << log2_factor);
        for (std::size_t i = 0; i <= mask_; ++i) {
            for (int slot = 0; slot < 4 && lines_[i].cell[slot] != 0; ++slot) {
                const HintEntry e(&lines_[i].cell[slot]);
                larger.insert(home_of(source_of(e.tag()), e.mark()), e.tag(), e.mark(), nullptr).copy(e);
            }
        }
        take(larger);
    }

    std::size_t entries() const { return entries_; }
    std::size_t bytes() const { return pages_.size(); }
    std::size_t used_bytes() const { return (mask_ + 1) * sizeof(HintLine); }

 private:
    static constexpr std::uint32_t kNextSource = 1u << 20;
    void resize(std::size_t lines);
    void take(HintTable& other);

    std::size_t first_lines_;
    std::size_t mask_ = 0;
    std::size_t crowded_ = 0;
    std::size_t full_ = 0;
    Pages pages_;
    HintLine* lines_;
    std::size_t entries_ = 0;
};

// Chosen without branches: which follower it is can hardly be foretold.
inline void HintEntry::follow(std::uint32_t next) const {
    constexpr std::uint32_t kToken = 0xFFFFFF & ~63u;
    const std::uint32_t a = word(0), b = word(1), c = word(2), own = next << 6;
    const auto is = [own](std::uint32_t w) { return (w & kToken) == own && (w & 63) != 0; };
    int last = (b & 63) < (c & 63) ? 1 : 2;  // the place of a new one when all are taken, or the first that is not
    last = (c & 63) == 0 ? 2 : last;
    last = (b & 63) == 0 ? 1 : last;
    last = (a & 63) == 0 ? 0 : last;
    int i = is(c) ? 2 : 3;
    i = is(b) ? 1 : i;
    i = is(a) ? 0 : i;
    const bool known = i < 3;
    i = known ? i : last;
    if (known && (word(i) & 63) == 63) halve();
    const std::uint32_t count = known ? (word(i) & 63) + 1 : 1;
    const std::uint32_t tag = word(i) & 0xFF000000u, first = word(0);
    word(i) = tag | own | count;
    if (i == 0 || count <= (first & 63)) return;
    word(0) = (first & 0xFF000000u) | own | count;
    word(i) = tag | (first & 0xFFFFFF);
}

}  // namespace evalkit
