// Which tokens does the incoming row get wrong on the whole, and by how much?  A logit bias learned as the text goes by.
//
//     p'(v) = p(v) e^{b(v)} / sum_u p(u) e^{b(u)}          b = b_global + b_document (+ b_previous of the last token)
//
// The gradient of the booked nats is p' - 1_x, so b learns the residual of the row, not the token's frequency.  It is
// added up and applied every `stride` targets of the stream, so chunks do not matter.  Preconditioning, per token:
//
//     fisher    b -= g / (prior + F),   F = sum of p'(1 - p') so far: the diagonal of the curvature; prior in counts
//     adagrad   b -= rate g / sqrt(sum of g^2),   g averaged over the stride
//
// b_document starts anew after BOS.  b_previous has one vector per previous token and is stepped at every target.
// (Residual form of online gradient descent on the logits; #241 of parameter-golf has the plain one.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "vectors.hpp"

namespace evalkit {

struct BiasSettings {
    std::uint32_t vocab = 0;
    std::int64_t bos = -1;          // id after which the document's part starts anew; -1: never
    std::size_t stride = 16;        // targets
    bool fisher = true;
    double rate = 0.03;             // adagrad only
    double global_prior = 16.0;     // counts; 0 switches a part off
    double document_prior = 5.0;
    double previous_prior = 0.0;
    double keep = 0.0;              // share of the document's bias that survives BOS
    std::size_t bytes = 0;          // bound of the vectors by previous token; tokens that come later have none
};

class LogBias {
 public:
    explicit LogBias(BiasSettings settings);

    void begin(std::uint32_t first_token);
    // p, out: [n, vocab].
    void score(const std::int32_t* tokens, std::size_t n, const double* p, double* out);
    // The same for the columns asked for; cands, out: [n, k], 0 where the id is -1.  cells: p as double, or float32
    // weights (rows.hpp) with their factors [n].  The bias stands still between two steps, so a stride is two products of
    // its rows with vectors.  The bits are those of score(), with any instructions.
    template <class Cell>
    void score_columns(const std::int32_t* tokens, std::size_t n, const Cell* cells, const double* factors,
                       const std::int32_t* cands, std::size_t k, double* out, Isa isa);
    void row(const double* p, double* out);
    // The target of the last row.
    void observe(std::uint32_t token);
    std::vector<double> state() const;
    void set_state(const double* state, std::size_t size);
    std::size_t bytes() const;
    // Number of previous tokens with a vector of their own.
    std::size_t previous_rows() const { return previous_.size(); }

 private:
    struct Part {
        double prior = 0.0;  // 0: off
        std::vector<double> bias, scale, gradient;
    };
    struct Previous {
        std::uint32_t token;
        std::unique_ptr<double[]> bias, scale;
    };

    void predict(const double* p, double* out);
    void learn(const double* y, std::uint32_t token);
    void learn_previous(const double* y, std::uint32_t token);
    void count(std::uint32_t token);
    std::size_t until_step(const std::int32_t* tokens, std::size_t n) const;
    template <class Cell>
    void row_by_row(const std::int32_t* tokens, std::size_t n, const Cell* cells, const double* factors,
                    const std::int32_t* cands, std::size_t k, double* out);
    void fold();
    void step(Part& part) const;
    void step_both();
    void end_document();
    void refresh();
    Previous* previous();
    Previous* new_previous(std::uint32_t token);

    BiasSettings settings_;
    Part global_, document_;
    std::vector<double> sum_, squares_, hits_;  // of p', p'^2 and targets since the last fold
    std::vector<double> factor_;                // e^{b_global + b_document}
    std::vector<double> pending_;
    std::vector<Previous> previous_;
    std::vector<std::int32_t> previous_of_;     // token -> index in previous_, -1: none
    std::uint32_t last_ = 0;
    std::uint64_t seen_ = 0;
    bool has_pending_ = false;
};

}  // namespace evalkit
