// The default number of threads and what limits it.
#include "core/threads.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>

#include <fstream>
#include <string>
#include <thread>

namespace transfuse::test {
namespace {

/// A folder that stands for "/", with control groups as a test writes them.
class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "transfuse-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  /// A process in the cgroup-v2 group /outer/inner, whose quota is `text`.
  void write_v2(const std::string& text) const {
    write("proc/self/cgroup", "0::/outer/inner\n");
    write("sys/fs/cgroup/outer/inner/cpu.max", text);
  }
  void write_v1(const std::string& quota, const std::string& period) const {
    write("proc/self/cgroup", "12:memory:/m\n4:cpu,cpuacct:/outer/inner\n1:name=systemd:/\n");
    write("sys/fs/cgroup/cpu/outer/inner/cpu.cfs_quota_us", quota);
    write("sys/fs/cgroup/cpu/outer/inner/cpu.cfs_period_us", period);
  }
  std::optional<int> cpus() const { return cgroup_cpus(root_); }

  std::filesystem::path root_;
};

TEST_F(CgroupTest, V2Quota) {
  write_v2("300000 100000\n");
  EXPECT_EQ(cpus(), 3);
}

TEST_F(CgroupTest, V2WithoutQuota) {
  write_v2("max 100000\n");
  EXPECT_EQ(cpus(), std::nullopt);
}

TEST_F(CgroupTest, V2QuotaOfAnAncestor) {
  write_v2("max 100000\n");
  write("sys/fs/cgroup/outer/cpu.max", "200000 100000\n");
  EXPECT_EQ(cpus(), 2);
  write("sys/fs/cgroup/outer/inner/cpu.max", "400000 100000\n");
  EXPECT_EQ(cpus(), 2) << "the least quota counts";
  write("sys/fs/cgroup/cpu.max", "100000 100000\n");
  EXPECT_EQ(cpus(), 1) << "the root of a container has one, too";
}

TEST_F(CgroupTest, V2QuotaOfAnotherGroup) {
  write_v2("max 100000\n");
  write("sys/fs/cgroup/outer/other/cpu.max", "100000 100000\n");
  EXPECT_EQ(cpus(), std::nullopt);
}

TEST_F(CgroupTest, FractionsAreRoundedDownButNotToZero) {
  write_v2("150000 100000\n");
  EXPECT_EQ(cpus(), 1);
  write_v2("250000 100000\n");
  EXPECT_EQ(cpus(), 2);
  write_v2("50000 100000\n");
  EXPECT_EQ(cpus(), 1);
}

TEST_F(CgroupTest, V1Quota) {
  write_v1("400000\n", "100000\n");
  EXPECT_EQ(cpus(), 4);
  write("sys/fs/cgroup/cpu/outer/cpu.cfs_quota_us", "250000\n");
  write("sys/fs/cgroup/cpu/outer/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpus(), 2);
}

TEST_F(CgroupTest, V1WithoutQuota) {
  write_v1("-1\n", "100000\n");
  EXPECT_EQ(cpus(), std::nullopt);
}

TEST_F(CgroupTest, NothingThere) {
  EXPECT_EQ(cpus(), std::nullopt);
  write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(cpus(), std::nullopt);
}

TEST_F(CgroupTest, Garbage) {
  for (const char* text :
       {"", "\n", "100000", "100000 0\n", "100000 -5\n", "100000 x\n", "x 100000\n", "-5 100000\n", "\xff\xfe 3 3"}) {
    write_v2(text);
    EXPECT_EQ(cpus(), std::nullopt) << '"' << text << '"';
  }
  write_v1("many\n", "100000\n");
  EXPECT_EQ(cpus(), std::nullopt);
  write_v1("100000\n", "");
  EXPECT_EQ(cpus(), std::nullopt);
  write("proc/self/cgroup", "no colons\n:\none:\n\n::\n");
  EXPECT_EQ(cpus(), std::nullopt);
}

TEST_F(CgroupTest, HugeQuotaFits) {
  write_v2("1e300 1\n");
  EXPECT_GE(cpus(), 1000);
}

TEST(Threads, DefaultIsPositiveAndWithinAffinity) {
  const ThreadDefault threads = default_threads();
  EXPECT_GE(threads.count, 1);
  EXPECT_LE(threads.count, affinity_cpus());
  EXPECT_STRNE(threads.source, "");
  EXPECT_FALSE(is_forked_child());
}

TEST(Threads, AffinityIsThatOfTheCallingThread) {
  std::thread([] {
    default_threads();  // LLVM's OpenMP resets the affinity of a thread that it meets for the first time
    cpu_set_t all;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    EXPECT_EQ(affinity_cpus(), CPU_COUNT(&all));
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all)) ++cpu;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(affinity_cpus(), 1);
    EXPECT_EQ(default_threads().count, 1);
  }).join();
}

}  // namespace
}  // namespace transfuse::test
