// How do exact counts on two clocks sharpen a distribution, with trust that is learned from booked scores?
//
// Stages s = (clock, order): the stream's counts and the current document's, orders interleaved from low to high.
//
//     q(v) := (1 - l_s) q(v) + l_s n_s(v) / N_s        l_s = sigmoid(z_s); skipped where N_s = 0
//     z_s = b_s + sum over features f of w_f[s, value of f]
//
// Every feature is known before the target: bucket of N, bucket of (followers / N, followers), the last token, the token
// before, the longest contexts seen on both clocks, a bias that starts anew with each document, and (when asked) the
// entropy and the argmax of the model's row.  So l_s does not depend on v, and every stage maps a distribution to a
// distribution.  After the target is booked, each weight takes an AdaGrad step along d log q(target) / d z_s.  A second
// bias per stage, with a plain rate, forgets a little at every step: it follows where the text is going now.
//
// With decide, one more step: is the target h, the model's most probable token?  With q = q(h) after the stages, and odds
// in place of shares,
//
//     logit a = mean over sets g of w_g . x      x = logit q, logit p(h) - logit q, 1, for each clock
//               logit((n(h) + 0.4 q) / (N + 0.4)) - logit q in its longest context, and log(1 + n(h)) in the document's
//               shortest one
//     q'(h) = a, q'(v) = q(v) (1 - a) / (1 - q)
//
// The sets: one for all positions, one for each triple of longest contexts, one for each h.  Each learns by AdaGrad as if it
// answered alone (the first layer of PAQ's mixers); their weights begin at a = q.  Evidence adds up in odds, where the
// stages can only move from one share to another.
//
// Table: GramTable counts occurrences.  ContinuationTable counts, below the longest order, different tokens before; with
// it a discount d is taken off every count, (n - d) / (N - d followers).
//
// Secondary escape estimation (Shkarin's PPMII, 2002) over a neural distribution, with a linear model in place of one
// counter per state.  What each feature is worth is measured in benches/DEADENDS.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "continuation_table.hpp"
#include "counted_ahead.hpp"
#include "gram_reader.hpp"
#include "gram_table.hpp"

namespace evalkit {

struct LearnedSettings {
    std::uint32_t vocab = 0;
    std::int32_t bos = -1;              // counting this token begins a document
    std::vector<int> orders;            // on the stream's clock, ascending; may be empty
    std::vector<int> document_orders;   // on the document's clock, ascending; may be empty
    std::vector<int> corpus_orders;     // of the corpus, ascending; may be empty
    std::shared_ptr<const GramTable> corpus;  // sealed; read only where corpus_orders has orders
    double rate = 0.3;                  // of AdaGrad
    double fast = 0.0;                  // plain rate of the bias that forgets; 0: none
    double discount = 0.0;              // 0..1, off every count; above 0 only where Table::distinct() is exact
    bool side = false;                  // use entropy and argmax of the model's row
    double decide = 0.0;                // AdaGrad rate of the decision about the argmax; 0: none; needs side
    std::size_t bytes = 0;              // memory bound of the stream's table
    std::size_t document_bytes = 0;     // memory bound of the document's table
    std::size_t expected_tokens = 0;
};

// Entropy (nats) and argmax of the model's row; read only when LearnedSettings::side.
struct SideView {
    const double* entropy = nullptr;
    const std::int32_t* top = nullptr;
};

template <class Table>
class LearnedPpmOf {
 public:
    explicit LearnedPpmOf(LearnedSettings settings);

    void begin(std::uint32_t first_token);
    // p, out: [n, k].  cands: [n, k] ids, -1 where there is none; null when k == vocab and column v is token v.
    // own: the column of the model's argmax, read with decide and cands.
    void score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k, std::size_t own,
               const double* p, SideView side, double* out);
    // Count tokens that score() will be given next, with the same cands, so that it need not: no score is read, so this may run
    // in another thread while score() works on what was counted before.  Each call is answered by one of score().  row(),
    // observe() and replay() need that none is left.
    void count(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k);
    // The row of the next target; what observe() needs of p and side is kept.
    void row(const double* p, SideView side, double* out);
    // Learn the target whose row was asked for last.  False when none was.
    bool observe(std::uint32_t token);
    // Count tokens without learning.
    void replay(const std::int32_t* tokens, std::size_t n);

    // All weights with their sums of squares, in a fixed order.
    std::vector<double> weights() const;
    // How many of them, from the first on, say how far counts can be trusted in any text.
    std::size_t lasting() const;
    // False when the number of values is wrong.
    bool set_weights(const double* values, std::size_t n);

    std::size_t bytes() const;
    const Table& stream() const { return tables_[0]; }

 private:
    // Weights of one feature: for each of its values a row with one weight per stage, and AdaGrad's sums of squares.
    struct Feature {
        std::vector<double> weight;
        std::vector<double> squares;
    };
    struct Stage {
        int clock;
        int order;
    };
    enum Shared { kLast, kBeforeLast, kSeen, kDocument, kEntropy, kTop, kSharedFeatures };
    static constexpr std::size_t kOwn = 16 + 8 * 16;  // buckets of N, then of (followers / N, followers)
    static constexpr std::size_t kEntropies = 8;
    static constexpr int kClocks = 3;  // stream, document, corpus
    static constexpr int kCorpus = 2;
    static constexpr std::size_t kMaxStages = kClocks * kMaxOrder;
    static constexpr std::size_t kTogether = 64;  // positions that are counted before their trusts are worked out

