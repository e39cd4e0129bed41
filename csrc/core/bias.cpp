// The loops over the vocabulary are worth vectors: 2.9 to 2.1 us a target at V = 1024.  No bit changes by it.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "bias.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "lane_sum.hpp"

namespace evalkit {

namespace {

// Three parts of e^-16 leave the smallest probability of a model's row (1e-300) above zero.
constexpr double kWidest = 16.0;

double within(double b) { return std::min(kWidest, std::max(-kWidest, b)); }

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
    for (std::size_t v = 0; v < factor_.size(); ++v) factor_[v] = std::exp(global_.bias[v] + document_.bias[v]);
}

void LogBias::predict(const double* p, double* out) {
    const std::size_t vocab = settings_.vocab;
    const double* factor = factor_.data();
    const Previous* here = previous();
    double all = 0.0;
    if (here == nullptr) {
        all = lane_sum(vocab, [&](std::size_t v) { return out[v] = p[v] * factor[v]; });
    } else {
        const double* bias = here->bias.get();
        all = lane_sum(vocab, [&](std::size_t v) { return out[v] = p[v] * factor[v] * std::exp(bias[v]); });
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
    hits_[token] += 1.0;
    ++seen_;
    learn_previous(y, token);
    const bool document_ends = static_cast<std::int64_t>(token) == settings_.bos;
    const bool on_grid = seen_ % settings_.stride == 0;
    if (document_ends || on_grid) fold();
    if (on_grid) {
        step(global_);
        step(document_);
    }
    if (document_ends) end_document();
    if (document_ends || on_grid) refresh();
    last_ = token;
    has_pending_ = false;
}

// Hand what was added up to both parts.
void LogBias::fold() {
    for (Part* part : {&global_, &document_}) {
        if (part->prior == 0.0) continue;
        for (std::size_t v = 0; v < sum_.size(); ++v) {
            part->gradient[v] += sum_[v] - hits_[v];
            if (settings_.fisher) part->scale[v] += sum_[v] - squares_[v];
        }
    }
    for (std::vector<double>* x : {&sum_, &squares_, &hits_}) std::fill(x->begin(), x->end(), 0.0);
}

void LogBias::step(Part& part) const {
    if (part.prior == 0.0) return;
    for (std::size_t v = 0; v < part.bias.size(); ++v) {
        if (settings_.fisher) {
            part.bias[v] = within(part.bias[v] - part.gradient[v] / (part.prior + part.scale[v]));
        } else {
            const double mean = part.gradient[v] / static_cast<double>(settings_.stride);
            part.scale[v] += mean * mean;
            part.bias[v] = within(part.bias[v] - settings_.rate * mean / (std::sqrt(part.scale[v]) + 1e-8));
        }
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
