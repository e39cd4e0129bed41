// What do the kernels accept from Python?  Exact dtype, C order, the right shape, ids in range: or a clear ValueError.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../core/vectors.hpp"

namespace evalkit::bind {

namespace py = pybind11;

// Bind these with py::arg("name").noconvert(): another dtype or layout is refused, never copied in silence.
using Float64 = py::array_t<double, py::array::c_style>;
using Float32 = py::array_t<float, py::array::c_style>;
using Int32 = py::array_t<std::int32_t, py::array::c_style>;

inline constexpr std::pair<const char*, Isa> kIsas[] = {{"base", Isa::kBase}, {"avx2", Isa::kAvx2}, {"avx512", Isa::kAvx512}};

// "": the widest instructions that the processor has.
inline Isa isa_of(const std::string& name) {
    if (name.empty()) return widest_isa();
    for (const auto& [word, isa] : kIsas)
        if (name == word && has_isa(isa)) return isa;
    throw py::value_error("isa must be one of row_isas(), not '" + name + "'");
}

inline std::size_t length(const py::array& a, const char* name) {
    if (a.ndim() != 1) throw py::value_error(std::string(name) + " must have 1 dimension, not " + std::to_string(a.ndim()));
    return static_cast<std::size_t>(a.shape(0));
}

inline void check_shape(const py::array& a, std::size_t rows, std::size_t columns, const char* name) {
    const bool fits = a.ndim() == 2 && static_cast<std::size_t>(a.shape(0)) == rows &&
                      static_cast<std::size_t>(a.shape(1)) == columns;
    if (!fits) {
        throw py::value_error(std::string(name) + " must have shape [" + std::to_string(rows) + ", " +
                              std::to_string(columns) + "]");
    }
}

// lowest: 0, or -1 where "no token" is allowed.
inline void check_ids(const Int32& ids, std::int32_t lowest, std::uint32_t vocab, const char* name) {
    const std::int32_t* x = ids.data();
    const auto n = static_cast<std::size_t>(ids.size());
    for (std::size_t i = 0; i < n; ++i) {
        if (x[i] < lowest || x[i] >= static_cast<std::int64_t>(vocab)) {
            throw py::value_error(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(x[i]) +
                                  ", outside the vocabulary of " + std::to_string(vocab) + " ids");
        }
    }
}

inline std::uint32_t check_id(std::int64_t id, std::uint32_t vocab, const char* name) {
    if (id < 0 || id >= static_cast<std::int64_t>(vocab)) {
        throw py::value_error(std::string(name) + " is " + std::to_string(id) + ", outside the vocabulary of " +
                              std::to_string(vocab) + " ids");
    }
    return static_cast<std::uint32_t>(id);
}

inline void check_row(const Float64& p, std::uint32_t vocab, const char* name = "p") {
    if (length(p, name) != vocab)
        throw py::value_error(std::string(name) + " must have one entry per token of the vocabulary");
}

// One number per target; the array must outlive the pointer.
template <class Array>
const typename Array::value_type* per_target(const py::object& x, std::size_t n, const char* name) {
    if (!py::isinstance<Array>(x))
        throw py::type_error(std::string(name) + " must be a C-ordered " +
                             (std::is_same_v<Array, Float64> ? "float64" : "int32") + " array");
    const auto a = py::reinterpret_borrow<Array>(x);
    if (length(a, name) != n) throw py::value_error(std::string(name) + " must have one entry per target");
    return a.data();
}

inline const std::int32_t* ids_per_target(const py::object& x, std::size_t n, std::uint32_t vocab, const char* name) {
    const std::int32_t* ids = per_target<Int32>(x, n, name);
    check_ids(py::reinterpret_borrow<Int32>(x), 0, vocab, name);
    return ids;
}

// Candidates [n, k] of tokens [n], the targets in column 0.
struct Candidates {
    const std::int32_t* tokens;
    std::size_t n;
    const std::int32_t* cands;
    std::size_t k;
};

// The ids of tokens are in range.
inline void check_candidates(const Int32& tokens, const Int32& cands, std::uint32_t vocab, std::size_t k) {
    const auto n = static_cast<std::size_t>(tokens.size());
    check_shape(cands, n, k, "cands");
    check_ids(cands, -1, vocab, "cands");
    const std::int32_t* x = tokens.data();
    const std::int32_t* c = cands.data();
    for (std::size_t i = 0; i < n; ++i)
        if (k == 0 || c[i * k] != x[i]) throw py::value_error("column 0 of cands must be tokens");
}

inline Candidates check_candidates(const Int32& tokens, const Int32& cands, std::uint32_t vocab) {
    const std::size_t n = length(tokens, "tokens");
    check_ids(tokens, 0, vocab, "tokens");
    if (cands.ndim() != 2) throw py::value_error("cands must have 2 dimensions, not " + std::to_string(cands.ndim()));
    const auto k = static_cast<std::size_t>(cands.shape(1));
    check_candidates(tokens, cands, vocab, k);
    return {tokens.data(), n, cands.data(), k};
}

// A checked chunk.  tokens: [n]; p: [n, k]; cands: [n, k], or null when k is the vocabulary.
struct Columns {
    const std::int32_t* tokens;
    std::size_t n;
    const std::int32_t* cands;
    std::size_t k;
    const double* p;
};

inline Columns check_columns(const Int32& tokens, const py::object& cands, const Float64& p, std::uint32_t vocab) {
    const std::size_t n = length(tokens, "tokens");
    check_ids(tokens, 0, vocab, "tokens");
    if (p.ndim() != 2) throw py::value_error("p must have 2 dimensions, not " + std::to_string(p.ndim()));
    const auto k = cands.is_none() ? static_cast<std::size_t>(vocab) : static_cast<std::size_t>(p.shape(1));
    check_shape(p, n, k, "p");
    if (cands.is_none()) return {tokens.data(), n, nullptr, k, p.data()};
    if (!py::isinstance<Int32>(cands)) throw py::type_error("cands must be None or a C-ordered int32 array");
    check_candidates(tokens, py::reinterpret_borrow<Int32>(cands), vocab, k);
    return {tokens.data(), n, py::reinterpret_borrow<Int32>(cands).data(), k, p.data()};
}

// An array of p's shape that f(double*) fills, Python running on.
template <class F>
Float64 filled(const Float64& p, F&& f) {
    Float64 out(std::vector<py::ssize_t>(p.shape(), p.shape() + p.ndim()));
    double* to = out.mutable_data();
    {
        const py::gil_scoped_release quiet;
        f(to);
    }
    return out;
}

// f(const std::int32_t*, n) of checked tokens, Python running on.
template <class F>
void with_tokens(const Int32& tokens, std::uint32_t vocab, F&& f) {
    const std::size_t n = length(tokens, "tokens");
    check_ids(tokens, 0, vocab, "tokens");
    const std::int32_t* x = tokens.data();
    const py::gil_scoped_release quiet;
    f(x, n);
}

inline Float64 copy_out(const std::vector<double>& x) { return Float64(static_cast<py::ssize_t>(x.size()), x.data()); }

}  // namespace evalkit::bind
