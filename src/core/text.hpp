// Pieces of error messages.
#pragma once

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>

namespace transfuse {

/// "(2, 3)", "(2,)", "()": as Python writes it.
inline std::string to_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

/// A number in as few digits as tell it from 0 and from infinity: "1e+39", "-0.5", "nan".
inline std::string to_text(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

}  // namespace transfuse
