// What a configuration may set, per operation: names, places and legal values, for every caller that reads one.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "transfuse/attention.hpp"
#include "transfuse/error.hpp"
#include "transfuse/matmul_t.hpp"

namespace transfuse {

template <class Config>
struct Parameter {
  const char* name;  // in Python and in wisdom
  std::int64_t Config::* member;
  std::int64_t largest;
  bool rounds;  // affects rounding, so that it may not depend on the number of threads
};

/// block_k is bounded because a tile of packed lanes must fit the working memory.
constexpr Parameter<MatmulTConfig> kMatmulTParameters[] = {
    {"block_m", &MatmulTConfig::block_m, std::int64_t{1} << 20, false},
    {"block_n", &MatmulTConfig::block_n, std::int64_t{1} << 20, false},
    {"block_k", &MatmulTConfig::block_k, std::int64_t{1} << 14, true},
};

constexpr Parameter<AttentionConfig> kAttentionParameters[] = {
    {"block_q", &AttentionConfig::block_q, std::int64_t{1} << 20, false},
    {"block_kv", &AttentionConfig::block_kv, std::int64_t{1} << 20, true},
    {"key_chunk", &AttentionConfig::key_chunk, std::int64_t{1} << 20, true},
};

/// The parameters of an operation's configuration.
constexpr std::span<const Parameter<MatmulTConfig>> parameters(const MatmulTConfig&) { return kMatmulTParameters; }
constexpr std::span<const Parameter<AttentionConfig>> parameters(const AttentionConfig&) {
  return kAttentionParameters;
}

/// \throws ValueError
template <class Config>
void check_parameter(const Parameter<Config>& parameter, std::int64_t value) {
  if (value < 1 || value > parameter.largest)
    throw ValueError(std::string("config: expected ") + parameter.name + " in 1..." +
                     std::to_string(parameter.largest) + ", got " + std::to_string(value));
}

/// Checks every parameter that is set. \throws ValueError
template <class Config>
void check_config(const Config& config) {
  for (const auto& parameter : parameters(config))
    if (config.*parameter.member != 0) check_parameter(parameter, config.*parameter.member);
}

/// `first` where it is set, else `second`, parameter by parameter.
template <class Config>
Config merge_configs(const Config& first, const Config& second) {
  Config merged;
  for (const auto& parameter : parameters(first)) {
    const auto member = parameter.member;
    merged.*member = first.*member != 0 ? first.*member : second.*member;
  }
  return merged;
}

}  // namespace transfuse
