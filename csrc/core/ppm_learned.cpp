#include "ppm_learned.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace evalkit {

namespace {

constexpr double kFirstTrust = 0.1;     // l of a fresh stage is about half of this times its order
constexpr double kFirstSquares = 0.1;   // AdaGrad's sum of squares at the start
constexpr double kDocumentSquares = 3.0;
constexpr std::size_t kDocumentTokens = 1500;

int log2_floor(std::uint32_t x) { return 31 - __builtin_clz(x); }

// floor(2 log2 x), exactly.
int log2_halves(std::uint32_t x) {
    const int whole = log2_floor(x);
    return 2 * whole + (std::uint64_t{x} * x >= std::uint64_t{2} << (2 * whole));
}

int longest(const std::vector<int>& orders) { return orders.empty() ? 1 : orders.back(); }

}  // namespace

LearnedPpm::LearnedPpm(LearnedSettings settings)
    : settings_(std::move(settings)),
      tables_{GramTable(settings_.vocab, longest(settings_.orders), settings_.bytes, settings_.expected_tokens),
              GramTable(settings_.vocab, longest(settings_.document_orders), settings_.document_bytes,
                        settings_.document_orders.empty() ? 0 : kDocumentTokens)} {
    for (int order = 1; order <= kMaxOrder; ++order) {
        for (int clock = 0; clock < 2; ++clock) {
            const auto& orders = clock == 0 ? settings_.orders : settings_.document_orders;
            if (std::find(orders.begin(), orders.end(), order) == orders.end()) continue;
            stages_.push_back(Stage{clock, order, std::log(kFirstTrust * order / 2.0)});
            longest_[clock] = order;
        }
    }
}

void LearnedPpm::begin(std::uint32_t first_token) {
    const std::size_t s = stages_.size();
    const std::size_t v = settings_.vocab;
    const Weight fresh{0.0, kFirstSquares};
    own_.assign(s * kOwn, fresh);
    last_token_.assign(s * v, fresh);
    before_last_token_.assign(s * v, fresh);
    seen_.assign(s * static_cast<std::size_t>((longest_[0] + 1) * (longest_[1] + 1)), fresh);
    document_.assign(s, Weight{0.0, kDocumentSquares});
    entropy_.assign(settings_.side ? s * kEntropies : 0, fresh);
    top_.assign(settings_.side ? s * v : 0, fresh);
    for (GramTable& table : tables_) table.start(first_token);
    last_ = before_last_ = first_token;
    is_pending_ = false;
    pending_.assign(v, 0.0);
}

// Stages that apply at this position and their trust: all of it known before the target.
void LearnedPpm::prepare(double entropy, std::int32_t top) {
    const std::size_t stages = stages_.size();
    const int seen0 = std::min(tables_[0].seen(), longest_[0]);
    const int seen1 = std::min(tables_[1].seen(), longest_[1]);
    Weight* rows[kFeatures] = {nullptr,
                               nullptr,
                               &last_token_[last_ * stages],
                               &before_last_token_[before_last_ * stages],
                               &seen_[static_cast<std::size_t>(seen0 * (longest_[1] + 1) + seen1) * stages],
                               document_.data(),
                               nullptr,
                               nullptr};
    used_features_ = 6;
    if (settings_.side) {
        const double scaled = 1.5 * entropy;
        const std::size_t bucket = scaled >= kEntropies - 1 ? kEntropies - 1 : static_cast<std::size_t>(std::max(scaled, 0.0));
        rows[6] = &entropy_[bucket * stages];
        rows[7] = &top_[static_cast<std::size_t>(top) * stages];
        used_features_ = 8;
    }
    actives_ = 0;
    for (std::size_t s = 0; s < stages; ++s) {
        const Stage& stage = stages_[s];
        const GramTable& table = tables_[static_cast<std::size_t>(stage.clock)];
        const std::uint32_t total = table.total(stage.order);
        if (total == 0) continue;
        const std::uint32_t followers = table.distinct(stage.order);
        const auto share = static_cast<int>(std::min<std::uint32_t>(7, 8 * followers / total));
        Active& active = active_[actives_++];
        active.stage = s;
        active.total = static_cast<double>(total);
        Weight* own = &own_[s * kOwn];
        active.weights[0] = own + std::min(15, log2_floor(total));
        active.weights[1] = own + 16 + share * 16 + std::min(15, log2_halves(followers));
        for (std::size_t f = 2; f < used_features_; ++f) active.weights[f] = rows[f] + s;
        double z = stage.bias;
        for (std::size_t f = 0; f < used_features_; ++f) z += active.weights[f]->w;
        active.trust = 1.0 / (1.0 + std::exp(-z));
    }
}

// The target's probability, from the counts that find() left; remembers what learn() needs.
double LearnedPpm::mixed(double p) {
    for (std::size_t i = 0; i < actives_; ++i) {
        const Active& active = active_[i];
        q_[i] = p;
        a_[i] = static_cast<double>(hit(stages_[active.stage])) / active.total;
        p = (1.0 - active.trust) * p + active.trust * a_[i];
    }
    q_[actives_] = p;
    return p;
}

void LearnedPpm::learn() {
    const double q = q_[actives_];
    if (!(q > 0.0)) return;
    double tail = 1.0;  // what later stages leave of this one's share
    for (std::size_t i = actives_; i-- > 0;) {
        const Active& active = active_[i];
        const double l = active.trust;
        const double g = (a_[i] - q_[i]) * tail / q * (l * (1.0 - l));
        for (std::size_t f = 0; f < used_features_; ++f) {
            Weight& weight = *active.weights[f];
            weight.squares += g * g;
            weight.w += settings_.rate * g / std::sqrt(weight.squares);
        }
        tail *= 1.0 - l;
    }
}

