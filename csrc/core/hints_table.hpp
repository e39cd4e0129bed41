// Which few tokens followed this context, and where did it last stand?
//
// Open addressing over lines of four 16-byte entries.  An entry names its context by a source number and a place in the
// text: the hash and 20 of its bits only choose whom to ask, identity is decided by the caller's comparison of tokens.
// It keeps up to three followers with 6-bit counts; a fourth takes the place of the rarer of the last two.  So counts
// are exact while a context has had at most three different followers and none more than 63 times; then they are
// halved, and stay near the recent past.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pages.hpp"

namespace evalkit {

constexpr int kFollowers = 3;
constexpr int kHintSources = 16;  // different kinds of context in one table

struct Followers {
    std::uint32_t token = 0;  // the most frequent; the earlier one to get there wins a tie
    std::uint32_t top = 0;
    std::uint32_t total = 0;  // sum of the counts kept
};

// pos: position that followed the context when it was last seen, at least 1.  Each word: tag byte | token 18 | count 6.
struct HintEntry {
    std::uint32_t pos;
    std::uint32_t word[kFollowers];

    Followers followers() const {
        Followers f{token(0), count(0), 0};
        for (int i = 0; i < kFollowers; ++i) f.total += count(i);
        return f;
    }
    bool seen_once() const { return (word[0] & 63) == 1 && ((word[1] | word[2]) & 63) == 0; }
    void follow(std::uint32_t token);

 private:
    std::uint32_t count(int i) const { return word[i] & 63; }
    std::uint32_t token(int i) const { return (word[i] & 0xFFFFFF) >> 6; }
    void put(int i, std::uint32_t token, std::uint32_t count) { word[i] = (word[i] & 0xFF000000u) | token << 6 | count; }
    void halve();
};

struct alignas(64) HintLine {
    HintEntry entry[4];
};

class HintTable {
 public:
    // first_lines: a power of two, what clear() goes back to.
    explicit HintTable(std::size_t first_lines);

    void clear();
    const void* line(std::uint64_t hash) const { return lines_ + (hash >> 20 & mask_); }

    // The entry of this source and hash for which same(pos) holds, or null.
    template <class Same>
    HintEntry* find(int source, std::uint64_t hash, Same&& same) {
        const std::uint32_t tag = tag_of(source, hash);
        for (std::size_t i = hash >> 20 & mask_;; i = (i + 1) & mask_) {
            for (HintEntry& e : lines_[i].entry) {
                if (e.pos == 0) return nullptr;
                if (has_tag(e, tag) && same(e.pos)) return &e;
            }
        }
    }
    // First entry in the hash's own line with that tag, unverified: a guess at what find() will look at.
    const HintEntry* guess(int source, std::uint64_t hash) const {
        const std::uint32_t tag = tag_of(source, hash);
        for (const HintEntry& e : lines_[hash >> 20 & mask_].entry)
            if (e.pos != 0 && has_tag(e, tag)) return &e;
        return nullptr;
    }
    // A new entry; the caller knows that find() has none.  Never invalidates entries.
    HintEntry* insert(int source, std::uint64_t hash, std::uint32_t pos);

    // Time to grow?  65 % full; past 90 % of a table that may not grow, insert must not be called.
    bool crowded() const { return entries_ * 100 >= capacity() * 65; }
    bool full() const { return entries_ * 100 >= capacity() * 90; }
    // hash_of(source, pos) must give the hash that an entry was inserted with.
    template <class HashOf>
    void grow(int log2_factor, HashOf&& hash_of) {
        HintTable larger((mask_ + 1) << log2_factor);
        for (std::size_t i = 0; i <= mask_; ++i) {
            for (const HintEntry& e : lines_[i].entry) {
                if (e.pos == 0) break;
                const int source = static_cast<int>(e.word[2] >> 28);
                *larger.insert(source, hash_of(source, e.pos), e.pos) = e;
            }
        }
        take(larger);
    }

    std::size_t entries() const { return entries_; }
    std::size_t bytes() const { return pages_.size(); }
    std::size_t used_bytes() const { return (mask_ + 1) * sizeof(HintLine); }

 private:
    std::size_t capacity() const { return (mask_ + 1) * 4; }
    static std::uint32_t tag_of(int source, std::uint64_t hash) {
        return static_cast<std::uint32_t>(source) << 20 | static_cast<std::uint32_t>(hash & 0xFFFFF);
    }
    static bool has_tag(const HintEntry& e, std::uint32_t tag) {
        return (((e.word[2] ^ (tag << 8)) | (e.word[1] ^ (tag << 16)) | (e.word[0] ^ (tag << 24))) & 0xFF000000u) == 0;
    }
    void take(HintTable& other);

    std::size_t first_lines_;
    std::size_t mask_;
    Pages pages_;
    HintLine* lines_;
    std::size_t entries_ = 0;
};

}  // namespace evalkit
