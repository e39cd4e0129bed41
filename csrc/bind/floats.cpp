#include "../core/floats.hpp"

#include <vector>

#include "checks.hpp"

namespace evalkit::bind {
namespace {

template <class F>
Float64 each(const Float64& x, F&& f) {
    Float64 out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
    const double* from = x.data();
    double* to = out.mutable_data();
    const auto n = static_cast<std::size_t>(x.size());
    const py::gil_scoped_release quiet;
    f(from, n, to);
    return out;
}

}  // namespace
}  // namespace evalkit::bind

void bind_floats(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.def("neg_log", [](const Float64& p) { return each(p, evalkit::neg_log_each); }, py::arg("p").noconvert());
}
