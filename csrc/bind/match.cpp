#include "../core/match_source.hpp"

#include <pybind11/stl.h>

#include "hints.hpp"

namespace evalkit::bind {
namespace {

using MatchFace = HintFace<MatchSource>;

std::unique_ptr<MatchFace> make_match(std::uint32_t vocab, int min_length, int max_length, int misses,
                                      std::vector<std::vector<double>> theta, std::size_t bytes,
                                      std::size_t expected_tokens) {
    if (min_length < 1 || max_length < min_length || max_length > kMaxContext || misses < 0 || misses > 8)
        throw py::value_error("lengths must rise within 1..48, misses lie within 0..8");
    TiltSettings settings = tilt_settings(vocab, {HintKind::any}, -1.0, std::move(theta));
    check_buckets(settings.theta, 0, MatchHints::kBuckets);
    MatchSettings match;
    match.min_length = min_length;
    match.max_length = max_length;
    match.misses = misses;
    auto source = std::make_unique<MatchSource>(match, bytes, expected_tokens);
    return std::make_unique<MatchFace>(vocab, std::move(source), std::move(settings));
}

}  // namespace
}  // namespace evalkit::bind

void bind_match(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.attr("match_buckets") = evalkit::MatchHints::kBuckets;
    py::class_<MatchFace> face(m, "Match");
    face.def(py::init(&make_match), py::kw_only(), py::arg("vocab"), py::arg("min_length"), py::arg("max_length"), py::arg("misses"),
             py::arg("theta"), py::arg("bytes"), py::arg("expected_tokens"));
    bind_face(face);
}
