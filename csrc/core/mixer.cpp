// Vectors over the vocabulary halve the time of a row.  No bit changes by it.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "mixer.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace evalkit {

namespace {

constexpr std::size_t kCountBuckets = 8;
constexpr std::size_t kTopBuckets = 5;
constexpr std::size_t kEntropyBuckets = 8;

std::size_t bit_length(std::uint32_t n) {
    std::size_t bits = 0;
    for (; n > 0; n >>= 1) ++bits;
    return bits;
}

std::size_t entropy_bucket(double nats) {
    if (!(nats >= 1.0)) return 0;
    return std::min(kEntropyBuckets - 1, static_cast<std::size_t>(std::min(nats, 64.0)));
}

}  // namespace

Mixer::Mixer(MixerSettings settings)
    : settings_(std::move(settings)),
      counts_(settings_.vocab, settings_.orders.empty() ? 0 : settings_.orders.back(), settings_.bytes),
      backoff_(settings_.smoothing, settings_.discount, settings_.orders, settings_.vocab),
      weights_(settings_.update, settings_.rate, settings_.share) {
    if (!(settings_.prior > 0.0 && settings_.prior < 1.0)) throw std::invalid_argument("the prior must lie between 0 and 1");
}

void Mixer::begin(std::uint32_t first_token) {
    counts_.start(first_token);
    weights_.start(0, {});
    has_pending_ = false;
    ahead_.clear();
}

std::size_t Mixer::buckets() const {
    const BucketChoice& by = settings_.by;
    return (by.order ? static_cast<std::size_t>(counts_.max_order()) + 1 : 1) * (by.count ? kCountBuckets : 1) *
           (by.top ? kTopBuckets : 1) * (by.entropy ? kEntropyBuckets : 1) * (by.agreement ? 2 : 1);
}

// The bucket as far as the counts say it.
std::size_t Mixer::counted_bucket() const {
    const int order = counts_.seen();
    const NgramCounts::Node& context = counts_.context(std::max(order, 1));
    const BucketChoice& by = settings_.by;
    std::size_t b = by.order ? static_cast<std::size_t>(order) : 0;
    if (by.count) b = b * kCountBuckets + std::min(kCountBuckets - 1, bit_length(context.total));
    if (by.top) {
        const std::uint64_t fifths = context.total == 0 ? 0 : std::uint64_t{5} * context.top / context.total;
        b = b * kTopBuckets + std::min<std::size_t>(kTopBuckets - 1, fifths);
    }
    return b;
}

bool Mixer::agrees(std::int32_t top_id) const {
    const int order = std::max(counts_.seen(), 1);
    const NgramCounts::Node& context = counts_.context(order);
    return context.total > 0 && counts_.pair(order, static_cast<std::uint32_t>(top_id)).count == context.top;
}

std::size_t Mixer::bucket(std::size_t counted, bool agrees, const double* entropy) const {
    const BucketChoice& by = settings_.by;
    std::size_t b = counted;
    if (by.entropy) b = b * kEntropyBuckets + entropy_bucket(*entropy);
    if (by.agreement) b = b * 2 + (agrees ? 1 : 0);
    return b;
}

// The number of stages before us shows with the first row.
void Mixer::expect(std::size_t past) {
    const std::size_t experts = 1 + past + backoff_.size();
    if (weights_.experts() == experts) return;
    if (weights_.experts() != 0) throw std::invalid_argument("the number of earlier stages changed");
    start_weights(experts);
}

void Mixer::start_weights(std::size_t experts) {
    std::vector<double> prior(experts, settings_.prior / static_cast<double>(experts - 1));
    prior[0] = 1.0 - settings_.prior;
    weights_.start(buckets(), std::move(prior));
    one_.assign(experts, 0.0);
}

// The first n of the tokens that look_ahead() was told of.  top_id: null where no bucket reads it.
void Mixer::count_range(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k,
                        const std::int32_t* top_id, double* places) {
    for (std::size_t i = 0; i < n; ++i, places += place_size(k)) {
        backoff_.resolve(counts_);
        places[0] = static_cast<double>(counted_bucket());
        places[1] = settings_.by.agreement && agrees(top_id[i]) ? 1.0 : 0.0;
        for (std::size_t j = k; j-- > 0;) {  // the target last: it stays located, for add()
            const std::int32_t v = j == 0 ? tokens[i] : cands[i * k + j];
            if (v < 0) continue;
            counts_.locate(static_cast<std::uint32_t>(v));
            backoff_.one(counts_, static_cast<std::uint32_t>(v), places + 2 + j * backoff_.size());
        }
        counts_.add(static_cast<std::uint32_t>(tokens[i]));
    }
}

