// Which exp and log does the engine use?  The C library's, one element at a time, for rows and single values alike:
// vectorised versions differ in the last bit with the length and alignment of the array.
#pragma once

#include <cmath>
#include <cstddef>

namespace evalkit {

inline void exp_each(const double* x, std::size_t n, double* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = std::exp(x[i]);
}

inline void neg_log_each(const double* p, std::size_t n, double* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = -std::log(p[i]);
}

}  // namespace evalkit
