// Does the table hold what a std::map holds: every count of every context, while it grows and when it is full?
#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <stdexcept>
#include <vector>

#include "../core/gram_table.hpp"
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
        const auto a = static_cast<std::uint32_t>(rng() % vocab), b = static_cast<std::uint32_t>(rng() % vocab);
        x.push_back(copy ? x[from] : std::min(a, b));
        ++from;
    }
    return x;
}

Words context(const Words& x, std::size_t t, int order) {
    return Words(x.begin() + static_cast<long>(t) - order + 1, x.begin() + static_cast<long>(t));
}

void compare(evalkit::GramTable& table, Model& model, const Words& x, std::size_t t, std::uint32_t vocab) {
    Words left(vocab), counts;
    for (std::uint32_t v = 0; v < vocab; ++v) left[v] = v;
    table.find(x[t]);
    std::uint32_t other[evalkit::kMaxOrder + 1];
    const auto stranger = static_cast<std::uint32_t>(t * 7919u) % vocab;
    table.counts_of(stranger, other);
    for (int k = 1; k <= table.max_order(); ++k) {
        std::map<std::uint32_t, std::uint32_t> want;
        if (t + 1 >= static_cast<std::size_t>(k)) {
            const auto it = model.find(context(x, t, k));
            if (it != model.end()) want = it->second;
        }
        std::uint32_t total = 0;
        for (const auto& [v, n] : want) total += n;
        CHECK(table.total(k) == total);
        CHECK(table.distinct(k) == std::min<std::size_t>(want.size(), evalkit::kMaxDistinct));
        CHECK(table.hit(k) == (want.count(x[t]) != 0 ? want.at(x[t]) : 0));
        CHECK(other[k] == (want.count(stranger) != 0 ? want.at(stranger) : 0));
        table.followers(k, left, counts);
        CHECK(left.size() == counts.size());
        std::map<std::uint32_t, std::uint32_t> got;
        for (std::size_t i = 0; i < left.size(); ++i) got[left[i]] = counts[i];
        CHECK(got == want);
    }
}

// ahead: how many coming tokens the table is told at a time.
void run(std::uint32_t vocab, int max_order, const Words& x, std::size_t bytes, std::size_t expected, std::size_t ahead,
         bool fills = false) {
    evalkit::GramTable table(vocab, max_order, bytes, expected);
    std::vector<std::int32_t> next(x.begin(), x.end());
    Model model;
    table.start(x[0]);
    for (std::size_t t = 1; t < x.size(); ++t) {
        if (ahead > 0 && t % ahead == 1) table.look_ahead(&next[t], std::min(ahead, x.size() - t));
        if (t % 13 == 0) compare(table, model, x, t, vocab);
        if (t % 5 == 0) table.find((x[t] + 1) % vocab);
        table.add(x[t]);
        CHECK(table.bytes() <= bytes);
        if (table.frozen()) continue;
        for (int k = 1; k <= max_order && t + 1 >= static_cast<std::size_t>(k); ++k) ++model[context(x, t, k)][x[t]];
    }
    CHECK(table.frozen() == fills);
}

}  // namespace

int main() {
    constexpr std::size_t kMiB = std::size_t{1} << 20;
    for (unsigned seed = 0; seed < 2; ++seed) {
        run(2, 5, stream(2, 3000, seed), 4 * kMiB, 0, 0);
        run(17, 7, stream(17, 4000, seed), 16 * kMiB, 0, 13);
        run(300, 4, stream(300, 6000, seed), 16 * kMiB, 4000, 1);
        run(1024, 7, stream(1024, 5000, seed), 64 * kMiB, 0, 200);
        run(100000, 6, stream(100000, 1500, seed), 64 * kMiB, 0, 64);
        run(40, 24, stream(40, 1500, seed), 16 * kMiB, 0, 1000);
        run(1024, 1, stream(1024, 500, seed), kMiB, 0, 100);
        run(1024, 2, stream(1024, 2000, seed), kMiB, 0, 100);
        run(7, 3, Words(2000, 3), kMiB, 0, 100);  // one token, over and over
        run(50, 6, stream(50, 6000, seed), evalkit::GramTable::smallest(50, 6), 0, 50, true);
        run(50, 6, stream(50, 20000, seed), evalkit::GramTable::smallest(50, 6) + 200000, 0, 50, true);
        run(1024, 7, stream(1024, 6000, seed), evalkit::GramTable::smallest(1024, 7) + 100000, 0, 0, true);
    }
    evalkit::GramTable table(100, 4, kMiB, 0);
    Model model;
    for (unsigned seed = 0; seed < 3; ++seed) {  // start() forgets
        const Words x = stream(100, 700, seed);
        model.clear();
        table.start(x[0]);
        for (std::size_t t = 1; t < x.size(); ++t) {
            compare(table, model, x, t, 100);
            table.add(x[t]);
            for (int k = 1; k <= 4 && t + 1 >= static_cast<std::size_t>(k); ++k) ++model[context(x, t, k)][x[t]];
        }
    }
    const std::size_t shapes[][3] = {{1, 3, kMiB}, {12, 0, kMiB}, {12, 25, kMiB}, {12, 3, 10}};  // vocab, max_order, bytes
    for (const auto& shape : shapes) {
        bool refused = false;
        try {
            evalkit::GramTable(static_cast<std::uint32_t>(shape[0]), static_cast<int>(shape[1]), shape[2], 0);
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        CHECK(refused);
    }
    std::puts("gram table: ok");
    return 0;
}
