// The plain loops over the vocabulary are worth vectors: 2.9 to 2.1 us per target at V = 1024.  No bit changes by it.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "bias.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "column_sum.hpp"
#include "rows.hpp"
#include "vectors.hpp"

namespace evalkit {

namespace {

// Three parts of e^-16 leave the smallest probability of a model's row (1e-300) above zero.
constexpr double kWidest = 16.0;
constexpr std::size_t kMostRows = 64;  // whose normalisers are kept at a time
constexpr std::size_t kFetched = std::size_t{1} << 18;  // bytes of a stride whose successor is fetched

double within(double b) { return std::min(kWidest, std::max(-kWidest, b)); }

// m rows, `vocab` apart.  Of float32 weights p of a column is weight * factor, in float64; float64 cells are p.
template <class Cell>
struct Stride {
    const Cell* cells;
    const double* factors;
    std::size_t m, vocab;
    std::size_t next;  // rows after these that are fetched into the second cache, beside these
};

template <int N>
EVALKIT_INLINE void load_p(const float* from, double factor, typename Vector<N>::D& p) {
    typename Vector<N>::Half raw;
    load(from, raw);
    p = __builtin_convertvector(raw, typename Vector<N>::D) * factor;
}

template <int N>
EVALKIT_INLINE void load_p(const double* from, double, typename Vector<N>::D& p) {
    load(from, p);
}

EVALKIT_INLINE double one_p(float cell, double factor) { return static_cast<double>(cell) * factor; }
EVALKIT_INLINE double one_p(double cell, double) { return cell; }

// all[i] = sum_v p_i(v) f(v) for R rows from `first` on, in the order of column_sum.
template <int N, int R, class Cell>
EVALKIT_INLINE void normalisers(const Stride<Cell>& rows, std::size_t first, const double* f, double* all) {
    using D = typename Vector<N>::D;
    constexpr int kParts = 8 / N;
    const Cell* w = rows.cells + first * rows.vocab;
    D s[R][kParts] = {};
    std::size_t v = 0;
    for (; v + 8 <= rows.vocab; v += 8) {
#pragma GCC unroll 4
        for (int j = 0; j < kParts; ++j) {
            D factor;
            load(f + v + j * N, factor);
#pragma GCC unroll 4
            for (int i = 0; i < R; ++i) {
                D p;
                load_p<N>(w + i * rows.vocab + v + j * N, rows.factors[first + i], p);
                s[i][j] += p * factor;
            }
        }
    }
    for (int i = 0; i < R; ++i) {
        double t[8];
        std::memcpy(t, s[i], sizeof t);
        for (std::size_t j = 0; v + j < rows.vocab; ++j)
            t[j] += one_p(w[i * rows.vocab + v + j], rows.factors[first + i]) * f[v + j];
        all[i] = ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7]));
    }
}

template <int N, class Cell>
EVALKIT_INLINE void all_normalisers(const Stride<Cell>& rows, const double* f, double* all) {
    std::size_t i = 0;
    for (; i + 4 <= rows.m; i += 4) normalisers<N, 4>(rows, i, f, all + i);
    for (; i < rows.m; ++i) normalisers<N, 1>(rows, i, f, all + i);
}

// sum += y_i, squares += y_i^2 for every row in turn; y_i(v) = p_i(v) f(v) inverse_i.  A cache line of every row at a time:
// rows of 2^k ids fall on the same few sets of the cache.
template <int N, class Cell>
EVALKIT_INLINE void add_up(const Stride<Cell>& rows, const double* f, const double* inverse, double* sum, double* squares) {
    using D = typename Vector<N>::D;
    constexpr int kParts = 16 / N;
    std::size_t v = 0;
    for (; v + 16 <= rows.vocab; v += 16) {
        D s[kParts], q[kParts], factor[kParts];
        std::memcpy(s, sum + v, sizeof s);
        std::memcpy(q, squares + v, sizeof q);
        std::memcpy(factor, f + v, sizeof factor);
        for (std::size_t i = 0; i < rows.m; ++i) {
            const Cell* w = rows.cells + i * rows.vocab + v;
            if (i < rows.next) __builtin_prefetch(w + rows.m * rows.vocab, 0, 2);
#pragma GCC unroll 8
            for (int j = 0; j < kParts; ++j) {
                D p;
                load_p<N>(w + j * N, rows.factors[i], p);
                const D y = p * factor[j] * inverse[i];
                s[j] += y;
                q[j] += y * y;
            }
        }
        std::memcpy(sum + v, s, sizeof s);
        std::memcpy(squares + v, q, sizeof q);
    }
    for (; v < rows.vocab; ++v) {
        for (std::size_t i = 0; i < rows.m; ++i) {
            const double y = one_p(rows.cells[i * rows.vocab + v], rows.factors[i]) * f[v] * inverse[i];
            sum[v] += y;
            squares[v] += y * y;
        }
    }
}

