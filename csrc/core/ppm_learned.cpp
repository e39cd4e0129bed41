#include "ppm_learned.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace evalkit {

namespace {

constexpr double kFirstTrust = 0.1;     // l of a fresh stage is about half of this times its order
constexpr double kFirstSquares = 0.1;   // AdaGrad's sum of squares at the start
constexpr double kDocumentSquares = 3.0;
constexpr double kFastKeep = 0.97;      // what the bias that forgets keeps of itself at each step of its stage
constexpr std::size_t kDocumentTokens = 1500;
constexpr double kCertain = 1e-6;       // nearer to 0 or 1 nothing is decided: 1 - q must be far from its rounding
constexpr double kPriorCount = 0.4;     // of q in the shares that the decision reads
constexpr double kDecisionSquares = 1.0;

double within(double p) { return std::min(1.0 - kCertain, std::max(kCertain, p)); }
double logit(double p) { return std::log(p / (1.0 - p)); }
double sigmoid(double z) { return 1.0 / (1.0 + std::exp(-z)); }

int log2_floor(std::uint32_t x) { return 31 - __builtin_clz(x); }

// floor(2 log2 x), exactly.
int log2_halves(std::uint32_t x) {
    const int whole = log2_floor(x);
    return 2 * whole + (std::uint64_t{x} * x >= std::uint64_t{2} << (2 * whole));
}

int longest(const std::vector<int>& orders) { return orders.empty() ? 1 : orders.back(); }

// AdaGrad: squares += g^2, weight += rate g / sqrt(squares).  Nothing moves where g is 0.
inline void adagrad(double& weight, double& squares, double g, double rated) {
    squares += g * g;
    weight += rated / std::sqrt(squares);
}

// The same for n weights side by side, n a multiple of 4.  From the last to the first: g was written in that order just
// before.  Root and quotient are correctly rounded in every width, so the bits do not depend on the machine.
using AdagradRow = void (*)(double* weight, double* squares, const double* g, const double* rated, std::size_t n);

#if defined(__SSE2__)
void adagrad_row_2(double* weight, double* squares, const double* g, const double* rated, std::size_t n) {
    for (std::size_t i = n; i > 0;) {
        i -= 2;
        const __m128d step = _mm_loadu_pd(g + i);
        const __m128d sum = _mm_add_pd(_mm_loadu_pd(squares + i), _mm_mul_pd(step, step));
        const __m128d move = _mm_div_pd(_mm_loadu_pd(rated + i), _mm_sqrt_pd(sum));
        _mm_storeu_pd(squares + i, sum);
        _mm_storeu_pd(weight + i, _mm_add_pd(_mm_loadu_pd(weight + i), move));
    }
}

// A quarter of the expert's time on AVX machines is saved by this one.
__attribute__((target("avx"))) void adagrad_row_4(double* weight, double* squares, const double* g,
                                                  const double* rated, std::size_t n) {
    for (std::size_t i = n; i > 0;) {
        i -= 4;
        const __m256d step = _mm256_loadu_pd(g + i);
        const __m256d sum = _mm256_add_pd(_mm256_loadu_pd(squares + i), _mm256_mul_pd(step, step));
        const __m256d move = _mm256_div_pd(_mm256_loadu_pd(rated + i), _mm256_sqrt_pd(sum));
        _mm256_storeu_pd(squares + i, sum);
        _mm256_storeu_pd(weight + i, _mm256_add_pd(_mm256_loadu_pd(weight + i), move));
    }
}

AdagradRow adagrad_row() { return __builtin_cpu_supports("avx") ? adagrad_row_4 : adagrad_row_2; }
#else
void adagrad_row_1(double* weight, double* squares, const double* g, const double* rated, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) adagrad(weight[i], squares[i], g[i], rated[i]);
}

AdagradRow adagrad_row() { return adagrad_row_1; }
#endif

const AdagradRow kAdagradRow = adagrad_row();

}  // namespace

