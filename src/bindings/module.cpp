// The module transfuse._core: the operations, and what the Python package asks about the machine.
#define TRANSFUSE_IMPORT_NUMPY
#include <dlfcn.h>
#include <omp.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/kv_cache.hpp"
#include "bindings/operations.hpp"
#include "bindings/probes.hpp"
#include "bindings/results.hpp"
#include "bindings/wisdom.hpp"
#include "transfuse/cpu.hpp"
#include "transfuse/error.hpp"
#include "transfuse/isa.hpp"
#include "transfuse/threads.hpp"
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
  m.def("kept_result_bytes", &kept_result_bytes);
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
  define_wisdom(m);
}
