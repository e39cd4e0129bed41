#include <pybind11/stl.h>

#include <type_traits>

#include "../core/ppm_dirichlet.hpp"
#include "../core/ppm_learned.hpp"
#include "checks.hpp"
#include "corpus.hpp"

namespace evalkit::bind {
namespace {

class DirichletFace {
 public:
    explicit DirichletFace(DirichletSettings settings) : vocab_(settings.vocab), ppm_(std::move(settings)) {}

    void begin(std::int64_t first_token) {
        ppm_.begin(check_id(first_token, vocab_, "first_token"));
        begun_ = true;
    }

    Float64 score(const Int32& tokens, const py::object& cands, const Float64& p) {
        check_begun();
        const Columns c = check_columns(tokens, cands, p, vocab_);
        return filled(p, [&](double* to) { ppm_.score(c.tokens, c.n, c.cands, c.k, c.p, to); });
    }

    Float64 row(const Float64& p) {
        check_begun();
        check_row(p, vocab_);
        return filled(p, [&](double* to) { ppm_.row(p.data(), to); });
    }

    void observe(const Int32& tokens) {
        check_begun();
        with_tokens(tokens, vocab_, [&](const std::int32_t* x, std::size_t n) { ppm_.observe(x, n); });
    }

    const GramTable& table() const { return ppm_.table(); }

 private:
    void check_begun() const {
        if (!begun_) throw py::value_error("begin() comes first");
    }

    std::uint32_t vocab_;
    bool begun_ = false;
    DirichletPpm ppm_;
};

template <class Ppm>
class LearnedFace {
 public:
    explicit LearnedFace(LearnedSettings settings)
        : vocab_(settings.vocab), side_(settings.side), decides_(settings.decide > 0.0), ppm_(std::move(settings)) {}

    void begin(std::int64_t first_token) {
        ppm_.begin(check_id(first_token, vocab_, "first_token"));
        begun_ = true;
    }

    Float64 score(const Int32& tokens, const py::object& cands, const Float64& p, const py::object& entropy,
                  const py::object& top, std::size_t own) {
        check_begun();
        const Columns c = check_columns(tokens, cands, p, vocab_);
        const SideView side = side_of(entropy, top, c.n);
        if (decides_ && c.cands != nullptr) {
            bool mine = own >= 1 && own < c.k;
            for (std::size_t i = 0; mine && i < c.n; ++i) mine = c.cands[i * c.k + own] == side.top[i];
            if (!mine) throw py::value_error("own must be the column of the most probable id");
        }
        return filled(p, [&](double* to) { ppm_.score(c.tokens, c.n, c.cands, c.k, own, c.p, side, to); });
    }

    void count(const Int32& tokens, const Int32& cands) {
        check_begun();
        const Candidates c = check_candidates(tokens, cands, vocab_);
        const py::gil_scoped_release quiet;
        ppm_.count(c.tokens, c.n, c.cands, c.k);
    }

    Float64 row(const Float64& p, const py::object& entropy, const py::object& top) {
        check_begun();
        check_row(p, vocab_);
        const SideView side = side_of(entropy, top, 1);
        return filled(p, [&](double* to) { ppm_.row(p.data(), side, to); });
    }

    void observe(std::int64_t token) {
        check_begun();
        if (!ppm_.observe(check_id(token, vocab_, "token")))
            throw py::value_error("observe() needs the row() of the same target before it");
    }

    void replay(const Int32& tokens) {
        check_begun();
        with_tokens(tokens, vocab_, [&](const std::int32_t* x, std::size_t n) { ppm_.replay(x, n); });
    }

    Float64 weights() const {
        check_begun();
        return copy_out(ppm_.weights());
    }

    void set_weights(const Float64& values) {
        check_begun();
        if (!ppm_.set_weights(values.data(), length(values, "values")))
            throw py::value_error("values must have as many entries as weights()");
    }

    const Ppm& ppm() const { return ppm_; }

 private:
    void check_begun() const {
        if (!begun_) throw py::value_error("begin() comes first");
    }

    SideView side_of(const py::object& entropy, const py::object& top, std::size_t n) const {
        if (!side_) return SideView{};
        return SideView{per_target<Float64>(entropy, n, "entropy"), ids_per_target(top, n, vocab_, "top")};
    }

