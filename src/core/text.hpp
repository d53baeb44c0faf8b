// Pieces of error messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace transfuse {

/// "(2, 3)", "(2,)", "()": as Python writes it.
inline std::string to_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace transfuse
