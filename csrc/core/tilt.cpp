#include "tilt.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace evalkit {

namespace {

constexpr double kStartWeight = 0.7;  // of logit p(h)
constexpr double kStartMass = 0.3;    // of ln(mass)
constexpr double kStartSquares = 1.0;
constexpr double kLeast = 1e-6;       // probabilities are taken as at least this, and at most 1 minus it, in logarithms

double inner(double p) { return std::min(std::max(p, kLeast), 1.0 - kLeast); }

}  // namespace

Tilt::Tilt(TiltSettings settings) : settings_(std::move(settings)) {
    const auto put = [&](double value) {
        initial_.push_back(value);
        initial_.push_back(kStartSquares);
    };
    for (std::uint32_t members = 0; members < 1u << sources(); ++members) {
        put(kStartWeight);
        put(0.0);
        put(kStartMass);
    }
    for (std::size_t s = 0; s < settings_.theta.size(); ++s) {
        theta_at_[s] = initial_.size();
        for (const double theta : settings_.theta[s]) put(theta);
    }
    token_at_ = initial_.size();
    for (std::uint32_t v = 0; v < settings_.vocab; ++v) put(0.0);
    state_ = initial_;
}

void Tilt::clear() {
    state_ = initial_;
    groups_ = 0;
    z_ = 1.0;
}

void Tilt::gather(const HintRecord* hints, const double* p) {
    groups_ = 0;
    for (int s = 0; s < sources(); ++s) {
        const HintRecord& hint = hints[s];
        if (hint.token < 0) continue;
        const auto at = static_cast<std::size_t>(s);
        bucket_at_[at] = theta_at_[at] + 2 * std::size_t{hint.bucket};
        const double mass = log_mass_[static_cast<std::size_t>(settings_.kinds[at])];
        int g = 0;
        while (g < groups_ && group_[static_cast<std::size_t>(g)].token != hint.token) ++g;
        Group& group = group_[static_cast<std::size_t>(g)];
        if (g == groups_) {
            ++groups_;
            group = Group{hint.token, 0, p[s], 0.0, 0.0, 0.0, 1.0};
        }
        group.members |= 1u << s;
        group.mass = group.mass + mass;
    }
}

double Tilt::boost(const Group& g) const {
    const double* w = state_.data() + weights_at(g.members);
    double s = w[0] * g.logit + w[2];
    for (std::uint32_t m = g.members; m != 0; m &= m - 1) s = s + state_[bucket_at_[static_cast<std::size_t>(__builtin_ctz(m))]];
    s = s + w[4] * g.mass;
    s = s + state_[token_at(g.token)];
    return std::min(std::max(s - g.logit, rates_.low), rates_.high);
}

void Tilt::evaluate(const HintRecord* hints, const double* p, double start_mass) {
    const double start = inner(start_mass);
    log_mass_ = {0.0, std::log(start), std::log(1.0 - start)};
    gather(hints, p);
    z_ = 1.0;
    for (int i = 0; i < groups_; ++i) {
        Group& g = group_[static_cast<std::size_t>(i)];
        const double q = inner(g.p);
        g.logit = std::log(q / (1.0 - q));
        const HintRecord& first = hints[__builtin_ctz(g.members)];
        g.beta = settings_.fixed >= 0.0
                     ? settings_.fixed * (static_cast<double>(first.top) / static_cast<double>(first.total))
                     : boost(g);
        g.lift = std::exp(g.beta);
        z_ = z_ + g.p * (g.lift - 1.0);
    }
}

void Tilt::step(std::size_t at, double rate, double gradient) {
    state_[at + 1] = state_[at + 1] + gradient * gradient;
    state_[at] = state_[at] + rate * gradient / std::sqrt(state_[at + 1]);
}

void Tilt::learn(std::int32_t token) {
    if (settings_.fixed >= 0.0) return;
    for (int i = 0; i < groups_; ++i) {
        const Group& g = group_[static_cast<std::size_t>(i)];
        const double error = (g.token == token ? 1.0 : 0.0) - g.p * g.lift / z_;
        const std::size_t w = weights_at(g.members);
        step(w, rates_.weight, error * g.logit);
        step(w + 2, rates_.weight, error);
        step(w + 4, rates_.weight, error * g.mass);
        for (std::uint32_t m = g.members; m != 0; m &= m - 1)
            step(bucket_at_[static_cast<std::size_t>(__builtin_ctz(m))], rates_.theta, error);
        step(token_at(g.token), rates_.weight, error);
    }
}

}  // namespace evalkit
