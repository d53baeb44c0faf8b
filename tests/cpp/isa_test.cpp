// Tiers: names, detection, and the ways to force one.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "array.hpp"
#include "transfuse/cpu.hpp"
#include "transfuse/error.hpp"
#include "transfuse/isa.hpp"
#include "transfuse/matmul_t.hpp"

namespace transfuse::test {
namespace {

constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avx512};

bool is_available(Isa isa) {
  const std::vector<Isa>& isas = available_isas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

/// Checks that an error names `argument` and every tier that exists.
template <class Call>
void expect_refusal(Call&& call, const std::string& argument) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const ValueError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.rfind(argument + ":", 0), 0U) << text;
    for (Isa isa : available_isas()) EXPECT_NE(text.find(name(isa)), std::string::npos) << text;
  }
}

/// The tier of a new process whose environment says TRANSFUSE_ISA=value.
std::string isa_of_process(const std::string& value) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  std::FILE* output = popen(("TRANSFUSE_ISA='" + value + "' '" + program + "' --print-isa").c_str(), "r");
  std::string text;
  for (int c = std::fgetc(output); c != EOF && c != '\n'; c = std::fgetc(output)) text += static_cast<char>(c);
  pclose(output);
  return text;
}

TEST(Isa, NamesAreParsedBack) {
  for (Isa isa : kIsas) EXPECT_EQ(parse_isa(name(isa)), isa);
  for (const char* text : {"", "AVX2", "avx", "avx2 ", "sse", "unknown"}) EXPECT_FALSE(parse_isa(text)) << text;
}

TEST(Isa, AvailableOnesAscendFromScalar) {
  const std::vector<Isa>& isas = available_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::scalar);
  for (std::size_t i = 1; i < isas.size(); ++i) EXPECT_LT(isas[i - 1], isas[i]);
}

TEST(Isa, TiersFollowFromFeatures) {
  const CpuFeatures& f = cpu_features();
  EXPECT_EQ(is_available(Isa::avx2), f.avx2 && f.fma && f.f16c);
  EXPECT_EQ(is_available(Isa::avx512),
            is_available(Isa::avx2) && f.avx512_f && f.avx512_bw && f.avx512_dq && f.avx512_vl);
  EXPECT_TRUE(f.avx512_f || !(f.avx512_bw || f.avx512_dq || f.avx512_vl || f.avx512_vnni || f.avx512_bf16));
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  EXPECT_EQ(f.avx2 && f.fma, avx2);
  EXPECT_EQ(f.avx512_f, __builtin_cpu_supports("avx512f") != 0);
}

TEST(Isa, ScopesNest) {
  const Isa outside = current_isa();
  const std::string source = current_isa_source();
  {
    const ScopedIsa outer(Isa::scalar);
    EXPECT_EQ(current_isa(), Isa::scalar);
    EXPECT_STREQ(current_isa_source(), "scope");
    {
      const ScopedIsa inner(available_isas().back());
      EXPECT_EQ(current_isa(), available_isas().back());
    }
    EXPECT_EQ(current_isa(), Isa::scalar);
  }
  EXPECT_EQ(current_isa(), outside);
  EXPECT_EQ(current_isa_source(), source);
}

TEST(Isa, ThreadsHaveTheirOwnScope) {
  const Isa outside = current_isa();
  for (Isa isa : available_isas()) {
    const ScopedIsa scope(isa);
    std::thread([&] {
      EXPECT_EQ(current_isa(), outside);
      const ScopedIsa own(Isa::scalar);
    }).join();
    EXPECT_EQ(current_isa(), isa);
  }
}

TEST(Isa, SettingReturnsThePreviousTier) {
  EXPECT_EQ(set_thread_isa(Isa::scalar), std::nullopt);
  EXPECT_EQ(set_thread_isa(available_isas().back()), Isa::scalar);
  EXPECT_EQ(set_thread_isa(std::nullopt), available_isas().back());
  EXPECT_STRNE(current_isa_source(), "scope");
}

TEST(Isa, UnavailableTiersAreRefused) {
  std::vector<Isa> missing = {static_cast<Isa>(kIsaCount)};  // no machine has this one
  for (Isa isa : kIsas)
    if (!is_available(isa)) missing.push_back(isa);
  expect_refusal([&] { require_isa("sse9", "some_argument"); }, "some_argument");
  const Isa outside = current_isa();
  for (Isa isa : missing) {
    expect_refusal([&] { require_isa(name(isa), "some_argument"); }, "some_argument");
    expect_refusal([&] { const ScopedIsa scope(isa); }, "isa");
    EXPECT_EQ(current_isa(), outside);

    Array<float> matrix({1, 1});
    Array<float> out({1, 1});
    expect_refusal([&] { matmul_t(matrix.view(), matrix.view(), out.view(), {.isa = isa}); }, "isa");
  }
  for (Isa isa : available_isas()) EXPECT_EQ(require_isa(name(isa), "some_argument"), isa);
}

TEST(Isa, EnvironmentChoosesTheTier) {
  EXPECT_EQ(isa_of_process("scalar"), "scalar from TRANSFUSE_ISA");
  EXPECT_EQ(isa_of_process("").find("error"), std::string::npos) << "empty counts as not set";
  const std::string error = isa_of_process("sse9");
  EXPECT_EQ(error.rfind("error: TRANSFUSE_ISA: ", 0), 0U) << error;
  EXPECT_NE(error.find("scalar"), std::string::npos) << error;
  EXPECT_NE(error.find("'sse9'"), std::string::npos) << error;
}

TEST(Isa, EnvironmentOfThisProcessIsHonoured) {
  const char* text = std::getenv("TRANSFUSE_ISA");
  if (text == nullptr || *text == '\0') {
    EXPECT_EQ(current_isa(), available_isas().back());
    EXPECT_STREQ(current_isa_source(), "detected");
  } else {
    EXPECT_STREQ(name(current_isa()), text);
    EXPECT_STREQ(current_isa_source(), "TRANSFUSE_ISA");
  }
}

}  // namespace
}  // namespace transfuse::test