template <class Table>
LearnedPpmOf<Table>::LearnedPpmOf(LearnedSettings settings)
    : settings_(std::move(settings)),
      tables_{Table(settings_.vocab, longest(settings_.orders), settings_.bytes, settings_.expected_tokens),
              Table(settings_.vocab, longest(settings_.document_orders), settings_.document_bytes,
                        settings_.document_orders.empty() ? 0 : kDocumentTokens)},
      corpus_(settings_.corpus_orders.empty() ? nullptr : settings_.corpus) {
    for (int order = 1; order <= kMaxOrder; ++order) {
        for (const int clock : {kCorpus, 0, 1}) {
            const auto& orders = *std::array{&settings_.orders, &settings_.document_orders, &settings_.corpus_orders}[static_cast<std::size_t>(clock)];
            if (std::find(orders.begin(), orders.end(), order) == orders.end()) continue;
            bias_[stages_.size()] = std::log(kFirstTrust * order / 2.0);
            on_[clock].push_back(OnClock{stages_.size(), static_cast<std::size_t>(order)});
            stages_.push_back(Stage{clock, order});
            longest_[clock] = order;
        }
    }
    width_ = (stages_.size() + 3) / 4 * 4;
}

template <class Table>
std::size_t LearnedPpmOf<Table>::values_of(int feature) const {
    const std::size_t vocab = settings_.vocab;
    switch (feature) {
        case kSeen: return static_cast<std::size_t>((longest_[0] + 1) * (longest_[1] + 1) * (longest_[kCorpus] + 1));
        case kDocument: return 1;
        case kEntropy: return settings_.side ? kEntropies : 0;
        case kTop: return settings_.side ? vocab : 0;
        default: return vocab;
    }
}

template <class Table>
int LearnedPpmOf<Table>::seen(int clock) const {
    return std::min(at(clock, [](const auto& t) { return t.seen(); }), longest_[clock]);
}

template <class Table>
void LearnedPpmOf<Table>::begin(std::uint32_t first_token) {
    for (int f = 0; f < kSharedFeatures; ++f) {
        const std::size_t n = values_of(f) * width_;
        shared_[static_cast<std::size_t>(f)] = Feature{std::vector<double>(n, 0.0), std::vector<double>(n, kFirstSquares)};
    }
    const std::size_t n = stages_.size() * kOwn;
    own_ = Feature{std::vector<double>(n, 0.0), std::vector<double>(n, kFirstSquares)};
    fast_.fill(0.0);
    const std::size_t rows = settings_.decide > 0.0 ? 1 + values_of(kSeen) + settings_.vocab : 0;
    decide_ = Feature{std::vector<double>(rows * kInputs, 0.0), std::vector<double>(rows * kInputs, kDecisionSquares)};
    for (std::size_t row = 0; row < rows; ++row) decide_.weight[row * kInputs] = 1.0;
    fresh_document();
    for (Table& table : tables_) table.start(first_token);
    corpus_.start(first_token);
    last_ = before_last_ = first_token;
    is_pending_ = false;
    pending_.assign(settings_.vocab, 0.0);
    ahead_.clear();
}

template <class Table>
void LearnedPpmOf<Table>::fresh_document() {
    Feature& document = shared_[kDocument];
    std::fill(document.weight.begin(), document.weight.end(), 0.0);
    std::fill(document.squares.begin(), document.squares.end(), kDocumentSquares);
}

template <class Table>
void LearnedPpmOf<Table>::use_row(int feature, std::size_t value) {
    row_[static_cast<std::size_t>(feature)] = value * width_;
    rows_ = static_cast<std::size_t>(feature) + 1;
}

// What the tables say of the current position, apart from the counts of single tokens.
template <class Table>
void LearnedPpmOf<Table>::read_place(std::uint32_t* place) const {
    *place++ = static_cast<std::uint32_t>(seen(0) | seen(1) << 8 | seen(kCorpus) << 16);
    std::uint32_t* distinct = place + stages_.size();
    for (int clock = 0; clock < kClocks; ++clock) {
        at(clock, [&](const auto& table) {
            for (const OnClock& x : on_[clock]) {
                place[x.stage] = table.total(static_cast<int>(x.order));
                distinct[x.stage] = table.distinct(static_cast<int>(x.order));
            }
        });
    }
}

