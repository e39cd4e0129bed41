// How is a target run without libFuzzer?  SECONDS SEED [FILE...]: the files first, then mutations of them and of fresh inputs.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes fresh(std::mt19937_64& rng) {
    Bytes input(5 + rng() % 900);
    for (auto& byte : input) byte = static_cast<std::uint8_t>(rng() % 8 != 0 ? rng() % 6 : rng());
    for (int i = 0; i < 4; ++i) input[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(rng());
    return input;
}

// One byte anew, or a piece of the input copied to another place.
void mutate(Bytes& input, std::mt19937_64& rng) {
    const std::size_t at = rng() % input.size(), from = rng() % input.size();
    const std::size_t span = std::min<std::size_t>(rng() % 40, input.size() - std::max(at, from));
    if (rng() % 3 == 0) {
        input[at] = static_cast<std::uint8_t>(rng());
        return;
    }
    const Bytes piece(input.begin() + static_cast<long>(from), input.begin() + static_cast<long>(from + span));
    std::copy(piece.begin(), piece.end(), input.begin() + static_cast<long>(at));
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 10.0;
    std::mt19937_64 rng(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
    std::vector<Bytes> pool;
    std::uint64_t runs = 0, bytes = 0;
    const auto begin = std::chrono::steady_clock::now();
    const auto run = [&](const Bytes& input) {
        LLVMFuzzerTestOneInput(input.data(), input.size());
        ++runs;
        bytes += input.size();
    };
    for (int i = 3; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "cannot read %s\n", argv[i]);
            return 2;
        }
        pool.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        run(pool.back());
    }
    const std::size_t kept = pool.size();
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) {
        Bytes input = !pool.empty() && rng() % 4 != 0 ? pool[rng() % pool.size()] : fresh(rng);
        if (input.empty()) input = fresh(rng);
        for (std::uint64_t edits = rng() % 12; edits > 0; --edits) mutate(input, rng);
        run(input);
        if (pool.size() < 500) pool.push_back(input);
        else if (pool.size() > kept && rng() % 50 == 0) pool[kept + rng() % (pool.size() - kept)] = input;
    }
    std::printf("%llu executions, %llu bytes of input, no finding\n", static_cast<unsigned long long>(runs),
                static_cast<unsigned long long>(bytes));
    return 0;
}
