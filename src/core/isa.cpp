#include "transfuse/isa.hpp"

#include <cstdlib>
#include <string>

#include "transfuse/cpu.hpp"
#include "transfuse/error.hpp"

namespace transfuse {
namespace {

constexpr Isa kIsas[kIsaCount] = {Isa::scalar, Isa::avx2, Isa::avx512};

thread_local constinit std::optional<Isa> thread_isa;

bool runs_here(Isa isa) {
  const CpuFeatures& f = cpu_features();
  const bool avx2 = f.avx2 && f.fma && f.f16c;
  switch (isa) {
    case Isa::scalar: return true;
    case Isa::avx2: return avx2;
    case Isa::avx512: return avx2 && f.avx512_f && f.avx512_bw && f.avx512_dq && f.avx512_vl;
  }
  return false;
}

std::string available_names() {
  std::string names;
  for (Isa isa : available_isas()) names += (names.empty() ? "" : ", ") + std::string(name(isa));
  return names;
}

// What TRANSFUSE_ISA says; empty when it is not set.
const std::string& environment() {
  static const std::string value = [] {
    const char* text = std::getenv("TRANSFUSE_ISA");
    return std::string(text == nullptr ? "" : text);
  }();
  return value;
}

Isa process_isa() {
  return environment().empty() ? available_isas().back() : require_isa(environment(), "TRANSFUSE_ISA");
}

}  // namespace

const char* name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
  }
  return "unknown";
}

std::optional<Isa> parse_isa(std::string_view text) {
  for (Isa isa : kIsas)
    if (text == name(isa)) return isa;
  return std::nullopt;
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> found;
    for (Isa isa : kIsas)
      if (runs_here(isa)) found.push_back(isa);
    return found;
  }();
  return isas;
}

Isa require_isa(std::string_view name, const char* argument) {
  const std::optional<Isa> isa = parse_isa(name);
  if (isa && runs_here(*isa)) return *isa;
  throw ValueError(std::string(argument) + ": expected a tier that this machine can run (" + available_names() +
                   "), got '" + std::string(name) + "'");
}

Isa current_isa() {
  if (thread_isa) return *thread_isa;
  static const Isa isa = process_isa();  // if it throws, the next call asks again
  return isa;
}

const char* current_isa_source() {
  if (thread_isa) return "scope";
  return environment().empty() ? "detected" : "TRANSFUSE_ISA";
}

std::optional<Isa> set_thread_isa(std::optional<Isa> isa) {
  if (isa) require_isa(name(*isa), "isa");
  const std::optional<Isa> previous = thread_isa;
  thread_isa = isa;
  return previous;
}

}  // namespace transfuse