    // Known tokens with their candidates [n, k], the argmax in column own.
    struct Text {
        const std::int32_t* tokens;
        std::size_t n;
        const std::int32_t* cands;
        std::size_t k;
        std::size_t own = 0;
    };
    // All that the tables say at one position, S numbers each: the longest contexts seen (1 number), N of each stage, its
    // followers, and the count of each candidate.
    std::size_t place_size(std::size_t k) const { return 1 + (2 + k) * stages_.size(); }
    std::size_t counts_from(std::size_t j) const { return place_size(j); }

    std::size_t values_of(int feature) const;
    void read_place(std::uint32_t* place) const;
    void read_hits(std::uint32_t token, std::uint32_t* hits);
    void read_counts(std::uint32_t token, std::uint32_t* hits) const;
    void look_ahead(const std::int32_t* tokens, std::size_t n);
    void count_range(const Text& text, std::size_t from, std::size_t to, std::uint32_t* places);
    void score_range(const Text& text, std::size_t from, std::size_t to, const std::uint32_t* places, const double* p,
                     SideView side, double* out);
    void prepare(const std::uint32_t* place, double entropy, std::int32_t top);
    void use_row(int feature, std::size_t value);
    double mixed(const std::uint32_t* hits, double p);
    double other(const std::uint32_t* counts, double p) const;
    int seen(int clock) const;
    void learn();
    void consider(std::uint32_t h, const std::uint32_t* place, const std::uint32_t* counts, double p);
    void consider_pending();
    // The probability of token v after the decision, q before it.
    double decided(std::uint32_t v, double q) const { return v == decision_.id ? decision_.yes : q * decision_.others; }
    void learn_decision(std::uint32_t token);
    void add(std::uint32_t token, const std::int32_t* next, std::size_t n);
    void pass(std::uint32_t token);
    void fresh_document();
    void fetch_hints(const std::int32_t* cands, std::size_t n, std::size_t k) const;
    EVALKIT_INLINE void fetch_rows(std::uint32_t last, std::int32_t top) const;
    // f of the table that a clock counts in.
    template <class F>
    auto at(int clock, F&& f) const {
        return clock == kCorpus ? f(corpus_) : f(tables_[static_cast<std::size_t>(clock)]);
    }

    LearnedSettings settings_;
    std::vector<Stage> stages_;
    struct OnClock {
        std::size_t stage, order;
    };
    std::vector<OnClock> on_[kClocks];  // the stages of a clock
    std::size_t width_ = 0;  // stages, rounded up to a multiple of 4: the length of a row
    std::array<Table, 2> tables_;
    GramReader corpus_;
    int longest_[kClocks] = {0, 0, 0};
    std::uint32_t last_ = 0, before_last_ = 0;

    std::array<double, kMaxStages> bias_{};
    std::array<double, kMaxStages> fast_{};  // the bias that forgets
    std::array<Feature, kSharedFeatures> shared_;
    Feature own_;  // kOwn values per stage

    // The position being scored: the stages with N > 0, in order.
    struct Active {
        std::size_t stage;
        double discount;                 // d; 0 for the corpus, whose followers are not counted exactly
        double total;                    // N - d followers
        double trust;                    // l
        std::size_t own_total, own_followers;
    };
    // n / N, or (n - d) / (N - d followers).
    double share(std::uint32_t count, const Active& active) const {
        return count == 0 ? 0.0 : (static_cast<double>(count) - active.discount) / active.total;
    }
    std::array<Active, kMaxStages> active_;
    std::size_t actives_ = 0;
    std::array<std::size_t, kSharedFeatures> row_{};  // where the row in use begins
    std::size_t rows_ = 0;                            // number of shared features in use
    std::array<double, kMaxStages + 1> q_{};          // of the target, before each active stage and after the last
    std::array<double, kMaxStages> a_{};              // n / N of the target

    // The decision about the model's argmax: sets of weights one after the other, a row of kInputs for each of their values.
    static constexpr std::size_t kInputs = 7, kSets = 3;
    Feature decide_;
    struct Decision {
        std::uint32_t id = 0;
        double yes = 0.0, others = 1.0;  // what h gets, and the factor of all others
        bool made = false;               // false where q(h) is too near to 0 or 1: nothing changes, nothing is learned
        std::array<double, kInputs> input{};
        std::array<std::size_t, kSets> row{};
        std::array<double, kSets> logit{};
    };
    Decision decision_;

    std::vector<double> pending_;  // the row of p that row() was given
    double pending_entropy_ = 0.0;
    std::int32_t pending_top_ = 0;
    bool is_pending_ = false;
    std::vector<std::uint32_t> left_[kClocks], counts_[kClocks];  // scratch of row()

    std::vector<std::uint32_t> places_;  // scratch of score() and row()
    CountedAhead<std::uint32_t> ahead_;
};

extern template class LearnedPpmOf<GramTable>;
extern template class LearnedPpmOf<ContinuationTable>;
using LearnedPpm = LearnedPpmOf<GramTable>;
using ContinuationPpm = LearnedPpmOf<ContinuationTable>;

}  // namespace evalkit
