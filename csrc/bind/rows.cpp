#include "../core/rows.hpp"

#include "../core/pages.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "checks.hpp"

namespace evalkit::bind {
namespace {

using Bool = py::array_t<bool, py::array::c_style>;

constexpr std::size_t kWidestRow = std::size_t{1} << 24;
// [n, V] with any distance between rows, cells of a row side by side.
Logits check_logits(const py::array& a) {
    const py::dtype dtype = a.dtype();
    const bool single = dtype.kind() == 'f' && dtype.itemsize() == 4, half = dtype.kind() == 'f' && dtype.itemsize() == 2;
    const bool brain = dtype.kind() == 'u' && dtype.itemsize() == 2;
    if (!single && !half && !brain)
        throw py::type_error("logits must be float32, float16, or bfloat16 as uint16, not " +
                             std::string(py::str(dtype.attr("name"))));
    if (a.ndim() != 2) throw py::value_error("logits must have 2 dimensions, not " + std::to_string(a.ndim()));
    const auto n = static_cast<std::size_t>(a.shape(0)), vocab = static_cast<std::size_t>(a.shape(1));
    if (vocab < 1 || vocab > kWidestRow) throw py::value_error("logits must have 1 to 2^24 columns");
    const py::ssize_t size = dtype.itemsize();
    if (vocab > 1 && a.strides(1) != size) throw py::value_error("the cells of a row of logits must lie side by side");
    if (n > 1 && (a.strides(0) < 0 || a.strides(0) % size != 0))
        throw py::value_error("rows of logits must lie a whole number of cells apart, in order");
    const Cell cell = single ? Cell::kFloat32 : half ? Cell::kFloat16 : Cell::kBfloat16;
    return {a.data(), cell, n, vocab, n > 1 ? static_cast<std::size_t>(a.strides(0) / size) : vocab};
}

const double* check_lse(const Float64& lse, std::size_t n) {
    if (length(lse, "lse") != n) throw py::value_error("lse must have one entry per row");
    return lse.data();
}

template <class T>
py::array_t<T, py::array::c_style> fresh(std::size_t rows, std::size_t columns) {
    return py::array_t<T, py::array::c_style>({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns)});
}

py::tuple sums(const py::array& logits, const std::vector<Bool>& groups, const std::vector<double>& exponents, bool weights,
               std::size_t threads, const std::string& isa) {
    const Logits x = check_logits(logits);
    RowWants wants;
    for (const Bool& group : groups) {
        if (length(group, "each group") != x.vocab) throw py::value_error("each group must have one entry per column of logits");
        wants.groups.push_back(reinterpret_cast<const std::uint8_t*>(group.data()));
    }
    for (double a : exponents)
        if (!(a > 0.0 && a <= 8.0)) throw py::value_error("exponents must lie within 0..8, got " + std::to_string(a));
    wants.exponents = exponents;
    const auto n = static_cast<py::ssize_t>(x.n);
    Float64 lse(n), entropy(n);
    Int32 top(n);
    Float64 masses = fresh<double>(groups.size(), x.n), powers = fresh<double>(exponents.size(), x.n);
    std::optional<Float32> rows;
    std::optional<Float64> factors;
    if (weights) {
        rows = fresh<float>(x.n, x.vocab);
        factors = Float64(n);
    }
    const RowSums out{lse.mutable_data(),    entropy.mutable_data(), top.mutable_data(),
                      masses.mutable_data(), powers.mutable_data(),  weights ? rows->mutable_data() : nullptr,
                      weights ? factors->mutable_data() : nullptr};
    const Isa which = isa_of(isa);
    {
        const py::gil_scoped_release quiet;
        row_sums(x, wants, out, threads, which);
    }
    return py::make_tuple(lse, entropy, top, masses, powers, rows, factors);
}

Float64 pick(const py::array& logits, const Float64& lse, const Int32& ids) {
    const Logits x = check_logits(logits);
    const double* sums = check_lse(lse, x.n);
    if (ids.ndim() != 2) throw py::value_error("ids must have 2 dimensions, not " + std::to_string(ids.ndim()));
    const auto k = static_cast<std::size_t>(ids.shape(1));
    check_shape(ids, x.n, k, "ids");
    check_ids(ids, -1, static_cast<std::uint32_t>(x.vocab), "ids");
    Float64 out = fresh<double>(x.n, k);
    double* to = out.mutable_data();
    const std::int32_t* which = ids.data();
    const py::gil_scoped_release quiet;
    row_pick(x, sums, which, k, to);
    return out;
}

Float64 weight_columns(const Float32& weights, const Float64& factors, const Int32& ids) {
    if (ids.ndim() != 2 || weights.ndim() != 2) throw py::value_error("weights and ids must have 2 dimensions");
    const auto n = static_cast<std::size_t>(weights.shape(0)), vocab = static_cast<std::size_t>(weights.shape(1));
    const auto k = static_cast<std::size_t>(ids.shape(1));
    check_shape(ids, n, k, "ids");
    check_ids(ids, -1, static_cast<std::uint32_t>(vocab), "ids");
    if (length(factors, "factors") != n) throw py::value_error("factors must have one entry per row");
    Float64 out = fresh<double>(n, k);
    double* to = out.mutable_data();
    const float* w = weights.data();
    const double* f = factors.data();
    const std::int32_t* which = ids.data();
    const py::gil_scoped_release quiet;
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < k; ++j)
            to[i * k + j] = static_cast<double>(w[i * vocab + static_cast<std::size_t>(std::max(0, which[i * k + j]))]) * f[i];
    return out;
}

Float64 probabilities(const py::array& logits, const Float64& lse, double floor, std::size_t threads, const std::string& isa) {
    const Logits x = check_logits(logits);
    const double* sums = check_lse(lse, x.n);
    Float64 out = fresh<double>(x.n, x.vocab);
    double* to = out.mutable_data();
    const Isa which = isa_of(isa);
    const py::gil_scoped_release quiet;
    row_probabilities(x, sums, floor, to, threads, which);
    return out;
}

Float64 exps(const Float64& x, const std::string& isa) {
    const Isa which = isa_of(isa);
    return filled(x, [&](double* to) { exp_values(x.data(), static_cast<std::size_t>(x.size()), to, which); });
}

std::vector<std::string> isas() {
    std::vector<std::string> out;
    for (const auto& [word, isa] : kIsas)
        if (has_isa(isa)) out.emplace_back(word);
    return out;
}

}  // namespace
}  // namespace evalkit::bind

void bind_rows(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.def("keep_large_blocks", &evalkit::keep_large_blocks);
    m.def("row_isas", &isas);
    m.def("row_sums", &sums, py::arg("logits"), py::kw_only(), py::arg("groups") = std::vector<Bool>(),
          py::arg("exponents") = std::vector<double>(), py::arg("weights") = false, py::arg("threads") = 1,
          py::arg("isa") = "");
    m.def("row_pick", &pick, py::arg("logits"), py::arg("lse").noconvert(), py::arg("ids").noconvert());
    m.def("weight_columns", &weight_columns, py::arg("weights").noconvert(), py::arg("factors").noconvert(),
          py::arg("ids").noconvert());
    m.def("row_probabilities", &probabilities, py::arg("logits"), py::arg("lse").noconvert(), py::kw_only(),
          py::arg("floor"), py::arg("threads") = 1, py::arg("isa") = "");
    m.def("exp_values", &exps, py::arg("x").noconvert(), py::kw_only(), py::arg("isa") = "");
}
