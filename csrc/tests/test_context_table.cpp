// Does the context table hold what a std::map holds?
#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "../core/context_table.hpp"
#include "check.hpp"

namespace {

using Words = std::vector<std::uint32_t>;
using Model = std::map<Words, std::map<std::uint32_t, std::uint32_t>>;

// Text with repeats: mostly copies from earlier in the stream, else a skewed random token.
Words stream(std::uint32_t vocab, std::size_t n, unsigned seed) {
    std::mt19937 rng(seed);
    Words x(1, static_cast<std::uint32_t>(rng() % vocab));
    std::size_t from = 0;
    while (x.size() < n) {
        if (rng() % 20 == 0) from = rng() % x.size();
        const bool copy = rng() % 4 != 0 && from < x.size();
        const std::uint32_t a = rng() % vocab, b = rng() % vocab;
        x.push_back(copy ? x[from] : std::min(a, b));
        ++from;
    }
    return x;
}

Words context(const Words& x, std::size_t t, int order) {
    return Words(x.begin() + static_cast<long>(t) - order + 1, x.begin() + static_cast<long>(t));
}

void compare(const evalkit::ContextTable& table, Model& model, const Words& x, std::size_t t, int max_order,
             std::uint32_t vocab) {
    for (int k = 1; k <= max_order; ++k) {
        std::map<std::uint32_t, std::uint32_t> want;
        if (t + 1 >= static_cast<std::size_t>(k)) {
            const auto it = model.find(context(x, t, k));
            if (it != model.end()) want = it->second;
        }
        std::uint32_t total = 0, top = 0;
        for (const auto& [v, n] : want) {
            total += n;
            top = std::max(top, n);
            CHECK(table.count_of(k, v) == n);
        }
        CHECK(table.counts(k).total == total);
        CHECK(table.counts(k).distinct == want.size());
        CHECK(table.counts(k).top == top);
        std::map<std::uint32_t, std::uint32_t> got;
        table.each(k, [&](std::uint32_t v, std::uint32_t n) { got[v] += n; });
        CHECK(got == want);
        const std::uint32_t other = static_cast<std::uint32_t>(t * 7919u) % vocab;
        if (want.count(other) == 0) CHECK(table.count_of(k, other) == 0);
    }
}

void run(std::uint32_t vocab, int max_order, std::size_t n, std::size_t bytes, std::size_t expected, unsigned seed) {
    const Words x = stream(vocab, n, seed);
    evalkit::ContextTable table(vocab, max_order, bytes, expected);
    Model model;
    table.start(x[0]);
    for (std::size_t t = 1; t < n; ++t) {
        table.resolve();
        if (t % 3 == 0) compare(table, model, x, t, max_order, vocab);
        table.add(x[t]);
        CHECK(table.bytes() <= bytes);
        for (int k = 1; k <= max_order && t + 1 >= static_cast<std::size_t>(k); ++k) {
            const Words c = context(x, t, k);
            const auto it = model.find(c);
            const bool known = it != model.end() && it->second.count(x[t]) > 0;
            if (known || !table.frozen()) ++model[c][x[t]];
        }
    }
}

}  // namespace

int main() {
    for (unsigned seed = 0; seed < 8; ++seed) {
        run(2, 5, 3000, std::size_t{1} << 22, 0, seed);
        run(17, 7, 4000, std::size_t{1} << 24, 0, seed);
        run(300, 4, 6000, std::size_t{1} << 24, 4000, seed);
        run(1024, 7, 6000, std::size_t{1} << 26, 0, seed);
        run(100000, 6, 2000, std::size_t{1} << 28, 0, seed);
        run(40, 24, 1500, std::size_t{1} << 24, 0, seed);
        // too small for the stream: the table freezes and what it holds stays exact
        run(50, 6, 6000, evalkit::ContextTable::smallest(50, 6) + 200000, 0, seed);
        run(1024, 7, 6000, evalkit::ContextTable::smallest(1024, 7) + 300000, 0, seed);
    }
    std::puts("context table: ok");
    return 0;
}