template <class Table>
void LearnedPpmOf<Table>::read_hits(std::uint32_t token, std::uint32_t* hits) {
    for (Table& table : tables_) table.find(token);
    corpus_.find(token);
    for (int clock = 0; clock < kClocks; ++clock)
        at(clock, [&](const auto& table) {
            for (const OnClock& x : on_[clock]) hits[x.stage] = table.hit(static_cast<int>(x.order));
        });
}

// Counts of any token, find() left as it is.
template <class Table>
void LearnedPpmOf<Table>::read_counts(std::uint32_t token, std::uint32_t* hits) const {
    std::array<std::uint32_t, kMaxOrder + 1> counts;
    for (int clock = 0; clock < kClocks; ++clock) {
        if (on_[clock].empty()) continue;
        at(clock, [&](const auto& table) { table.counts_of(token, counts.data()); });
        for (const OnClock& x : on_[clock]) hits[x.stage] = counts[x.order];
    }
}

// Stages that apply at this position and their trust: all of it known before the target.
template <class Table>
void LearnedPpmOf<Table>::prepare(const std::uint32_t* place, double entropy, std::int32_t top) {
    const int seen0 = place[0] & 255, seen1 = place[0] >> 8 & 255, seen2 = static_cast<int>(place[0] >> 16);
    const std::uint32_t *totals = place + 1, *distincts = totals + stages_.size();
    use_row(kLast, last_);
    use_row(kBeforeLast, before_last_);
    use_row(kSeen, static_cast<std::size_t>((seen0 * (longest_[1] + 1) + seen1) * (longest_[kCorpus] + 1) + seen2));
    use_row(kDocument, 0);
    if (settings_.side) {
        const double scaled = std::max(1.5 * entropy, 0.0);
        use_row(kEntropy, scaled < kEntropies - 1 ? static_cast<std::size_t>(scaled) : kEntropies - 1);
        use_row(kTop, static_cast<std::size_t>(top));
    }
    std::array<double, kMaxStages> z;
    const double* weight[kSharedFeatures];
    for (std::size_t f = 0; f < rows_; ++f) weight[f] = &shared_[f].weight[row_[f]];
    for (std::size_t s = 0; s < width_; s += 2) {
        double even = bias_[s] + fast_[s], odd = bias_[s + 1] + fast_[s + 1];
        for (std::size_t f = 0; f < rows_; ++f) {
            even += weight[f][s];
            odd += weight[f][s + 1];
        }
        z[s] = even;
        z[s + 1] = odd;
    }
    actives_ = 0;
    for (std::size_t s = 0; s < stages_.size(); ++s) {
        const std::uint32_t total = totals[s], distinct = distincts[s];
        if (total == 0) continue;
        const std::uint32_t followers = std::min(distinct, kMaxDistinct);
        const std::uint32_t share = std::min(7u, 8 * followers / total);
        Active& active = active_[actives_++];
        active.stage = s;
        active.discount = stages_[s].clock == kCorpus ? 0.0 : settings_.discount;
        active.total = static_cast<double>(total) - active.discount * static_cast<double>(distinct);
        active.own_total = s * kOwn + static_cast<std::size_t>(std::min(15, log2_floor(total)));
        active.own_followers = s * kOwn + 16 + share * 16 + static_cast<std::size_t>(std::min(15, log2_halves(followers)));
        const double sum = z[s] + own_.weight[active.own_total] + own_.weight[active.own_followers];
        active.trust = 1.0 / (1.0 + std::exp(-sum));
    }
}

// The target's probability from its counts; remembers what learn() needs.
template <class Table>
double LearnedPpmOf<Table>::mixed(const std::uint32_t* hits, double p) {
    for (std::size_t i = 0; i < actives_; ++i) {
        const Active& active = active_[i];
        q_[i] = p;
        a_[i] = share(hits[active.stage], active);
        p = (1.0 - active.trust) * p + active.trust * a_[i];
    }
    q_[actives_] = p;
    return p;
}

