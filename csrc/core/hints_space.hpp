// What do all hint sources share?  The text so far, a memory bound, and what a hint is.
//
// Full policy: a table that may not grow takes no new contexts past 90 % load; when the text itself meets the bound
// nothing new is stored at all.  Contexts that are known go on counting in both cases.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hints_history.hpp"
#include "hints_table.hpp"

namespace evalkit {

// token: -1 for no hint.  bucket: how far to trust it, an index into the source's calibration.
struct HintRecord {
    std::int32_t token = -1;
    std::uint16_t bucket = 0;
    std::uint8_t top = 0;    // count of the hinted token
    std::uint8_t total = 0;  // of all followers kept
};

constexpr int kCountBuckets = 48;  // 8 of the top count times 6 of the rest

inline int count_bucket(const Followers& f) {
    static constexpr std::uint8_t top_bucket[64] = {0, 0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6,
                                                    6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
                                                    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};
    static constexpr std::uint8_t rest_bucket[10] = {0, 1, 2, 3, 3, 4, 4, 4, 4, 5};
    const std::uint32_t rest = f.total - f.top;
    return top_bucket[f.top] * 6 + rest_bucket[rest < 9 ? rest : 9];
}

inline HintRecord hint_of(const Followers& f, int bucket) {
    return {static_cast<std::int32_t>(f.token), static_cast<std::uint16_t>(bucket), static_cast<std::uint8_t>(f.top),
            static_cast<std::uint8_t>(f.total)};
}

// Prefix hashes of a run of tokens that is known in advance: addresses can be fetched before their turn.
class Ahead {
 public:
    Ahead(const History& history, const std::int32_t* tokens, std::size_t n)
        : hashes_(history.hashes()), prefix_(kRecent + n), begin_(history.length()) {
        for (std::size_t back = 0; back < kRecent && back <= begin_; ++back)
            prefix_[kRecent - 1 - back] = history.prefix(back);
        for (std::size_t i = 0; i < n; ++i)
            prefix_[kRecent + i] = SuffixHash::next(prefix_[kRecent - 1 + i], static_cast<std::uint32_t>(tokens[i]));
    }
    std::size_t position(std::size_t i) const { return begin_ + i; }
    // Is the context of this length whole at i tokens from here, and what is its hash?
    bool whole(std::size_t i, int length) const { return static_cast<std::size_t>(length) <= begin_ + i; }
    std::uint64_t hash(std::size_t i, int length) const {
        const std::size_t end = kRecent - 1 + i;
        return hashes_.between(prefix_[end - static_cast<std::size_t>(length)], prefix_[end], length);
    }

 private:
    const SuffixHash& hashes_;
    std::vector<std::uint64_t> prefix_;
    std::size_t begin_;
};

struct HintSpace {
    explicit HintSpace(std::size_t bytes) : bound(bytes) {}

    History history;
    std::size_t bound;
    std::size_t tables = 0;        // bytes of all tables
    std::int64_t full_at = -1;     // tokens counted when something was first refused

    void restart(std::uint32_t token) {
        history.start(token);
        full_at = -1;
    }
    std::size_t bytes() const { return history.bytes() + tables; }
    // Lines of a new table: `least`, or more for a stream whose length is known, within half of what is left.
    std::size_t first_lines(std::size_t least, std::size_t expected_entries) const {
        std::size_t lines = least;
        while (lines * 4 * 65 < expected_entries * 100 && bytes() + 2 * lines * sizeof(HintLine) <= bound / 2) lines <<= 1;
        return lines;
    }
    // While this holds, tokens are stored and may be pointed to.
    bool keeps() const { return !history.full() && bytes() + 64 <= bound; }
    bool takes(const HintTable& table, bool keep) {
        const bool yes = keep && !table.full();
        if (!yes && full_at < 0) full_at = static_cast<std::int64_t>(history.length()) - 1;
        return yes;
    }
    // Grow a crowded table where the bound allows it, the old one still in place.
    template <class HomeOf>
    void relieve(HintTable& table, HomeOf&& home_of) {
        if (!table.crowded()) return;
        for (int step : {2, 1}) {
            if (history.bytes() + tables + (table.used_bytes() << step) > bound - bound / 8) continue;
            tables -= table.bytes();
            table.grow(step, home_of);
            tables += table.bytes();
            return;
        }
    }
};

// Of contexts that are told apart by their text: the bits of the hash above those of the tag choose the line.
inline std::uint64_t hint_home(std::uint64_t hash) { return hash >> 20; }

inline void prefetch(const void* address) { __builtin_prefetch(address, 1, 3); }

}  // namespace evalkit
