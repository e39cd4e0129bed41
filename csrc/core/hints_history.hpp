// Which tokens came before?  The text so far, its last 64 tokens apart, and hashes of any suffix of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "pages.hpp"

namespace evalkit {

constexpr int kRecent = 64;      // tokens at hand at the current position
constexpr int kMaxContext = 48;  // longest context that is compared

// Polynomial hashes modulo 2^64.  The hash picks a slot; contexts are told apart by comparing their tokens.
class SuffixHash {
 public:
    SuffixHash() {
        power_[0] = 1;
        for (int i = 1; i <= kMaxContext; ++i) power_[i] = power_[i - 1] * kBase;
    }
    static std::uint64_t next(std::uint64_t prefix, std::uint32_t token) { return prefix * kBase + token + 1; }
    // Hash of the `length` tokens between two prefix hashes.
    std::uint64_t between(std::uint64_t before, std::uint64_t after, int length) const {
        return finish(after - before * power_[length], length);
    }

 private:
    static constexpr std::uint64_t kBase = 0x9E3779B97F4A7C15u;
    static std::uint64_t finish(std::uint64_t x, int length) {
        x ^= static_cast<std::uint64_t>(length) * 0xD6E8FEB86659FD93u;
        const auto product = static_cast<unsigned __int128>(x) * 0x94D049BB133111EBu;
        return static_cast<std::uint64_t>(product >> 64) ^ static_cast<std::uint64_t>(product);
    }
    std::array<std::uint64_t, kMaxContext + 1> power_;
};

class History {
 public:
    History() : kept_(std::size_t{2} << 20) {}

    void start(std::uint32_t token) {
        length_ = stored_ = 0;
        full_ = false;
        prefix_[0] = 0;
        push(token, true);
    }
    // keep: store it for good too.  Once one token was not kept, none is.
    void push(std::uint32_t token, bool keep) {
        if (!keep) full_ = true;
        if (!full_) {
            if (stored_ % 16 == 0) open_block();
            tail_[stored_++ % 16] = token;
        }
        prefix_[(length_ + 1) % kRecent] = SuffixHash::next(prefix_[length_ % kRecent], token);
        recent_[length_ % kRecent] = recent_[length_ % kRecent + kRecent] = token;
        ++length_;
    }

    // Tokens so far; the current position.
    std::size_t length() const { return length_; }
    std::size_t stored() const { return stored_; }
    std::size_t bytes() const { return 4 * stored_; }
    bool full() const { return full_; }
    std::uint32_t at(std::size_t i) const { return const_cast<History*>(this)->slot(i); }
    const void* address(std::size_t i) const { return &const_cast<History*>(this)->slot(i); }
    // The token `back` positions before the current one, 1 <= back <= kRecent.
    std::uint32_t recent(std::size_t back) const { return recent_[(length_ - back) % kRecent]; }
    std::uint64_t prefix(std::size_t back) const { return prefix_[(length_ - back) % kRecent]; }
    std::uint64_t hash(int length) const {
        return hashes_.between(prefix(static_cast<std::size_t>(length)), prefix(0), length);
    }
    // Hash of the stored tokens [end - length, end).
    std::uint64_t hash_at(std::size_t end, int length) const {
        std::uint64_t x = 0;
        for (std::size_t i = end - static_cast<std::size_t>(length); i < end; ++i) x = SuffixHash::next(x, at(i));
        return hashes_.between(0, x, length);
    }
    // Are the `length` tokens before stored position `end` the last `length` ones?
    bool same(std::size_t end, int length) const {
        const auto n = static_cast<std::size_t>(length);
        if (end < n) return false;
        const std::uint32_t* then = run(end, n);
        if (then == nullptr) return common(end, length) == length;
        return equal_tokens(then, last(n), n);
    }
    // How many of them are, from the nearest back, at most `most`?
    int common(std::size_t end, int most) const {
        const auto room = static_cast<std::size_t>(most);
        const std::size_t limit = end < room ? end : room;
        std::size_t n = 0;
        while (n < limit && at(end - 1 - n) == recent(n + 1)) ++n;
        return static_cast<int>(n);
    }
    const SuffixHash& hashes() const { return hashes_; }

 private:
    // The last n tokens, side by side.
    const std::uint32_t* last(std::size_t n) const { return &recent_[(length_ - n) % kRecent]; }
    // The n stored tokens before position `end` where they lie side by side, else null.
    const std::uint32_t* run(std::size_t end, std::size_t n) const {
        const std::size_t from = end - n;
        if (!kept_.together(static_cast<std::uint32_t>(from / 16), static_cast<std::uint32_t>((end - 1) / 16))) return nullptr;
        return static_cast<const std::uint32_t*>(kept_.at(static_cast<std::uint32_t>(from / 16))) + from % 16;
    }
    static bool equal_tokens(const std::uint32_t* a, const std::uint32_t* b, std::size_t n) {
        std::uint32_t differ = 0;
        for (std::size_t i = 0; i < n; ++i) differ |= a[i] ^ b[i];
        return differ == 0;
    }
    void open_block() {
        kept_.reserve(stored_ / 16 + 1);
        tail_ = &slot(stored_);
    }
    std::uint32_t& slot(std::size_t i) {
        return static_cast<std::uint32_t*>(kept_.at(static_cast<std::uint32_t>(i / 16)))[i % 16];
    }

    SuffixHash hashes_;
    Chunks kept_;
    std::uint32_t* tail_ = nullptr;  // the last block
    std::array<std::uint32_t, 2 * kRecent> recent_{};  // twice over, so that the last tokens lie side by side
    std::array<std::uint64_t, kRecent> prefix_{};
    std::size_t length_ = 0;
    std::size_t stored_ = 0;
    bool full_ = false;
};

}  // namespace evalkit
