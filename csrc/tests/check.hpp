// A test is a function that returns; CHECK says where it did not hold.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(what)                                                              \
    do {                                                                         \
        if (!(what)) {                                                           \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            std::exit(1);                                                        \
        }                                                                        \
    } while (0)
