// Is the incoming row too sure or not sure enough, and did the stages before it go too far from the model?
//
//     p'(v) = p(v)^a m(v)^c / Z          m: the model's own row; a = 1 / temperature
//
// a and c are fixed, or learned per bucket of the model's entropy (whole nats) by steps on the booked nats with the
// curvature as precondition:  a += (log p(x) - E log p) / (prior + sum of Var log p),  the same for c; E, Var under p'.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace evalkit {

struct TemperatureSettings {
    std::uint32_t vocab = 0;
    double exponent = 1.0;   // first value of a
    bool learn = true;
    bool anchor = true;      // learn c too, where there is an earlier stage; else c stays 0
    double prior = 100.0;    // counts times squared nats
};

class Temperature {
 public:
    explicit Temperature(TemperatureSettings settings);

    void begin();
    // p, out, model: [n, vocab]; model null: no earlier stage.  entropy: [n], nats; null unless learned.
    void score(const std::int32_t* tokens, std::size_t n, const double* p, const double* model, const double* entropy,
               double* out);
    void row(const double* p, const double* model, const double* entropy, double* out);
    void observe(std::uint32_t token);
    std::vector<double> state() const { return state_; }
    void set_state(const double* state, std::size_t size);
    std::size_t bytes() const { return sizeof(double) * (3 * log_p_.size() + state_.size()); }

 private:
    double* bucket(const double* entropy);
    void step(double* exponent, double* scale, const double* log_row, std::uint32_t token) const;

    TemperatureSettings settings_;
    std::vector<double> state_;  // [buckets][4]: a, curvature of a, c, curvature of c
    std::vector<double> log_p_, log_model_, out_;
    double* here_ = nullptr;     // bucket of the last row
    bool anchored_ = false;
    bool has_pending_ = false;
};

}  // namespace evalkit
