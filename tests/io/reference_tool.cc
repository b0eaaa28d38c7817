// What reference_test.py holds against the safetensors package: `write FILE` writes a set of tensors that both sides
// make by one formula, `dump FILE` prints what the reader finds, as JSON with the bytes in hexadecimal.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"

namespace roundtable {
namespace {

// Byte i of the tensor named `name`; the same in reference_test.py.
std::vector<unsigned char> bytes_of(const std::string& name, std::size_t count, bool is_bool) {
  std::vector<unsigned char> bytes(count);
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<unsigned char>(i * 31 + name.size() * 7 + static_cast<unsigned char>(name.back()));
    if (is_bool) bytes[i] &= 1;
  }
  return bytes;
}

void write(const std::string& path) {
  std::vector<TensorView> views;
  std::vector<std::vector<unsigned char>> data;
  for (const char* dtype : {"U8", "BF16", "F32", "BOOL", "I64", "F16", "I8", "F64", "I16", "I32", "F8_E4M3"}) {
    const ElementType type = parse_safetensors_dtype(dtype).value();
    const std::vector<std::vector<std::int64_t>> shapes = {{}, {0, 3}, {3, 5}, {2, 1, 7}};
    for (const auto& shape : shapes) {
      const std::string name = fmt::format("layer.{}.{}", dtype, fmt::join(shape, "x"));
      std::size_t count = size_of(type);
      for (const std::int64_t dimension : shape) count *= static_cast<std::size_t>(dimension);
      data.push_back(bytes_of(name, count, type == ElementType::kBool));
      views.push_back({name, type, shape, data.back().data()});
    }
  }
  write_safetensors(path, views, {{"format", "pt"}});
}

std::string hex_of(const std::vector<unsigned char>& bytes) { return fmt::format("{:02x}", fmt::join(bytes, "")); }

void dump(const std::string& path) {
  const SafetensorsFile file(path);
  nlohmann::json tensors = nlohmann::json::object();
  for (const auto& [name, info] : file.tensors()) {
    std::vector<unsigned char> bytes(info.bytes);
    file.read(info, bytes.data());
    tensors[name] = {{"dtype", safetensors_dtype(info.type)}, {"shape", info.shape}, {"data", hex_of(bytes)}};
  }
  fmt::print("{}\n", nlohmann::json{{"metadata", file.metadata()}, {"tensors", tensors}}.dump());
}

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  const std::string command = argc == 3 ? argv[1] : "";
  if (command != "write" && command != "dump") {
    std::fputs("usage: reference_tool write|dump FILE\n", stderr);
    return 1;
  }
  try {
    command == "write" ? roundtable::write(argv[2]) : roundtable::dump(argv[2]);
  } catch (const roundtable::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.code());
  }
}
