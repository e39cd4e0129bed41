// Hints of the longest match alone: the source of the adapter `match`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "match.hpp"

namespace evalkit {

class MatchSource {
 public:
    MatchSource(MatchSettings settings, std::size_t bytes, std::size_t expected_tokens)
        : space_(bytes), match_(settings, space_, expected_tokens) {}
    int hints() const { return 1; }
    const HintSpace& space() const { return space_; }
    void start(std::uint32_t token) {
        space_.restart(token);
        match_.clear();
    }
    void peek(HintRecord* out) { *out = match_.peek(); }
    void add(std::uint32_t token) {
        const bool keep = space_.keeps();
        match_.add(token, keep);
        space_.history.push(token, keep);
    }
    void fetch_begin() const {}
    void fetch_far(const Ahead& ahead, std::size_t i, const std::int32_t*) const { match_.fetch_far(ahead, i); }
    void fetch_near(const Ahead& ahead, std::size_t i) const { match_.fetch_near(ahead, i); }

 private:
    HintSpace space_;
    MatchHints match_;
};

}  // namespace evalkit
