#include "ppm_dirichlet.hpp"

#include <utility>

namespace evalkit {

DirichletPpm::DirichletPpm(DirichletSettings settings)
    : settings_(std::move(settings)),
      table_(settings_.vocab, settings_.orders.back(), settings_.bytes, settings_.expected_tokens) {}

double DirichletPpm::one(std::uint32_t token, double p) const {
    for (std::size_t s = 0; s < settings_.orders.size(); ++s) {
        const Counts& have = table_.counts(settings_.orders[s]);
        if (have.total < settings_.min_count || have.total == 0) continue;
        const double c = settings_.strength[s];
        const double n = table_.count_of(settings_.orders[s], token);
        p = (n + c * p) / (static_cast<double>(have.total) + c);
    }
    return p;
}

void DirichletPpm::score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k,
                         const double* p, double* out) {
    for (std::size_t i = 0; i < n; ++i, p += k, out += k) {
        if (cands == nullptr) {
            row(p, out);
        } else {
            table_.resolve();
            for (std::size_t j = 0; j < k; ++j) {
                const std::int32_t v = cands[i * k + j];
                out[j] = v < 0 ? p[j] : one(static_cast<std::uint32_t>(v), p[j]);
            }
        }
        table_.add(static_cast<std::uint32_t>(tokens[i]));
    }
}

void DirichletPpm::row(const double* p, double* out) {
    table_.resolve();
    const std::size_t vocab = settings_.vocab;
    for (std::size_t v = 0; v < vocab; ++v) out[v] = p[v];
    std::vector<double> count(vocab, 0.0);
    for (std::size_t s = 0; s < settings_.orders.size(); ++s) {
        const int order = settings_.orders[s];
        const Counts& have = table_.counts(order);
        if (have.total < settings_.min_count || have.total == 0) continue;
        const double c = settings_.strength[s];
        const double all = static_cast<double>(have.total) + c;
        table_.each(order, [&](std::uint32_t v, std::uint32_t n) { count[v] = n; });
        for (std::size_t v = 0; v < vocab; ++v) out[v] = (count[v] + c * out[v]) / all;
        table_.each(order, [&](std::uint32_t v, std::uint32_t) { count[v] = 0.0; });
    }
}

void DirichletPpm::observe(const std::int32_t* tokens, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) table_.add(static_cast<std::uint32_t>(tokens[i]));
}

}  // namespace evalkit
