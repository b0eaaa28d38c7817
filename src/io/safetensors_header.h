// The JSON part of a safetensors file, read event by event: a hostile file cannot make us build a large tree.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "io/safetensors.h"

namespace roundtable {

struct SafetensorsHeader {
  TensorMap tensors;
  std::map<std::string, std::string> metadata;
};

// `text` is the header; the tensors' bytes begin at `data_offset` in the file, and there are `data_bytes` of them.
// Checks everything: JSON, fields, types, shapes, and that the tensors cover the data exactly. Throws bad input that
// begins with `path`.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& path, std::uint64_t data_offset,
                                           std::uint64_t data_bytes);

// "path: tensor 'x'", for errors.
std::string tensor_place(std::string_view path, std::string_view name);

}  // namespace roundtable