// next: the tokens after this one, as far as they are known, for fetching ahead in a new document.
void LearnedPpm::count(std::uint32_t token, const std::int32_t* next, std::size_t n) {
    tables_[0].add(token);
    before_last_ = last_;
    last_ = token;
    if (static_cast<std::int32_t>(token) != settings_.bos) {
        tables_[1].add(token);
        return;
    }
    tables_[1].start(token);
    tables_[1].look_ahead(next, static_cast<std::size_t>(std::find(next, next + n, settings_.bos) - next));
    document_.assign(stages_.size(), Weight{0.0, kDocumentSquares});
}

void LearnedPpm::score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k,
                       const double* p, SideView side, double* out) {
    std::array<std::uint32_t, kMaxOrder + 1> other[2];
    tables_[0].look_ahead(tokens, n);
    tables_[1].look_ahead(tokens, static_cast<std::size_t>(std::find(tokens, tokens + n, settings_.bos) - tokens));
    is_pending_ = false;
    for (std::size_t i = 0; i < n; ++i, p += k, out += k) {
        const auto target = static_cast<std::uint32_t>(tokens[i]);
        const double entropy = settings_.side ? side.entropy[i] : 0.0;
        const std::int32_t top = settings_.side ? side.top[i] : 0;
        if (cands == nullptr) {
            row(p, SideView{&entropy, &top}, out);
            is_pending_ = false;
        } else {
            prepare(entropy, top);
        }
        for (GramTable& table : tables_) table.find(target);
        const double q = mixed(p[cands == nullptr ? target : 0]);
        if (cands != nullptr) {
            out[0] = q;
            for (std::size_t j = 1; j < k; ++j) {
                const std::int32_t v = cands[i * k + j];
                out[j] = p[j];
                if (v < 0) continue;
                for (std::size_t c = 0; c < 2; ++c) tables_[c].counts_of(static_cast<std::uint32_t>(v), other[c].data());
                for (std::size_t m = 0; m < actives_; ++m) {
                    const Active& active = active_[m];
                    const Stage& stage = stages_[active.stage];
                    const double count = other[stage.clock][static_cast<std::size_t>(stage.order)];
                    out[j] = (1.0 - active.trust) * out[j] + active.trust * (count / active.total);
                }
            }
        }
        learn();
        count(target, tokens + i + 1, n - i - 1);
    }
    for (GramTable& table : tables_) table.look_ahead(nullptr, 0);
}

void LearnedPpm::row(const double* p, SideView side, double* out) {
    const std::size_t vocab = settings_.vocab;
    std::copy_n(p, vocab, pending_.begin());
    pending_entropy_ = settings_.side ? *side.entropy : 0.0;
    pending_top_ = settings_.side ? *side.top : 0;
    is_pending_ = true;
    prepare(pending_entropy_, pending_top_);
    std::copy_n(p, vocab, out);
    for (auto& left : left_) {
        left.resize(vocab);
        std::iota(left.begin(), left.end(), 0u);
    }
    for (std::size_t i = 0; i < actives_; ++i) {
        const Active& active = active_[i];
        const Stage& stage = stages_[active.stage];
        auto& left = left_[stage.clock];
        auto& counts = counts_[stage.clock];
        tables_[static_cast<std::size_t>(stage.clock)].followers(stage.order, left, counts);
        const double keep = 1.0 - active.trust;
        for (std::size_t v = 0; v < vocab; ++v) out[v] *= keep;
        for (std::size_t j = 0; j < left.size(); ++j)
            out[left[j]] += active.trust * (static_cast<double>(counts[j]) / active.total);
    }
}

bool LearnedPpm::observe(std::uint32_t token) {
    if (!is_pending_) return false;
    is_pending_ = false;
    prepare(pending_entropy_, pending_top_);
    for (GramTable& table : tables_) table.find(token);
    mixed(pending_[token]);
    learn();
    count(token, nullptr, 0);
    return true;
}

void LearnedPpm::replay(const std::int32_t* tokens, std::size_t n) {
    tables_[0].look_ahead(tokens, n);
    for (std::size_t i = 0; i < n; ++i) count(static_cast<std::uint32_t>(tokens[i]), tokens + i + 1, n - i - 1);
    for (GramTable& table : tables_) table.look_ahead(nullptr, 0);
    is_pending_ = false;
}

std::vector<double> LearnedPpm::weights() const {
    std::vector<double> all;
    for (const auto* part : {&own_, &last_token_, &before_last_token_, &seen_, &document_, &entropy_, &top_}) {
        for (const Weight& weight : *part) {
            all.push_back(weight.w);
            all.push_back(weight.squares);
        }
    }
    return all;
}

bool LearnedPpm::set_weights(const double* values, std::size_t n) {
    std::size_t need = 0;
    const std::array<std::vector<Weight>*, 7> parts = {&own_, &last_token_, &before_last_token_, &seen_,
                                                       &document_, &entropy_, &top_};
    for (const auto* part : parts) need += 2 * part->size();
    if (n != need) return false;
    for (auto* part : parts) {
        for (Weight& weight : *part) {
            weight = Weight{values[0], values[1]};
            values += 2;
        }
    }
    return true;
}

std::size_t LearnedPpm::bytes() const {
    std::size_t weights = 0;
    for (const auto* part : {&own_, &last_token_, &before_last_token_, &seen_, &document_, &entropy_, &top_})
        weights += part->size() * sizeof(Weight);
    return weights + pending_.size() * sizeof(double) + tables_[0].bytes() + tables_[1].bytes();
}

}  // namespace evalkit
