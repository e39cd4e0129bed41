// How much is each expert trusted in each kind of place?  One weight vector per bucket, learned from booked scores.
//
//     hedge        w_k <- w_k p_k(x)^rate / sum          then fixed share:  w <- (1 - share) w + share prior
//     soft_bayes   w_k <- w_k (1 - e + e p_k(x) / m(x))   with m the mixture, e = max(rate, 1 / (10 + visits)); share too
//
// hedge finds the best expert, soft_bayes the best fixed mixture.  Both keep w a distribution over the experts.
// (Littlestone and Warmuth 1994; Herbster and Warmuth 1998; Orseau, Lattimore and Legg 2017.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace evalkit {

enum class Update { kHedge, kSoftBayes };

class HedgeWeights {
 public:
    HedgeWeights(Update update, double rate, double share);

    // Every bucket starts at `prior` [experts], which sums to 1.
    void start(std::size_t buckets, std::vector<double> prior);
    std::size_t experts() const { return prior_.size(); }
    const double* at(std::size_t bucket) const { return &weight_[bucket * prior_.size()]; }
    double mix(std::size_t bucket, const double* p) const;
    // p [experts]: probability of the booked target by each expert.
    void learn(std::size_t bucket, const double* p);

    bool learned() const { return learned_; }
    // visits [buckets], then weights [buckets][experts]; exact to the bit.
    std::vector<double> state() const;
    void set_state(const double* state, std::size_t size);
    std::size_t bytes() const { return 8 * (weight_.size() + visits_.size()); }

 private:
    void hedge(double* w, const double* p);
    void soft_bayes(double* w, const double* p, double mixture, double visits) const;

    Update update_;
    double rate_;
    double share_;
    std::vector<double> prior_;
    std::vector<double> weight_;
    std::vector<double> visits_;
    std::vector<double> log_;
    bool learned_ = false;
};

}  // namespace evalkit
