#include "ppm_dirichlet.hpp"

#include <numeric>
#include <utility>

namespace evalkit {

DirichletPpm::DirichletPpm(DirichletSettings settings)
    : settings_(std::move(settings)),
      table_(settings_.vocab, settings_.orders.back(), settings_.bytes, settings_.expected_tokens),
      count_(settings_.vocab, 0.0) {}

// counts: n_k of one token, indexed by order.
double DirichletPpm::mixed(const std::uint32_t* counts, double p) const {
    for (std::size_t s = 0; s < settings_.orders.size(); ++s) {
        const int order = settings_.orders[s];
        if (order > table_.seen()) break;
        const std::uint32_t total = table_.total(order);
        if (total < settings_.min_count) continue;
        const double c = settings_.strength[s];
        p = (static_cast<double>(counts[order]) + c * p) / (static_cast<double>(total) + c);
    }
    return p;
}

void DirichletPpm::score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k,
                         const double* p, double* out) {
    std::uint32_t counts[kMaxOrder + 1];
    table_.look_ahead(tokens, n);
    for (std::size_t i = 0; i < n; ++i, p += k, out += k) {
        const auto target = static_cast<std::uint32_t>(tokens[i]);
        if (cands == nullptr) row(p, out);
        for (std::size_t j = 0; cands != nullptr && j < k; ++j) {
            const std::int32_t v = cands[i * k + j];
            if (v < 0) {
                out[j] = p[j];
            } else if (j == 0) {  // the target, whose lines are here
                table_.find(static_cast<std::uint32_t>(v));
                for (int order = 1; order <= table_.seen(); ++order) counts[order] = table_.hit(order);
                out[j] = mixed(counts, p[j]);
            } else {
                table_.counts_of(static_cast<std::uint32_t>(v), counts);
                out[j] = mixed(counts, p[j]);
            }
        }
        table_.add(target);
    }
    table_.look_ahead(nullptr, 0);
}

void DirichletPpm::row(const double* p, double* out) {
    const std::size_t vocab = settings_.vocab;
    for (std::size_t v = 0; v < vocab; ++v) out[v] = p[v];
    left_.resize(vocab);
    std::iota(left_.begin(), left_.end(), 0u);
    for (std::size_t s = 0; s < settings_.orders.size(); ++s) {
        const int order = settings_.orders[s];
        if (order > table_.seen()) break;
        const std::uint32_t total = table_.total(order);
        table_.followers(order, left_, counts_);
        if (total < settings_.min_count) continue;
        const double c = settings_.strength[s];
        const double all = static_cast<double>(total) + c;
        for (std::size_t i = 0; i < left_.size(); ++i) count_[left_[i]] = static_cast<double>(counts_[i]);
        for (std::size_t v = 0; v < vocab; ++v) out[v] = (count_[v] + c * out[v]) / all;
        for (const std::uint32_t v : left_) count_[v] = 0.0;
    }
}

void DirichletPpm::observe(const std::int32_t* tokens, std::size_t n) {
    table_.look_ahead(tokens, n);
    for (std::size_t i = 0; i < n; ++i) table_.add(static_cast<std::uint32_t>(tokens[i]));
    table_.look_ahead(nullptr, 0);
}

}  // namespace evalkit
