// The module transfuse._core: the operations, and what the Python package asks about the machine.
#define TRANSFUSE_IMPORT_NUMPY
#include <dlfcn.h>
#include <omp.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/kv_cache.hpp"
#include "bindings/operations.hpp"
#include "bindings/options.hpp"
#include "bindings/probes.hpp"
#include "transfuse/cpu.hpp"
#include "transfuse/error.hpp"
#include "transfuse/threads.hpp"
#include "transfuse/tuned.hpp"
#include "transfuse/version.hpp"

namespace py = pybind11;

namespace transfuse::python {
namespace {

py::dict features() {
  const CpuFeatures& f = cpu_features();
  py::dict d;
  d["avx2"] = f.avx2;
  d["fma"] = f.fma;
  d["f16c"] = f.f16c;
  d["avx512_f"] = f.avx512_f;
  d["avx512_bw"] = f.avx512_bw;
  d["avx512_dq"] = f.avx512_dq;
  d["avx512_vl"] = f.avx512_vl;
  d["avx_vnni"] = f.avx_vnni;
  d["avx512_vnni"] = f.avx512_vnni;
  d["avx512_bf16"] = f.avx512_bf16;
  d["avx512_fp16"] = f.avx512_fp16;
  d["amx_tile"] = f.amx_tile;
  d["amx_int8"] = f.amx_int8;
  d["amx_bf16"] = f.amx_bf16;
  return d;
}

py::dict caches() {
  py::dict d;
  d["l1d"] = cache_sizes().l1d;
  d["l2"] = cache_sizes().l2;
  d["l3"] = cache_sizes().l3;
  return d;
}

py::tuple isa_names(std::span<const Isa> isas) {
  py::tuple names(isas.size());
  for (std::size_t i = 0; i < isas.size(); ++i) names[i] = name(isas[i]);
  return names;
}

/// The file that OpenMP's functions come from.
std::string openmp_library() {
  Dl_info info{};
  const bool found = dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &info) != 0;
  return found && info.dli_fname != nullptr ? info.dli_fname : "";
}

using Sizes = std::array<std::int64_t, 4>;

MatmulTProblem read_problem(const std::string& operation, const Sizes& sizes) {
  if (operation != "matmul_t") throw ValueError("operation: expected 'matmul_t', got '" + operation + "'");
  for (std::int64_t size : sizes)
    if (size < 0) throw ValueError("sizes: expected no negative number, got " + std::to_string(size));
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

void define_machine(py::module_& m) {
  constexpr Isa built[] = {Isa::scalar, Isa::avx2, Isa::avx512};
  m.attr("__version__") = TRANSFUSE_VERSION;
#ifdef __clang__
  m.attr("COMPILER") = __VERSION__;
#else
  m.attr("COMPILER") = "GCC " __VERSION__;
#endif
  m.attr("BUILT_ISAS") = isa_names(built);
  m.def("available_isas", [] { return isa_names(available_isas()); });
  m.def("current_isa", [] { return name(current_isa()); });
  m.def("current_isa_source", &current_isa_source);
  m.def("require_isa", [](const std::string& text) { require_isa(text, "isa"); }, py::arg("name"));
  m.def(
      "set_thread_isa",
      [](const std::optional<std::string>& text) -> py::object {
        const auto previous = set_thread_isa(text ? std::optional(require_isa(*text, "isa")) : std::nullopt);
        return previous ? py::object(py::str(name(*previous))) : py::none();
      },
      py::arg("name"));
  m.def("cpu_model", [] { return cpu_model(); });
  m.def("cpu_features", &features);
  m.def("cache_sizes", &caches);
  m.def("default_threads", [] {
    const ThreadDefault threads = default_threads();
    return py::make_tuple(threads.count, threads.source);
  });
  m.def("openmp_library", &openmp_library);
}

void define_tuned(py::module_& m) {
  m.def(
      "set_tuned",
      [](const std::string& operation, const std::string& isa, const std::string& dtype, const Sizes& sizes,
         const py::dict& config) {
        const auto entry = read_config<MatmulTConfig>(config.ptr());
        if (entry.isa || entry.threads != 0)
          throw ValueError("config: a tuned configuration sets neither 'isa' nor 'threads'");
        set_tuned(require_isa(isa, "isa"), read_dtype(dtype), read_problem(operation, sizes), entry.parameters);
      },
      py::arg("operation"), py::arg("isa"), py::arg("dtype"), py::arg("sizes"), py::arg("config"));
  m.def(
      "find_tuned",
      [](const std::string& operation, const std::string& isa, const std::string& dtype,
         const Sizes& sizes) -> std::optional<py::dict> {
        const auto found = find_tuned(require_isa(isa, "isa"), read_dtype(dtype), read_problem(operation, sizes));
        if (!found) return std::nullopt;
        py::dict config;
        for (const auto& parameter : kMatmulTParameters)
          if (const std::int64_t value = (*found).*parameter.member; value != 0) config[parameter.name] = value;
        return config;
      },
      py::arg("operation"), py::arg("isa"), py::arg("dtype"), py::arg("sizes"));
  m.def("clear_tuned", &clear_tuned);
}

}  // namespace
}  // namespace transfuse::python

PYBIND11_MODULE(_core, m) {
  using namespace transfuse::python;
  if (_import_array() < 0) throw py::error_already_set();

  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const transfuse::TypeError& e) {
      py::set_error(PyExc_TypeError, e.what());
    } catch (const transfuse::ValueError& e) {
      py::set_error(PyExc_ValueError, e.what());
    } catch (const ErrorSet&) {
    }
  });

  m.doc() = "The compiled part of transfuse.";
  static PyMethodDef methods[] = {matmul_t_method(), attention_method(), {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
  define_kv_cache(m);
  define_machine(m);
  define_probes(m);
  define_tuned(m);
}
