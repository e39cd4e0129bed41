// What came next after these words?  Contexts that begin where a word began.
//
// Context j is the tokens since the start of the j-th last word, the unfinished one included.  Two things may follow: a
// token that goes on with the word, or one that starts the next.  Both are counted apart and both are proposed, because
// which of the two it will be is for the model to say (its probability mass of word-start tokens), not for the target.
//
// Contexts are told apart by 51 bits of their hash.  Two of n different ones share their followers with a probability of
// n^2 / 2^52: one run in 5,000 for a million contexts.  Hints are prefix-only and rows sum to 1 in that run too.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hints_space.hpp"

namespace evalkit {

enum class WordRole : std::uint8_t { inside = 0, start = 1, control = 2 };  // control tokens stand alone, uncounted

constexpr int kMaxWords = 4;
constexpr int kWordTokens = 32;  // longer contexts are not counted

class WordHints {
 public:
    // words: rising, 1..4.  reset_at: token that empties the table (-1: none does), for counts of one document.
    WordHints(std::vector<int> words, const std::vector<WordRole>& roles, std::int64_t reset_at, HintSpace& space,
              std::size_t expected_tokens);

    void start(std::uint32_t first_token);
    // Two hints for each context: how the word goes on, then how the next one starts.
    void peek(HintRecord* out);
    void add(std::uint32_t token, bool keep);
    // Run ahead of the text to fetch what it will ask for; position i follows tokens[i - 1], i rises by 1.
    void fetch_begin();
    void fetch_far(const Ahead& ahead, std::size_t i, const std::int32_t* tokens);
    int hints() const { return 2 * static_cast<int>(words_.size()); }
    const HintTable& table() const { return table_; }

 private:
    // Where words started, without branches: whether a token starts one can hardly be foretold.
    struct Starts {
        std::array<std::size_t, 2 * kMaxWords> at{};  // a ring, which has room for a position that is no start
        std::size_t count = 0;
        void pass(std::size_t position, bool start) {
            at[count % at.size()] = position;
            count += start;
        }
        // Tokens since the start of the `words`-th last word at position `now`; 0: no context.
        int length(int words, std::size_t now) const {
            const auto j = static_cast<std::size_t>(words);
            const std::size_t n = now - at[(count - j) % at.size()];
            return j > count || n > kWordTokens ? 0 : static_cast<int>(n);
        }
    };
    static constexpr std::size_t kFetched = 64;

    void find();
    bool starts_word(std::uint32_t token) const { return roles_[token] != WordRole::inside; }
    static std::uint32_t mark_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> 32) | 1u; }
    static std::uint64_t home_of(std::uint32_t mark) { return mark >> 1; }

    std::vector<int> words_;
    const std::vector<WordRole>& roles_;
    std::int64_t reset_at_;
    HintSpace& space_;
    HintTable table_;
    Starts starts_;
    Starts ahead_;
    struct Context {
        std::uint64_t hash = 0;
        int length = 0;  // 0: none
    };
    std::array<std::array<Context, kMaxWords>, kFetched> fetched_{};  // of the positions fetched, a ring
    std::size_t fetched_to_ = 0;                                      // those before this one
    HintLine nothing_{};
    std::array<HintEntry, 2 * kMaxWords> found_{};
    std::array<std::uint32_t*, kMaxWords> open_{};  // where a new entry would lie
    std::array<Context, kMaxWords> context_{};
    bool looked_ = false;
};

}  // namespace evalkit
