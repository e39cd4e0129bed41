#include "../core/agree_source.hpp"

#include <pybind11/stl.h>

#include "hints.hpp"

namespace evalkit::bind {
namespace {

using AgreeFace = HintFace<AgreeSource>;

std::vector<HintKind> kinds_of(const AgreeSettings& s) {
    std::vector<HintKind> kinds;
    if (!s.orders.empty()) kinds.push_back(HintKind::any);
    for (std::size_t i = 0; i < s.words.size() + s.document_words.size(); ++i) {
        kinds.push_back(HintKind::inside);
        kinds.push_back(HintKind::start);
    }
    return kinds;
}

void check_words(const std::vector<int>& words) {
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (words[i] < 1 || words[i] > kMaxWords || (i > 0 && words[i] <= words[i - 1]))
            throw py::value_error("word contexts must rise within 1..4");
    }
}

std::vector<WordRole> roles_of(const py::array_t<std::uint8_t, py::array::c_style>& roles, std::uint32_t vocab) {
    if (length(roles, "roles") != vocab) throw py::value_error("roles must have one entry per token of the vocabulary");
    std::vector<WordRole> out;
    for (std::size_t v = 0; v < vocab; ++v) {
        if (roles.data()[v] > 2) throw py::value_error("roles must be 0 (inside), 1 (start) or 2 (control)");
        out.push_back(static_cast<WordRole>(roles.data()[v]));
    }
    return out;
}

std::unique_ptr<AgreeFace> make_agree(std::uint32_t vocab, std::vector<int> orders, std::vector<int> words,
                                      std::vector<int> document_words,
                                      const py::array_t<std::uint8_t, py::array::c_style>& roles, std::int64_t bos,
                                      std::vector<std::vector<double>> theta, std::size_t bytes,
                                      std::size_t expected_tokens) {
    check_hint_orders(orders);
    check_words(words);
    check_words(document_words);
    AgreeSettings agree;
    agree.roles = roles_of(roles, vocab);
    agree.bos = bos;
    agree.bytes = bytes;
    agree.expected_tokens = expected_tokens;
    const std::size_t token_buckets = orders.size() * kCountBuckets;
    agree.orders = std::move(orders);
    agree.words = std::move(words);
    agree.document_words = std::move(document_words);
    std::vector<HintKind> kinds = kinds_of(agree);
    TiltSettings settings = tilt_settings(vocab, kinds, -1.0, std::move(theta));
    for (std::size_t s = 0; s < kinds.size(); ++s)
        check_buckets(settings.theta, s, kinds[s] == HintKind::any ? token_buckets : kCountBuckets);
    auto source = std::make_unique<AgreeSource>(std::move(agree));
    return std::make_unique<AgreeFace>(vocab, std::move(source), std::move(settings));
}

}  // namespace
}  // namespace evalkit::bind

void bind_agree(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    py::class_<AgreeFace> face(m, "Agree");
    face.def(py::init(&make_agree), py::kw_only(), py::arg("vocab"), py::arg("orders"), py::arg("words"), py::arg("document_words"),
             py::arg("roles").noconvert(), py::arg("bos"), py::arg("theta"), py::arg("bytes"),
             py::arg("expected_tokens"));
    bind_face(face);
}
