// A token set: rows of token ids, made by launch/prepare_calibration.py.
//
// On disk: a safetensors file with one tensor `input_ids`, int32, [n_samples, seqlen], and string metadata
// (format = "roundtable.tokens", tokenizer_sha256, vocab_size, source, seed). The metadata may be missing: other tools
// make token sets too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace roundtable {

struct TokenRows {
  std::vector<std::int32_t> ids;  // row-major [rows, seqlen]
  std::int64_t rows = 0;
  std::int64_t seqlen = 0;
};

// The shape of a token set, read from its header alone.
struct TokenSetShape {
  std::int64_t n_samples = 0;
  std::int64_t seqlen = 0;
};

// Throws Error (kBadInput) where the file is missing, broken or not a token set.
TokenSetShape token_set_shape(const std::string& path);

// The SHA-256 of the tokenizer.json that made a token set; empty where the file does not say it. Throws as
// token_set_shape().
std::string tokenizer_of_tokens(const std::string& path);

// The first `n_samples` rows, each cut to its first `seqlen` ids. Pass 0 for all rows or the whole length.
// Throws Error (kBadInput) where there are fewer rows or ids than asked for, or an id is outside [0, vocab_size).
TokenRows load_tokens(const std::string& path, std::int64_t n_samples, std::int64_t seqlen, std::int64_t vocab_size);

}  // namespace roundtable
