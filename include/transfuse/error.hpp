/// \file
/// The errors that a call reports before it touches its output.
#pragma once

#include <stdexcept>
#include <string>

namespace transfuse {

/// A shape, value or option is not acceptable. The message names the argument, what came and what was expected.
/// Python sees ValueError.
class ValueError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A dtype is not supported or differs from that of the other operands. Python sees TypeError.
class TypeError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

}  // namespace transfuse
