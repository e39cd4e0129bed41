// What should a hint source say?  Contexts as vectors in a std::map, eagerly, for the fuzz target of the hint tables.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "../core/agree_source.hpp"
#include "../core/match.hpp"

namespace evalkit::fuzz {

using Words = std::vector<std::uint32_t>;
using Text = std::vector<std::uint32_t>;

// The last n tokens behind a number that names the kind of context.
inline Words context(std::uint32_t kind, const Text& text, std::size_t n) {
    Words out(1, kind);
    out.insert(out.end(), text.end() - static_cast<std::ptrdiff_t>(n), text.end());
    return out;
}

// Up to three followers with counts to 63, the most frequent first.
struct Followed {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> kept;

    void follow(std::uint32_t token) {
        std::size_t i = 0;
        while (i < kept.size() && kept[i].first != token) ++i;
        if (i == kept.size()) {
            if (kept.size() < 3) kept.emplace_back(token, 1);
            else kept[kept[1].second < kept[2].second ? 1 : 2] = {token, 1};
            return;
        }
        if (kept[i].second == 63) {
            for (auto& pair : kept) pair.second = (pair.second + 1) / 2;
        }
        if (++kept[i].second > kept[0].second) std::swap(kept[i], kept[0]);
    }
    std::uint32_t total() const {
        std::uint32_t sum = 0;
        for (const auto& pair : kept) sum += pair.second;
        return sum;
    }
    HintRecord hint(int order) const {
        const std::uint32_t top = kept[0].second, rest = total() - top;
        int tops = 0, rests = 0;
        for (const std::uint32_t from : {2u, 3u, 4u, 5u, 8u, 16u, 32u}) tops += top >= from;
        for (const std::uint32_t from : {1u, 2u, 3u, 5u, 9u}) rests += rest >= from;
        const auto bucket = static_cast<std::uint16_t>(order * 48 + tops * 6 + rests);
        return {static_cast<std::int32_t>(kept[0].first), bucket, static_cast<std::uint8_t>(top),
                static_cast<std::uint8_t>(total())};
    }
};

class OrdersTwin {
 public:
    OrdersTwin(std::vector<int> orders, OrderGates gates) : orders_(std::move(orders)), gates_(std::move(gates)) {}
    void start(std::uint32_t) { after_.clear(); }
    void peek(const Text& text, std::vector<HintRecord>& out) const {
        out.emplace_back();
        for (std::size_t k = orders_.size(); k-- > 0;) {
            const auto found = after_.find(at(text, k));
            if (found == after_.end()) continue;
            const Followed& f = found->second;
            if (f.total() < gates_.min_count[k] || f.kept[0].second < gates_.min_share[k] * f.total()) continue;
            out.back() = f.hint(static_cast<int>(k));
            return;
        }
    }
    void add(const Text& text, std::uint32_t token) {
        for (std::size_t k = 0; k < orders_.size(); ++k) {
            if (text.size() + 1 >= static_cast<std::size_t>(orders_[k])) after_[at(text, k)].follow(token);
        }
    }

 private:
    Words at(const Text& text, std::size_t k) const {
        const auto n = static_cast<std::size_t>(orders_[k] - 1);
        return n <= text.size() ? context(static_cast<std::uint32_t>(k), text, n) : Words{};
    }
    std::vector<int> orders_;
    OrderGates gates_;
    std::map<Words, Followed> after_;
};

class WordsTwin {
 public:
    WordsTwin(std::vector<int> words, std::vector<WordRole> roles, std::int64_t reset_at)
        : words_(std::move(words)), roles_(std::move(roles)), reset_at_(reset_at) {}
    void start(std::uint32_t) { after_.clear(); }
    void peek(const Text& text, std::vector<HintRecord>& out) const {
        for (const int words : words_) {
            const std::size_t n = length(text, words);
            for (std::uint32_t role = 0; role < 2; ++role) {
                out.emplace_back();
                if (n == 0) continue;
                const auto found = after_.find(context(2 * static_cast<std::uint32_t>(words) + role, text, n));
                if (found != after_.end()) out.back() = found->second.hint(0);
            }
        }
    }
    void add(const Text& text, std::uint32_t token) {
        const WordRole role = roles_[token];
        for (const int words : words_) {
            const std::size_t n = length(text, words);
            if (n == 0 || role == WordRole::control) continue;
            after_[context(2 * static_cast<std::uint32_t>(words) + (role == WordRole::start), text, n)].follow(token);
        }
        if (static_cast<std::int64_t>(token) == reset_at_) after_.clear();
    }

 private:
    // Tokens since the start of the n-th last word; 0 when it is too far back.
    std::size_t length(const Text& text, int words) const {
        for (std::size_t n = 1; n <= std::min<std::size_t>(kWordTokens, text.size()); ++n) {
            words -= roles_[text[text.size() - n]] != WordRole::inside;
            if (words == 0) return n;
        }
        return 0;
    }
    std::vector<int> words_;
    std::vector<WordRole> roles_;
    std::int64_t reset_at_;
    std::map<Words, Followed> after_;
};

class MatchTwin {
 public:
    explicit MatchTwin(MatchSettings settings) : settings_(settings) {}
    void start(std::uint32_t) {
        last_.clear();
        at_ = length_ = run_ = 0;
        missed_.clear();
    }
    void peek(const Text& text, std::vector<HintRecord>& out) {
        look(text);
        out.emplace_back();
        if (at_ == 0) return;
        const auto count = [](std::size_t x, std::size_t most) { return std::min(x, most); };
        const std::size_t length = length_ < 16 ? length_ : 16 + count((length_ - 16) / 4, 8);
        const std::size_t run = run_ < 4 ? run_ : 4 + count(run_ / 8, 4);
        out.back().token = static_cast<std::int32_t>(text[at_]);
        out.back().bucket = static_cast<std::uint16_t>((length * 4 + count(misses(), 3)) * 9 + run);
    }
    void add(const Text& text, std::uint32_t token) {
        look(text);
        if (at_ > 0) {
            const bool hit = text[at_++] == token;
            missed_.push_back(!hit);
            if (missed_.size() > 8) missed_.erase(missed_.begin());
            length_ = hit ? length_ + 1 : 0;
            run_ = hit ? run_ + 1 : 0;
            if (!hit && misses() > static_cast<std::size_t>(settings_.misses)) {
                at_ = 0;
                missed_.clear();
            }
        }
        if (text.size() >= least()) last_[context(0, text, least())] = text.size();
    }

 private:
    std::size_t least() const { return static_cast<std::size_t>(settings_.min_length); }
    std::size_t misses() const { return static_cast<std::size_t>(std::count(missed_.begin(), missed_.end(), true)); }
    void look(const Text& text) {
        if (text.size() < least() || (at_ > 0 && length_ >= least())) return;
        const auto found = last_.find(context(0, text, least()));
        if (found == last_.end()) return;
        if (at_ != found->second) missed_.clear();
        at_ = found->second;
        run_ = length_ = 0;
        while (length_ < std::min<std::size_t>(at_, static_cast<std::size_t>(settings_.max_length)) &&
               text[at_ - 1 - length_] == text[text.size() - 1 - length_])
            ++length_;
    }
    MatchSettings settings_;
    std::map<Words, std::size_t> last_;
    std::size_t at_ = 0, length_ = 0, run_ = 0;
    std::vector<bool> missed_;
};

}  // namespace evalkit::fuzz