// The probability of any other token from its counts.
template <class Table>
double LearnedPpmOf<Table>::other(const std::uint32_t* counts, double p) const {
    for (std::size_t i = 0; i < actives_; ++i) {
        const Active& active = active_[i];
        p = (1.0 - active.trust) * p + active.trust * share(counts[active.stage], active);
    }
    return p;
}

template <class Table>
void LearnedPpmOf<Table>::learn() {
    const double q = q_[actives_];
    if (!(q > 0.0)) return;
    // Stages beyond the last one that applies, and those left out before it, have slope 0 and do not move.
    std::array<double, kMaxStages> g, rated;
    const std::size_t width = actives_ == 0 ? 0 : active_[actives_ - 1].stage / 4 * 4 + 4;
    std::fill_n(g.begin(), width, 0.0);
    std::fill_n(rated.begin(), width, 0.0);
    double tail = 1.0;  // what later stages leave of this one's share
    for (std::size_t i = actives_; i-- > 0;) {
        const Active& active = active_[i];
        const double l = active.trust;
        const double slope = (a_[i] - q_[i]) * tail / q * (l * (1.0 - l));
        const double rated_slope = settings_.rate * slope;
        g[active.stage] = slope;
        rated[active.stage] = rated_slope;
        fast_[active.stage] = kFastKeep * (fast_[active.stage] + settings_.fast * slope);
        adagrad(own_.weight[active.own_total], own_.squares[active.own_total], slope, rated_slope);
        adagrad(own_.weight[active.own_followers], own_.squares[active.own_followers], slope, rated_slope);
        tail *= 1.0 - l;
    }
    for (std::size_t f = 0; f < rows_; ++f)
        kAdagradRow(&shared_[f].weight[row_[f]], &shared_[f].squares[row_[f]], g.data(), rated.data(), width);
}

// The decision about token h, whose probability before the stages is p: all of it known before the target.
// counts: of h in every stage.
template <class Table>
void LearnedPpmOf<Table>::consider(std::uint32_t h, const std::uint32_t* place, const std::uint32_t* counts, double p) {
    const double q = other(counts, p);
    Decision& d = decision_;
    d = Decision{};
    d.id = h;
    d.yes = q;
    d.made = q >= kCertain && q <= 1.0 - kCertain;
    if (!d.made) return;
    const double odds = logit(q);
    const std::uint32_t* totals = place + 1;
    const auto evidence = [&](int clock) {
        for (std::size_t i = on_[clock].size(); i-- > 0;) {
            const std::size_t s = on_[clock][i].stage;
            if (totals[s] == 0) continue;
            const double n = counts[s], total = totals[s];
            return logit((n + kPriorCount * q) / (total + kPriorCount)) - odds;
        }
        return 0.0;
    };
    const std::uint32_t here = on_[1].empty() ? 0 : counts[on_[1][0].stage];
    d.input = {odds, logit(within(p)) - odds, 1.0, evidence(kCorpus), evidence(0), evidence(1),
               std::log(1.0 + static_cast<double>(here))};
    d.row = {0, kInputs + row_[kSeen] / width_ * kInputs, (1 + values_of(kSeen) + h) * kInputs};
    double sum = 0.0;
    for (std::size_t g = 0; g < kSets; ++g) {
        for (std::size_t u = 0; u < kInputs; ++u) d.logit[g] += decide_.weight[d.row[g] + u] * d.input[u];
        sum += d.logit[g];
    }
    d.yes = within(sigmoid(sum / static_cast<double>(kSets)));
    d.others = (1.0 - d.yes) / (1.0 - q);
}

// The same for the row that row() was given, behind read_place() and prepare().
template <class Table>
void LearnedPpmOf<Table>::consider_pending() {
    const auto h = static_cast<std::uint32_t>(pending_top_);
    std::uint32_t* counts = places_.data() + counts_from(0);
    read_counts(h, counts);
    consider(h, places_.data(), counts, pending_[h]);
}

