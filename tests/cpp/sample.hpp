// Thinning of exhaustive loops, for emulators and sanitizers.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace transfuse::test {

/// Counts the cases of a loop; with TRANSFUSE_TEST_SAMPLE=n in the environment only every n-th is taken.
class Sample {
 public:
  bool take() { return next_++ % step() == 0; }

  static std::int64_t step() {
    static const std::int64_t value = [] {
      const char* text = std::getenv("TRANSFUSE_TEST_SAMPLE");
      const std::int64_t number = text == nullptr ? 1 : std::atoll(text);
      return number > 1 ? number : 1;
    }();
    return value;
  }

 private:
  std::int64_t next_ = 0;
};

}  // namespace transfuse::test