struct Vectors {
    double *bias, *scale, *gradient;
    const double *sum, *squares, *hits;
};

// Hand what was added up to a part.
template <bool kFisher>
EVALKIT_INLINE void fold_body(const Vectors& x, std::size_t vocab) {
    for (std::size_t v = 0; v < vocab; ++v) {
        x.gradient[v] += x.sum[v] - x.hits[v];
        if (kFisher) x.scale[v] += x.sum[v] - x.squares[v];
    }
}

EVALKIT_INLINE void fisher_body(const Vectors& x, std::size_t vocab, double prior) {
    for (std::size_t v = 0; v < vocab; ++v) {
        x.bias[v] = within(x.bias[v] - x.gradient[v] / (prior + x.scale[v]));
        x.gradient[v] = 0.0;
    }
}

struct Both {
    double *sum, *squares, *hits, *factor;
    double *bias[2], *scale[2], *gradient[2];
    double prior[2];
};

template <int N>
EVALKIT_INLINE void within_all(typename Vector<N>::D& b) {
    const typename Vector<N>::D low = typename Vector<N>::D{} - kWidest, high = typename Vector<N>::D{} + kWidest;
    b = low < b ? b : low;  // as within(), NaN too
    b = b < high ? b : high;
}

EVALKIT_INLINE void step_one(double& bias, double& scale, double& gradient, double residual, double curvature, double prior) {
    gradient += residual;
    scale += curvature;
    bias = within(bias - gradient / (prior + scale));
    gradient = 0.0;
}

template <int N>
EVALKIT_INLINE void step_some(double* bias, double* scale, double* gradient, const typename Vector<N>::D& residual,
                              const typename Vector<N>::D& curvature, double prior, typename Vector<N>::D& b) {
    typename Vector<N>::D g, c;
    load(gradient, g);
    load(scale, c);
    load(bias, b);
    g += residual;
    c += curvature;
    b -= g / (prior + c);
    within_all<N>(b);
    store(c, scale);
    store(b, bias);
    store(typename Vector<N>::D{}, gradient);
}

// Fold and step both parts, and leave their sum in `factor`: one walk over the vectors where those above take nine.  With
// vectors by hand: the compiler makes branches of within().
template <int N>
EVALKIT_INLINE void both_body(const Both& x, std::size_t vocab) {
    using D = typename Vector<N>::D;
    std::size_t v = 0;
    for (; v + N <= vocab; v += N) {
        D sum, squares, hits, b0, b1;
        load(x.sum + v, sum);
        load(x.squares + v, squares);
        load(x.hits + v, hits);
        const D residual = sum - hits, curvature = sum - squares;
        step_some<N>(x.bias[0] + v, x.scale[0] + v, x.gradient[0] + v, residual, curvature, x.prior[0], b0);
        step_some<N>(x.bias[1] + v, x.scale[1] + v, x.gradient[1] + v, residual, curvature, x.prior[1], b1);
        store(b0 + b1, x.factor + v);
        store(D{}, x.sum + v);
        store(D{}, x.squares + v);
        store(D{}, x.hits + v);
    }
    for (; v < vocab; ++v) {
        const double residual = x.sum[v] - x.hits[v], curvature = x.sum[v] - x.squares[v];
        for (int i = 0; i < 2; ++i)
            step_one(x.bias[i][v], x.scale[i][v], x.gradient[i][v], residual, curvature, x.prior[i]);
        x.factor[v] = x.bias[0][v] + x.bias[1][v];
        x.sum[v] = x.squares[v] = x.hits[v] = 0.0;
    }
}

