// Where does the memory of a table come from?  From the system in pages, zeroed, in huge pages where it has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace evalkit {

// From now on the C library keeps freed blocks of up to a GiB for the next one of their size, instead of giving them back:
// pages of a fresh batch of logits and rows are cleared by the kernel one fault at a time, 11 us per target at V = 2048 and
// 8192 rows a batch, against 8 for all work on them.  False where the library has no such switch (it does as before).
bool keep_large_blocks();

// One zeroed region.  Only pages that were touched count against the machine's memory.
class Pages {
 public:
    Pages() = default;
    explicit Pages(std::size_t bytes);
    ~Pages();
    Pages(Pages&& other) noexcept;
    Pages& operator=(Pages&& other) noexcept;
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;

    void* data() const { return data_; }
    std::size_t size() const { return size_; }

 private:
    void* data_ = nullptr;
    void* base_ = nullptr;
    std::size_t size_ = 0;
    std::size_t mapped_ = 0;
};

// An array of 64-byte blocks that grows in chunks and never moves.  The caller zeroes what it takes.
class Chunks {
 public:
    explicit Chunks(std::size_t chunk_bytes);
    // Make blocks [0, count) usable.
    void reserve(std::size_t count);
    void* at(std::uint32_t block) const { return chunks_[block >> shift_] + (std::size_t{block & mask_} << 6); }
    // Do the blocks from `first` to `last` lie side by side?
    bool together(std::uint32_t first, std::uint32_t last) const { return first >> shift_ == last >> shift_; }

 private:
    int shift_;
    std::uint32_t mask_;
    std::vector<Pages> owned_;
    std::vector<unsigned char*> chunks_;
};

}  // namespace evalkit
