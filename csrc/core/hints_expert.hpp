// How does a source of hints become an expert?  Hints are made from the tokens a chunk ahead, scores follow in order.
//
// propose() runs the tables over tokens that are known to the kernel and keeps each position's hints, made before its
// own token was counted; score() turns them into tilts and learns from one target after the other.  The strict spelling
// makes the hints of the next position from the tables as they stand.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tilt.hpp"

namespace evalkit {

// Source: hints(), start(token), peek(HintRecord*), add(token), space(), and what fetches memory ahead of its use:
// fetch_begin(), fetch_far(ahead, i, tokens), fetch_near(ahead, i) for the position i tokens from the current one.
template <class Source>
class HintExpert {
 public:
    HintExpert(std::unique_ptr<Source> source, TiltSettings settings)
        : source_(std::move(source)), tilt_(std::move(settings)) {}

    int hints() const { return source_->hints(); }

    void begin(std::uint32_t first_token) {
        source_->start(first_token);
        tilt_.clear();
        next_ = end_ = 0;
        evaluated_ = false;
    }

    // out: [n, hints] token ids, -1 where there is none.
    void propose(const std::int32_t* tokens, std::size_t n, std::int32_t* out) {
        const auto at = [this](std::size_t i) { return waiting_.begin() + static_cast<std::ptrdiff_t>(i); };
        if (next_ > 0) std::copy(at(next_), at(end_), at(0));
        const auto h = static_cast<std::size_t>(hints());
        const std::size_t before = end_ - next_;
        next_ = 0;
        end_ = before + n * h;
        if (waiting_.size() < end_) waiting_.resize(end_);
        feed(tokens, n, [&](std::size_t i) {
            HintRecord* now = waiting_.data() + before + i * h;
            source_->peek(now);
            for (std::size_t s = 0; s < h; ++s) out[i * h + s] = now[s].token;
        });
    }

    // own: first column of the hints in cands.  start_mass: [n], or null.
    void score(const std::int32_t* tokens, std::size_t n, const std::int32_t* cands, std::size_t k, std::size_t own,
               const double* p, const double* start_mass, double* out) {
        for (std::size_t i = 0; i < n; ++i, p += k, out += k) {
            const std::int32_t* ids = cands == nullptr ? nullptr : cands + i * k;
            evaluate(ids, own, p, start_mass == nullptr ? 0.5 : start_mass[i]);
            if (tilt_.idle()) {
                for (std::size_t j = 0; j < k; ++j) out[j] = p[j];
            } else {
                for (std::size_t j = 0; j < k; ++j) {
                    const std::int32_t v = ids == nullptr ? static_cast<std::int32_t>(j) : ids[j];
                    out[j] = v < 0 ? p[j] : tilt_.apply(v, p[j]);
                }
            }
            tilt_.learn(tokens[i]);
            next_ += static_cast<std::size_t>(hints());
        }
        evaluated_ = false;
    }

    void row(const double* p, std::size_t vocab, double start_mass, double* out) {
        evaluate(nullptr, 0, p, start_mass);
        for (std::size_t v = 0; v < vocab; ++v) out[v] = tilt_.apply(static_cast<std::int32_t>(v), p[v]);
        evaluated_ = true;
    }

    // After row() for this target.
    void observe(std::int32_t token) {
        if (!evaluated_) throw std::logic_error("observe without a row for this target");
        evaluated_ = false;
        tilt_.learn(token);
        if (next_ < end_) {
            next_ += static_cast<std::size_t>(hints());
        } else {
            source_->add(static_cast<std::uint32_t>(token));
        }
    }

    // Count tokens whose scores are settled; what was learned from scores is set apart, by restore().
    void replay(const std::int32_t* tokens, std::size_t n) {
        feed(tokens, n, [](std::size_t) {});
    }

    std::size_t waiting() const { return (end_ - next_) / static_cast<std::size_t>(hints()); }
    const Tilt& tilt() const { return tilt_; }
    Tilt& tilt() { return tilt_; }
    const Source& source() const { return *source_; }

 private:
    static constexpr std::size_t kBlock = 512;
    static constexpr std::size_t kFar = 32;  // positions ahead: the lines of the tables
    static constexpr std::size_t kNear = 16;  // and what the entries in them point to

    // Call f(i) before token i is counted, for one token after the other.
    template <class F>
    void feed(const std::int32_t* tokens, std::size_t n, F&& f) {
        for (std::size_t done = 0; done < n; done += kBlock)
            feed_block(tokens + done, n - done < kBlock ? n - done : kBlock, [&](std::size_t i) { f(done + i); });
    }

    template <class F>
    void feed_block(const std::int32_t* tokens, std::size_t n, F&& f) {
        const Ahead ahead(source_->space().history, tokens, n);
        source_->fetch_begin();
        for (std::size_t i = 0; i < kFar && i < n; ++i) source_->fetch_far(ahead, i, tokens);
        for (std::size_t i = 0; i < kNear && i < n; ++i) source_->fetch_near(ahead, i);
        for (std::size_t i = 0; i < n; ++i) {
            if (i + kFar < n) source_->fetch_far(ahead, i + kFar, tokens);
            if (i + kNear < n) source_->fetch_near(ahead, i + kNear);
            f(i);
            source_->add(static_cast<std::uint32_t>(tokens[i]));
        }
    }

    void evaluate(const std::int32_t* ids, std::size_t own, const double* p, double start_mass) {
        std::array<HintRecord, kMaxHints> now;
        std::array<double, kMaxHints> of{};
        if (next_ < end_) {
            for (int s = 0; s < hints(); ++s) now[static_cast<std::size_t>(s)] = waiting_[next_ + static_cast<std::size_t>(s)];
        } else {
            source_->peek(now.data());
        }
        for (std::size_t s = 0; s < static_cast<std::size_t>(hints()); ++s) {
            if (now[s].token < 0) continue;
            if (ids != nullptr && ids[own + s] != now[s].token)
                throw std::invalid_argument("the columns of cands are not the hints that were proposed");
            of[s] = p[ids == nullptr ? static_cast<std::size_t>(now[s].token) : own + s];
        }
        tilt_.evaluate(now.data(), of.data(), start_mass);
    }

    std::unique_ptr<Source> source_;
    Tilt tilt_;
    std::vector<HintRecord> waiting_;  // [positions, hints], in part proposed and not yet scored:
    std::size_t next_ = 0;             // from here
    std::size_t end_ = 0;              // up to here
    bool evaluated_ = false;           // row() was called for the next target
};

}  // namespace evalkit
