// What came next after these words?  Contexts that begin where a word began.
//
// Context j is the tokens since the start of the j-th last word, the unfinished one included.  Two things may follow: a
// token that goes on with the word, or one that starts the next.  Both are counted apart and both are proposed, because
// which of the two it will be is for the model to say (its probability mass of word-start tokens), not for the target.
#pragma once

#include <array>
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
    void fetch_near(std::size_t at) const;
    int hints() const { return 2 * static_cast<int>(words_.size()); }
    const HintTable& table() const { return table_; }

 private:
    struct Starts {
        std::array<std::size_t, kMaxWords> at{};  // positions of the last word starts, the newest first
        std::size_t known = 0;
        void push(std::size_t position);
        // Tokens since the start of the `words`-th last word at position `now`; 0: no context.
        int length(int words, std::size_t now) const;
    };
    static constexpr std::size_t kFetched = 64;

    void find();
    std::uint64_t hash_at(int source, std::uint32_t pos) const;

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
    std::array<HintEntry*, 2 * kMaxWords> found_{};
    std::array<Context, kMaxWords> context_{};
    bool looked_ = false;
};

}  // namespace evalkit
