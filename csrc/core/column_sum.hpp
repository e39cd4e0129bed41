// In which order are the V terms of a normaliser added?  Eight running sums by column, then a fixed tree: one meaning
// for every compiler and machine, and room for vector instructions.
#pragma once

#include <cstddef>

namespace evalkit {

// f(v) is the v-th term, called once for each v in rising order.
template <class F>
double column_sum(std::size_t n, F&& f) {
    double s[8] = {};
    std::size_t v = 0;
    for (; v + 8 <= n; v += 8)
        for (std::size_t j = 0; j < 8; ++j) s[j] += f(v + j);
    for (std::size_t j = 0; v + j < n; ++j) s[j] += f(v + j);
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

}  // namespace evalkit
