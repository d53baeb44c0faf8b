// Working memory: aligned, reused, bounded.
#include "core/scratch.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <thread>

namespace transfuse::test {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

/// Each test starts on a thread that has leased nothing yet.
template <class Body>
void on_new_thread(Body&& body) {
  std::thread(body).join();
}

bool is_aligned(const void* p, std::int64_t alignment) {
  return reinterpret_cast<std::uintptr_t>(p) % static_cast<std::uintptr_t>(alignment) == 0;
}

TEST(Scratch, IsAlignedAndWritable) {
  on_new_thread([] {
    for (std::int64_t bytes :
         {std::int64_t{1}, std::int64_t{63}, std::int64_t{4097}, 2 * kMiB - 1, 2 * kMiB, 3 * kMiB}) {
      const Scratch scratch(bytes);
      EXPECT_TRUE(is_aligned(scratch.data(), 64)) << bytes;
      EXPECT_TRUE(bytes < 2 * kMiB || is_aligned(scratch.data(), 2 * kMiB)) << bytes;
      std::memset(scratch.data(), 1, static_cast<std::size_t>(bytes));
    }
  });
}

TEST(Scratch, IsReused) {
  on_new_thread([] {
    EXPECT_EQ(retained_scratch_bytes(), 0);
    const std::byte* first = nullptr;
    {
      first = Scratch(1000).data();
    }
    EXPECT_GE(retained_scratch_bytes(), 1000);
    EXPECT_EQ(Scratch(1000).data(), first);
    EXPECT_EQ(Scratch(10).data(), first);
    {
      const Scratch larger(100'000);
    }
    EXPECT_GE(retained_scratch_bytes(), 100'000);
  });
}

TEST(Scratch, NestedLeasesAreDistinct) {
  on_new_thread([] {
    const Scratch outer(1000);
    std::memset(outer.data(), 1, 1000);
    {
      const Scratch inner(1000);
      const Scratch innermost(1000);
      EXPECT_TRUE(inner.data() + 1000 <= outer.data() || outer.data() + 1000 <= inner.data());
      EXPECT_NE(innermost.data(), inner.data());
      EXPECT_TRUE(is_aligned(inner.data(), 64));
      std::memset(inner.data(), 2, 1000);
      std::memset(innermost.data(), 3, 1000);
    }
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(outer.data()[i], std::byte{1});
  });
}

TEST(Scratch, RetainsABoundedAmount) {
  on_new_thread([] {
    {
      const Scratch most(kRetainedScratchBytes);
    }
    EXPECT_EQ(retained_scratch_bytes(), kRetainedScratchBytes);
    {
      const Scratch more(kRetainedScratchBytes + 1);
    }
    EXPECT_EQ(retained_scratch_bytes(), 0);
    {
      const Scratch outer(1000);
      const Scratch nested(kRetainedScratchBytes + 1);
    }
    EXPECT_EQ(retained_scratch_bytes(), 1000);
  });
}

TEST(Scratch, NothingIsNull) {
  on_new_thread([] {
    const Scratch nothing(0);
    EXPECT_EQ(nothing.data(), nullptr);
    const Scratch something(10);
    EXPECT_EQ(retained_scratch_bytes(), 10) << "an empty lease must not occupy the buffer";
  });
}

TEST(Scratch, RefusesAbsurdSizes) {
  on_new_thread([] {
    for (std::int64_t bytes : {INT64_MAX, INT64_MAX - 2 * kMiB, std::int64_t{1} << 60}) {
      EXPECT_THROW(Scratch{bytes}, std::bad_alloc);
      EXPECT_EQ(retained_scratch_bytes(), 0);
    }
    const Scratch scratch(1000);
    EXPECT_NE(scratch.data(), nullptr);
    EXPECT_THROW(Scratch{INT64_MAX}, std::bad_alloc) << "nested";
  });
}

TEST(Scratch, ThreadsHaveTheirOwn) {
  const Scratch here(1000);
  on_new_thread([&] { EXPECT_NE(Scratch(1000).data(), here.data()); });
}

}  // namespace
}  // namespace transfuse::test
