#include "../core/bias.hpp"

#include "../core/temperature.hpp"
#include "checks.hpp"

namespace evalkit::bind {
namespace {

// What both row kernels take: tokens [n], p [n, vocab].
std::size_t check_rows(const Int32& tokens, const Float64& p, std::uint32_t vocab) {
    const std::size_t n = length(tokens, "tokens");
    check_ids(tokens, 0, vocab, "tokens");
    check_shape(p, n, vocab, "p");
    return n;
}

const double* optional(const py::object& x, std::size_t size, const char* name) {
    if (x.is_none()) return nullptr;
    if (!py::isinstance<Float64>(x)) throw py::type_error(std::string(name) + " must be None or a C-ordered float64 array");
    const auto a = py::reinterpret_borrow<Float64>(x);
    if (static_cast<std::size_t>(a.size()) != size)
        throw py::value_error(std::string(name) + " must have " + std::to_string(size) + " entries");
    return a.data();
}

class BiasFace {
 public:
    explicit BiasFace(const BiasSettings& settings) : vocab_(settings.vocab), bias_(settings) {}

    void begin(std::int64_t first_token) { bias_.begin(check_id(first_token, vocab_, "first_token")); }

    Float64 score(const Int32& tokens, const Float64& p) {
        const std::size_t n = check_rows(tokens, p, vocab_);
        const std::int32_t* x = tokens.data();
        return filled(p, [&](double* to) { bias_.score(x, n, p.data(), to); });
    }

    // factors: one per row of float32 weights, or None for rows of float64 probabilities.
    Float64 score_columns(const Int32& tokens, const Int32& cands, const py::array& rows, const py::object& factors,
                          const std::string& isa) {
        const std::size_t n = length(tokens, "tokens");
        check_ids(tokens, 0, vocab_, "tokens");
        check_shape(rows, n, vocab_, "rows");
        if (cands.ndim() != 2) throw py::value_error("cands must have 2 dimensions, not " + std::to_string(cands.ndim()));
        const auto k = static_cast<std::size_t>(cands.shape(1));
        check_shape(cands, n, k, "cands");
        check_ids(cands, -1, vocab_, "cands");
        const bool narrow = py::isinstance<Float32>(rows) && !factors.is_none();
        if (!narrow && !(py::isinstance<Float64>(rows) && factors.is_none()))
            throw py::type_error("rows must be C-ordered: float32 with factors, or float64 without");
        const double* scale = narrow ? per_target<Float64>(factors, n, "factors") : nullptr;
        Float64 out(std::vector<py::ssize_t>{cands.shape(0), cands.shape(1)});
        double* to = out.mutable_data();
        const Isa which = isa_of(isa);
        const void* cells = rows.data();
        const std::int32_t *x = tokens.data(), *ids = cands.data();
        const py::gil_scoped_release quiet;
        if (narrow) {
            bias_.score_columns(x, n, static_cast<const float*>(cells), scale, ids, k, to, which);
        } else {
            bias_.score_columns(x, n, static_cast<const double*>(cells), nullptr, ids, k, to, which);
        }
        return out;
    }

    Float64 row(const Float64& p) {
        check_row(p, vocab_);
        return filled(p, [&](double* to) { bias_.row(p.data(), to); });
    }

    void observe(std::int64_t token) { bias_.observe(check_id(token, vocab_, "token")); }
    Float64 state() const { return copy_out(bias_.state()); }
    void set_state(const Float64& state) { bias_.set_state(state.data(), length(state, "state")); }
    const LogBias& bias() const { return bias_; }

 private:
    std::uint32_t vocab_;
    LogBias bias_;
};

class TemperatureFace {
 public:
    explicit TemperatureFace(const TemperatureSettings& settings)
        : vocab_(settings.vocab), learn_(settings.learn), temperature_(settings) {}

    void begin(std::int64_t first_token) {
        check_id(first_token, vocab_, "first_token");
        temperature_.begin();
    }

