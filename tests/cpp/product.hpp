// What matmul_t should compute, and how far off it may be.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "array.hpp"
#include "transfuse/matmul_t.hpp"

namespace transfuse::test {

using ElementTypes = testing::Types<float, double>;

/// The type to compute references in.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;

/// The sums over k of one element.
template <class T>
struct Sums {
  Wide<T> exact = 0;
  T naive = 0;         // added up one after the other in T
  double squares = 0;  // of the products

  void add(T a, T b) {
    const Wide<T> product = static_cast<Wide<T>>(a) * b;
    exact += product;
    squares += static_cast<double>(product * product);
    naive += a * b;
  }
};

/// The largest error that the elements seen allow: twice that of the naive loop, and 4·eps·max √Σ(ab)².
template <class T>
class Allowance {
 public:
  void see(const Sums<T>& sums) {
    naive_error_ = std::max(naive_error_, std::fabs(sums.naive - sums.exact));
    squares_ = std::max(squares_, sums.squares);
  }
  Wide<T> value() const { return 2 * naive_error_ + 4 * std::numeric_limits<T>::epsilon() * std::sqrt(squares_); }

 private:
  Wide<T> naive_error_ = 0;
  double squares_ = 0;
};

template <class T>
struct Expected {
  std::vector<Wide<T>> values;  // in C order
  Wide<T> allowance;
};

/// Which matrix of an operand belongs to matrix `index` of the result.
inline std::int64_t matrix_number(std::int64_t index, std::span<const std::int64_t> result, const Dims& operand) {
  std::int64_t number = 0;
  std::int64_t stride = 1;
  for (std::size_t axis = 3; axis <= result.size(); ++axis) {
    const std::int64_t size = result[result.size() - axis];
    const std::int64_t own = axis <= operand.size() ? operand[operand.size() - axis] : 1;
    if (own != 1) number += index % size * stride;
    stride *= own;
    index /= size;
  }
  return number;
}

/// (A·B)ᵀ + bias by the formula.
template <class T>
Expected<T> expected_product(const Array<T>& a, const Array<T>& b, const Array<T>* bias = nullptr) {
  const Shape shape = matmul_t_shape(a.view(), b.view());
  const std::int64_t m = a.view().size_from_end(2);
  const std::int64_t k = a.view().size_from_end(1);
  const std::int64_t n = b.view().size_from_end(1);
  std::int64_t batch = 1;
  for (int axis = 0; axis < shape.rank - 2; ++axis) batch *= shape.dims[axis];
  const std::vector<T> values_a = a.values();
  const std::vector<T> values_b = b.values();
  const std::vector<T> values_bias = bias == nullptr ? std::vector<T>(static_cast<std::size_t>(n)) : bias->values();

  Expected<T> expected;
  Allowance<T> allowance;
  std::vector<T> column(static_cast<std::size_t>(k));
  for (std::int64_t matrix = 0; matrix < batch; ++matrix) {
    const T* const matrix_a = values_a.data() + matrix_number(matrix, shape.span(), a.shape()) * m * k;
    const T* const matrix_b = values_b.data() + matrix_number(matrix, shape.span(), b.shape()) * k * n;
    for (std::int64_t col = 0; col < n; ++col) {
      for (std::int64_t i = 0; i < k; ++i) column[static_cast<std::size_t>(i)] = matrix_b[i * n + col];
      for (std::int64_t row = 0; row < m; ++row) {
        Sums<T> sums;
        for (std::int64_t i = 0; i < k; ++i) sums.add(matrix_a[row * k + i], column[static_cast<std::size_t>(i)]);
        sums.exact += values_bias[static_cast<std::size_t>(col)];
        sums.naive += values_bias[static_cast<std::size_t>(col)];
        allowance.see(sums);
        expected.values.push_back(sums.exact);
      }
    }
  }
  expected.allowance = allowance.value();
  return expected;
}

template <class T>
testing::AssertionResult is_near(const Array<T>& out, const Expected<T>& expected) {
  const std::vector<T> values = out.values();
  if (values.size() != expected.values.size())
    return testing::AssertionFailure() << values.size() << " elements instead of " << expected.values.size();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Wide<T> error = std::fabs(values[i] - expected.values[i]);
    if (!(error <= expected.allowance))  // NaN fails
      return testing::AssertionFailure() << "element " << i << " is " << values[i] << " instead of "
                                         << expected.values[i] << ": off by " << error << ", allowed "
                                         << expected.allowance;
  }
  return testing::AssertionSuccess();
}

inline Dims result_shape(const ConstTensorView& a, const ConstTensorView& b) {
  const Shape shape = matmul_t_shape(a, b);
  return {shape.dims, shape.dims + shape.rank};
}

/// The result, in an array of the given layout.
template <class T>
Array<T> multiply(const Array<T>& a, const Array<T>& b, const MatmulTOptions& options = {}, const Layout& layout = {}) {
  constexpr std::int64_t guard = 64;
  Array<T> out(result_shape(a.view(), b.view()), layout, guard);
  matmul_t(a.view(), b.view(), out.view(), options);
  EXPECT_TRUE(out.gaps_are_untouched());
  return out;
}

}  // namespace transfuse::test
