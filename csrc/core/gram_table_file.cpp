// How does a table travel?  As its settings and the text it counted, with a checksum; reading it counts again.
// Little-endian, like the machines it is for.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "gram_table.hpp"

namespace evalkit {

namespace {

struct Header {
    char magic[8];
    std::uint32_t vocab;
    std::uint32_t max_order;
    std::uint64_t bound;
    std::uint64_t expected_tokens;
    std::uint64_t counted;  // tokens that follow and are counted, the first one included
    std::uint64_t after;    // tokens that follow and are not: the last ones of a frozen table, for its context
    std::uint64_t check;    // of everything above and the tokens
};
static_assert(sizeof(Header) == 56, "no padding");

constexpr char kMagic[8] = {'E', 'V', 'K', 'G', 'R', 'A', 'M', '1'};

// FNV-1a, 64 bits: against damage, not against forgery.
std::uint64_t fnv(const unsigned char* data, std::size_t n, std::uint64_t state) {
    for (std::size_t i = 0; i < n; ++i) state = (state ^ data[i]) * 0x100000001B3u;
    return state;
}

std::uint64_t check_of(Header header, const unsigned char* body, std::size_t size) {
    header.check = 0;
    const auto* head = reinterpret_cast<const unsigned char*>(&header);
    return fnv(body, size, fnv(head, sizeof(Header), 0xCBF29CE484222325u));
}

}  // namespace

bool GramTable::append(const GramTable& other) {
    if (frozen() || other.frozen() || other.vocab_ > vocab_) return false;
    const std::size_t n = other.remembered_;
    std::vector<std::int32_t> text(std::min(n, kReplay));
    for (std::size_t i = 0; i < n && !frozen(); i += kReplay) {
        const std::size_t m = std::min(kReplay, n - i);
        for (std::size_t j = 0; j < m; ++j) text[j] = static_cast<std::int32_t>(other.remembered(i + j));
        look_ahead(text.data(), m);
        for (std::size_t j = 0; j < m; ++j) add(static_cast<std::uint32_t>(text[j]));
    }
    look_ahead(nullptr, 0);
    return !frozen();
}

std::vector<unsigned char> GramTable::write() const {
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.vocab = vocab_;
    header.max_order = static_cast<std::uint32_t>(max_order_);
    header.bound = bound_;
    header.expected_tokens = expected_tokens_;
    header.counted = remembered_;
    std::vector<std::uint32_t> tokens(remembered_);
    for (std::size_t i = 0; i < remembered_; ++i) tokens[i] = remembered(i);
    const std::size_t context = static_cast<std::size_t>(max_order_) - 1;  // all that later counts depend on
    for (std::size_t back = std::min(length_ - remembered_, context); back-- > 0;) {
        tokens.push_back(addresses(length_ - 1 - back)[0]);
        ++header.after;
    }
    std::vector<unsigned char> out(sizeof(Header) + 4 * tokens.size());
    if (!tokens.empty()) std::memcpy(out.data() + sizeof(Header), tokens.data(), 4 * tokens.size());
    header.check = check_of(header, out.data() + sizeof(Header), 4 * tokens.size());
    std::memcpy(out.data(), &header, sizeof(Header));
    return out;
}

GramTable GramTable::read(const unsigned char* data, std::size_t size) {
    Header header{};
    if (size < sizeof(Header)) throw std::invalid_argument("shorter than the header of a table");
    std::memcpy(&header, data, sizeof(Header));
    if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) throw std::invalid_argument("not a table: wrong magic");
    const std::size_t body = size - sizeof(Header);
    if (body % 4 != 0 || header.counted > body / 4 || header.after != body / 4 - header.counted)
        throw std::invalid_argument("the number of tokens does not match the size: truncated or damaged");
    if (header.check != check_of(header, data + sizeof(Header), body)) throw std::invalid_argument("wrong checksum");
    if (header.counted == 0) throw std::invalid_argument("no first token");
    std::vector<std::int32_t> tokens(body / 4);
    std::memcpy(tokens.data(), data + sizeof(Header), body);
    for (const std::int32_t token : tokens)
        if (token < 0 || static_cast<std::uint32_t>(token) >= header.vocab)
            throw std::invalid_argument("a token lies outside the vocabulary");
    // What is reserved follows from what is there, whatever the header says it expects.
    const std::uint64_t expected = std::min<std::uint64_t>(header.expected_tokens, 4 * header.counted);
    GramTable table(header.vocab, static_cast<int>(std::min<std::uint32_t>(header.max_order, kMaxOrder + 1)),
                    header.bound, expected);
    table.expected_tokens_ = header.expected_tokens;
    table.start(static_cast<std::uint32_t>(tokens[0]));
    table.look_ahead(tokens.data() + 1, tokens.size() - 1);
    for (std::size_t i = 1; i < header.counted; ++i) table.add(static_cast<std::uint32_t>(tokens[i]));
    if (table.frozen()) throw std::invalid_argument("its text does not fit its own bound");
    if (header.after > 0) table.freeze();
    for (std::size_t i = header.counted; i < tokens.size(); ++i) table.add(static_cast<std::uint32_t>(tokens[i]));
    table.look_ahead(nullptr, 0);
    return table;
}

}  // namespace evalkit
