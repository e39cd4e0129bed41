// Hints of tokens and words on two clocks over one text: the source of the adapter `best_agree`.
//
// Order of the hints: token contexts (if any), then for each word context of the stream, and for each of the document,
// how the word goes on and how the next one starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "hints_orders.hpp"
#include "hints_words.hpp"

namespace evalkit {

struct AgreeSettings {
    std::vector<int> orders;           // of token contexts; may be empty
    std::vector<int> words;            // lengths of word contexts of the stream
    std::vector<int> document_words;   // and of the document
    std::vector<WordRole> roles;       // one per token id
    std::int64_t bos = -1;             // starts a document
    std::size_t bytes = 0;
    std::size_t expected_tokens = 0;
};

class AgreeSource {
 public:
    explicit AgreeSource(AgreeSettings settings) : roles_(std::move(settings.roles)), space_(settings.bytes) {
        const std::size_t expected = settings.expected_tokens;
        if (!settings.orders.empty()) {
            const std::size_t n = settings.orders.size();
            OrderGates open{std::vector<double>(n, 0.0), std::vector<std::uint32_t>(n, 1)};
            orders_.emplace(std::move(settings.orders), std::move(open), space_, expected);
        }
        const auto put = [&](std::vector<int>& words, std::int64_t reset_at) {
            if (words.empty()) return;
            words_.push_back(std::make_unique<WordHints>(std::move(words), roles_, reset_at, space_, expected));
        };
        put(settings.words, -1);
        // Without a BOS there is one document: the whole stream.
        put(settings.document_words, settings.bos);
    }
    int hints() const {
        int n = orders_ ? 1 : 0;
        for (const auto& w : words_) n += w->hints();
        return n;
    }
    const HintSpace& space() const { return space_; }
    void start(std::uint32_t token) {
        space_.restart(token);
        if (orders_) orders_->clear();
        for (auto& w : words_) w->start(token);
    }
    void peek(HintRecord* out) {
        if (orders_) *out++ = orders_->peek();
        for (auto& w : words_) {
            w->peek(out);
            out += w->hints();
        }
    }
    void add(std::uint32_t token) {
        const bool keep = space_.keeps();
        if (orders_) orders_->add(token, keep);
        for (auto& w : words_) w->add(token, keep);
        space_.history.push(token, keep);
    }
    void fetch_begin() {
        if (orders_) orders_->fetch_begin();
        for (auto& w : words_) w->fetch_begin();
    }
    void fetch_far(const Ahead& ahead, std::size_t i, const std::int32_t* tokens) {
        if (orders_) orders_->fetch_far(ahead, i);
        for (auto& w : words_) w->fetch_far(ahead, i, tokens);
    }
    void fetch_near(const Ahead& ahead, std::size_t i) const {
        if (orders_) orders_->fetch_near(ahead, i);
    }

 private:
    std::vector<WordRole> roles_;
    HintSpace space_;
    std::optional<OrderHints> orders_;
    std::vector<std::unique_ptr<WordHints>> words_;
};

}  // namespace evalkit
