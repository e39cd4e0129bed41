#include <memory>
#include <string_view>
#include <vector>

#include "../core/word_sequences.hpp"
#include "checks.hpp"
#include "corpus.hpp"

namespace evalkit::bind {
namespace {

using Uint64 = py::array_t<std::uint64_t, py::array::c_style>;

const unsigned char* text_of(const std::string_view& view) { return reinterpret_cast<const unsigned char*>(view.data()); }

Uint64 word_sequences(const py::bytes& text) {
    const std::string_view view = text;
    std::vector<std::uint64_t> found;
    {
        const py::gil_scoped_release quiet;
        evalkit::WordSequences words;
        const auto keep = [&](std::uint64_t hash) { found.push_back(hash); };
        words.read(text_of(view), view.size(), keep);
        words.finish(keep);
    }
    return Uint64(static_cast<py::ssize_t>(found.size()), found.data());
}

class SetFace {
 public:
    explicit SetFace(const Uint64& wanted)
        : set_(std::vector<std::uint64_t>(wanted.data(), wanted.data() + length(wanted, "wanted"))) {}

    void read(const py::bytes& text) {
        const std::string_view view = text;
        const py::gil_scoped_release quiet;
        words_.read(text_of(view), view.size(), [&](std::uint64_t hash) { set_.see(hash); });
        words_.finish([&](std::uint64_t hash) { set_.see(hash); });
    }

    py::array_t<bool> seen() const {
        py::array_t<bool> out(static_cast<py::ssize_t>(set_.seen().size()));
        bool* to = out.mutable_data();
        for (std::size_t i = 0; i < set_.seen().size(); ++i) to[i] = set_.seen()[i] != 0;
        return out;
    }

 private:
    evalkit::SequenceSet set_;
    evalkit::WordSequences words_;
};

std::shared_ptr<CountedCorpus> count_corpus(const Int32& tokens, std::uint32_t vocab, int max_order, std::size_t bytes) {
    const std::size_t n = length(tokens, "tokens");
    if (n == 0) throw py::value_error("tokens must not be empty");
    check_ids(tokens, 0, vocab, "tokens");
    const std::int32_t* x = tokens.data();
    const py::gil_scoped_release quiet;
    auto table = std::make_shared<evalkit::GramTable>(vocab, max_order, bytes, n);
    table->start(static_cast<std::uint32_t>(x[0]));
    table->look_ahead(x + 1, n - 1);
    std::size_t i = 1;
    for (; i < n && !table->frozen(); ++i) table->add(static_cast<std::uint32_t>(x[i]));
    const std::int64_t counted = table->frozen() ? table->frozen_at() : static_cast<std::int64_t>(n) - 1;
    table->seal();
    return std::make_shared<CountedCorpus>(CountedCorpus{std::move(table), counted});
}

}  // namespace
}  // namespace evalkit::bind

void bind_corpus(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    py::class_<CountedCorpus, std::shared_ptr<CountedCorpus>>(m, "CountedCorpus")
        .def(py::init(&count_corpus), py::kw_only(), py::arg("tokens").noconvert(), py::arg("vocab"),
             py::arg("max_order"), py::arg("bytes"))
        .def_readonly("counted", &CountedCorpus::counted)
        .def_property_readonly("grams", [](const CountedCorpus& c) { return c.table->grams(); })
        .def_property_readonly("bytes", [](const CountedCorpus& c) { return c.table->bytes(); });
    m.def("word_sequences", &word_sequences, py::arg("text"));
    py::class_<SetFace>(m, "SequenceSet")
        .def(py::init<const Uint64&>(), py::arg("wanted").noconvert())
        .def("read", &SetFace::read, py::arg("text"))
        .def("seen", &SetFace::seen);
}
