#include "hedge_weights.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace evalkit {

HedgeWeights::HedgeWeights(Update update, double rate, double share) : update_(update), rate_(rate), share_(share) {
    if (!(rate >= 0.0 && rate <= 1.0)) throw std::invalid_argument("the rate must lie within 0..1");
    if (!(share >= 0.0 && share < 1.0)) throw std::invalid_argument("the share must lie within 0..1");
}

void HedgeWeights::start(std::size_t buckets, std::vector<double> prior) {
    prior_ = std::move(prior);
    log_.assign(prior_.size(), 0.0);
    visits_.assign(buckets, 0.0);
    learned_ = false;
    weight_.clear();
    for (std::size_t b = 0; b < buckets; ++b) weight_.insert(weight_.end(), prior_.begin(), prior_.end());
}

double HedgeWeights::mix(std::size_t bucket, const double* p) const {
    const double* w = at(bucket);
    double sum = 0.0;
    for (std::size_t k = 0; k < prior_.size(); ++k) sum += w[k] * p[k];
    return sum;
}

void HedgeWeights::learn(std::size_t bucket, const double* p) {
    const double mixture = mix(bucket, p);
    if (!(mixture > 0.0)) return;  // booked as infinite nats: nothing sane to learn
    double* w = &weight_[bucket * prior_.size()];
    if (update_ == Update::kHedge) {
        hedge(w, p);
    } else {
        soft_bayes(w, p, mixture, visits_[bucket]);
    }
    visits_[bucket] += 1.0;
    learned_ = true;
    double sum = 0.0;
    for (std::size_t k = 0; k < prior_.size(); ++k) sum += w[k];
    for (std::size_t k = 0; k < prior_.size(); ++k) w[k] = (1.0 - share_) * (w[k] / sum) + share_ * prior_[k];
}

// In logs: a product of many small probabilities leaves the range of a double.
void HedgeWeights::hedge(double* w, const double* p) {
    for (std::size_t k = 0; k < prior_.size(); ++k) log_[k] = std::log(w[k]) + rate_ * std::log(p[k]);
    const double highest = *std::max_element(log_.begin(), log_.end());
    for (std::size_t k = 0; k < prior_.size(); ++k) w[k] = std::exp(log_[k] - highest);
}

void HedgeWeights::soft_bayes(double* w, const double* p, double mixture, double visits) const {
    const double e = std::max(rate_, 1.0 / (10.0 + visits));
    for (std::size_t k = 0; k < prior_.size(); ++k) w[k] = w[k] * (1.0 - e + e * (p[k] / mixture));
}

std::vector<double> HedgeWeights::state() const {
    std::vector<double> out(visits_);
    out.insert(out.end(), weight_.begin(), weight_.end());
    return out;
}

void HedgeWeights::set_state(const double* state, std::size_t size) {
    if (size != visits_.size() + weight_.size()) throw std::invalid_argument("the state is of other weights");
    learned_ = size > 0;
    std::copy(state, state + visits_.size(), visits_.begin());
    std::copy(state + visits_.size(), state + size, weight_.begin());
}

}  // namespace evalkit