template <class Table>
void LearnedPpmOf<Table>::learn_decision(std::uint32_t token) {
    const Decision& d = decision_;
    if (!d.made) return;
    for (std::size_t g = 0; g < kSets; ++g) {
        const double error = (token == d.id ? 1.0 : 0.0) - sigmoid(d.logit[g]);
        for (std::size_t u = 0; u < kInputs; ++u) {
            const double slope = error * d.input[u];
            adagrad(decide_.weight[d.row[g] + u], decide_.squares[d.row[g] + u], slope, settings_.decide * slope);
        }
    }
}

// next: the tokens after this one, as far as they are known, for fetching ahead in a new document.
template <class Table>
void LearnedPpmOf<Table>::add(std::uint32_t token, const std::int32_t* next, std::size_t n) {
    tables_[0].add(token);
    corpus_.add(token);
    if (static_cast<std::int32_t>(token) != settings_.bos) {
        tables_[1].add(token);
        return;
    }
    tables_[1].start(token);
    tables_[1].look_ahead(next, static_cast<std::size_t>(std::find(next, next + n, settings_.bos) - next));
}

// The trusts go on to the next position.
template <class Table>
void LearnedPpmOf<Table>::pass(std::uint32_t token) {
    before_last_ = last_;
    last_ = token;
    if (static_cast<std::int32_t>(token) == settings_.bos) fresh_document();
}

template <class Table>
void LearnedPpmOf<Table>::look_ahead(const std::int32_t* tokens, std::size_t n) {
    tables_[0].look_ahead(tokens, n);
    corpus_.look_ahead(tokens, n);
    tables_[1].look_ahead(tokens, static_cast<std::size_t>(std::find(tokens, tokens + n, settings_.bos) - tokens));
}

// Rows of weights that the next position will use: fetching them reads no score.
template <class Table>
inline void LearnedPpmOf<Table>::fetch_rows(std::uint32_t last, std::int32_t top) const {
    const auto fetch = [&](int feature, std::size_t value) {
        const Feature& f = shared_[static_cast<std::size_t>(feature)];
        for (std::size_t s = 0; s < width_; s += 8) {
            __builtin_prefetch(&f.weight[value * width_ + s], 1);
            __builtin_prefetch(&f.squares[value * width_ + s], 1);
        }
    };
    fetch(kLast, last);
    if (top >= 0) fetch(kTop, static_cast<std::size_t>(top));
}

// What the hints of later positions will read; cands: from the position being scored on, n of them.
template <class Table>
inline void LearnedPpmOf<Table>::fetch_hints(const std::int32_t* cands, std::size_t n, std::size_t k) const {
    if constexpr (std::is_same_v<Table, ContinuationTable>) {
        const auto each = [&](std::size_t ahead, auto&& f) {
            if (ahead >= n) return;
            const std::int32_t* ids = cands + ahead * k;
            for (std::size_t j = 1; j < k; ++j)
                if (ids[j] >= 0 && std::find(ids, ids + j, ids[j]) == ids + j) f(static_cast<std::uint32_t>(ids[j]));
        };
        each(Table::kFar, [&](std::uint32_t v) { tables_[0].fetch_far(v); });
        each(Table::kNear, [&](std::uint32_t v) { tables_[0].fetch_near(v); });
    }
}

// places: of positions from..to-1 of a text that look_ahead() was told of.
template <class Table>
void LearnedPpmOf<Table>::count_range(const Text& text, std::size_t from, std::size_t to, std::uint32_t* places) {
    const std::size_t k = text.k;
    for (std::size_t i = from; i < to; ++i, places += place_size(k)) {
        const auto target = static_cast<std::uint32_t>(text.tokens[i]);
        const std::int32_t* ids = text.cands + i * k;
        if (k > 1) fetch_hints(ids, text.n - i, k);
        read_place(places);
        std::uint32_t* hits = places + counts_from(0);
        read_hits(target, hits);
        for (std::size_t j = 1; j < k; ++j) {
            hits += stages_.size();
            if (ids[j] < 0 || std::find(ids, ids + j, ids[j]) < ids + j) continue;  // those of the same id stand before
            read_counts(static_cast<std::uint32_t>(ids[j]), hits);
        }
        add(target, text.tokens + i + 1, text.n - i - 1);
    }
}

