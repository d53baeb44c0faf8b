#include "transfuse/cpu.hpp"

#include <cpuid.h>

#include <array>
#include <cstring>
#include <fstream>

namespace transfuse {
namespace {

struct Registers {
  unsigned a, b, c, d;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r{};
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

bool bit(unsigned value, int index) { return ((value >> index) & 1U) != 0; }

// The register states that the operating system saves on a context switch. Only legal when CPUID reports OSXSAVE.
unsigned enabled_states() {
  unsigned low = 0;
  unsigned high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

CpuFeatures detect_features() {
  const Registers basic = cpuid(1);
  const bool os_saves = bit(basic.c, 27);
  const unsigned states = os_saves ? enabled_states() : 0;
  const auto saves = [&](unsigned mask) { return (states & mask) == mask; };
  const bool ymm = saves(0x6);        // XMM and upper YMM
  const bool zmm = saves(0xE6);       // ... and mask registers, upper ZMM, ZMM 16-31
  const bool tiles = saves(0x60000);  // AMX tile configuration and data

  const Registers extended = cpuid(7, 0);
  const Registers extended1 = extended.a >= 1 ? cpuid(7, 1) : Registers{};

  CpuFeatures f{};
  f.avx2 = ymm && bit(basic.c, 28) && bit(extended.b, 5);
  f.fma = ymm && bit(basic.c, 12);
  f.f16c = ymm && bit(basic.c, 29);
  f.avx512_f = zmm && bit(extended.b, 16);
  f.avx512_dq = f.avx512_f && bit(extended.b, 17);
  f.avx512_bw = f.avx512_f && bit(extended.b, 30);
  f.avx512_vl = f.avx512_f && bit(extended.b, 31);
  f.avx512_vnni = f.avx512_f && bit(extended.c, 11);
  f.avx512_fp16 = f.avx512_f && bit(extended.d, 23);
  f.avx512_bf16 = f.avx512_f && bit(extended1.a, 5);
  f.avx_vnni = ymm && bit(extended1.a, 4);
  f.amx_bf16 = tiles && bit(extended.d, 22);
  f.amx_tile = tiles && bit(extended.d, 24);
  f.amx_int8 = tiles && bit(extended.d, 25);
  return f;
}

std::string detect_model() {
  if (cpuid(0x80000000U).a < 0x80000004U) return {};
  std::array<char, 49> text{};
  for (unsigned i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002U + i);
    std::memcpy(text.data() + static_cast<std::size_t>(16 * i), &r, sizeof r);
  }
  std::string model(text.data());
  const auto first = model.find_first_not_of(' ');
  const auto last = model.find_last_not_of(' ');
  return first == std::string::npos ? std::string{} : model.substr(first, last - first + 1);
}

// sysfs describes each cache of a core: its level, type ("Data", "Instruction", "Unified") and size ("32K").
CacheSizes detect_caches() {
  CacheSizes sizes{};
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    int level = 0;
    std::string type;
    std::int64_t size = 0;
    std::string unit;
    std::ifstream(folder + "level") >> level;
    std::ifstream(folder + "type") >> type;
    std::ifstream(folder + "size") >> size >> unit;
    size *= unit == "K" ? 1024 : unit == "M" ? 1024 * 1024 : 1;
    if (type == "Instruction") continue;
    if (level == 1) sizes.l1d = size;
    if (level == 2) sizes.l2 = size;
    if (level == 3) sizes.l3 = size;
  }
  return sizes;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect_features();
  return features;
}

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = detect_caches();
  return sizes;
}

const std::string& cpu_model() {
  static const std::string model = detect_model();
  return model;
}

}  // namespace transfuse