void Mixer::count(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k) {
    if (n == 0 || settings_.by.agreement) return;
    std::vector<double> places(n * place_size(k));
    counts_.look_ahead(tokens, n);
    count_range(tokens, n, cands, k, nullptr, places.data());
    counts_.look_ahead(nullptr, 0);
    ahead_.put(n, k, std::move(places));
}

void Mixer::score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k, const double* p,
                  const std::vector<const double*>& past, MixerSide side, double* out) {
    expect(past.size());
    has_pending_ = false;
    if (n == 0) return;
    std::vector<const double*> stages(past);
    const std::vector<double> known = cands == nullptr ? std::vector<double>{} : ahead_.take(n, k);
    if (known.empty()) counts_.look_ahead(tokens, n);
    places_.resize(kTogether * place_size(cands == nullptr ? 1 : k));
    for (std::size_t i = 0; i < n; ++i) {
        if (cands == nullptr) {
            row(p + i * k, stages, side, out + i * k);
            observe(static_cast<std::uint32_t>(tokens[i]));
        } else {
            if (known.empty() && i % kTogether == 0)
                count_range(tokens + i, std::min(kTogether, n - i), cands + i * k, k, side.top_id, places_.data());
            const double* place = known.empty() ? &places_[i % kTogether * place_size(k)] : &known[i * place_size(k)];
            const std::size_t b = bucket(static_cast<std::size_t>(place[0]), place[1] != 0.0, side.entropy);
            for (std::size_t j = k; j-- > 0;) {  // the target's column last: `one_` is what is learned from
                one_[0] = p[i * k + j];
                for (std::size_t s = 0; s < stages.size(); ++s) one_[1 + s] = stages[s][j];
                const double* q = place + 2 + j * backoff_.size();
                std::copy(q, q + backoff_.size(), one_.begin() + static_cast<std::ptrdiff_t>(1 + stages.size()));
                out[i * k + j] = j > 0 && cands[i * k + j] < 0 ? p[i * k + j] : weights_.mix(b, one_.data());
            }
            weights_.learn(b, one_.data());
        }
        for (const double*& stage : stages) stage += k;
        if (side.entropy != nullptr) ++side.entropy;
        if (side.top_id != nullptr) ++side.top_id;
    }
    if (known.empty()) counts_.look_ahead(nullptr, 0);
    has_pending_ = false;
}

void Mixer::row(const double* p, const std::vector<const double*>& past, MixerSide side, double* out) {
    expect(past.size());
    ahead_.check_empty();
    const std::size_t vocab = settings_.vocab;
    pending_.resize(weights_.experts() * vocab);
    backoff_.resolve(counts_);
    pending_bucket_ = bucket(counted_bucket(), settings_.by.agreement && agrees(*side.top_id), side.entropy);
    has_pending_ = true;
    std::copy(p, p + vocab, pending_.begin());
    for (std::size_t s = 0; s < past.size(); ++s) std::copy(past[s], past[s] + vocab, &pending_[(1 + s) * vocab]);
    backoff_.rows(counts_, &pending_[(1 + past.size()) * vocab]);
    const double* w = weights_.at(pending_bucket_);
    std::fill(out, out + vocab, 0.0);
    for (std::size_t e = 0; e < weights_.experts(); ++e) {
        const double* from = &pending_[e * vocab];
        for (std::size_t v = 0; v < vocab; ++v) out[v] += w[e] * from[v];
    }
}

void Mixer::observe(std::uint32_t token) {
    if (!has_pending_) throw std::invalid_argument("observe() needs the row() of the same target before it");
    for (std::size_t e = 0; e < weights_.experts(); ++e) one_[e] = pending_[e * settings_.vocab + token];
    weights_.learn(pending_bucket_, one_.data());
    counts_.add(token);
    has_pending_ = false;
}

void Mixer::replay(const std::int32_t* tokens, std::size_t n) {
    ahead_.check_empty();
    counts_.look_ahead(tokens, n);
    for (std::size_t i = 0; i < n; ++i) counts_.add(static_cast<std::uint32_t>(tokens[i]));
    counts_.look_ahead(nullptr, 0);
}

std::vector<double> Mixer::state() const {
    if (!weights_.learned()) return {0.0};
    std::vector<double> out(1, static_cast<double>(weights_.experts()));
    const std::vector<double> rest = weights_.state();
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
}

void Mixer::set_state(const double* state, std::size_t size) {
    const bool sane = size > 0 && state[0] >= 0.0 && state[0] <= 4096.0 && state[0] == std::floor(state[0]);
    if (!sane) throw std::invalid_argument("not a state of this expert");
    const auto experts = static_cast<std::size_t>(state[0]);
    if (experts != 0 && experts <= backoff_.size()) throw std::invalid_argument("the state is of other weights");
    if (experts != 0) start_weights(experts);
    weights_.set_state(state + 1, size - 1);
}

}  // namespace evalkit