template <class Table>
void LearnedPpmOf<Table>::score_range(const Text& text, std::size_t from, std::size_t to, const std::uint32_t* places,
                                      const double* p, SideView side, double* out) {
    const std::size_t k = text.k;
    p += from * k;
    out += from * k;
    for (std::size_t i = from; i < to; ++i, p += k, out += k, places += place_size(k)) {
        const auto target = static_cast<std::uint32_t>(text.tokens[i]);
        const std::int32_t* ids = text.cands + i * k;
        if (i + 2 < text.n) fetch_rows(static_cast<std::uint32_t>(text.tokens[i + 1]), settings_.side ? side.top[i + 2] : -1);
        prepare(places, settings_.side ? side.entropy[i] : 0.0, settings_.side ? side.top[i] : 0);
        out[0] = mixed(places + counts_from(0), p[0]);
        for (std::size_t j = 1; j < k; ++j) {
            out[j] = p[j];
            if (ids[j] < 0) continue;
            const auto same = static_cast<std::size_t>(std::find(ids, ids + j, ids[j]) - ids);
            // Hints often agree with each other, and with the target.
            out[j] = same < j && p[same] == p[j] ? out[same] : other(places + counts_from(same), p[j]);
        }
        if (settings_.decide > 0.0) {
            const std::int32_t h = ids[text.own];
            const auto first = static_cast<std::size_t>(std::find(ids, ids + text.own, h) - ids);
            consider(static_cast<std::uint32_t>(h), places, places + counts_from(first), p[text.own]);
            for (std::size_t j = 0; j < k; ++j)
                if (ids[j] >= 0) out[j] = decided(static_cast<std::uint32_t>(ids[j]), out[j]);
            learn_decision(target);
        }
        learn();
        pass(target);
    }
}

template <class Table>
void LearnedPpmOf<Table>::count(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k) {
    if (n == 0) return;
    std::vector<std::uint32_t> places(n * place_size(k));
    look_ahead(tokens, n);
    count_range(Text{tokens, n, cands, k}, 0, n, places.data());
    look_ahead(nullptr, 0);
    ahead_.put(n, k, std::move(places));
}

template <class Table>
void LearnedPpmOf<Table>::score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k,
                                std::size_t own, const double* p, SideView side, double* out) {
    is_pending_ = false;
    if (n == 0) return;
    const Text text{tokens, n, cands, k, own};
    if (cands != nullptr) {
        const std::vector<std::uint32_t> known = ahead_.take(n, k);
        if (!known.empty()) return score_range(text, 0, n, known.data(), p, side, out);
        places_.resize(kTogether * place_size(k));
        look_ahead(tokens, n);
        for (std::size_t from = 0; from < n; from += kTogether) {
            const std::size_t to = std::min(from + kTogether, n);
            count_range(text, from, to, places_.data());
            score_range(text, from, to, places_.data(), p, side, out);
        }
    } else {
        ahead_.check_empty();
        look_ahead(tokens, n);
        for (std::size_t i = 0; i < n; ++i, p += k, out += k) {
            const auto target = static_cast<std::uint32_t>(tokens[i]);
            row(p, settings_.side ? SideView{side.entropy + i, side.top + i} : SideView{}, out);
            std::uint32_t* hits = places_.data() + counts_from(0);
            read_hits(target, hits);
            mixed(hits, p[target]);
            if (settings_.decide > 0.0) learn_decision(target);
            learn();
            add(target, tokens + i + 1, n - i - 1);
            pass(target);
        }
    }
    look_ahead(nullptr, 0);
    is_pending_ = false;
}

