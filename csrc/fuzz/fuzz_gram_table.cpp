// Can any input make the count table differ from a std::map, leave its memory bound or touch memory it does not own?
//
//   clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined csrc/fuzz/fuzz_gram_table.cpp csrc/core/gram_table*.cpp
//       csrc/core/pages.cpp -o fuzz && ./fuzz csrc/fuzz/corpus/gram_table
//   make fuzz (python -m benches.fuzz): without libFuzzer, by g++ -DEVALKIT_FUZZ_MAIN -fsanitize=address,undefined;
//   ./fuzz SECONDS SEED [FILE...] runs the files, then mutates them by itself, and prints the number of executions.
//
// An input is: vocabulary, longest n-gram, memory, how far to look ahead; then tokens, with commands between them.
#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "../core/gram_table.hpp"
#include "fail.hpp"

namespace {

using evalkit::fuzz::fail;
using Words = std::vector<std::uint32_t>;

class Twin {
 public:
    explicit Twin(int max_order) : max_order_(max_order) {}
    void start(std::uint32_t token) {
        counts_.clear();
        text_.assign(1, token);
    }
    void add(std::uint32_t token, bool counted) {
        for (int k = 1; counted && k <= max_order_ && text_.size() + 1 >= static_cast<std::size_t>(k); ++k)
            ++counts_[context(k)][token];
        text_.push_back(token);
    }
    void compare(evalkit::GramTable& table, std::uint32_t token) {
        table.find(token);
        for (int k = 1; k <= max_order_; ++k) {
            std::uint32_t total = 0, distinct = 0, hit = 0;
            const auto found = text_.size() + 1 >= static_cast<std::size_t>(k) ? counts_.find(context(k)) : counts_.end();
            if (found != counts_.end()) {
                for (const auto& [v, n] : found->second) {
                    total += n;
                    distinct += 1;
                    hit = v == token ? n : hit;
                }
            }
            if (table.total(k) != total) fail("total");
            if (table.hit(k) != hit) fail("hit");
            if (table.distinct(k) != std::min(distinct, evalkit::kMaxDistinct)) fail("distinct");
        }
    }

 private:
    Words context(int order) const { return Words(text_.end() - (order - 1), text_.end()); }

    int max_order_;
    Words text_;
    std::map<Words, std::map<std::uint32_t, std::uint32_t>> counts_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 5) return 0;
    const std::uint32_t vocab = data[0] < 200 ? 2u + data[0] : 2u + (data[0] - 200u) * 4000u;
    const int max_order = 1 + data[1] % 8;
    const std::size_t bytes = evalkit::GramTable::smallest(vocab, max_order) + 256u * data[2] * (data[2] > 200 ? 64u : 1u);
    const std::size_t ahead = data[3] % 40;
    const std::size_t n = std::min<std::size_t>(size - 4, 1500);
    std::vector<std::int32_t> text(n);
    for (std::size_t i = 0; i < n; ++i) text[i] = static_cast<std::int32_t>((data[4 + i] & 63u) * 97u % vocab);
    evalkit::GramTable table(vocab, max_order, bytes, data[2] & 1u ? 300u : 0u);
    Twin twin(max_order);
    const auto token = [&](std::size_t i) { return static_cast<std::uint32_t>(text[i]); };
    table.start(token(0));
    twin.start(token(0));
    for (std::size_t i = 1; i < n; ++i) {
        if (ahead > 0 && i % ahead == 1 % ahead) table.look_ahead(&text[i], std::min(ahead, n - i));
        switch (data[4 + i] >> 6) {
            case 1: twin.compare(table, token(i)); break;
            case 2: twin.compare(table, static_cast<std::uint32_t>(i * 7919u) % vocab); break;
            case 3:
                if (data[4 + i] == 0xFF) {
                    table.start(token(i));
                    twin.start(token(i));
                    continue;
                }
                break;
            default: break;
        }
        table.add(token(i));
        twin.add(token(i), !table.frozen());
        if (table.bytes() > bytes) fail("memory bound");
    }
    return 0;
}

#if defined(EVALKIT_FUZZ_MAIN)
#include "fuzz_main.hpp"
#endif
