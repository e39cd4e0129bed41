#include "../core/tilt_source.hpp"

#include <pybind11/stl.h>

#include "hints.hpp"

namespace evalkit::bind {
namespace {

using TiltFace = HintFace<TiltSource>;

std::unique_ptr<TiltFace> make_tilt(std::uint32_t vocab, std::vector<int> orders, std::vector<double> min_share,
                                    std::vector<std::uint32_t> min_count, double fixed,
                                    std::vector<std::vector<double>> theta, std::size_t bytes,
                                    std::size_t expected_tokens) {
    check_hint_orders(orders);
    if (orders.empty() || min_share.size() != orders.size() || min_count.size() != orders.size())
        throw py::value_error("one least share and one least count per order");
    TiltSettings settings = tilt_settings(vocab, {HintKind::any}, fixed, std::move(theta));
    check_buckets(settings.theta, 0, orders.size() * kCountBuckets);
    OrderGates gates{std::move(min_share), std::move(min_count)};
    auto source = std::make_unique<TiltSource>(std::move(orders), std::move(gates), bytes, expected_tokens);
    return std::make_unique<TiltFace>(vocab, std::move(source), std::move(settings));
}

}  // namespace
}  // namespace evalkit::bind

void bind_tilt(pybind11::module_& m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    m.attr("count_buckets") = evalkit::kCountBuckets;
    py::class_<TiltFace> face(m, "Tilt");
    face.def(py::init(&make_tilt), py::kw_only(), py::arg("vocab"), py::arg("orders"), py::arg("min_share"), py::arg("min_count"),
             py::arg("fixed"), py::arg("theta"), py::arg("bytes"), py::arg("expected_tokens"));
    bind_face(face);
}
