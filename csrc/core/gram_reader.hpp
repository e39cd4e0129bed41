// What did a fixed text count after the context of another one?
//
// A reader follows a stream through the counts of a GramTable that counts no more: it keeps its own place and changes
// nothing, so one table serves any number of readers.  It answers as the table itself would after freeze(): a context
// was followed as often as it was seen, but for those that end the counted text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "gram_table.hpp"

namespace evalkit {

class GramReader {
 public:
    // Without a table every context is unknown.
    explicit GramReader(std::shared_ptr<const GramTable> table = nullptr) : table_(std::move(table)) {}

    // Take `token` as the first of the stream.
    void start(std::uint32_t token);
    // The tokens that will be added next, so that their lines can be fetched early; valid until they are added.
    void look_ahead(const std::int32_t* tokens, std::size_t n);

    int seen() const { return seen_; }
    std::uint32_t total(int order) const { return order <= seen_ ? total_[static_cast<std::size_t>(order)] : 0; }
    std::uint32_t distinct(int order) const { return order <= seen_ ? distinct_[static_cast<std::size_t>(order)] : 0; }

    void find(std::uint32_t token) {
        if (asked_ != token) look_up(token);
    }
    std::uint32_t hit(int order) const { return order <= found_ ? hit_[static_cast<std::size_t>(order)] : 0; }
    void counts_of(std::uint32_t token, std::uint32_t* out) const;
    // As GramTable::followers: with rising orders on what the last call left.
    void followers(int order, std::vector<std::uint32_t>& tokens, std::vector<std::uint32_t>& counts) const;
    // Step over `token`.
    void add(std::uint32_t token);

    std::size_t bytes() const { return table_ == nullptr ? 0 : table_->bytes(); }

 private:
    static constexpr std::size_t kRing = 64;  // positions whose addresses are kept, a power of two
    static constexpr std::size_t kStride = 32;
    static constexpr std::size_t kFar = 28;   // positions ahead whose lines are fetched
    static constexpr std::uint32_t kNoToken = 0xFFFFFFFFu;

    std::uint32_t* addresses(std::size_t position) { return &ring_[(position % kRing) * kStride]; }
    const std::uint32_t* addresses(std::size_t position) const { return &ring_[(position % kRing) * kStride]; }
    void look_up(std::uint32_t token);
    void step_addresses(std::uint32_t token, bool fetch);
    std::uint32_t* child(int order, std::uint32_t token, int* index) const;

    std::shared_ptr<const GramTable> table_;
    std::vector<std::uint32_t> ring_;  // addresses of n-grams by the position of their last token and their order
    std::size_t length_ = 0;           // tokens taken since start(), the first one included
    std::size_t frontier_ = 0;         // positions whose addresses are known
    const std::int32_t* next_ = nullptr;
    std::size_t next_count_ = 0;
    std::uint32_t asked_ = kNoToken;
    int seen_ = 0;
    int found_ = 0;
    std::array<std::uint32_t, kMaxOrder + 2> total_{}, distinct_{}, hit_{}, followers_{};
    std::array<std::uint32_t, kMaxOrder + 2> gram_{}, child_{};  // names of slots: of the last token's n-grams, of asked_'s
};

}  // namespace evalkit