    Float64 score(const Int32& tokens, const Float64& p, const py::object& model, const py::object& entropy) {
        const std::size_t n = check_rows(tokens, p, vocab_);
        const double* anchor = optional(model, n * vocab_, "model");
        const double* nats = entropies(entropy, n);
        const std::int32_t* x = tokens.data();
        return filled(p, [&](double* to) { temperature_.score(x, n, p.data(), anchor, nats, to); });
    }

    Float64 row(const Float64& p, const py::object& model, const py::object& entropy) {
        check_row(p, vocab_);
        const double* anchor = optional(model, vocab_, "model");
        const double* nats = entropies(entropy, 1);
        return filled(p, [&](double* to) { temperature_.row(p.data(), anchor, nats, to); });
    }

    void observe(std::int64_t token) { temperature_.observe(check_id(token, vocab_, "token")); }
    Float64 state() const { return copy_out(temperature_.state()); }
    void set_state(const Float64& state) { temperature_.set_state(state.data(), length(state, "state")); }
    std::size_t bytes() const { return temperature_.bytes(); }

 private:
    const double* entropies(const py::object& entropy, std::size_t n) const {
        const double* nats = optional(entropy, n, "entropy");
        if (learn_ && nats == nullptr) throw py::value_error("entropy must be given where exponents are learned");
        return nats;
    }

    std::uint32_t vocab_;
    bool learn_;
    Temperature temperature_;
};

}  // namespace
}  // namespace evalkit::bind

void bind_bias(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    py::class_<BiasFace>(m, "LogBias")
        .def(py::init([](std::uint32_t vocab, std::int64_t bos, std::size_t stride, bool fisher, double rate,
                         double global_prior, double document_prior, double previous_prior, double keep,
                         std::size_t bytes) {
                 return std::make_unique<BiasFace>(evalkit::BiasSettings{vocab, bos, stride, fisher, rate, global_prior,
                                                                         document_prior, previous_prior, keep, bytes});
             }),
             py::kw_only(), py::arg("vocab"), py::arg("bos"), py::arg("stride"), py::arg("fisher"), py::arg("rate"),
             py::arg("global_prior"), py::arg("document_prior"), py::arg("previous_prior"), py::arg("keep"),
             py::arg("bytes"))
        .def("begin", &BiasFace::begin, py::arg("first_token"))
        .def("score", &BiasFace::score, py::arg("tokens").noconvert(), py::arg("p").noconvert())
        .def("score_columns", &BiasFace::score_columns, py::kw_only(), py::arg("tokens").noconvert(),
             py::arg("cands").noconvert(), py::arg("rows").noconvert(), py::arg("factors").none(true),
             py::arg("isa") = "")
        .def("row", &BiasFace::row, py::arg("p").noconvert())
        .def("observe", &BiasFace::observe, py::arg("token"))
        .def("state", &BiasFace::state)
        .def("set_state", &BiasFace::set_state, py::arg("state").noconvert())
        .def_property_readonly("bytes", [](const BiasFace& f) { return f.bias().bytes(); })
        .def_property_readonly("previous_rows", [](const BiasFace& f) { return f.bias().previous_rows(); });
    py::class_<TemperatureFace>(m, "Temperature")
        .def(py::init([](std::uint32_t vocab, double exponent, bool learn, bool anchor, double prior) {
                 return std::make_unique<TemperatureFace>(
                     evalkit::TemperatureSettings{vocab, exponent, learn, anchor, prior});
             }),
             py::kw_only(), py::arg("vocab"), py::arg("exponent"), py::arg("learn"), py::arg("anchor"), py::arg("prior"))
        .def("begin", &TemperatureFace::begin, py::arg("first_token"))
        .def("score", &TemperatureFace::score, py::arg("tokens").noconvert(), py::arg("p").noconvert(),
             py::arg("model"), py::arg("entropy"))
        .def("row", &TemperatureFace::row, py::arg("p").noconvert(), py::arg("model"), py::arg("entropy"))
        .def("observe", &TemperatureFace::observe, py::arg("token"))
        .def("state", &TemperatureFace::state)
        .def("set_state", &TemperatureFace::set_state, py::arg("state").noconvert())
        .def_property_readonly("bytes", &TemperatureFace::bytes);
}
