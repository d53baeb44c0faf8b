#include "bindings/probes.hpp"

#include <atomic>
#include <chrono>

#include "bindings/options.hpp"
#include "bindings/python.hpp"
#include "core/constants.hpp"
#include "core/parallel.hpp"
#include "kernels/table.hpp"
#include "transfuse/error.hpp"

namespace py = pybind11;

namespace transfuse::python {
namespace {

void require_positive(std::int64_t value, const char* argument) {
  if (value < 1) throw ValueError(std::string(argument) + ": expected at least 1, got " + std::to_string(value));
}

/// Calls the probe on each of the threads and adds up what it returns.
template <class Probe>
std::int64_t total(Probe probe, int threads, std::int64_t rounds) {
  require_positive(threads, "threads");
  const ReleasedLock released;
  std::atomic<std::int64_t> sum{0};
  parallel_for(threads, threads, [&](std::int64_t) { sum += probe(rounds); });
  return sum;
}

std::int64_t fma_probe(const std::string& isa, const std::string& dtype, int threads, std::int64_t rounds) {
  return total(kernels(require_isa(isa, "isa")).fma_probe[static_cast<int>(read_dtype(dtype))], threads, rounds);
}

std::int64_t softmax_probe(const std::string& isa, const std::string& dtype, int threads, std::int64_t rows) {
  return total(kernels(require_isa(isa, "isa")).softmax_probe[static_cast<int>(read_dtype(dtype))], threads, rows);
}

/// The piece of a buffer that one of `threads` threads works on: whole cache lines.
struct Piece {
  std::int64_t begin, size;
  Piece(std::int64_t bytes, int threads, int rank) {
    const std::int64_t lines = bytes / kCacheLine;
    begin = lines * rank / threads * kCacheLine;
    size = lines * (rank + 1) / threads * kCacheLine - begin;
  }
};

py::buffer_info contiguous(const py::buffer& buffer, const char* argument, bool writable) {
  py::buffer_info info = buffer.request(writable);
  if (PyBuffer_IsContiguous(info.view(), 'C') == 0)
    throw ValueError(std::string(argument) + ": expected a C-contiguous array");
  return info;
}

void memory_probe(const std::string& isa, const py::buffer& read, const py::buffer& write, int threads,
                  std::int64_t passes, bool stream) {
  const auto probe = kernels(require_isa(isa, "isa")).memory_probe;
  require_positive(threads, "threads");
  const py::buffer_info from = contiguous(read, "read", false), to = contiguous(write, "write", true);
  const ReleasedLock released;
  parallel_for(threads, threads, [&](std::int64_t rank) {
    const Piece in(from.size * from.itemsize, threads, static_cast<int>(rank));
    const Piece out(to.size * to.itemsize, threads, static_cast<int>(rank));
    const MemoryProbe piece{static_cast<const std::byte*>(from.ptr) + in.begin, in.size,
                            static_cast<std::byte*>(to.ptr) + out.begin, out.size, stream};
    for (std::int64_t pass = 0; pass < passes; ++pass) probe(piece);
  });
}

/// Seconds from before a parallel region that does nothing to after it, its threads having just had one.
double region_probe(int threads) {
  require_positive(threads, "threads");
  const ReleasedLock released;
  const auto region = [&] { parallel_for(threads, threads, [](std::int64_t) {}); };
  region();
  const auto start = std::chrono::steady_clock::now();
  region();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void define_probes(py::module_& m) {
  m.def("fma_probe", &fma_probe, py::arg("isa"), py::arg("dtype"), py::arg("threads"), py::arg("rounds"),
        "Rounds of multiply-adds in registers on each of the threads; returns the floating-point operations done.");
  m.def("softmax_probe", &softmax_probe, py::arg("isa"), py::arg("dtype"), py::arg("threads"), py::arg("rows"),
        "The softmax pass of attention over rows of scores in L1 on each of the threads; returns the scores done.");
  m.def("memory_probe", &memory_probe, py::arg("isa"), py::arg("read"), py::arg("write"), py::arg("threads"),
        py::arg("passes"), py::arg("stream"),
        "Reads the whole cache lines of one contiguous array and writes ones over those of another, `passes` times; "
        "`stream` writes past the caches.");
  m.def("region_probe", &region_probe, py::arg("threads"),
        "Seconds that an empty parallel region takes right after another one.");
}

}  // namespace transfuse::python
