// A corpus that is counted once and read by any number of experts.
#pragma once

#include <cstdint>
#include <memory>

#include "../core/gram_table.hpp"

namespace evalkit::bind {

struct CountedCorpus {
    std::shared_ptr<const GramTable> table;  // sealed
    std::int64_t counted;                    // tokens, the first left out: fewer than given when memory was full
};

}  // namespace evalkit::bind
