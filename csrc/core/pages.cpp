#include "pages.hpp"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace evalkit {

namespace {
constexpr std::size_t kHuge = std::size_t{2} << 20;
}

bool keep_large_blocks() {
#if defined(__GLIBC__)
    constexpr int kGib = 1 << 30;
    return mallopt(M_MMAP_THRESHOLD, kGib) == 1 && mallopt(M_TRIM_THRESHOLD, kGib) == 1;
#else
    return false;
#endif
}

Pages::Pages(std::size_t bytes) : size_(bytes) {
#if defined(__linux__)
    const bool huge = bytes >= kHuge;
    mapped_ = huge ? bytes + kHuge : bytes;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) {
        base_ = nullptr;
        throw std::bad_alloc();
    }
    auto address = reinterpret_cast<std::uintptr_t>(base_);
    if (huge) address = (address + kHuge - 1) & ~(kHuge - 1);
    data_ = reinterpret_cast<void*>(address);
    if (huge) madvise(data_, bytes, MADV_HUGEPAGE);  // advice only: 4 KiB pages work too, slower
#else
    mapped_ = (bytes + 63) & ~std::size_t{63};
    base_ = data_ = std::aligned_alloc(64, mapped_);
    if (base_ == nullptr) throw std::bad_alloc();
    std::memset(data_, 0, mapped_);
#endif
}

Pages::~Pages() {
    if (base_ == nullptr) return;
#if defined(__linux__)
    munmap(base_, mapped_);
#else
    std::free(base_);
#endif
}

Pages::Pages(Pages&& other) noexcept { *this = std::move(other); }

Pages& Pages::operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(mapped_, other.mapped_);
    return *this;
}

Chunks::Chunks(std::size_t chunk_bytes) {
    shift_ = 0;
    while ((std::size_t{64} << shift_) < chunk_bytes) ++shift_;
    mask_ = (std::uint32_t{1} << shift_) - 1;
}

void Chunks::reserve(std::size_t count) {
    while (chunks_.size() << shift_ < count) {
        owned_.emplace_back(std::size_t{64} << shift_);
        chunks_.push_back(static_cast<unsigned char*>(owned_.back().data()));
    }
}

}  // namespace evalkit
