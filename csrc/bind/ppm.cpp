#include <pybind11/stl.h>

#include "../core/ppm_dirichlet.hpp"
#include "checks.hpp"

namespace evalkit::bind {
namespace {

class DirichletFace {
 public:
    explicit DirichletFace(DirichletSettings settings) : vocab_(settings.vocab), ppm_(std::move(settings)) {}

    void begin(std::int64_t first_token) { ppm_.begin(check_id(first_token, vocab_, "first_token")); }

    Float64 score(const Int32& tokens, const py::object& cands, const Float64& p) {
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
        if (length(p, "p") != vocab_) throw py::value_error("p must have one entry per token of the vocabulary");
        Float64 out(p.shape(0));
        ppm_.row(p.data(), out.mutable_data());
        return out;
    }

    void observe(const Int32& tokens) {
        const std::size_t n = length(tokens, "tokens");
        check_ids(tokens, 0, vocab_, "tokens");
        const std::int32_t* x = tokens.data();
        const py::gil_scoped_release quiet;
        ppm_.observe(x, n);
    }

    const GramTable& table() const { return ppm_.table(); }

 private:
    std::uint32_t vocab_;
    DirichletPpm ppm_;
};

void check_orders(const std::vector<int>& orders, const std::vector<double>& strength) {
    if (orders.empty() || orders.size() != strength.size()) throw py::value_error("one concentration per order");
    for (std::size_t i = 0; i < orders.size(); ++i) {
        if (orders[i] < 1 || orders[i] > kMaxOrder || (i > 0 && orders[i] <= orders[i - 1]))
            throw py::value_error("orders must rise within 1..24");
        if (!(strength[i] > 0.0)) throw py::value_error("concentrations must be positive");
    }
}

}  // namespace
}  // namespace evalkit::bind

void bind_ppm(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.def("smallest_table", &evalkit::GramTable::smallest, py::arg("vocab"), py::arg("max_order"));
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
}
