// What does a stack need of a row of logits?  One pass: log-sum-exp, entropy, argmax, and on request masses of groups of
// ids, power sums and the row as float32 weights; chosen columns afterwards.
//
// Terms are float64, sums run in sixteen columns and are added column 0 first, so a row has the same bits with SSE2,
// AVX2, AVX-512 or none of them, and whatever rows stand beside it.  Products and sums are rounded apart, never fused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vectors.hpp"

namespace evalkit {

enum class Cell { kFloat32, kBfloat16, kFloat16 };

// n rows of V logits; `stride` cells from one row to the next.
struct Logits {
    const void* cells;
    Cell cell;
    std::size_t n, vocab, stride;
};

// Where the numbers of n rows go; a null pointer: not wanted.  lse: nats; not finite when the row holds NaN or infinity.
struct RowSums {
    double* lse;             // [n] log sum_v exp(x_v)
    double* entropy;         // [n] nats
    std::int32_t* top;       // [n] lowest id of the largest logit
    double* masses;          // [groups][n] sum of p over a group
    double* powers;          // [exponents][n] log sum_v p(v)^a
    float* weights;          // [n][V] exp(x_v - max), at least e^-87
    double* factors;         // [n] beside the weights: weight times factor is p, normalised in float64
};

struct RowWants {
    std::vector<const std::uint8_t*> groups;  // [V] each, 0 or 1
    std::vector<double> exponents;
};

// Rows are shared out among `threads`; the bits are those of one.
void row_sums(const Logits& logits, const RowWants& wants, const RowSums& out, std::size_t threads, Isa isa);

// log p of ids[i][j] (-1 reads token 0): x - lse.  out: [n][k].
void row_pick(const Logits& logits, const double* lse, const std::int32_t* ids, std::size_t k, double* out);

// max(exp(x_v - lse), floor) for every id.  out: [n][V].
void row_probabilities(const Logits& logits, const double* lse, double floor, double* out, std::size_t threads, Isa isa);

// e^x, within 1 ulp for -708 <= x <= 709; below -708 it is e^-708, above 709 e^709; the same bits wherever x stands.
void exp_values(const double* x, std::size_t n, double* out, Isa isa);

}  // namespace evalkit
