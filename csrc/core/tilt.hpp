// How far should a row be tilted towards hinted tokens?  p'(v) = p(v) e^{beta(v)} / Z, beta = 0 where nothing is hinted.
//
//     Z = 1 + sum over hinted h of p(h) (e^{beta(h)} - 1)        so p' sums to what p sums to, for any beta of the prefix
//
// With learned boosts, q = sigma(s) is the calibrated probability of a hint and beta = s - logit p(h):
//
//     s = w logit p(h) + b + m ln(mass) + sum over the sources that name h of theta[source][bucket] + u[h]
//
// w, b, m belong to the set of sources that name h, so agreement is learned, not assumed; mass is the model's
// probability that a token of the kind which a source predicts comes next.  After booking, every parameter takes an
// AdaGrad step down -log p'(y), whose derivative by s(h) is p'(h) - [y = h].
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hints_space.hpp"

namespace evalkit {

constexpr int kMaxHints = 8;

enum class HintKind : std::uint8_t { any = 0, start = 1, inside = 2 };  // what a source predicts, for its mass

struct TiltSettings {
    std::uint32_t vocab = 0;
    double fixed = -1.0;                      // beta = fixed * top / total when >= 0, else learned
    std::vector<HintKind> kinds;              // one per source
    std::vector<std::vector<double>> theta;   // where theta starts: [source][bucket]
};

struct TiltRates {
    double weight = 0.2;  // of w, b, m and u
    double theta = 0.1;
    double low = -2.0;  // bounds of beta; below, a row's rounding errors would be magnified by e^2 at most
    double high = 8.0;
};

class Tilt {
 public:
    explicit Tilt(TiltSettings settings);

    void clear();
    // hints: one per source.  p: probability of each (ignored where there is none).  start_mass: see HintKind.
    void evaluate(const HintRecord* hints, const double* p, double start_mass);
    double apply(std::int32_t token, double p) const {
        for (int g = 0; g < groups_; ++g)
            if (group_[static_cast<std::size_t>(g)].token == token)
                return p * group_[static_cast<std::size_t>(g)].lift / z_;
        return p / z_;
    }
    bool idle() const { return groups_ == 0; }
    void learn(std::int32_t token);
    int sources() const { return static_cast<int>(settings_.kinds.size()); }

    // Learned state: value and sum of squared gradients of every parameter.
    const std::vector<double>& state() const { return state_; }
    void set_state(const double* values) { state_.assign(values, values + state_.size()); }

 private:
    struct Group {  // the sources that name one token
        std::int32_t token;
        std::uint32_t members;
        double p;
        double logit;
        double mass;  // sum of ln(mass) over the members
        double beta;
        double lift;  // e^beta
    };
    std::size_t weights_at(std::uint32_t members) const { return std::size_t{members} * 6; }
    std::size_t token_at(std::int32_t token) const { return token_at_ + 2 * static_cast<std::size_t>(token); }
    void gather(const HintRecord* hints, const double* p);
    double boost(const Group& g) const;
    void step(std::size_t at, double rate, double gradient);

    TiltSettings settings_;
    TiltRates rates_;
    std::vector<double> state_;
    std::vector<double> initial_;
    std::array<std::size_t, kMaxHints> theta_at_{};
    std::size_t token_at_ = 0;
    std::array<std::size_t, kMaxHints> bucket_at_{};  // where the theta of this position's hint stands
    std::array<double, 3> log_mass_{};
    std::array<Group, kMaxHints> group_{};
    int groups_ = 0;
    double z_ = 1.0;
};

}  // namespace evalkit
