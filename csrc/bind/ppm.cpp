#include <pybind11/stl.h>

#include "../core/ppm_dirichlet.hpp"
#include "../core/ppm_learned.hpp"
#include "checks.hpp"

namespace evalkit::bind {
namespace {

class DirichletFace {
 public:
    explicit DirichletFace(DirichletSettings settings) : vocab_(settings.vocab), ppm_(std::move(settings)) {}

    void begin(std::int64_t first_token) {
        ppm_.begin(check_id(first_token, vocab_, "first_token"));
        begun_ = true;
    }

    Float64 score(const Int32& tokens, const py::object& cands, const Float64& p) {
        check_begun();
        const std::size_t k = check_columns(tokens, cands, p, vocab_);
        Float64 out({p.shape(0), p.shape(1)});
        const std::int32_t* ids = data_or_null(cands);
        const std::int32_t* x = tokens.data();
        const auto n = static_cast<std::size_t>(tokens.size());
        const double* from = p.data();
        double* to = out.mutable_data();
        const py::gil_scoped_release quiet;
        ppm_.score(x, n, ids, k, from, to);
        return out;
    }

    Float64 row(const Float64& p) {
        check_begun();
        if (length(p, "p") != vocab_) throw py::value_error("p must have one entry per token of the vocabulary");
        Float64 out(p.shape(0));
        ppm_.row(p.data(), out.mutable_data());
        return out;
    }

    void observe(const Int32& tokens) {
        check_begun();
        const std::size_t n = length(tokens, "tokens");
        check_ids(tokens, 0, vocab_, "tokens");
        const std::int32_t* x = tokens.data();
        const py::gil_scoped_release quiet;
        ppm_.observe(x, n);
    }

    const GramTable& table() const { return ppm_.table(); }

 private:
    void check_begun() const {
        if (!begun_) throw py::value_error("begin() comes first");
    }

    std::uint32_t vocab_;
    bool begun_ = false;
    DirichletPpm ppm_;
};

class LearnedFace {
 public:
    explicit LearnedFace(LearnedSettings settings)
        : vocab_(settings.vocab), side_(settings.side), ppm_(std::move(settings)) {}

    void begin(std::int64_t first_token) {
        ppm_.begin(check_id(first_token, vocab_, "first_token"));
        begun_ = true;
    }

    Float64 score(const Int32& tokens, const py::object& cands, const Float64& p, const py::object& entropy,
                  const py::object& top) {
        check_begun();
        const std::size_t k = check_columns(tokens, cands, p, vocab_);
        const auto n = static_cast<std::size_t>(tokens.size());
        const SideView side = check_side(entropy, top, n);
        Float64 out({p.shape(0), p.shape(1)});
        const std::int32_t* ids = data_or_null(cands);
        const std::int32_t* x = tokens.data();
        const double* from = p.data();
        double* to = out.mutable_data();
        const py::gil_scoped_release quiet;
        ppm_.score(x, n, ids, k, from, side, to);
        return out;
    }

    Float64 row(const Float64& p, const py::object& entropy, const py::object& top) {
        check_begun();
        if (length(p, "p") != vocab_) throw py::value_error("p must have one entry per token of the vocabulary");
        const SideView side = check_side(entropy, top, 1);
        Float64 out(p.shape(0));
        ppm_.row(p.data(), side, out.mutable_data());
        return out;
    }

    void observe(std::int64_t token) {
        check_begun();
        if (!ppm_.observe(check_id(token, vocab_, "token")))
            throw py::value_error("observe() needs the row() of the same target before it");
    }

    void replay(const Int32& tokens) {
        check_begun();
        const std::size_t n = length(tokens, "tokens");
        check_ids(tokens, 0, vocab_, "tokens");
        const std::int32_t* x = tokens.data();
        const py::gil_scoped_release quiet;
        ppm_.replay(x, n);
    }

    Float64 weights() const {
        check_begun();
        const std::vector<double> values = ppm_.weights();
        return Float64(static_cast<py::ssize_t>(values.size()), values.data());
    }

    void set_weights(const Float64& values) {
        check_begun();
        if (!ppm_.set_weights(values.data(), length(values, "values")))
            throw py::value_error("values must have as many entries as weights()");
    }

    const LearnedPpm& ppm() const { return ppm_; }

 private:
    void check_begun() const {
        if (!begun_) throw py::value_error("begin() comes first");
    }

    SideView check_side(const py::object& entropy, const py::object& top, std::size_t n) const {
        if (!side_) return SideView{};
        if (!py::isinstance<Float64>(entropy)) throw py::type_error("entropy must be a C-ordered float64 array");
        if (!py::isinstance<Int32>(top)) throw py::type_error("top must be a C-ordered int32 array");
        const auto e = py::reinterpret_borrow<Float64>(entropy);
        const auto t = py::reinterpret_borrow<Int32>(top);
        if (length(e, "entropy") != n || length(t, "top") != n)
            throw py::value_error("entropy and top must have one entry per target");
        check_ids(t, 0, vocab_, "top");
        return SideView{e.data(), t.data()};
    }

