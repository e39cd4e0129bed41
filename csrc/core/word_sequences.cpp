// Tables of letters and of CRC-32, and the set of wanted sequences.
#include "word_sequences.hpp"

namespace evalkit {

namespace {

std::array<std::uint8_t, 256> letters() {
    std::array<std::uint8_t, 256> out{};
    for (int c = '0'; c <= '9'; ++c) out[static_cast<std::size_t>(c)] = static_cast<std::uint8_t>(c);
    for (int c = 'a'; c <= 'z'; ++c) out[static_cast<std::size_t>(c)] = static_cast<std::uint8_t>(c);
    for (int c = 'A'; c <= 'Z'; ++c) out[static_cast<std::size_t>(c)] = static_cast<std::uint8_t>(c - 'A' + 'a');
    return out;
}

std::array<std::uint32_t, 256> crc_table() {
    std::array<std::uint32_t, 256> out{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t c = i;
        for (int bit = 0; bit < 8; ++bit) c = (c & 1u) != 0 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        out[i] = c;
    }
    return out;
}

}  // namespace

const std::array<std::uint8_t, 256> WordSequences::kLetter = letters();
const std::array<std::uint32_t, 256> WordSequences::kTable = crc_table();

SequenceSet::SequenceSet(const std::vector<std::uint64_t>& wanted) : wanted_(wanted), seen_(wanted.size(), 0) {
    int log2 = 10;
    while ((std::size_t{1} << log2) < 2 * wanted.size()) ++log2;
    mask_ = (std::size_t{1} << log2) - 1;
    slots_.assign(mask_ + 1, 0);
    filter_shift_ = 64 - (log2 + 3);
    filter_.assign((std::size_t{1} << (log2 + 3)) / 64, 0);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const std::size_t bit = wanted[i] >> filter_shift_;
        filter_[bit / 64] |= std::uint64_t{1} << (bit % 64);
        std::size_t slot = wanted[i] & mask_;
        while (slots_[slot] != 0) slot = (slot + 1) & mask_;
        slots_[slot] = static_cast<std::uint32_t>(i + 1);
    }
}

void SequenceSet::mark(std::uint64_t hash) {
    for (std::size_t slot = hash & mask_; slots_[slot] != 0; slot = (slot + 1) & mask_) {
        if (wanted_[slots_[slot] - 1] != hash) continue;
        seen_[slots_[slot] - 1] = 1;
        return;
    }
}

}  // namespace evalkit
