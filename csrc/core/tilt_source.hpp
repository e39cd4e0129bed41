// Hints of token contexts alone: the source of the adapter `tilt`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "hints_orders.hpp"

namespace evalkit {

class TiltSource {
 public:
    TiltSource(std::vector<int> orders, OrderGates gates, std::size_t bytes, std::size_t expected_tokens)
        : space_(bytes), orders_(std::move(orders), std::move(gates), space_, expected_tokens) {}
    int hints() const { return 1; }
    const HintSpace& space() const { return space_; }
    void start(std::uint32_t token) {
        space_.restart(token);
        orders_.clear();
    }
    void peek(HintRecord* out) { *out = orders_.peek(); }
    void add(std::uint32_t token) {
        const bool keep = space_.keeps();
        orders_.add(token, keep);
        space_.history.push(token, keep);
    }
    void fetch_begin() { orders_.fetch_begin(); }
    void fetch_far(const Ahead& ahead, std::size_t i, const std::int32_t*) { orders_.fetch_far(ahead, i); }
    void fetch_near(const Ahead& ahead, std::size_t i) const { orders_.fetch_near(ahead, i); }

 private:
    HintSpace space_;
    OrderHints orders_;
};

}  // namespace evalkit