template <class Cell>
struct RowKernels {
    void (*normalisers)(const Stride<Cell>&, const double*, double*);
    void (*add_up)(const Stride<Cell>&, const double*, const double*, double*, double*);
};

struct Kernels {
    RowKernels<float> narrow;
    RowKernels<double> wide;
    void (*fold)(const Vectors&, std::size_t, bool);
    void (*step)(const Vectors&, std::size_t, double);
    void (*both)(const Both&, std::size_t);
};

#define EVALKIT_KERNELS(NAME, N, TARGET)                                                                     \
    template <class Cell>                                                                                    \
    TARGET void NAME##_normalisers(const Stride<Cell>& rows, const double* f, double* all) {                 \
        all_normalisers<N>(rows, f, all);                                                                    \
    }                                                                                                        \
    template <class Cell>                                                                                    \
    TARGET void NAME##_add_up(const Stride<Cell>& rows, const double* f, const double* inverse, double* sum, \
                              double* squares) {                                                             \
        add_up<N>(rows, f, inverse, sum, squares);                                                           \
    }                                                                                                        \
    TARGET void NAME##_fold(const Vectors& x, std::size_t vocab, bool fisher) {                              \
        if (fisher) {                                                                                        \
            fold_body<true>(x, vocab);                                                                       \
        } else {                                                                                             \
            fold_body<false>(x, vocab);                                                                      \
        }                                                                                                    \
    }                                                                                                        \
    TARGET void NAME##_step(const Vectors& x, std::size_t vocab, double prior) { fisher_body(x, vocab, prior); } \
    TARGET void NAME##_both(const Both& x, std::size_t vocab) { both_body<N>(x, vocab); }                       \
    constexpr Kernels NAME = {{NAME##_normalisers<float>, NAME##_add_up<float>},                             \
                              {NAME##_normalisers<double>, NAME##_add_up<double>},                           \
                              NAME##_fold,                                                                   \
                              NAME##_step,                                                                   \
                              NAME##_both};

EVALKIT_EACH_ISA(EVALKIT_KERNELS)
#undef EVALKIT_KERNELS

const Kernels& kernels(Isa isa) { return for_isa(isa, base, avx2, avx512); }
const RowKernels<float>& row_kernels(Isa isa, const float*) { return kernels(isa).narrow; }
const RowKernels<double>& row_kernels(Isa isa, const double*) { return kernels(isa).wide; }

}  // namespace

LogBias::LogBias(BiasSettings settings) : settings_(std::move(settings)) {
    if (settings_.vocab < 2 || settings_.vocab > (1u << 18)) throw std::invalid_argument("vocab must be 2..262144");
    if (settings_.stride < 1) throw std::invalid_argument("the stride must be at least 1");
    for (double prior : {settings_.global_prior, settings_.document_prior, settings_.previous_prior})
        if (!(prior >= 0.0)) throw std::invalid_argument("priors must not be negative");
    if (!(settings_.keep >= 0.0 && settings_.keep <= 1.0)) throw std::invalid_argument("keep must lie within 0..1");
    if (!(settings_.rate > 0.0)) throw std::invalid_argument("the rate must be positive");
    begin(0);
}

void LogBias::begin(std::uint32_t first_token) {
    const std::size_t vocab = settings_.vocab;
    global_.prior = settings_.global_prior;
    document_.prior = settings_.document_prior;
    for (Part* part : {&global_, &document_})
        for (std::vector<double>* x : {&part->bias, &part->scale, &part->gradient}) x->assign(vocab, 0.0);
    for (std::vector<double>* x : {&sum_, &squares_, &hits_}) x->assign(vocab, 0.0);
    previous_.clear();
    previous_of_.assign(vocab, -1);
    last_ = first_token;
    seen_ = 0;
    has_pending_ = false;
    refresh();
}

void LogBias::refresh() {
    factor_.resize(settings_.vocab);
    for (std::size_t v = 0; v < factor_.size(); ++v) factor_[v] = global_.bias[v] + document_.bias[v];
    exp_values(factor_.data(), factor_.size(), factor_.data(), widest_isa());
}

void LogBias::predict(const double* p, double* out) {
    const std::size_t vocab = settings_.vocab;
    const double* factor = factor_.data();
    const Previous* here = previous();
    double all = 0.0;
    if (here == nullptr) {
        all = column_sum(vocab, [&](std::size_t v) { return out[v] = p[v] * factor[v]; });
    } else {
        exp_values(here->bias.get(), vocab, out, widest_isa());
        all = column_sum(vocab, [&](std::size_t v) { return out[v] = p[v] * factor[v] * out[v]; });
    }
    const double inverse = 1.0 / all;
    for (std::size_t v = 0; v < vocab; ++v) out[v] *= inverse;
}

void LogBias::learn(const double* y, std::uint32_t token) {
    const std::size_t vocab = settings_.vocab;
    double* sum = sum_.data();
    double* squares = squares_.data();
    for (std::size_t v = 0; v < vocab; ++v) {
        sum[v] += y[v];
        squares[v] += y[v] * y[v];
    }
    learn_previous(y, token);
    count(token);
}

// The target is in the sums: step, and end the document, where it is time to.
void LogBias::count(std::uint32_t token) {
    hits_[token] += 1.0;
    ++seen_;
    const bool document_ends = static_cast<std::int64_t>(token) == settings_.bos;
    const bool on_grid = seen_ % settings_.stride == 0;
    if (on_grid && !document_ends && settings_.fisher && global_.prior > 0.0 && document_.prior > 0.0) {
        step_both();
    } else {
        if (document_ends || on_grid) fold();
        if (on_grid) {
            step(global_);
            step(document_);
        }
        if (document_ends) end_document();
        if (document_ends || on_grid) refresh();
    }
    last_ = token;
    has_pending_ = false;
}

// Hand what was added up to both parts.
void LogBias::fold() {
    for (Part* part : {&global_, &document_}) {
        if (part->prior == 0.0) continue;
        const Vectors x{part->bias.data(), part->scale.data(), part->gradient.data(), sum_.data(), squares_.data(), hits_.data()};
        kernels(widest_isa()).fold(x, settings_.vocab, settings_.fisher);
    }
    for (std::vector<double>* x : {&sum_, &squares_, &hits_}) std::fill(x->begin(), x->end(), 0.0);
}

void LogBias::step_both() {
    Both x{sum_.data(), squares_.data(), hits_.data(), factor_.data(), {}, {}, {}, {}};
    std::size_t i = 0;
    for (Part* part : {&global_, &document_}) {
        x.bias[i] = part->bias.data();
        x.scale[i] = part->scale.data();
        x.gradient[i] = part->gradient.data();
        x.prior[i++] = part->prior;
    }
    kernels(widest_isa()).both(x, settings_.vocab);
    exp_values(factor_.data(), factor_.size(), factor_.data(), widest_isa());
}

void LogBias::step(Part& part) const {
    if (part.prior == 0.0) return;
    if (settings_.fisher) {
        const Vectors x{part.bias.data(), part.scale.data(), part.gradient.data(), nullptr, nullptr, nullptr};
        kernels(widest_isa()).step(x, settings_.vocab, part.prior);
        return;
    }
    for (std::size_t v = 0; v < part.bias.size(); ++v) {
        const double mean = part.gradient[v] / static_cast<double>(settings_.stride);
        part.scale[v] += mean * mean;
        part.bias[v] = within(part.bias[v] - settings_.rate * mean / (std::sqrt(part.scale[v]) + 1e-8));
        part.gradient[v] = 0.0;
    }
}

void LogBias::end_document() {
    for (std::size_t v = 0; v < document_.bias.size(); ++v) {
        document_.bias[v] *= settings_.keep;
        document_.scale[v] *= settings_.keep;
        document_.gradient[v] = 0.0;
    }
}

LogBias::Previous* LogBias::previous() {
    const std::int32_t at = previous_of_[last_];
    return at < 0 ? nullptr : &previous_[static_cast<std::size_t>(at)];
}

LogBias::Previous* LogBias::new_previous(std::uint32_t token) {
    const std::size_t vocab = settings_.vocab;
    if ((previous_.size() + 1) * 2 * vocab * sizeof(double) > settings_.bytes) return nullptr;
    previous_of_[token] = static_cast<std::int32_t>(previous_.size());
    previous_.push_back(Previous{token, std::unique_ptr<double[]>(new double[vocab]()),
                                 std::unique_ptr<double[]>(new double[vocab]())});
    return &previous_.back();
}

void LogBias::learn_previous(const double* y, std::uint32_t token) {
    if (settings_.previous_prior == 0.0) return;
    Previous* here = previous();
    if (here == nullptr) here = new_previous(last_);
    if (here == nullptr) return;
    double* bias = here->bias.get();
    double* scale = here->scale.get();
    for (std::size_t v = 0; v < settings_.vocab; ++v) {
        const double gradient = y[v] - (v == token ? 1.0 : 0.0);
        scale[v] += y[v] * (1.0 - y[v]);
        bias[v] = within(bias[v] - gradient / (settings_.previous_prior + scale[v]));
    }
}

void LogBias::score(const std::int32_t* tokens, std::size_t n, const double* p, double* out) {
    for (std::size_t i = 0; i < n; ++i, p += settings_.vocab, out += settings_.vocab) {
        predict(p, out);
        learn(out, static_cast<std::uint32_t>(tokens[i]));
    }
}

// Targets up to the next step: the first `n` of tokens, at most.
std::size_t LogBias::until_step(const std::int32_t* tokens, std::size_t n) const {
    const std::size_t most = std::min<std::size_t>(n, settings_.stride - seen_ % settings_.stride);
    const std::int32_t* end = std::find(tokens, tokens + most, static_cast<std::int32_t>(settings_.bos));
    return end == tokens + most ? most : static_cast<std::size_t>(end - tokens) + 1;
}

template <class Cell>
void LogBias::score_columns(const std::int32_t* tokens, std::size_t n, const Cell* cells, const double* factors,
                            const std::int32_t* cands, std::size_t k, double* out, Isa isa) {
    const std::size_t vocab = settings_.vocab;
    if (settings_.previous_prior != 0.0) return row_by_row(tokens, n, cells, factors, cands, k, out);
    const RowKernels<Cell>& kernel = row_kernels(isa, cells);
    const double one[kMostRows] = {};
    for (std::size_t done = 0; done < n;) {
        const std::size_t m = std::min(kMostRows, until_step(tokens + done, n - done));
        const std::size_t next = m * vocab * sizeof(Cell) <= kFetched ? n - done - m : 0;
        const Stride<Cell> rows{cells + done * vocab, factors == nullptr ? one : factors + done, m, vocab, next};
        double all[kMostRows], inverse[kMostRows];
        kernel.normalisers(rows, factor_.data(), all);
        for (std::size_t i = 0; i < rows.m; ++i) {
            inverse[i] = 1.0 / all[i];
            const std::size_t at = (done + i) * k;
            for (std::size_t j = 0; j < k; ++j) {
                const std::int32_t v = cands[at + j];
                out[at + j] = v < 0 ? 0.0
                                    : one_p(rows.cells[i * vocab + static_cast<std::size_t>(v)], rows.factors[i]) *
                                          factor_[static_cast<std::size_t>(v)] * inverse[i];
            }
        }
        kernel.add_up(rows, factor_.data(), inverse, sum_.data(), squares_.data());
        for (std::size_t i = 0; i < rows.m; ++i) count(static_cast<std::uint32_t>(tokens[done + i]));
        done += rows.m;
    }
    has_pending_ = false;
}

template void LogBias::score_columns(const std::int32_t*, std::size_t, const float*, const double*, const std::int32_t*,
                                     std::size_t, double*, Isa);
template void LogBias::score_columns(const std::int32_t*, std::size_t, const double*, const double*, const std::int32_t*,
                                     std::size_t, double*, Isa);

// With a bias after each token every row has a factor of its own.
template <class Cell>
void LogBias::row_by_row(const std::int32_t* tokens, std::size_t n, const Cell* cells, const double* factors,
                         const std::int32_t* cands, std::size_t k, double* out) {
    const std::size_t vocab = settings_.vocab;
    std::vector<double> p(vocab), y(vocab);
    for (std::size_t i = 0; i < n; ++i, cells += vocab) {
        for (std::size_t v = 0; v < vocab; ++v) p[v] = one_p(cells[v], factors == nullptr ? 1.0 : factors[i]);
        predict(p.data(), y.data());
        for (std::size_t j = 0; j < k; ++j) {
            const std::int32_t v = cands[i * k + j];
            out[i * k + j] = v < 0 ? 0.0 : y[static_cast<std::size_t>(v)];
        }
        learn(y.data(), static_cast<std::uint32_t>(tokens[i]));
    }
}

void LogBias::row(const double* p, double* out) {
    predict(p, out);
    pending_.assign(out, out + settings_.vocab);
    has_pending_ = true;
}

void LogBias::observe(std::uint32_t token) {
    if (!has_pending_) throw std::invalid_argument("observe() needs the row() of the same target before it");
    learn(pending_.data(), token);
}

std::size_t LogBias::bytes() const {
    return sizeof(double) * settings_.vocab * (10 + 2 * previous_.size()) + sizeof(double) * pending_.size();
}

std::vector<double> LogBias::state() const {
    std::vector<double> out{static_cast<double>(seen_), static_cast<double>(last_), static_cast<double>(previous_.size())};
    for (const Part* part : {&global_, &document_})
        for (const std::vector<double>* x : {&part->bias, &part->scale, &part->gradient})
            out.insert(out.end(), x->begin(), x->end());
    for (const std::vector<double>* x : {&sum_, &squares_, &hits_}) out.insert(out.end(), x->begin(), x->end());
    for (const Previous& each : previous_) {
        out.push_back(each.token);
        out.insert(out.end(), each.bias.get(), each.bias.get() + settings_.vocab);
        out.insert(out.end(), each.scale.get(), each.scale.get() + settings_.vocab);
    }
    return out;
}

void LogBias::set_state(const double* state, std::size_t size) {
    const std::size_t vocab = settings_.vocab;
    const std::size_t fixed = 3 + 9 * vocab;
    const auto id = [&](double x) { return x >= 0.0 && x < static_cast<double>(vocab) && x == std::floor(x); };
    const bool whole = size >= fixed && state[0] >= 0.0 && state[0] < 0x1p53 && id(state[1]) && state[2] >= 0.0 &&
                       state[2] <= static_cast<double>(vocab);
    const std::size_t rows = whole ? static_cast<std::size_t>(state[2]) : 0;
    if (!whole || size != fixed + rows * (1 + 2 * vocab)) throw std::invalid_argument("the state is of another vocabulary");
    begin(static_cast<std::uint32_t>(state[1]));
    seen_ = static_cast<std::uint64_t>(state[0]);
    const double* from = state + 3;
    const auto take = [&](double* to) {
        std::copy(from, from + vocab, to);
        from += vocab;
    };
    for (Part* part : {&global_, &document_})
        for (std::vector<double>* x : {&part->bias, &part->scale, &part->gradient}) take(x->data());
    for (std::vector<double>* x : {&sum_, &squares_, &hits_}) take(x->data());
    for (std::size_t i = 0; i < rows; ++i) {
        const double token = *from++;
        Previous* here = id(token) && previous_of_[static_cast<std::size_t>(token)] < 0
                             ? new_previous(static_cast<std::uint32_t>(token))
                             : nullptr;
        if (here == nullptr) throw std::invalid_argument("the state does not fit these settings");
        take(here->bias.get());
        take(here->scale.get());
    }
    refresh();
}

}  // namespace evalkit
