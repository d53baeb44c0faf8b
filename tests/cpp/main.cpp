// Runs the tests on the tier that TRANSFUSE_ISA names, or on the best one.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "transfuse/isa.hpp"

namespace {

constexpr int kSkipped = 77;  // what CTest takes for "skipped"

/// For isa_test: the environment is read once per process, so that other values need another process.
int print_isa() {
  try {
    const transfuse::Isa isa = transfuse::current_isa();
    std::printf("%s from %s\n", name(isa), transfuse::current_isa_source());
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
  }
  return 0;
}

}  // namespace

/// Out of memory is an error that the tests provoke, not one to stop at.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--print-isa") == 0) return print_isa();
  testing::InitGoogleTest(&argc, argv);
  try {
    std::printf("tier: %s (%s)\n", name(transfuse::current_isa()), transfuse::current_isa_source());
  } catch (const std::exception& error) {
    const char* tier = std::getenv("TRANSFUSE_ISA");
    const bool known = tier != nullptr && transfuse::parse_isa(tier);
    std::printf("%s%s\n", known ? "skipped: " : "", error.what());
    return known ? kSkipped : 1;
  }
  return RUN_ALL_TESTS();
}
