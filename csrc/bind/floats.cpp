#include "../core/floats.hpp"

#include <algorithm>
#include <vector>

#include "checks.hpp"

namespace evalkit::bind {
namespace {

using Int64 = py::array_t<std::int64_t, py::array::c_style>;

// x [.., n], edges [m + 1] rising within 0..n -> [.., m].
Float64 sums(const Float64& x, const Int64& edges) {
    const std::size_t m = length(edges, "edges");
    if (x.ndim() < 1 || m < 1) throw py::value_error("x and edges must have at least 1 dimension and 1 edge");
    const auto n = static_cast<std::size_t>(x.shape(x.ndim() - 1));
    std::size_t rows = 1;
    std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
    for (py::ssize_t d = 0; d + 1 < x.ndim(); ++d) rows *= static_cast<std::size_t>(x.shape(d));
    shape.back() = static_cast<py::ssize_t>(m - 1);
    const std::int64_t* at = edges.data();
    for (std::size_t i = 0; i < m; ++i) {
        if (at[i] < (i == 0 ? 0 : at[i - 1]) || at[i] > static_cast<std::int64_t>(n))
            throw py::value_error("edges must rise within 0.." + std::to_string(n));
    }
    if (n > (std::size_t{1} << 30)) throw py::value_error("at most 2^30 numbers can be summed at once");
    Float64 out(shape);
    const double* from = x.data();
    double* to = out.mutable_data();
    const py::gil_scoped_release quiet;
    for (std::size_t r = 0; r < rows; ++r) exact_sums(from + r * n, at, m - 1, to + r * (m - 1));
    return out;
}

// Adds a row to entries, expected and variance [m + 1].
void bands(const Float64& row, const Float64& edges, Int64& entries, Float64& expected, Float64& variance) {
    const std::size_t n = length(row, "row"), m = length(edges, "edges");
    if (length(entries, "entries") != m + 1 || length(expected, "expected") != m + 1 || length(variance, "variance") != m + 1)
        throw py::value_error("entries, expected and variance must have one number more than edges");
    std::vector<double> mass(m + 1);
    count_bands(row.data(), n, edges.data(), m, entries.mutable_data(), mass.data());
    for (std::size_t b = 0; b <= m; ++b) {
        expected.mutable_data()[b] += mass[b];
        variance.mutable_data()[b] += mass[b] * std::max(1.0 - mass[b], 0.0);
    }
}

}  // namespace
}  // namespace evalkit::bind

void bind_floats(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.def(
        "neg_log",
        [](const Float64& p) {
            return filled(p, [&](double* to) { evalkit::neg_log_each(p.data(), static_cast<std::size_t>(p.size()), to); });
        },
        py::arg("p").noconvert());
    m.def("exact_sums", &sums, py::arg("x").noconvert(), py::arg("edges").noconvert());
    m.def("count_bands", &bands, py::arg("row").noconvert(), py::kw_only(), py::arg("edges").noconvert(),
          py::arg("entries").noconvert(), py::arg("expected").noconvert(), py::arg("variance").noconvert());
}
