// Which sequences of thirteen words does a text have?
//
// Words are runs of ASCII letters and digits, lower-cased; each is hashed by CRC-32, and thirteen in a row by a chain of
// multiplications.  Everything else, bytes from 0x80 up included, parts words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace evalkit {

class WordSequences {
 public:
    static constexpr std::size_t kWords = 13;

    // Read n bytes of text and call f(hash) for each sequence that ends in them.  A word may go on in the next call.
    template <class F>
    void read(const unsigned char* text, std::size_t n, F&& f) {
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint8_t letter = kLetter[text[i]];
            if (letter != 0) {
                crc_ = kTable[(crc_ ^ letter) & 0xFFu] ^ (crc_ >> 8);
                inside_ = true;
            } else if (inside_) {
                end_word(f);
            }
        }
    }
    // The text ends: what follows is another one.
    template <class F>
    void finish(F&& f) {
        if (inside_) end_word(f);
        words_ = 0;
    }

 private:
    template <class F>
    void end_word(F&& f) {
        last_[words_ % kWords] = crc_ ^ 0xFFFFFFFFu;
        crc_ = 0xFFFFFFFFu;
        inside_ = false;
        if (++words_ >= kWords) f(mixed());
    }
    std::uint64_t mixed() const {
        constexpr std::uint64_t kBase = 0x9E3779B97F4A7C15u;
        std::uint64_t total = 0;
        for (std::size_t k = 0; k < kWords; ++k) {
            total = (total ^ (last_[(words_ + k) % kWords] * kBase)) * kBase + (k + 1);
            total ^= total >> 29;
        }
        return total;
    }

    static const std::array<std::uint8_t, 256> kLetter;  // lower-cased, 0 where it is none
    static const std::array<std::uint32_t, 256> kTable;
    std::array<std::uint64_t, kWords> last_{};
    std::size_t words_ = 0;
    std::uint32_t crc_ = 0xFFFFFFFFu;
    bool inside_ = false;
};

// Which of these sequences have been seen?  Open addressing behind a filter of bits, since hardly any look-up succeeds.
class SequenceSet {
 public:
    // wanted: distinct hashes.
    explicit SequenceSet(const std::vector<std::uint64_t>& wanted);
    void see(std::uint64_t hash) {
        const std::size_t bit = hash >> filter_shift_;
        if ((filter_[bit / 64] >> (bit % 64) & 1u) != 0) mark(hash);
    }
    // One entry per wanted hash, in the order given.
    const std::vector<unsigned char>& seen() const { return seen_; }

 private:
    void mark(std::uint64_t hash);

    int filter_shift_;
    std::vector<std::uint64_t> filter_;
    std::size_t mask_;
    std::vector<std::uint32_t> slots_;  // index + 1, 0 where free
    std::vector<std::uint64_t> wanted_;
    std::vector<unsigned char> seen_;
};

}  // namespace evalkit
