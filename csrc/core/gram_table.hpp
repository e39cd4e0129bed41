// How often was each n-gram seen, exactly, and by how many different tokens was it followed?
//
// One slot per distinct n-gram serves two roles.  As a pair, its count is n(v | context): how often v followed.  As a
// context, it was followed as often as it was seen, apart from its last occurrence when that ends the text.  So
// N(context) = sum over v of n(v | context) holds by construction, and a step costs one line of 64 bytes per order.
//
// Lanes lie in lines.  The address of an n-gram comes from its prefix's *address* and its last token by a bijection:
//
//     address = prefix address * odd + scatter(token)   (modulo the number of lines)
//
// so no memory is read to know where to look, and the lines of a whole chunk can be fetched ahead.  A slot's key is the
// token and the index of the prefix's slot inside the chain at the prefix's address.  By induction the key names the
// n-gram exactly: undo the formula, which an odd factor allows, to get the prefix address; the index picks the prefix
// among the slots that share that address; the prefix is named the same way, down to single tokens, whose addresses are
// assigned.  The hash picks the slot and never decides identity.  (Quotienting: Cleary 1984; Darragh, Cleary, Witten,
// "Bonsai", 1993.)
//
// When memory is full (or a count would leave its 23 bits) the table is frozen: nothing is counted any more, at any
// order, so that every row still sums to 1.  Whether and when is a function of the tokens alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "slots.hpp"
#include "pages.hpp"

namespace evalkit {

#define EVALKIT_INLINE __attribute__((always_inline)) inline

constexpr int kSlots = 8;
constexpr int kMaxOrder = 24;
constexpr std::uint32_t kMaxVocab = 1u << 18;
constexpr std::uint32_t kMaxDistinct = 255;  // the number of followers is kept up to here

struct alignas(64) Line {
    std::uint32_t key[kSlots];  // 0: empty.  Last slot: kLink when the chain goes on.
    std::uint32_t val[kSlots];  // count << 8 | followers
};

class GramTable {
 public:
    // vocab: number of token ids, at most 2^18.  max_order: longest n-gram, 1..24.  bytes: memory bound.
    // expected_tokens: make room for a text of this length at once (0: grow as needed).
    GramTable(std::uint32_t vocab, int max_order, std::size_t bytes, std::size_t expected_tokens);

    // Smallest bound that the constructor takes.
    static std::size_t smallest(std::uint32_t vocab, int max_order);

    // Forget everything and take `token` as the first: context, never counted.
    void start(std::uint32_t token);

    // The tokens that will be added next, so that their lines can be fetched early.  They are not counted, and no
    // number that this class returns depends on them.  Valid until they are added or the call is repeated.
    void look_ahead(const std::int32_t* tokens, std::size_t n);

    // Order k has the k - 1 tokens before the current position as its context.
    int max_order() const { return max_order_; }
    int seen() const { return seen_; }  // highest order whose context was followed before, 0 when none
    // N of the context; 0 when it was never followed.
    std::uint32_t total(int order) const { return order <= seen_ ? total_[static_cast<std::size_t>(order)] : 0; }
    // Different followers of the context, at most kMaxDistinct.
    std::uint32_t distinct(int order) const { return order <= seen_ ? distinct_[static_cast<std::size_t>(order)] : 0; }

    // Look `token` up in every order; then hit(k) is its count there.
    void find(std::uint32_t token) {
        if (asked_ != token) look_up(token);
    }
    int found() const { return found_; }  // highest order with a count, 1 when none (order 1 may be 0 then)
    std::uint32_t hit(int order) const { return order <= found_ ? hit_[static_cast<std::size_t>(order)] : 0; }

    // Counts of any token, out[1..max_order]; leaves find() as it was.
    void counts_of(std::uint32_t token, std::uint32_t* out) const;

    // Followers of the context of order k among `tokens`: what is left in `tokens`, with their counts.  Followers of a
    // longer context are among those of a shorter one, so call with rising orders on what the last call left.
    void followers(int order, std::vector<std::uint32_t>& tokens, std::vector<std::uint32_t>& counts) const;

