// The face that all experts on hints show to Python.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../core/hints_expert.hpp"
#include "checks.hpp"

namespace evalkit::bind {

template <class Source>
class HintFace {
 public:
    HintFace(std::uint32_t vocab, std::unique_ptr<Source> source, TiltSettings settings)
        : vocab_(vocab), expert_(std::move(source), std::move(settings)) {}

    void begin(std::int64_t first_token) { expert_.begin(check_id(first_token, vocab_, "first_token")); }

    Int32 propose(const Int32& tokens) {
        const auto n = static_cast<py::ssize_t>(length(tokens, "tokens"));
        Int32 out({n, static_cast<py::ssize_t>(expert_.hints())});
        std::int32_t* to = out.mutable_data();
        with_tokens(tokens, vocab_, [&](const std::int32_t* x, std::size_t count) { expert_.propose(x, count, to); });
        return out;
    }

    Float64 score(const Int32& tokens, const py::object& cands, std::size_t own, const Float64& p,
                  const py::object& start_mass) {
        const Columns c = check_columns(tokens, cands, p, vocab_);
        if (c.cands != nullptr && own + static_cast<std::size_t>(expert_.hints()) > c.k)
            throw py::value_error("the hints of this expert do not fit into " + std::to_string(c.k) + " columns from " +
                                  std::to_string(own));
        if (expert_.waiting() < c.n)
            throw py::value_error("score of " + std::to_string(c.n) + " targets, but propose was called for " +
                                  std::to_string(expert_.waiting()));
        const double* mass = start_mass.is_none() ? nullptr : per_target<Float64>(start_mass, c.n, "start_mass");
        return filled(p, [&](double* to) { expert_.score(c.tokens, c.n, c.cands, c.k, own, c.p, mass, to); });
    }

    Float64 row(const Float64& p, double start_mass) {
        check_row(p, vocab_);
        return filled(p, [&](double* to) { expert_.row(p.data(), vocab_, start_mass, to); });
    }

    void observe(std::int64_t token) { expert_.observe(static_cast<std::int32_t>(check_id(token, vocab_, "token"))); }

    void replay(const Int32& tokens) {
        with_tokens(tokens, vocab_, [&](const std::int32_t* x, std::size_t n) { expert_.replay(x, n); });
    }

    Float64 state() const { return copy_out(expert_.tilt().state()); }

    void set_state(const Float64& values) {
        const std::size_t want = expert_.tilt().state().size();
        if (length(values, "state") != want)
            throw py::value_error("the state has " + std::to_string(values.size()) + " numbers, not " + std::to_string(want));
        for (std::size_t i = 0; i < want; ++i) {
            const double x = values.data()[i];
            if (!std::isfinite(x) || (i % 2 == 1 && x < 1.0)) throw py::value_error("the state is damaged");
        }
        expert_.tilt().set_state(values.data());
    }

    int hints() const { return expert_.hints(); }
    std::size_t bytes() const { return expert_.source().space().bytes() + 8 * expert_.tilt().state().size(); }
    std::int64_t full_at() const { return expert_.source().space().full_at; }

 private:
    std::uint32_t vocab_;
    HintExpert<Source> expert_;
};

// boost: where theta starts, one list per source.
inline TiltSettings tilt_settings(std::uint32_t vocab, std::vector<HintKind> kinds, double fixed,
                                  std::vector<std::vector<double>> theta) {
    if (vocab < 2 || vocab > (1u << 18)) throw py::value_error("vocab must be 2..262144");
    if (kinds.empty() || kinds.size() > kMaxHints) throw py::value_error("1 to 8 hints");
    if (theta.size() != kinds.size()) throw py::value_error("one list of theta per hint");
    TiltSettings s;
    s.vocab = vocab;
    s.fixed = fixed;
    s.kinds = std::move(kinds);
    s.theta = std::move(theta);
    return s;
}

inline void check_hint_orders(const std::vector<int>& orders) {
    if (orders.size() > kHintSources) throw py::value_error("at most 16 orders");
    for (std::size_t i = 0; i < orders.size(); ++i) {
        if (orders[i] < 2 || orders[i] > 24 || (i > 0 && orders[i] <= orders[i - 1]))
            throw py::value_error("orders must rise within 2..24");
    }
}

inline void check_buckets(const std::vector<std::vector<double>>& theta, std::size_t source, std::size_t want) {
    if (theta[source].size() != want) throw py::value_error("theta must have one number per bucket");
}

template <class Face>
void bind_face(py::class_<Face>& c) {
    c.def("begin", &Face::begin, py::arg("first_token"))
        .def("propose", &Face::propose, py::arg("tokens").noconvert())
        .def("score", &Face::score, py::arg("tokens").noconvert(), py::arg("cands"), py::arg("own"),
             py::arg("p").noconvert(), py::arg("start_mass"))
        .def("row", &Face::row, py::arg("p").noconvert(), py::arg("start_mass"))
        .def("observe", &Face::observe, py::arg("token"))
        .def("replay", &Face::replay, py::arg("tokens").noconvert())
        .def("state", &Face::state)
        .def("set_state", &Face::set_state, py::arg("state").noconvert())
        .def_property_readonly("hints", &Face::hints)
        .def_property_readonly("bytes", &Face::bytes)
        .def_property_readonly("full_at", &Face::full_at);
}

}  // namespace evalkit::bind
