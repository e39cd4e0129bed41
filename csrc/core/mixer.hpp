// How are the incoming row, the earlier stages of the stack and our own n-gram distributions mixed into one row?
//
//     p'(v) = w_0 p(v) + sum_j w_j p_j(v) + sum_k w_k q_k(v)       w: the weights of a bucket known before the target
//
// Every expert is a distribution over the vocabulary and w sums to 1, so p' does.  The bucket reads the prefix alone:
// the highest order seen, its count, how peaked it is, the entropy of the model's row, and whether the model's most
// probable token is the n-gram's too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backoff.hpp"
#include "counted_ahead.hpp"
#include "ngram_counts.hpp"
#include "hedge_weights.hpp"

namespace evalkit {

// Which of these numbers pick the bucket?
struct BucketChoice {
    bool order = false;      // highest order whose context was seen: 0..max_order
    bool count = false;      // bit length of that context's count: 0..7
    bool top = false;        // fifths of that count held by its most frequent token: 0..4
    bool entropy = false;    // whole nats of the model's entropy: 0..7
    bool agreement = false;  // the model's most probable token is the most frequent one there: 0..1
};

struct MixerSettings {
    std::uint32_t vocab = 0;
    std::vector<int> orders;    // whose n-gram distributions are experts, rising
    Smoothing smoothing = Smoothing::kWittenBell;
    double discount = 0.75;
    BucketChoice by;
    Update update = Update::kSoftBayes;
    double rate = 0.02;
    double share = 0.0;
    double prior = 0.1;         // first weight of all experts but the incoming row, together
    std::size_t bytes = 0;      // memory bound of the counts
};

// One value per target, null where the bucket does not read it.
struct MixerSide {
    const double* entropy;
    const std::int32_t* top_id;
};

class Mixer {
 public:
    explicit Mixer(MixerSettings settings);

    void begin(std::uint32_t first_token);
    // p, out, each of past: [n, k].  cands: [n, k] token ids, -1 where there is none; null when k == vocab.
    void score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k, const double* p,
               const std::vector<const double*>& past, MixerSide side, double* out);
    // Count tokens that score() will be given next, with the same cands (not null), so that it need not: no score is read, so
    // this may run in another thread while score() works on what was counted before.  Each call is answered by one of
    // score(); row(), observe() and replay() need that none is left.  Where the bucket asks for agreement it does nothing.
    void count(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k);
    void row(const double* p, const std::vector<const double*>& past, MixerSide side, double* out);
    // The target of the last row.
    void observe(std::uint32_t token);
    // Count tokens whose weights are known from a state.
    void replay(const std::int32_t* tokens, std::size_t n);

    const NgramCounts& counts() const { return counts_; }
    // Number of experts (0: nothing learned yet), then the state of the weights.
    std::vector<double> state() const;
    void set_state(const double* state, std::size_t size);
    std::size_t bytes() const { return counts_.bytes() + weights_.bytes() + 8 * pending_.size(); }

 private:
    void expect(std::size_t past);
    void start_weights(std::size_t experts);
    static constexpr std::size_t kTogether = 64;  // positions that are counted before their weights are worked out
    // All that the counts say at one position: the bucket so far, whether the model's most probable token is the most frequent
    // one, and by order the probability of each candidate.
    std::size_t place_size(std::size_t k) const { return 2 + k * backoff_.size(); }
    void count_range(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k,
                     const std::int32_t* top_id, double* places);
    std::size_t counted_bucket() const;
    bool agrees(std::int32_t top_id) const;
    std::size_t bucket(std::size_t counted, bool agrees, const double* entropy) const;
    std::size_t buckets() const;

    MixerSettings settings_;
    NgramCounts counts_;
    Backoff backoff_;
    HedgeWeights weights_;
    std::vector<double> one_;      // [experts]
    std::vector<double> pending_;  // [experts][vocab] of the last strict row
    std::size_t pending_bucket_ = 0;
    bool has_pending_ = false;
    std::vector<double> places_;  // scratch of score()
    CountedAhead<double> ahead_;
};

}  // namespace evalkit
