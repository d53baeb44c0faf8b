// What matmul_t refuses: the message starts with the argument's name, and the result is untouched.
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>

#include "product.hpp"
#include "transfuse/error.hpp"

namespace transfuse::test {
namespace {

template <class T>
ConstTensorView read_only(const Array<T>& array) {
  return array.view();
}

/// A call that would succeed; each test spoils one thing.
class MatmulTErrors : public testing::Test {
 protected:
  MatmulTErrors() {
    a_.fill_randomly(1);
    b_.fill_randomly(2);
  }

  template <class Error>
  void expect_error(const std::string& argument, const ConstTensorView& a, const ConstTensorView& b,
                    const TensorView& out, const MatmulTOptions& options = {}) {
    const auto before = out_.bytes();
    try {
      matmul_t(a, b, out, options);
      ADD_FAILURE() << argument << ": no error";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).rfind(argument + ":", 0), 0U) << error.what();
      message_ = error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << argument << ": another kind of error: " << error.what();
    }
    EXPECT_EQ(out_.bytes(), before) << argument << ": out was written to";
  }
  template <class Error>
  void expect_option_error(const std::string& argument, const MatmulTOptions& options) {
    expect_error<Error>(argument, read_only(a_), read_only(b_), out_.view(), options);
  }

  Array<float> a_{{3, 6, 4}};
  Array<float> b_{{4, 5}};
  Array<float> out_{{3, 5, 6}};
  std::string message_;
};

TEST_F(MatmulTErrors, ValidCallSucceeds) {
  const auto bias = random_array<float>({5}, 3);
  EXPECT_NO_THROW(matmul_t(read_only(a_), read_only(b_), out_.view(), {.bias = bias.view()}));
}

TEST_F(MatmulTErrors, Dtypes) {
  const Array<double> b({4, 5});
  expect_error<TypeError>("b", read_only(a_), b.view(), out_.view());
  EXPECT_NE(message_.find("float32, got float64"), std::string::npos) << message_;
  Array<double> out({3, 5, 6});
  expect_error<ValueError>("out", read_only(a_), read_only(b_), out.view());
  const Array<double> bias({5});
  expect_option_error<TypeError>("bias", {.bias = bias.view()});
}

TEST_F(MatmulTErrors, ShapesOfTheInputs) {
  const Array<float> vector({4});
  expect_error<ValueError>("a", vector.view(), read_only(b_), out_.view());
  expect_error<ValueError>("b", read_only(a_), vector.view(), out_.view());
  const Array<float> longer({5, 5});
  expect_error<ValueError>("a and b", read_only(a_), longer.view(), out_.view());
  const Array<float> batch({2, 4, 5});
  expect_error<ValueError>("a and b", read_only(a_), batch.view(), out_.view());
}

TEST_F(MatmulTErrors, ShapeOfOut) {
  for (const Dims& shape :
       {Dims{3, 6, 5}, Dims{5, 6}, Dims{1, 5, 6}, Dims{3, 5, 7}, Dims{1, 3, 5, 6}, Dims{}, Dims{0}}) {
    Array<float> out(shape);
    expect_error<ValueError>("out", read_only(a_), read_only(b_), out.view());
    EXPECT_NE(message_.find("(3, 5, 6)"), std::string::npos) << message_;
  }
}

TEST_F(MatmulTErrors, Bias) {
  for (const Dims& shape : {Dims{6}, Dims{1}, Dims{5, 1}, Dims{1, 5}, Dims{}, Dims{0}}) {
    const Array<float> bias(shape);
    expect_option_error<ValueError>("bias", {.bias = bias.view()});
    EXPECT_NE(message_.find("(5,)"), std::string::npos) << message_;
  }
}

TEST_F(MatmulTErrors, Threads) {
  expect_option_error<ValueError>("num_threads", {.num_threads = -1});
  expect_option_error<ValueError>("num_threads", {.num_threads = INT32_MIN});
}

