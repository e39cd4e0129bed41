#include <pybind11/stl.h>

#include "../core/mixer.hpp"
#include "checks.hpp"

namespace evalkit::bind {
namespace {

class MixerFace {
 public:
    explicit MixerFace(MixerSettings settings) : vocab_(settings.vocab), by_(settings.by), mixer_(std::move(settings)) {}

    void begin(std::int64_t first_token) { mixer_.begin(check_id(first_token, vocab_, "first_token")); }

    Float64 score(const Int32& tokens, const py::object& cands, const Float64& p, const std::vector<Float64>& past,
                  const py::object& entropy, const py::object& top_id) {
        const Columns c = check_columns(tokens, cands, p, vocab_);
        std::vector<const double*> stages;
        for (const Float64& stage : past) {
            check_shape(stage, c.n, c.k, "each array of history");
            stages.push_back(stage.data());
        }
        const MixerSide side = side_of(entropy, top_id, c.n);
        return filled(p, [&](double* to) { mixer_.score(c.tokens, c.n, c.cands, c.k, c.p, stages, side, to); });
    }

    void count(const Int32& tokens, const Int32& cands) {
        const Candidates c = check_candidates(tokens, cands, vocab_);
        const py::gil_scoped_release quiet;
        mixer_.count(c.tokens, c.n, c.cands, c.k);
    }

    Float64 row(const Float64& p, const std::vector<Float64>& past, const py::object& entropy, const py::object& top_id) {
        check_row(p, vocab_);
        std::vector<const double*> stages;
        for (const Float64& stage : past) {
            check_row(stage, vocab_, "each array of history");
            stages.push_back(stage.data());
        }
        const MixerSide side = side_of(entropy, top_id, 1);
        return filled(p, [&](double* to) { mixer_.row(p.data(), stages, side, to); });
    }

    void observe(std::int64_t token) { mixer_.observe(check_id(token, vocab_, "token")); }

    void replay(const Int32& tokens) {
        with_tokens(tokens, vocab_, [&](const std::int32_t* x, std::size_t n) { mixer_.replay(x, n); });
    }

    Float64 state() const { return copy_out(mixer_.state()); }

    void set_state(const Float64& state) { mixer_.set_state(state.data(), length(state, "state")); }

    const Mixer& mixer() const { return mixer_; }

 private:
    MixerSide side_of(const py::object& entropy, const py::object& top_id, std::size_t n) const {
        return MixerSide{by_.entropy ? per_target<Float64>(entropy, n, "entropy") : nullptr,
                         by_.agreement ? ids_per_target(top_id, n, vocab_, "top_id") : nullptr};
    }

    std::uint32_t vocab_;
    BucketChoice by_;
    Mixer mixer_;
};

template <class T>
T named(const std::string& name, const std::vector<std::pair<const char*, T>>& known, const char* what) {
    for (const auto& [word, value] : known)
        if (name == word) return value;
    throw py::value_error(std::string("unknown ") + what + " '" + name + "'");
}

std::unique_ptr<MixerFace> make_mixer(std::uint32_t vocab, std::vector<int> orders, const std::string& smoothing,
                                      double discount, const std::vector<std::string>& by, const std::string& update,
                                      double rate, double share, double prior, std::size_t bytes) {
    MixerSettings s;
    s.vocab = vocab;
    s.orders = std::move(orders);
    s.smoothing = named<Smoothing>(smoothing,
                                   {{"witten_bell", Smoothing::kWittenBell},
                                    {"absolute", Smoothing::kAbsolute},
                                    {"kneser_ney", Smoothing::kKneserNey}},
                                   "smoothing");
    s.discount = discount;
    for (const std::string& each : by) {
        bool BucketChoice::*field = named<bool BucketChoice::*>(each,
                                                                {{"order", &BucketChoice::order},
                                                                 {"count", &BucketChoice::count},
                                                                 {"top", &BucketChoice::top},
                                                                 {"entropy", &BucketChoice::entropy},
                                                                 {"agreement", &BucketChoice::agreement}},
                                                                "bucket");
        s.by.*field = true;
    }
    s.update = named<Update>(update, {{"hedge", Update::kHedge}, {"soft_bayes", Update::kSoftBayes}}, "update");
    s.rate = rate;
    s.share = share;
    s.prior = prior;
    s.bytes = bytes;
    return std::make_unique<MixerFace>(std::move(s));
}

}  // namespace
}  // namespace evalkit::bind

void bind_mixer(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.def("smallest_mixer", &evalkit::NgramCounts::smallest);
    py::class_<MixerFace>(m, "Mixer")
        .def(py::init(&make_mixer), py::kw_only(), py::arg("vocab"), py::arg("orders"), py::arg("smoothing"), py::arg("discount"),
             py::arg("by"), py::arg("update"), py::arg("rate"), py::arg("share"), py::arg("prior"), py::arg("bytes"))
        .def("begin", &MixerFace::begin, py::arg("first_token"))
        .def("score", &MixerFace::score, py::arg("tokens").noconvert(), py::arg("cands"), py::arg("p").noconvert(),
             py::arg("history").noconvert(), py::arg("entropy"), py::arg("top_id"))
        .def("count", &MixerFace::count, py::arg("tokens").noconvert(), py::arg("cands").noconvert())
        .def("row", &MixerFace::row, py::arg("p").noconvert(), py::arg("history").noconvert(), py::arg("entropy"),
             py::arg("top_id"))
        .def("observe", &MixerFace::observe, py::arg("token"))
        .def("replay", &MixerFace::replay, py::arg("tokens").noconvert())
        .def("state", &MixerFace::state)
        .def("set_state", &MixerFace::set_state, py::arg("state").noconvert())
        .def_property_readonly("bytes", [](const MixerFace& f) { return f.mixer().bytes(); })
        .def_property_readonly("count_bytes", [](const MixerFace& f) { return f.mixer().counts().bytes(); })
        .def_property_readonly("frozen_at", [](const MixerFace& f) { return f.mixer().counts().frozen_at(); })
        .def_property_readonly("pairs", [](const MixerFace& f) { return f.mixer().counts().pairs(); });
}
