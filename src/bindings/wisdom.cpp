#include "bindings/wisdom.hpp"

#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/options.hpp"
#include "bindings/python.hpp"
#include "core/constants.hpp"
#include "transfuse/error.hpp"
#include "transfuse/tuned.hpp"

namespace py = pybind11;

namespace transfuse::python {
namespace {

using Sizes = std::vector<std::int64_t>;

/// What is tuned: the first dtypes, and the sizes that count, with the largest value of the last one.
template <class P, std::size_t Count>
struct Operation {
  using Problem = P;
  int dtypes;
  const char* sizes;
  std::int64_t largest_last = INT64_MAX;

  Problem problem(const Sizes& given) const {
    std::array<std::int64_t, Count> values{};
    if (given.size() != Count)
      throw ValueError(std::string("sizes: expected ") + sizes + ", got " + std::to_string(given.size()) + " numbers");
    for (std::size_t i = 0; i < Count; ++i) {
      const std::int64_t largest = i + 1 == Count ? largest_last : INT64_MAX;
      if (given[i] < 0 || given[i] > largest)
        throw ValueError(std::string("sizes: expected ") + sizes + ", each in 0..." + std::to_string(largest) +
                         ", got " + std::to_string(given[i]));
      values[i] = given[i];
    }
    return std::apply([](auto... size) { return Problem{size...}; }, values);
  }
};

constexpr Operation<MatmulTProblem, 4> kMatmulT{kDTypeCount, "(batch, m, k, n)"};
constexpr Operation<AttentionProblem, 7> kAttention{kStoredDTypes,
                                                    "(batch, q_heads, kv_heads, queries, keys, head_dim, causal)", 1};

template <class Visit>
auto visit_operation(const std::string& name, Visit&& visit) {
  if (name == "matmul_t") return visit(kMatmulT);
  if (name == "attention") return visit(kAttention);
  throw ValueError("operation: expected 'matmul_t' or 'attention', got '" + name + "'");
}

/// Entries from Python, checked, before any of them counts.
class Entries {
 public:
  void add(const std::string& operation, const std::string& isa, const std::string& dtype, const Sizes& sizes,
           const py::dict& config, const py::object& threads) {
    visit_operation(operation, [&](const auto& o) {
      using Problem = typename std::decay_t<decltype(o)>::Problem;
      const auto read = read_config<typename Problem::Config>(config.ptr());
      if (read.isa || read.threads != 0)
        throw ValueError("config: a tuned configuration sets neither 'isa' nor 'threads'");
      std::get<std::vector<TunedEntry<Problem>>>(entries_).push_back(
          {require_isa(isa, "isa"), read_dtype(dtype, o.dtypes), o.problem(sizes), read.parameters,
           read_threads(threads.ptr(), "threads")});
    });
  }

  void set() const {
    std::apply([](const auto&... entries) { (set_tuned(entries), ...); }, entries_);
  }

 private:
  std::tuple<std::vector<TunedEntry<MatmulTProblem>>, std::vector<TunedEntry<AttentionProblem>>> entries_;
};

using Given = std::tuple<std::string, std::string, std::string, Sizes, py::dict, py::object>;

void set_all(const std::vector<Given>& entries) {
  ensure_wisdom();
  Entries all;
  for (const Given& entry : entries) std::apply([&](const auto&... parts) { all.add(parts...); }, entry);
  all.set();
}

void check(const std::string& operation, const std::string& isa, const std::string& dtype, const Sizes& sizes,
           const py::dict& config, const py::object& threads) {
  Entries().add(operation, isa, dtype, sizes, config, threads);
}

void set(const std::string& operation, const std::string& isa, const std::string& dtype, const Sizes& sizes,
         const py::dict& config, const py::object& threads) {
  set_all({{operation, isa, dtype, sizes, config, threads}});
}

/// What a configuration sets.
template <class Config>
py::dict as_dict(const Config& config) {
  py::dict found;
  for (const auto& parameter : parameters(config))
    if (const std::int64_t value = config.*parameter.member; value != 0) found[parameter.name] = value;
  return found;
}

std::optional<py::dict> find(const std::string& operation, const std::string& isa, const std::string& dtype,
                             const Sizes& sizes, const py::object& threads) {
  ensure_wisdom();
  return visit_operation(operation, [&](const auto& o) -> std::optional<py::dict> {
    const auto found = find_tuned(require_isa(isa, "isa"), read_dtype(dtype, o.dtypes), o.problem(sizes),
                                  read_threads(threads.ptr(), "threads"));
    return found ? std::optional(as_dict(*found)) : std::nullopt;
  });
}

py::dict defaults(const std::string& operation, const std::string& isa, const std::string& dtype, const Sizes& sizes) {
  return visit_operation(operation, [&](const auto& o) {
    return as_dict(default_config(require_isa(isa, "isa"), read_dtype(dtype, o.dtypes), o.problem(sizes)));
  });
}

}  // namespace

void load_wisdom() {
  const Object module(PyImport_ImportModule("transfuse._wisdom"));
  const Object loaded(module ? PyObject_CallMethod(module.get(), "ensure_loaded", nullptr) : nullptr);
  if (loaded) {
    wisdom_is_loaded = PyObject_IsTrue(loaded.get()) == 1;  // no, where loading itself calls
    return;
  }
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw ErrorSet{};
  wisdom_is_loaded = true;
  PyErr_WriteUnraisable(module.get());
}

void define_wisdom(py::module_& m) {
  const auto define = [&](const char* function_name, auto function, const auto&... more) {
    m.def(function_name, function, py::arg("operation"), py::arg("isa"), py::arg("dtype"), py::arg("sizes"), more...);
  };
  define("check_tuned", &check, py::arg("config"), py::arg("threads") = 1);
  define("set_tuned", &set, py::arg("config"), py::arg("threads") = 1);
  m.def("set_all_tuned", &set_all, py::arg("entries"));
  define("find_tuned", &find, py::arg("threads") = 1);
  define("default_config", &defaults);
  m.attr("MOST_KEYS") = kMostKeys;
  m.attr("SPLIT_QUERIES") = kSplitQueries;
  m.def("clear_tuned", [] {
    ensure_wisdom();
    clear_tuned();
  });
}

}  // namespace transfuse::python