    std::uint32_t vocab_;
    bool side_;
    bool decides_;
    bool begun_ = false;
    Ppm ppm_;
};

void check_rising(const std::vector<int>& orders) {
    for (std::size_t i = 0; i < orders.size(); ++i) {
        if (orders[i] < 1 || orders[i] > kMaxOrder || (i > 0 && orders[i] <= orders[i - 1]))
            throw py::value_error("orders must rise within 1..24");
    }
}

void check_orders(const std::vector<int>& orders, const std::vector<double>& strength) {
    if (orders.empty() || orders.size() != strength.size()) throw py::value_error("one concentration per order");
    check_rising(orders);
    for (const double c : strength)
        if (!(c > 0.0)) throw py::value_error("concentrations must be positive");
}

template <class Ppm>
void bind_learned(py::module_& m, const char* name) {
    using Face = LearnedFace<Ppm>;
    py::class_<Face>(m, name)
        .def(py::init([](std::uint32_t vocab, std::int32_t bos, std::vector<int> orders,
                         std::vector<int> document_orders, double rate, bool side, std::size_t bytes,
                         std::size_t document_bytes, std::size_t expected_tokens, double fast, double discount,
                         std::shared_ptr<CountedCorpus> corpus, std::vector<int> corpus_orders, double decide) {
                 check_rising(orders);
                 check_rising(document_orders);
                 if (!(rate >= 0.0 && rate < 1e6)) throw py::value_error("rate must be finite and not negative");
                 if (!(fast >= 0.0 && fast < 1e6)) throw py::value_error("fast must be finite and not negative");
                 if (!(decide >= 0.0 && decide < 1e6) || (decide > 0.0 && !side))
                     throw py::value_error("decide must be finite and not negative, and 0 without side");
                 const bool exact = std::is_same_v<Ppm, evalkit::ContinuationPpm>;
                 if (!(discount >= 0.0 && discount < 1.0) || (discount > 0.0 && !exact))
                     throw py::value_error("discount must be within 0..1, and 0 where followers are not counted exactly");
                 evalkit::LearnedSettings s;
                 s.vocab = vocab;
                 s.bos = bos;
                 s.orders = std::move(orders);
                 s.document_orders = std::move(document_orders);
                 s.rate = rate;
                 s.side = side;
                 s.fast = fast;
                 s.decide = decide;
                 s.discount = discount;
                 s.bytes = bytes;
                 s.document_bytes = document_bytes;
                 s.expected_tokens = expected_tokens;
                 if ((corpus == nullptr) != corpus_orders.empty())
                     throw py::value_error("corpus and corpus_orders come together");
                 check_rising(corpus_orders);
                 if (corpus != nullptr) {
                     if (corpus->table->vocab() != vocab || corpus->table->max_order() < corpus_orders.back())
                         throw py::value_error("the corpus was counted for another vocabulary or for shorter orders");
                     s.corpus = corpus->table;
                     s.corpus_orders = std::move(corpus_orders);
                 }
                 return std::make_unique<Face>(std::move(s));
             }),
             py::kw_only(), py::arg("vocab"), py::arg("bos"), py::arg("orders"), py::arg("document_orders"), py::arg("rate"),
             py::arg("side"), py::arg("bytes"), py::arg("document_bytes"), py::arg("expected_tokens"),
             py::arg("fast") = 0.0, py::arg("discount") = 0.0, py::arg("corpus") = nullptr,
             py::arg("corpus_orders") = std::vector<int>{}, py::arg("decide") = 0.0)
        .def("begin", &Face::begin, py::arg("first_token"))
        .def("score", &Face::score, py::arg("tokens").noconvert(), py::arg("cands"), py::arg("p").noconvert(),
             py::arg("entropy"), py::arg("top"), py::arg("own") = 0)
        .def("count", &Face::count, py::arg("tokens").noconvert(), py::arg("cands").noconvert())
        .def("row", &Face::row, py::arg("p").noconvert(), py::arg("entropy"), py::arg("top"))
        .def("observe", &Face::observe, py::arg("token"))
        .def("replay", &Face::replay, py::arg("tokens").noconvert())
        .def("weights", &Face::weights)
        .def_property_readonly("lasting", [](const Face& f) { return f.ppm().lasting(); })
        .def("set_weights", &Face::set_weights, py::arg("values").noconvert())
        .def_property_readonly("bytes", [](const Face& f) { return f.ppm().bytes(); })
        .def_property_readonly("frozen_at", [](const Face& f) { return f.ppm().stream().frozen_at(); })
        .def_property_readonly("grams", [](const Face& f) { return f.ppm().stream().grams(); });
}

}  // namespace
}  // namespace evalkit::bind

void bind_ppm(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.def("smallest_table", &evalkit::GramTable::smallest, py::arg("vocab"), py::arg("max_order"));
    py::class_<DirichletFace>(m, "DirichletPpm")
        .def(py::init([](std::uint32_t vocab, std::vector<int> orders, std::vector<double> strength,
                         std::uint32_t min_count, std::size_t bytes, std::size_t expected_tokens) {
                 check_orders(orders, strength);
                 evalkit::DirichletSettings s;
                 s.vocab = vocab;
                 s.orders = std::move(orders);
                 s.strength = std::move(strength);
                 s.min_count = min_count;
                 s.bytes = bytes;
                 s.expected_tokens = expected_tokens;
                 return std::make_unique<DirichletFace>(std::move(s));
             }),
             py::kw_only(), py::arg("vocab"), py::arg("orders"), py::arg("strength"), py::arg("min_count"), py::arg("bytes"),
             py::arg("expected_tokens"))
        .def("begin", &DirichletFace::begin, py::arg("first_token"))
        .def("score", &DirichletFace::score, py::arg("tokens").noconvert(), py::arg("cands"), py::arg("p").noconvert())
        .def("row", &DirichletFace::row, py::arg("p").noconvert())
        .def("observe", &DirichletFace::observe, py::arg("tokens").noconvert())
        .def_property_readonly("bytes", [](const DirichletFace& f) { return f.table().bytes(); })
        .def_property_readonly("frozen_at", [](const DirichletFace& f) { return f.table().frozen_at(); })
        .def_property_readonly("grams", [](const DirichletFace& f) { return f.table().grams(); });
    bind_learned<evalkit::LearnedPpm>(m, "LearnedPpm");
    bind_learned<evalkit::ContinuationPpm>(m, "ContinuationPpm");
}
