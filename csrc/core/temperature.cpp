#include "temperature.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "column_sum.hpp"

namespace evalkit {

namespace {

constexpr std::size_t kBuckets = 8;
constexpr double kFloor = 1e-300;  // of a probability, and of a term beside the largest one, which is 1
constexpr double kWidest = 4.0;    // of an exponent

void log_each(const double* p, std::size_t n, double* out) {
    for (std::size_t v = 0; v < n; ++v) out[v] = std::log(std::max(p[v], kFloor));
}

}  // namespace

Temperature::Temperature(TemperatureSettings settings) : settings_(std::move(settings)) {
    if (settings_.vocab < 2 || settings_.vocab > (1u << 18)) throw std::invalid_argument("vocab must be 2..262144");
    if (!(settings_.exponent > 0.0 && settings_.exponent <= kWidest)) throw std::invalid_argument("exponent within 0..4");
    if (!(settings_.prior > 0.0)) throw std::invalid_argument("the prior must be positive");
    for (std::vector<double>* x : {&log_p_, &log_model_, &out_}) x->assign(settings_.vocab, 0.0);
    begin();
}

void Temperature::begin() {
    state_.clear();
    for (std::size_t b = 0; b < kBuckets; ++b) {
        const double fresh[4] = {settings_.exponent, settings_.prior, 0.0, settings_.prior};
        state_.insert(state_.end(), fresh, fresh + 4);
    }
    has_pending_ = false;
}

double* Temperature::bucket(const double* entropy) {
    const bool high = settings_.learn && *entropy >= 1.0;
    const auto b = high ? static_cast<std::size_t>(std::min(*entropy, double{kBuckets - 1})) : std::size_t{0};
    return &state_[4 * b];
}

void Temperature::row(const double* p, const double* model, const double* entropy, double* out) {
    const std::size_t vocab = settings_.vocab;
    here_ = bucket(entropy);
    anchored_ = settings_.anchor && settings_.learn && model != nullptr;
    has_pending_ = true;
    log_each(p, vocab, log_p_.data());
    if (anchored_) log_each(model, vocab, log_model_.data());
    const double a = here_[0], c = here_[2];
    for (std::size_t v = 0; v < vocab; ++v) out_[v] = anchored_ ? a * log_p_[v] + c * log_model_[v] : a * log_p_[v];
    const double highest = *std::max_element(out_.begin(), out_.end());
    const double all = column_sum(vocab, [&](std::size_t v) { return out_[v] = std::max(std::exp(out_[v] - highest), kFloor); });
    for (std::size_t v = 0; v < vocab; ++v) out[v] = out_[v] /= all;
}

void Temperature::score(const std::int32_t* tokens, std::size_t n, const double* p, const double* model,
                        const double* entropy, double* out) {
    const std::size_t vocab = settings_.vocab;
    for (std::size_t i = 0; i < n; ++i) {
        row(p + i * vocab, model == nullptr ? nullptr : model + i * vocab, entropy == nullptr ? nullptr : entropy + i,
            out + i * vocab);
        observe(static_cast<std::uint32_t>(tokens[i]));
    }
}

void Temperature::observe(std::uint32_t token) {
    if (!has_pending_) throw std::invalid_argument("observe() needs the row() of the same target before it");
    has_pending_ = false;
    if (!settings_.learn) return;
    step(&here_[0], &here_[1], log_p_.data(), token);
    if (anchored_) step(&here_[2], &here_[3], log_model_.data(), token);
}

void Temperature::step(double* exponent, double* scale, const double* log_row, std::uint32_t token) const {
    const std::size_t vocab = settings_.vocab;
    const double mean = column_sum(vocab, [&](std::size_t v) { return out_[v] * log_row[v]; });
    const double square = column_sum(vocab, [&](std::size_t v) { return out_[v] * (log_row[v] * log_row[v]); });
    *scale += std::max(square - mean * mean, 0.0);
    *exponent = std::min(kWidest, std::max(-kWidest, *exponent + (log_row[token] - mean) / *scale));
}

void Temperature::set_state(const double* state, std::size_t size) {
    if (size != state_.size()) throw std::invalid_argument("the state is of another expert");
    std::copy(state, state + size, state_.begin());
    has_pending_ = false;
}

}  // namespace evalkit
