// How did the text go on where it last stood like this?  The longest match with an earlier place of the stream.
//
// The last min_length tokens name the place where they last stood (compared token by token, not by hash).  A match is
// followed for as long as it predicts; after a mismatch it goes on behind it, as near-copies do, until too many of its
// last eight predictions were wrong or another place is found.
#pragma once

#include <cstdint>

#include "hints_space.hpp"

namespace evalkit {

struct MatchSettings {
    int min_length = 8;   // tokens
    int max_length = 32;  // how far back lengths are compared
    int misses = 3;       // of the last 8 predictions, that a match survives
};

class MatchHints {
 public:
    static constexpr int kBuckets = 25 * 4 * 9;  // length, misses, run of hits

    MatchHints(MatchSettings settings, HintSpace& space, std::size_t expected_tokens);

    void clear();
    HintRecord peek();
    void add(std::uint32_t token, bool keep);
    void fetch_far(const Ahead& ahead, std::size_t i) const;
    void fetch_near(const Ahead& ahead, std::size_t i) const;
    const HintTable& table() const { return table_; }

 private:
    void look();
    void step(std::uint32_t token);
    int bucket() const;

    MatchSettings settings_;
    HintSpace& space_;
    HintTable table_;
    HintEntry entry_;
    std::uint32_t* open_ = nullptr;  // where it would lie
    std::uint64_t hash_ = 0;
    bool whole_ = false;
    bool looked_ = false;
    std::uint32_t at_ = 0;      // position of the predicted token, 0: no match
    std::uint32_t length_ = 0;  // tokens matched since the last mismatch
    std::uint32_t run_ = 0;     // hits in a row
    std::uint32_t misses_ = 0;  // one bit for each of the last eight predictions
};

}  // namespace evalkit
