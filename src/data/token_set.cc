// Reading and checking token sets.
#include "data/token_set.h"

#include "base/error.h"
#include "io/safetensors.h"

namespace roundtable {
namespace {

constexpr const char* kTensor = "input_ids";
constexpr const char* kFix = "make it with launch/prepare_calibration.py";

TokenSetShape shape_of(const std::string& path, const SafetensorsFile& file) {
  const TensorInfo* info = file.find(kTensor);
  if (info == nullptr) throw bad_input(path, "is not a token set: it has no tensor 'input_ids'", kFix);
  if (info->type != ElementType::kI32 || info->shape.size() != 2) {
    throw bad_input(path, "is not a token set: 'input_ids' is not an int32 matrix [n_samples, seqlen]", kFix);
  }
  if (info->shape[0] < 1 || info->shape[1] < 1) throw bad_input(path, "holds no tokens", kFix);
  return {info->shape[0], info->shape[1]};
}

void check_ids(const std::string& path, const TokenRows& tokens, std::int64_t vocab_size) {
  for (std::size_t i = 0; i < tokens.ids.size(); ++i) {
    if (tokens.ids[i] >= 0 && tokens.ids[i] < vocab_size) continue;
    throw bad_input(path,
                    fmt::format("token id {} (sample {}, position {}) is outside the vocabulary of {}", tokens.ids[i],
                                i / static_cast<std::size_t>(tokens.seqlen),
                                i % static_cast<std::size_t>(tokens.seqlen), vocab_size),
                    "make the token set with this model's tokenizer");
  }
}

}  // namespace

TokenSetShape token_set_shape(const std::string& path) { return shape_of(path, SafetensorsFile(path)); }

std::string tokenizer_of_tokens(const std::string& path) {
  const SafetensorsFile file(path);
  const auto found = file.metadata().find("tokenizer_sha256");
  return found == file.metadata().end() ? "" : found->second;
}

TokenRows load_tokens(const std::string& path, std::int64_t n_samples, std::int64_t seqlen, std::int64_t vocab_size) {
  const SafetensorsFile file(path);
  const TokenSetShape shape = shape_of(path, file);
  TokenRows tokens;
  tokens.rows = n_samples == 0 ? shape.n_samples : n_samples;
  tokens.seqlen = seqlen == 0 ? shape.seqlen : seqlen;
  if (tokens.rows > shape.n_samples) {
    throw bad_input(path, fmt::format("{} samples are asked for and it holds {}", tokens.rows, shape.n_samples),
                    "lower calibration.n_samples or make a larger token set");
  }
  if (tokens.seqlen > shape.seqlen) {
    throw bad_input(path, fmt::format("seqlen {} is asked for and its samples hold {}", tokens.seqlen, shape.seqlen),
                    "lower calibration.seqlen or make a token set with longer samples");
  }
  std::vector<std::int32_t> all(static_cast<std::size_t>(shape.n_samples * shape.seqlen));
  file.read(*file.find(kTensor), all.data());
  tokens.ids.reserve(static_cast<std::size_t>(tokens.rows * tokens.seqlen));
  for (std::int64_t row = 0; row < tokens.rows; ++row) {
    const auto begin = all.begin() + row * shape.seqlen;
    tokens.ids.insert(tokens.ids.end(), begin, begin + tokens.seqlen);
  }
  check_ids(path, tokens, vocab_size);
  return tokens;
}

}  // namespace roundtable
