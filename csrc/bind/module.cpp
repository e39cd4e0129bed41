// evalkit._native: one bind_NAME per file of this folder, called here.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_agree(py::module_& m);
void bind_bias(py::module_& m);
void bind_corpus(py::module_& m);
void bind_floats(py::module_& m);
void bind_mixer(py::module_& m);
void bind_match(py::module_& m);
void bind_ppm(py::module_& m);
void bind_rows(py::module_& m);
void bind_tilt(py::module_& m);

PYBIND11_MODULE(_native, m) {
    m.doc() = "The kernels of evalkit: plain C++ behind checked arrays.";
    bind_agree(m);
    bind_bias(m);
    bind_corpus(m);  // before bind_ppm: a default of its arguments is one
    bind_floats(m);
    bind_mixer(m);
    bind_match(m);
    bind_ppm(m);
    bind_rows(m);
    bind_tilt(m);
}
