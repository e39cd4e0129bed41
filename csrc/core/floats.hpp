// Which log does the engine use for booked scores?  The C library's, one element at a time: vectorised versions differ in
// the last bit with the length and alignment of the array.  (exp: rows.hpp.)
#pragma once

#include <cmath>
#include <cstddef>

namespace evalkit {

inline void neg_log_each(const double* p, std::size_t n, double* out) {
    for (std::size_t i = 0; i < n; ++i) out[i] = -std::log(p[i]);
}

}  // namespace evalkit