    std::uint32_t vocab_;
    bool side_;
    bool begun_ = false;
    LearnedPpm ppm_;
};

void check_rising(const std::vector<int>& orders) {
    for (std::size_t i = 0; i < orders.size(); ++i) {
        if (orders[i] < 1 || orders[i] > kMaxOrder || (i > 0 && orders[i] <= orders[i - 1]))
            throw py::value_error("orders must rise within 1..24");
    }
}

void check_orders(const std::vector<int>& orders, const std::vector<double>& strength) {
    if (orders.empty() || orders.size() != strength.size()) throw py::value_error("one concentration per order");
    check_rising(orders);
    for (const double c : strength)
        if (!(c > 0.0)) throw py::value_error("concentrations must be positive");
}

}  // namespace
}  // namespace evalkit::bind

void bind_ppm(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    py::class_<DirichletFace>(m, "DirichletPpm")
        .def(py::init([](std::uint32_t vocab, std::vector<int> orders, std::vector<double> strength,
                         std::uint32_t min_count, std::size_t bytes, std::size_t expected_tokens) {
                 check_orders(orders, strength);
                 evalkit::DirichletSettings s;
                 s.vocab = vocab;
                 s.orders = std::move(orders);
                 s.strength = std::move(strength);
                 s.min_count = min_count;
                 s.bytes = bytes;
                 s.expected_tokens = expected_tokens;
                 return std::make_unique<DirichletFace>(std::move(s));
             }),
             py::arg("vocab"), py::arg("orders"), py::arg("strength"), py::arg("min_count"), py::arg("bytes"),
             py::arg("expected_tokens"))
        .def("begin", &DirichletFace::begin, py::arg("first_token"))
        .def("score", &DirichletFace::score, py::arg("tokens").noconvert(), py::arg("cands"), py::arg("p").noconvert())
        .def("row", &DirichletFace::row, py::arg("p").noconvert())
        .def("observe", &DirichletFace::observe, py::arg("tokens").noconvert())
        .def_property_readonly("bytes", [](const DirichletFace& f) { return f.table().bytes(); })
        .def_property_readonly("frozen_at", [](const DirichletFace& f) { return f.table().frozen_at(); })
        .def_property_readonly("grams", [](const DirichletFace& f) { return f.table().grams(); });
    py::class_<LearnedFace>(m, "LearnedPpm")
        .def(py::init([](std::uint32_t vocab, std::int32_t bos, std::vector<int> orders,
                         std::vector<int> document_orders, double rate, bool side, std::size_t bytes,
                         std::size_t document_bytes, std::size_t expected_tokens) {
                 check_rising(orders);
                 check_rising(document_orders);
                 if (!(rate >= 0.0 && rate < 1e6)) throw py::value_error("rate must be finite and not negative");
                 evalkit::LearnedSettings s;
                 s.vocab = vocab;
                 s.bos = bos;
                 s.orders = std::move(orders);
                 s.document_orders = std::move(document_orders);
                 s.rate = rate;
                 s.side = side;
                 s.bytes = bytes;
                 s.document_bytes = document_bytes;
                 s.expected_tokens = expected_tokens;
                 return std::make_unique<LearnedFace>(std::move(s));
             }),
             py::arg("vocab"), py::arg("bos"), py::arg("orders"), py::arg("document_orders"), py::arg("rate"),
             py::arg("side"), py::arg("bytes"), py::arg("document_bytes"), py::arg("expected_tokens"))
        .def("begin", &LearnedFace::begin, py::arg("first_token"))
        .def("score", &LearnedFace::score, py::arg("tokens").noconvert(), py::arg("cands"), py::arg("p").noconvert(),
             py::arg("entropy"), py::arg("top"))
        .def("row", &LearnedFace::row, py::arg("p").noconvert(), py::arg("entropy"), py::arg("top"))
        .def("observe", &LearnedFace::observe, py::arg("token"))
        .def("replay", &LearnedFace::replay, py::arg("tokens").noconvert())
        .def("weights", &LearnedFace::weights)
        .def("set_weights", &LearnedFace::set_weights, py::arg("values").noconvert())
        .def_property_readonly("bytes", [](const LearnedFace& f) { return f.ppm().bytes(); })
        .def_property_readonly("frozen_at", [](const LearnedFace& f) { return f.ppm().stream().frozen_at(); })
        .def_property_readonly("grams", [](const LearnedFace& f) { return f.ppm().stream().grams(); });
}