    // Count `token` in every order and step to the next position.
    void add(std::uint32_t token);

    // Look up, read and count n tokens in a row: out is [n, max_order, 2], the hit and the total of every order.
    void count(const std::int32_t* tokens, std::size_t n, std::uint32_t* out);

    // Count no more: what is counted is fixed, and GramReader can read it.  The text for rebuilding is given up.
    void seal();

    std::size_t bytes() const;
    std::size_t length() const { return length_; }  // tokens taken since start(), the first one included
    std::uint32_t vocab() const { return vocab_; }
    bool frozen() const { return frozen_at_ >= 0; }
    std::int64_t frozen_at() const { return frozen_at_; }  // tokens counted when the table froze, -1 while it counts
    std::uint64_t grams() const { return slots_used_; }    // distinct n-grams of two tokens and more
    std::uint64_t rebuilds() const { return rebuilds_; }
    std::uint64_t spilled() const { return spill_used_; }

 private:
    friend class GramReader;
    using Keys = std::array<std::uint32_t, kMaxOrder + 1>;
    using Values = std::array<std::uint32_t*, kMaxOrder + 1>;
    using Numbers = std::array<std::uint32_t, kMaxOrder + 2>;

    static constexpr std::size_t kRing = 64;   // positions whose addresses are kept, a power of two
    static constexpr std::size_t kStride = 32; // of which kMaxOrder + 1 are used
    static constexpr std::size_t kFar = 28;    // positions ahead whose lines are fetched
    static constexpr std::size_t kReplay = 4096;
    static constexpr int kUsual = 7;  // max_order for which loops are unrolled: 5 % of the time
    static constexpr std::uint32_t kNoToken = 0xFFFFFFFFu;
    static constexpr int kVirtual = 248;  // 248..255: single tokens, eight to an address
    static constexpr std::uint32_t kOdd = 0x9E3779B5u;
    static constexpr std::uint32_t kSalt = 0x85EBCA6Bu;

    std::uint32_t* addresses(std::size_t position) { return &ring_[(position % kRing) * kStride]; }
    const std::uint32_t* addresses(std::size_t position) const { return &ring_[(position % kRing) * kStride]; }
    // The part of a key that names the prefix, and the part that names the token; its last bit says: in use.
    std::uint32_t prefix_part(int index) const { return static_cast<std::uint32_t>(index) << (token_bits_ + 1); }
    int index_of(std::uint32_t part) const { return static_cast<int>(part >> (token_bits_ + 1)); }
    static std::uint32_t token_part(std::uint32_t token) { return token << 1 | 1u; }
    std::uint32_t key_of(int order, std::uint32_t token) const {
        return gram()[static_cast<std::size_t>(order - 1)] | token_part(token);
    }
    // The low bits are used, so the second product's high half is taken.
    static std::uint32_t scatter(std::uint32_t token) {
        std::uint64_t x = (std::uint64_t{token} + 1) * 0x9E3779B97F4A7C15u;
        x ^= x >> 32;
        return static_cast<std::uint32_t>((x * 0xBF58476D1CE4E5B9u) >> 32);
    }
    // The address of an n-gram from its prefix's address; of a single token, where the index of its slot completes it.
    std::uint32_t home_after(std::uint32_t from, std::uint32_t own) const { return (from * kOdd + own) & mask_; }
    std::uint32_t single_home(std::uint32_t token) const { return ((token >> 3) + (token & 7u) * kSalt) & mask_; }
    std::uint32_t single_part(std::uint32_t token) const { return prefix_part(kVirtual + static_cast<int>(token & 7u)); }
    std::size_t orders() const { return static_cast<std::size_t>(max_order_); }
    std::uint32_t child_home(int order, std::uint32_t token) const;
    EVALKIT_INLINE void step_addresses(std::uint32_t token, bool fetch, std::size_t longest);
    EVALKIT_INLINE void fetch_step();
    EVALKIT_INLINE void look_up_here(std::uint32_t token);
    void look_up(std::uint32_t token);
    EVALKIT_INLINE void counts(std::uint32_t* out, std::size_t longest) const;
    EVALKIT_INLINE void add_here(std::uint32_t token);
    std::uint32_t* search(std::uint32_t home, std::uint32_t key, int* index) const;
    int insert_in_chain(std::uint32_t home, std::uint32_t key);
    std::uint32_t* slot_value(std::uint32_t home, int index) const;
    EVALKIT_INLINE bool take_new(std::uint32_t token, int last);
    void relocate(int last);
    EVALKIT_INLINE void count_found(std::uint32_t token);
    void freeze();
    void add_frozen(std::uint32_t token);
    EVALKIT_INLINE void step(std::uint32_t token);
    void remember(std::uint32_t token) {
        if ((remembered_ & 15) == 0) open_block();
        tail_[remembered_++ & 15] = token;
    }
    void open_block();
    std::uint32_t remembered(std::size_t i) const {
        return static_cast<const std::uint32_t*>(history_.at(static_cast<std::uint32_t>(i / 16)))[i % 16];
    }
    void first(std::uint32_t token);
    void clear();
    void allocate(int log2_lines);
    void grow();
    void rebuild(int log2_lines);
    Line* spill_at(std::uint32_t index) const { return static_cast<Line*>(spill_.at(index)); }
    Keys& gram() { return keys_[phase_]; }       // n-grams that end in the last token: prefix_part of their slots
    const Keys& gram() const { return keys_[phase_]; }
    Keys& child() { return keys_[1 - phase_]; }  // n-grams that end in asked_
    Values& gram_value() { return values_[phase_]; }
    Values& child_value() { return values_[1 - phase_]; }

