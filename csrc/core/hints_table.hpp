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

// Entries of a line by four bits each, of which the lowest counts: those with a tag, and those that are not in use.
struct LineScan {
    unsigned match;
    unsigned empty;
};

// The tag: source 4 bits | hash 20 bits, a byte on top of each word, the source's in the last.
constexpr std::uint32_t kWholeTag = 0xFF000000u;
constexpr std::uint32_t kPairTag = 0xEF000000u;  // of the last word, where the last bit of the source does not matter

class HintTag {
 public:
    HintTag(int source, std::uint64_t hash, std::uint32_t last_mask) : last_mask_(last_mask) {
        const std::uint32_t tag = static_cast<std::uint32_t>(source) << 20 | static_cast<std::uint32_t>(hash & 0xFFFFF);
        word_[0] = tag << 24;
        word_[1] = (tag >> 8) << 24;
        word_[2] = (tag >> 16) << 24;
    }
    std::uint32_t word(int i) const { return word_[i]; }

    LineScan scan(const HintLine& line) const {
#if defined(__SSE2__)
        const auto number = [](std::uint32_t x) { return static_cast<int>(x); };
        const __m128i want = _mm_set_epi32(number(word_[2] & last_mask_), number(word_[1]), number(word_[0]), 0);
        const __m128i mask = _mm_set_epi32(number(last_mask_), number(kWholeTag), number(kWholeTag), 0);
        __m128i same[4], zero[4];
        for (int i = 0; i < 4; ++i) {
            const __m128i e = _mm_load_si128(reinterpret_cast<const __m128i*>(&line.entry[i]));
            same[i] = _mm_cmpeq_epi32(_mm_and_si128(e, mask), want);
            zero[i] = _mm_cmpeq_epi32(e, _mm_setzero_si128());
        }
        const auto bits = [](const __m128i* x) {
            const __m128i all = _mm_packs_epi16(_mm_packs_epi32(x[0], x[1]), _mm_packs_epi32(x[2], x[3]));
            return static_cast<unsigned>(_mm_movemask_epi8(all));
        };
        const unsigned empty = bits(zero) & 0x1111u, m = bits(same);
        return {m & m >> 1 & m >> 2 & m >> 3 & 0x1111u & ~empty, empty};
#else
        LineScan found{0, 0};
        for (int i = 0; i < 4; ++i) {
            const HintEntry& e = line.entry[i];
            const std::uint32_t differs = ((e.word[0] ^ word_[0]) & kWholeTag) | ((e.word[1] ^ word_[1]) & kWholeTag) |
                                          ((e.word[2] ^ word_[2]) & last_mask_);
            if (e.pos == 0) found.empty |= 1u << 4 * i;
            else if (differs == 0) found.match |= 1u << 4 * i;
        }
        return found;
#endif
    }

 private:
    std::uint32_t word_[kFollowers];
    std::uint32_t last_mask_;
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
        const HintTag tag(source, hash, kWholeTag);
        for (std::size_t i = hash >> 20 & mask_;; i = (i + 1) & mask_) {
            const LineScan scan = tag.scan(lines_[i]);
            for (unsigned m = scan.match; m != 0; m &= m - 1) {
                HintEntry& e = lines_[i].entry[__builtin_ctz(m) / 4];
                if (same(e.pos)) return &e;
            }
            if (scan.empty != 0) return nullptr;
        }
    }
    // The same for the sources `first`, which is even, and first + 1, in one pass: out[0] and out[1].
    template <class Same>
    void find_pair(int first, std::uint64_t hash, HintEntry** out, Same&& same) {
        const HintTag tag(first, hash, kPairTag);
        out[0] = out[1] = nullptr;
        for (std::size_t i = hash >> 20 & mask_;; i = (i + 1) & mask_) {
            const LineScan scan = tag.scan(lines_[i]);
            for (unsigned m = scan.match; m != 0; m &= m - 1) {
                HintEntry& e = lines_[i].entry[__builtin_ctz(m) / 4];
                if (same(e.pos)) out[e.word[2] >> 28 & 1] = &e;
            }
            if (scan.empty != 0 || (out[0] != nullptr && out[1] != nullptr)) return;
        }
    }
    // First entry in the hash's own line with that tag, unverified: a guess at what find() will look at.
    const HintEntry* guess(int source, std::uint64_t hash) const {
        const HintLine& line = lines_[hash >> 20 & mask_];
        const unsigned m = HintTag(source, hash, kWholeTag).scan(line).match;
        return m == 0 ? nullptr : &line.entry[__builtin_ctz(m) / 4];
    }
    // f(pos) for the entries in the hash's own line with a tag of `first` or first + 1.
    template <class F>
    void guess_pair(int first, std::uint64_t hash, F&& f) const {
        const HintLine& line = lines_[hash >> 20 & mask_];
        for (unsigned m = HintTag(first, hash, kPairTag).scan(line).match; m != 0; m &= m - 1)
            f(line.entry[__builtin_ctz(m) / 4].pos);
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
    void take(HintTable& other);

    std::size_t first_lines_;
    std::size_t mask_;
    Pages pages_;
    HintLine* lines_;
    std::size_t entries_ = 0;
};

}  // namespace evalkit
