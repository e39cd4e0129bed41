// Can any input make a hint differ from a std::map's, or a hint table leave its memory bound?
//
//   clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined csrc/fuzz/fuzz_hint_tables.cpp csrc/core/hints_*.cpp
//       csrc/core/match.cpp csrc/core/pages.cpp -o fuzz && ./fuzz csrc/fuzz/corpus/hint_tables
//   make fuzz (python -m benches.fuzz): without libFuzzer, as fuzz_gram_table.cpp.
//
// An input is: vocabulary and roles, kind of source with its settings, memory, tokens a block; then tokens, with commands
// between them.  Blocks are fetched ahead as HintExpert does it.  Once a table has refused a context its hints may differ
// from the twin's; then they must be sane and stay within the bound.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "../core/agree_source.hpp"
#include "../core/match_source.hpp"
#include "../core/tilt_source.hpp"
#include "fail.hpp"
#include "hint_twins.hpp"

namespace {

using namespace evalkit;
using fuzz::fail;

struct Input {
    const std::uint8_t* data;
    std::vector<std::int32_t> tokens;
    std::uint32_t vocab;
    std::size_t bytes;
    unsigned choice;  // of settings

    std::uint32_t token(std::size_t i) const { return static_cast<std::uint32_t>(tokens[i]); }
    unsigned command(std::size_t i) const { return data[4 + i] >> 6; }
};

template <class Twins>
void compare(const std::vector<HintRecord>& got, Twins& twins, const fuzz::Text& text) {
    std::vector<HintRecord> want;
    twins([&](auto& twin) { twin.peek(text, want); });
    if (want.size() != got.size()) fail("number of hints");
    for (std::size_t s = 0; s < want.size(); ++s) {
        if (got[s].token != want[s].token) fail("token");
        if (got[s].bucket != want[s].bucket) fail("bucket");
        if (got[s].top != want[s].top || got[s].total != want[s].total) fail("counts");
    }
}

// twins(f): call f on every twin, in the order of the hints.
template <class Source, class Twins>
void run(const Input& input, Source& source, Twins twins) {
    constexpr std::size_t kFar = 32, kNear = 16;
    const std::size_t n = input.tokens.size(), block = 1 + input.data[3] % 90;
    fuzz::Text text;
    std::vector<HintRecord> got(static_cast<std::size_t>(source.hints()));
    const auto start = [&](std::uint32_t token) {
        source.start(token);
        twins([&](auto& twin) { twin.start(token); });
        text.assign(1, token);
    };
    start(input.token(0));
    for (std::size_t from = 1; from < n; from += block) {
        const std::size_t m = std::min(block, n - from);
        const std::int32_t* tokens = &input.tokens[from];
        if (input.data[4 + from] == 0xFF) start(input.token(from));
        const Ahead ahead(source.space().history, tokens, m);
        source.fetch_begin();
        for (std::size_t i = 0; i < std::min(kFar, m); ++i) source.fetch_far(ahead, i, tokens);
        for (std::size_t i = 0; i < std::min(kNear, m); ++i) source.fetch_near(ahead, i);
        for (std::size_t i = 0; i < m; ++i) {
            if (i + kFar < m) source.fetch_far(ahead, i + kFar, tokens);
            if (i + kNear < m) source.fetch_near(ahead, i + kNear);
            const std::uint32_t token = input.token(from + i);
            const bool whole = source.space().full_at < 0;
            if (input.command(from + i) != 0) {  // else the token is counted without being asked for
                source.peek(got.data());
                for (const HintRecord& hint : got) {
                    if (hint.token < -1 || hint.token >= static_cast<std::int32_t>(input.vocab)) fail("range");
                    if (hint.top > hint.total) fail("top and total");
                }
                if (whole) compare(got, twins, text);
            }
            source.add(token);
            if (whole) twins([&](auto& twin) { twin.add(text, token); });
            text.push_back(token);
            if (source.space().bytes() > input.bytes) fail("memory bound");
        }
    }
}

std::vector<int> rising(unsigned bits, int first, int count) {
    std::vector<int> out;
    for (int i = 0; i < count; ++i)
        if (bits >> i & 1) out.push_back(first + i);
    return out;
}

void run_tilt(const Input& input) {
    std::vector<int> orders = rising(input.choice * 2654435761u >> 12, 2, 16);
    if (orders.empty()) orders = {2, 5, 9};
    OrderGates gates;
    for (std::size_t k = 0; k < orders.size(); ++k) {
        gates.min_share.push_back(0.25 * ((input.choice + k) % 4));
        gates.min_count.push_back(1 + (input.choice >> 3) % 3);
    }
    TiltSource source(orders, gates, input.bytes, input.data[2] & 1u ? 300 : 0);
    fuzz::OrdersTwin twin(orders, gates);
    run(input, source, [&](auto&& f) { f(twin); });
}

void run_agree(const Input& input) {
    AgreeSettings settings;
    settings.orders = rising(input.choice * 40503u >> 4, 2, 12);
    settings.words = rising(input.choice, 1, kMaxWords);
    settings.document_words = rising(input.choice >> 2, 1, kMaxWords);
    if (settings.words.empty() && settings.document_words.empty()) settings.words = {1, 2};
    for (std::uint32_t v = 0; v < input.vocab; ++v)
        settings.roles.push_back(v % 11 == 0 ? WordRole::control : v % 3 == 0 ? WordRole::start : WordRole::inside);
    settings.bos = input.choice & 1u ? static_cast<std::int64_t>(97 % input.vocab) : -1;
    settings.bytes = input.bytes;
    settings.expected_tokens = input.data[2] & 1u ? 300 : 0;
    const std::size_t n = settings.orders.size();
    fuzz::OrdersTwin orders(settings.orders, {std::vector<double>(n, 0.0), std::vector<std::uint32_t>(n, 1)});
    fuzz::WordsTwin stream(settings.words, settings.roles, -1);
    fuzz::WordsTwin document(settings.document_words, settings.roles, settings.bos);
    AgreeSource source(settings);
    run(input, source, [&](auto&& f) {
        if (n > 0) f(orders);
        f(stream);
        f(document);
    });
}

void run_match(const Input& input) {
    MatchSettings settings;
    settings.min_length = 1 + static_cast<int>(input.choice % 9);
    settings.max_length = settings.min_length + static_cast<int>(input.choice % 24);
    settings.misses = static_cast<int>(input.choice % 8);
    MatchSource source(settings, input.bytes, input.data[2] & 1u ? 300 : 0);
    fuzz::MatchTwin twin(settings);
    run(input, source, [&](auto&& f) { f(twin); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 5) return 0;
    const std::uint32_t vocab = data[0] < 200 ? 2u + data[0] : 2u + (data[0] - 200u) * 400u;
    Input input{data, {}, vocab, 0, data[1] / 3u * 5u + data[0]};
    for (std::size_t i = 4; i < std::min<std::size_t>(size, 1500); ++i)
        input.tokens.push_back(static_cast<std::int32_t>((data[i] & 63u) * 97u % vocab));
    // 112 KiB hold the first tables of every source.
    input.bytes = 112u * 1024u + 512u * data[2] * (data[2] > 200 ? 16u : 1u);
    switch (data[1] % 3) {
        case 0: run_tilt(input); break;
        case 1: run_agree(input); break;
        default: run_match(input); break;
    }
    return 0;
}

#if defined(EVALKIT_FUZZ_MAIN)
#include "fuzz_main.hpp"
#endif
