// What was counted before its scores are asked for: a queue between the thread that counts and the one that scores.
#pragma once

#include <cstddef>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

namespace evalkit {

// Blocks of n targets with k candidates each; numbers of type T.
template <class T>
class CountedAhead {
 public:
    void clear() {
        const std::lock_guard<std::mutex> alone(mutex_);
        blocks_.clear();
    }
    void put(std::size_t n, std::size_t k, std::vector<T> found) {
        const std::lock_guard<std::mutex> alone(mutex_);
        blocks_.push_back(Block{n, k, std::move(found)});
    }
    // The oldest block; empty when nothing was counted ahead.
    std::vector<T> take(std::size_t n, std::size_t k) {
        const std::lock_guard<std::mutex> alone(mutex_);
        if (blocks_.empty()) return {};
        if (blocks_.front().n != n || blocks_.front().k != k)
            throw std::invalid_argument("these are not the targets that were counted ahead");
        std::vector<T> found = std::move(blocks_.front().found);
        blocks_.pop_front();
        return found;
    }
    // For whoever reads the counts themselves, which must stand where the scores do.
    void check_empty() const {
        const std::lock_guard<std::mutex> alone(mutex_);
        if (!blocks_.empty()) throw std::invalid_argument("targets were counted ahead that are not scored yet");
    }

 private:
    struct Block {
        std::size_t n, k;
        std::vector<T> found;
    };
    std::deque<Block> blocks_;
    mutable std::mutex mutex_;
};

}  // namespace evalkit