template <class Table>
void LearnedPpmOf<Table>::row(const double* p, SideView side, double* out) {
    ahead_.check_empty();
    const std::size_t vocab = settings_.vocab;
    std::copy_n(p, vocab, pending_.begin());
    pending_entropy_ = settings_.side ? *side.entropy : 0.0;
    pending_top_ = settings_.side ? *side.top : 0;
    is_pending_ = true;
    places_.resize(std::max(places_.size(), place_size(1)));
    read_place(places_.data());
    prepare(places_.data(), pending_entropy_, pending_top_);
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
        at(stage.clock, [&](const auto& t) { t.followers(stage.order, left, counts); });
        const double keep = 1.0 - active.trust;
        for (std::size_t v = 0; v < vocab; ++v) out[v] *= keep;
        for (std::size_t j = 0; j < left.size(); ++j)
            out[left[j]] += active.trust * share(counts[j], active);
    }
    if (settings_.decide > 0.0) {
        consider_pending();
        for (std::size_t v = 0; v < vocab; ++v) out[v] = decided(static_cast<std::uint32_t>(v), out[v]);
    }
}

template <class Table>
bool LearnedPpmOf<Table>::observe(std::uint32_t token) {
    if (!is_pending_) return false;
    is_pending_ = false;
    ahead_.check_empty();
    read_place(places_.data());
    prepare(places_.data(), pending_entropy_, pending_top_);
    if (settings_.decide > 0.0) {
        consider_pending();
        learn_decision(token);
    }
    std::uint32_t* hits = places_.data() + counts_from(0);
    read_hits(token, hits);
    mixed(hits, pending_[token]);
    learn();
    add(token, nullptr, 0);
    pass(token);
    return true;
}

template <class Table>
void LearnedPpmOf<Table>::replay(const std::int32_t* tokens, std::size_t n) {
    ahead_.check_empty();
    look_ahead(tokens, n);
    for (std::size_t i = 0; i < n; ++i) {
        add(static_cast<std::uint32_t>(tokens[i]), tokens + i + 1, n - i - 1);
        pass(static_cast<std::uint32_t>(tokens[i]));
    }
    look_ahead(nullptr, 0);
    is_pending_ = false;
}

template <class Table>
std::vector<double> LearnedPpmOf<Table>::weights() const {
    std::vector<double> all;
    const auto append = [&](const Feature& feature) {
        all.insert(all.end(), feature.weight.begin(), feature.weight.end());
        all.insert(all.end(), feature.squares.begin(), feature.squares.end());
    };
    append(own_);
    for (const Feature& feature : shared_) append(feature);
    if (settings_.fast > 0.0) all.insert(all.end(), fast_.begin(), fast_.begin() + static_cast<std::ptrdiff_t>(stages_.size()));
    append(decide_);
    return all;
}

template <class Table>
std::size_t LearnedPpmOf<Table>::lasting() const {
    std::size_t n = 2 * own_.weight.size();
    for (const Feature& feature : shared_) n += 2 * feature.weight.size();
    return n;
}

template <class Table>
bool LearnedPpmOf<Table>::set_weights(const double* values, std::size_t n) {
    const std::size_t fast = settings_.fast > 0.0 ? stages_.size() : 0;
    if (n != lasting() + fast + 2 * decide_.weight.size()) return false;
    const auto take = [&](std::vector<double>& part) {
        std::copy_n(values, part.size(), part.begin());
        values += part.size();
    };
    take(own_.weight);
    take(own_.squares);
    for (Feature& feature : shared_) {
        take(feature.weight);
        take(feature.squares);
    }
    std::copy_n(values, fast, fast_.begin());
    values += fast;
    take(decide_.weight);
    take(decide_.squares);
    return true;
}

template <class Table>
std::size_t LearnedPpmOf<Table>::bytes() const {
    const std::size_t numbers = pending_.size() + lasting() + 2 * decide_.weight.size();
    return numbers * sizeof(double) + tables_[0].bytes() + tables_[1].bytes();
}

template class LearnedPpmOf<GramTable>;
template class LearnedPpmOf<ContinuationTable>;

}  // namespace evalkit
