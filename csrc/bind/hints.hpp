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
        const std::size_t n = length(tokens, "tokens");
        check_ids(tokens, 0, vocab_, "tokens");
        Int32 out({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(expert_.hints())});
        const std::int32_t* x = tokens.data();
        std::int32_t* to = out.mutable_data();
        const py::gil_scoped_release quiet;
        expert_.propose(x, n, to);
        return out;
    }

    Float64 score(const Int32& tokens, const py::object& cands, std::size_t own, const Float64& p,
                  const py::object& start_mass) {
        const std::size_t k = check_columns(tokens, cands, p, vocab_);
        const auto n = static_cast<std::size_t>(tokens.size());
        if (!cands.is_none() && own + static_cast<std::size_t>(expert_.hints()) > k)
            throw py::value_error("the hints of this expert do not fit into " + std::to_string(k) + " columns from " +
                                  std::to_string(own));
        if (expert_.waiting() < n)
            throw py::value_error("score of " + std::to_string(n) + " targets, but propose was called for " +
                                  std::to_string(expert_.waiting()));
        const double* mass = mass_of(start_mass, n);
        Float64 out({p.shape(0), p.shape(1)});
        const std::int32_t* ids = data_or_null(cands);
        const std::int32_t* x = tokens.data();
        const double* from = p.data();
        double* to = out.mutable_data();
        const py::gil_scoped_release quiet;
        expert_.score(x, n, ids, k, own, from, mass, to);
        return out;
    }

    Float64 row(const Float64& p, double start_mass) {
        if (length(p, "p") != vocab_) throw py::value_error("p must have one entry per token of the vocabulary");
        Float64 out(p.shape(0));
        expert_.row(p.data(), vocab_, start_mass, out.mutable_data());
        return out;
    }

    void observe(std::int64_t token) { expert_.observe(static_cast<std::int32_t>(check_id(token, vocab_, "token"))); }

    void replay(const Int32& tokens) {
        const std::size_t n = length(tokens, "tokens");
        check_ids(tokens, 0, vocab_, "tokens");
        const std::int32_t* x = tokens.data();
        const py::gil_scoped_release quiet;
        expert_.replay(x, n);
    }

    Float64 state() const {
        const std::vector<double>& values = expert_.tilt().state();
        return Float64(static_cast<py::ssize_t>(values.size()), values.data());
    }

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
    const double* mass_of(const py::object& start_mass, std::size_t n) const {
        if (start_mass.is_none()) return nullptr;
        if (!py::isinstance<Float64>(start_mass)) throw py::type_error("start_mass must be None or a float64 array");
        const auto values = py::reinterpret_borrow<Float64>(start_mass);
        if (length(values, "start_mass") != n) throw py::value_error("start_mass must have one entry per target");
        return values.data();
    }

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
