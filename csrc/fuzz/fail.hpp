// What does a fuzz target do when table and twin differ?  It says what, and aborts: libFuzzer keeps the input then.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace evalkit::fuzz {

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "differs: %s\n", what);
    std::abort();
}

}  // namespace evalkit::fuzz
