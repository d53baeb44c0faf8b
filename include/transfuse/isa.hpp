/// \file
/// Instruction-set tiers: which were built, which this machine can run, which one a call uses.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace transfuse {

/// The tiers, each a superset of the one before. Their values index the tables of kernels and constants.
///   scalar  baseline x86-64
///   avx2    AVX2 + FMA + F16C
///   avx512  AVX-512 F, BW, DQ, VL and all of avx2
enum class Isa : std::uint8_t { scalar, avx2, avx512 };

inline constexpr int kIsaCount = 3;

const char* name(Isa isa);

/// The tier called `name`, or nothing.
std::optional<Isa> parse_isa(std::string_view name);

/// The tiers that this machine can run, lowest first. Detected once, from CPUID and XGETBV.
const std::vector<Isa>& available_isas();

/// The tier called `name`. \throws ValueError naming `argument` and the tiers that exist, if there is no such tier or
/// this machine cannot run it.
Isa require_isa(std::string_view name, const char* argument);

/// The tier that calls from this thread use: a ScopedIsa of this thread, else the environment variable
/// TRANSFUSE_ISA (read once), else the highest available one.
/// \throws ValueError if TRANSFUSE_ISA names a tier that is unknown or not available.
Isa current_isa();

/// Where current_isa() comes from: "scope", "TRANSFUSE_ISA" or "detected".
const char* current_isa_source();

/// Sets or clears (nullopt) the tier forced for calls from this thread; returns what was set before.
/// \throws ValueError if the tier is not available.
std::optional<Isa> set_thread_isa(std::optional<Isa> isa);

/// Forces a tier for calls from this thread until the end of the scope.
class ScopedIsa {
 public:
  explicit ScopedIsa(Isa isa) : previous_(set_thread_isa(isa)) {}
  ~ScopedIsa() { set_thread_isa(previous_); }
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  std::optional<Isa> previous_;
};

}  // namespace transfuse
