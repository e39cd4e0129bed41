// How do exact counts of several orders sharpen a distribution, with a fixed concentration per order?
//
//     q_k(v) = (n_k(v) + c_k q_{k-1}(v)) / (N_k + c_k)      low to high order, q below the first order = the model
//
// Skipped where N_k < min_count.  Sums to 1 because N_k is the sum of its pairs.  (#1159 of parameter-golf, in the form
// of a hierarchical Dirichlet prior: MacKay and Peto 1995.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gram_table.hpp"

namespace evalkit {

struct DirichletSettings {
    std::uint32_t vocab = 0;
    std::vector<int> orders;        // ascending
    std::vector<double> strength;   // c_k in counts, one per order
    std::uint32_t min_count = 1;    // on N_k
    std::size_t bytes = 0;          // memory bound of the table
    std::size_t expected_tokens = 0;
};

class DirichletPpm {
 public:
    explicit DirichletPpm(DirichletSettings settings);

    void begin(std::uint32_t first_token) { table_.start(first_token); }
    // p, out: [n, k].  cands: [n, k] token ids, -1 where there is none; null when k == vocab and column v is token v.
    void score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k, const double* p,
               double* out);
    void row(const double* p, double* out);
    void observe(const std::int32_t* tokens, std::size_t n);
    const GramTable& table() const { return table_; }

 private:
    double mixed(const std::uint32_t* counts, double p) const;

    DirichletSettings settings_;
    GramTable table_;
    std::vector<std::uint32_t> left_, counts_;  // scratch of row()
    std::vector<double> count_;
};

}  // namespace evalkit