    std::uint32_t vocab_;
    int max_order_;
    std::size_t bound_;
    std::size_t expected_tokens_;
    int token_bits_;
    int first_log2_ = 0;
    int log2_lines_ = 0;
    std::uint32_t mask_ = 0;     // of an address
    std::uint64_t crowded_ = 0;  // slots beyond which the table is enlarged
    std::size_t block_limit_ = 0;  // blocks of 64 bytes, beside the lines, beyond which it is frozen
    Pages main_;
    Line* lines_ = nullptr;
    Chunks spill_;
    std::uint32_t spill_used_ = 0;

    struct Token {
        std::uint32_t count = 0;        // how often it was counted
        std::uint32_t followed = 0;     // how often it was followed
        std::uint32_t followed_by = 0;  // by how many different tokens
    };
    std::vector<Token> tokens_;
    std::uint32_t unigram_total_ = 0;
    std::uint32_t unigram_distinct_ = 0;

    std::vector<std::uint32_t> ring_;  // addresses by position and order; [0] is the token itself
    std::size_t frontier_ = 0;   // addresses of n-grams that end before this position are known
    const std::int32_t* next_ = nullptr;
    std::size_t next_count_ = 0;

    std::size_t length_ = 0;
    std::uint32_t last_token_ = 0;
    std::uint32_t asked_ = kNoToken;
    int seen_ = 0;
    int found_ = 0;
    bool moved_ = false;  // a slot moved to a second line: pointers to values are stale
    bool wide_ = false;   // a count is about to leave its bits
    int phase_ = 0;
    Numbers total_{};
    Numbers distinct_{};
    Numbers hit_{};
    std::array<Keys, 2> keys_{};      // two buffers that change roles at every step
    std::array<Values, 2> values_{};  // where the counts are; only of n-grams that were found, not of new ones

    Chunks history_;  // 16 tokens a block: what a rebuild replays
    std::size_t remembered_ = 0;
    std::uint32_t* tail_ = nullptr;
    std::vector<std::int32_t> replay_;
    bool rebuilding_ = false;
    std::int64_t frozen_at_ = -1;
    Keys last_home_{}, last_key_{};  // when frozen: n-grams seen once more than followed
    std::uint64_t slots_used_ = 0;
    std::uint64_t rebuilds_ = 0;
};

}  // namespace evalkit