TEST_F(MatmulTErrors, Config) {
  const auto expect = [&](const std::string& parameter, const MatmulTConfig& config) {
    expect_option_error<ValueError>("config", {.config = config});
    EXPECT_NE(message_.find(parameter), std::string::npos) << message_;
  };
  expect("block_m", {.block_m = -1});
  expect("block_n", {.block_n = -1});
  expect("block_k", {.block_k = -1});
  expect("block_m", {.block_m = (1 << 20) + 1});
  expect("block_n", {.block_n = INT64_MAX});
  expect("block_k", {.block_k = (1 << 14) + 1});
}

TEST_F(MatmulTErrors, OutSharesMemoryWithAnInput) {
  // 6 x 6 matrices in one buffer, `shift` elements apart.
  std::vector<float> buffer(100);
  const Dims shape = {6, 6};
  const Dims strides = {24, 4};
  const auto at = [&](std::int64_t shift) -> TensorView {
    return {reinterpret_cast<std::byte*>(buffer.data()) + 4 * shift, DType::float32, shape, strides};
  };
  const auto other = random_array<float>({6, 6}, 1);
  for (std::int64_t shift : {0, 1, 35}) {
    expect_error<ValueError>("out", at(0), other.view(), at(shift));
    EXPECT_NE(message_.find("with a"), std::string::npos) << message_;
    expect_error<ValueError>("out", other.view(), at(shift), at(0));
    EXPECT_NE(message_.find("with b"), std::string::npos) << message_;
    ConstTensorView bias = at(shift);
    bias.shape = bias.shape.first(1);
    bias.strides = bias.strides.last(1);
    expect_error<ValueError>("out", other.view(), other.view(), at(0), {.bias = bias});
    EXPECT_NE(message_.find("with bias"), std::string::npos) << message_;
  }
  EXPECT_EQ(buffer, std::vector<float>(100));
  EXPECT_NO_THROW(matmul_t(at(0), other.view(), at(36)));
}

TEST_F(MatmulTErrors, OutSharesMemoryWithItself) {
  const Dims shape = {3, 5, 6};
  for (const Dims& strides : {Dims{0, 24, 4}, Dims{120, 0, 4}, Dims{120, 24, 0}, Dims{4, 24, 4}, Dims{120, 24, 2}}) {
    const TensorView out{out_.view().data, DType::float32, shape, strides};
    expect_error<ValueError>("out", read_only(a_), read_only(b_), out);
  }
}

TEST_F(MatmulTErrors, WhetherOutSharesMemoryIsTooHardToDecide) {
  constexpr std::size_t axes = 40;
  std::mt19937_64 generator(1);
  Dims shape(axes, 2);
  Dims strides(axes);
  for (std::int64_t& stride : strides) stride = static_cast<std::int64_t>(generator() >> 9);
  const Dims nothing(axes);
  const ConstTensorView input{a_.view().data, DType::float32, shape, nothing};
  expect_error<ValueError>("out", input, input, {out_.view().data, DType::float32, shape, strides});
}

// Views may interleave as long as they share no element.
TEST_F(MatmulTErrors, OutBetweenTheElementsOfAnInputIsFine) {
  std::vector<float> buffer(2 * 36);
  const Dims shape = {6, 6};
  const Dims strides = {48, 8};
  auto* const data = reinterpret_cast<std::byte*>(buffer.data());
  const auto values = random_array<float>({6, 6}, 1);
  for (std::size_t i = 0; i < 36; ++i) buffer[2 * i] = values.values()[i];
  matmul_t({data, DType::float32, shape, strides}, values.view(), {data + 4, DType::float32, shape, strides});
  const auto expected = multiply(values, values).values();
  for (std::size_t i = 0; i < 36; ++i) {
    EXPECT_EQ(buffer[2 * i], values.values()[i]);
    EXPECT_EQ(buffer[2 * i + 1], expected[i]);
  }
}

}  // namespace
}  // namespace transfuse::test
