// The count table by itself and the floor of the machine, for benches/bench_tables.py, which builds this module.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "../core/gram_table.hpp"

#include "../bind/checks.hpp"

namespace evalkit::bind {
namespace {

using Uint32 = py::array_t<std::uint32_t, py::array::c_style>;

class TableFace {
 public:
    explicit TableFace(GramTable table) : table_(std::move(table)) {}

    void start(std::int64_t token) { table_.start(check_id(token, table_.vocab(), "token")); }

    // [n, max_order, 2]: count of each token and total of its context, order by order, before it is counted.
    Uint32 count(const Int32& tokens) {
        const std::size_t n = check(tokens);
        const int orders = table_.max_order();
        Uint32 out({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(orders), py::ssize_t{2}});
        const std::int32_t* x = tokens.data();
        std::uint32_t* to = out.mutable_data();
        const py::gil_scoped_release quiet;
        table_.count(x, n, to);
        return out;
    }

    // Tokens that followed the current context of this order, and how often.
    std::pair<Uint32, Uint32> followers(int order) const {
        if (order < 1 || order > table_.max_order()) throw py::value_error("order must lie within 1..max_order");
        std::vector<std::uint32_t> tokens(table_.vocab()), counts;
        std::iota(tokens.begin(), tokens.end(), 0u);
        if (order <= table_.seen()) {
            table_.followers(order, tokens, counts);
        } else {
            tokens.clear();
        }
        return {Uint32(static_cast<py::ssize_t>(tokens.size()), tokens.data()),
                Uint32(static_cast<py::ssize_t>(counts.size()), counts.data())};
    }

    const GramTable& table() const { return table_; }

 private:
    std::size_t check(const Int32& tokens) const {
        if (table_.length() == 0) throw py::value_error("start() comes first");
        check_ids(tokens, 0, table_.vocab(), "tokens");
        return length(tokens, "tokens");
    }

    GramTable table_;
};

// What the machine can do at best: read-modify-write of random 64-byte lines, fetched 64 ahead, in huge pages.
class Probe {
 public:
    explicit Probe(std::size_t bytes) : pages_(std::max<std::size_t>(bytes, 4096)), lines_(pages_.size() / 64) {
        auto* line = static_cast<Line*>(pages_.data());
        for (std::size_t i = 0; i < lines_; ++i) line[i].val[0] = 1;
    }

    std::uint64_t touch(std::size_t n) {
        constexpr std::size_t kAhead = 64;
        auto* line = static_cast<Line*>(pages_.data());
        std::uint64_t ahead[kAhead], state = 88172645463325252u, sum = 0;
        for (std::size_t i = 0; i < n + kAhead; ++i) {
            if (i >= kAhead) sum += ++line[ahead[i % kAhead]].val[1];
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ahead[i % kAhead] = static_cast<std::uint64_t>((static_cast<unsigned __int128>(state) * lines_) >> 64);
            __builtin_prefetch(&line[ahead[i % kAhead]], 1);
        }
        return sum;
    }

 private:
    Pages pages_;
    std::size_t lines_;
};

}  // namespace
}  // namespace evalkit::bind

PYBIND11_MODULE(tables, m) {
    namespace py = pybind11;
    using namespace evalkit::bind;
    py::class_<TableFace>(m, "GramTable")
        .def(py::init([](std::uint32_t vocab, int max_order, std::size_t bytes, std::size_t expected_tokens) {
                 return std::make_unique<TableFace>(evalkit::GramTable(vocab, max_order, bytes, expected_tokens));
             }),
             py::kw_only(), py::arg("vocab"), py::arg("max_order"), py::arg("bytes"), py::arg("expected_tokens") = 0)
        .def("start", &TableFace::start, py::arg("token"))
        .def("count", &TableFace::count, py::arg("tokens").noconvert())
        .def("followers", &TableFace::followers, py::arg("order"))
        .def_property_readonly("bytes", [](const TableFace& f) { return f.table().bytes(); })
        .def_property_readonly("length", [](const TableFace& f) { return f.table().length(); })
        .def_property_readonly("frozen_at", [](const TableFace& f) { return f.table().frozen_at(); })
        .def_property_readonly("grams", [](const TableFace& f) { return f.table().grams(); })
        .def_property_readonly("rebuilds", [](const TableFace& f) { return f.table().rebuilds(); });
    py::class_<Probe>(m, "Probe")
        .def(py::init<std::size_t>(), py::kw_only(), py::arg("bytes"))
        .def("touch", &Probe::touch, py::arg("n"), py::call_guard<py::gil_scoped_release>());
}
