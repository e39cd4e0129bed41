// Do the n-gram counts hold what a std::map holds, continuation counts too, before and after the bound is met?
#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "../core/ngram_counts.hpp"
#include "check.hpp"

namespace {

using Words = std::vector<std::uint32_t>;
using Followers = std::map<std::uint32_t, std::uint32_t>;

struct Model {
    std::map<Words, Followers> counts;
    std::map<Words, std::map<std::uint32_t, std::set<std::uint32_t>>> before;  // (context, token) -> tokens before it

    void add(const Words& context, std::uint32_t token) {
        ++counts[context][token];
        if (!context.empty()) before[Words(context.begin() + 1, context.end())][token].insert(context[0]);
    }
};

Words context(const Words& x, std::size_t t, int order) {
    return Words(x.begin() + static_cast<long>(t) - order + 1, x.begin() + static_cast<long>(t));
}

void compare(const evalkit::NgramCounts& table, Model& model, const Words& x, std::size_t t, int order, bool highest) {
    const Words where = context(x, t, order);
    const auto it = model.counts.find(where);
    const Followers want = it == model.counts.end() ? Followers{} : it->second;
    std::uint32_t total = 0, top = 0, continued = 0, kinds = 0;
    for (const auto& [v, n] : want) {
        const auto tokens = static_cast<std::uint32_t>(highest ? 0 : model.before[where][v].size());
        total += n;
        top = std::max(top, n);
        continued += tokens;
        kinds += tokens > 0;
        CHECK(table.pair(order, v).count == n);
        CHECK(table.pair(order, v).continuations == tokens);
    }
    const evalkit::NgramCounts::Node& node = table.context(order);
    CHECK(node.total == total && node.distinct == want.size() && node.top == top);
    CHECK(node.continued_total == continued && node.continued_distinct == kinds);
    Followers got;
    table.each(order, [&](std::uint32_t v, evalkit::PairCounts pair) {
        if (pair.count > 0) got[v] += pair.count;
    });
    CHECK(got == want);
}

void run(std::uint32_t vocab, int max_order, std::size_t n, std::size_t bytes, bool fills, unsigned seed) {
    std::mt19937 rng(seed);
    Words x(1, static_cast<std::uint32_t>(rng() % vocab));
    evalkit::NgramCounts table(vocab, max_order, bytes);
    Model model;
    table.start(x[0]);
    for (std::size_t t = 1, from = 0; t < n; ++t, ++from) {
        if (rng() % 20 == 0) from = rng() % t;
        const std::uint32_t a = static_cast<std::uint32_t>(rng() % vocab), b = static_cast<std::uint32_t>(rng() % vocab);
        x.push_back(rng() % 4 != 0 ? x[from] : std::min(a, b));
        for (int k = 1; k <= max_order && t + 1 >= static_cast<std::size_t>(k); ++k)
            if (t % 3 == 0) compare(table, model, x, t, k, k == max_order);
        table.add(x[t]);
        CHECK(table.bytes() <= bytes);
        for (int k = 1; k <= max_order && t + 1 >= static_cast<std::size_t>(k); ++k) {
            const Words where = context(x, t, k);
            const auto it = model.counts.find(where);
            const bool known = it != model.counts.end() && it->second.count(x[t]) > 0;
            if (known) {
                ++model.counts[where][x[t]];
            } else if (table.frozen_at() < 0) {
                model.add(where, x[t]);
            }
        }
    }
    CHECK((table.frozen_at() >= 0) == fills);
}

}  // namespace

int main() {
    for (unsigned seed = 0; seed < 3; ++seed) {
        run(2, 5, 3000, std::size_t{1} << 22, false, seed);
        run(17, 7, 4000, std::size_t{1} << 24, false, seed);
        run(1024, 6, 6000, std::size_t{1} << 24, false, seed);
        run(100000, 3, 3000, std::size_t{1} << 24, false, seed);
        run(40, 24, 1500, std::size_t{1} << 24, false, seed);
        run(5, 1, 500, evalkit::NgramCounts::smallest(), false, seed);
        run(1024, 6, 6000, evalkit::NgramCounts::smallest(), true, seed);
        run(300, 4, 8000, evalkit::NgramCounts::smallest() + 250000, true, seed);
    }
    std::puts("n-gram counts: ok");
    return 0;
}
