// Naming and filling files of weights, and choosing and copying the others.
#include "export/checkpoint_files.h"

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>

#include "io/file.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCard = "README.md";
// Larger files next to a model are weights in other formats.
constexpr std::uintmax_t kMaxCompanion = 128u << 20;

bool is_companion(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  const std::string extension = entry.path().extension().string();
  for (const char* weights : {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}) {
    if (extension == weights) return false;
  }
  return entry.is_regular_file() && entry.file_size() <= kMaxCompanion && name.front() != '.' &&
         !name.ends_with(".index.json") && name != "config.json" && name != "quantization_config.json" &&
         name != "quantize_config.json";
}

void copy_file(const std::string& from, const std::string& to) {
  const std::string content = read_text_file(from, kMaxCompanion);
  write_file_atomically(to, [&](OutputFile& file) { file.write(content.data(), content.size()); });
}

// "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md"; the card
bool is_note(const std::string& name) {
  for (const char* word : {"LICENSE", "LICENCE", "NOTICE", "USE_POLICY", kCard}) {
    if (name.starts_with(word)) return true;
  }
  return false;
}

// Copies the companions whose names are `wanted`. Returns their names.
template <class Wanted>
std::vector<std::string> copy_files(const std::string& from, const std::string& to, const Wanted& wanted) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (!is_companion(entry) || !wanted(name)) continue;
    copy_file(entry.path().string(), to + "/" + name);
    names.push_back(name);
  }
  return names;
}

}  // namespace

std::string shard_name(std::int64_t index, std::int64_t count) {
  return fmt::format("model-{:05d}-of-{:05d}.safetensors", index + 1, count);
}

std::vector<std::vector<std::size_t>> cut_by_size(const std::vector<std::uint64_t>& sizes, std::int64_t max_bytes) {
  std::vector<std::vector<std::size_t>> files;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (files.empty() || sum + sizes[i] > static_cast<std::uint64_t>(max_bytes)) {
      files.emplace_back();
      sum = 0;
    }
    files.back().push_back(i);
    sum += sizes[i];
  }
  return files;
}

std::vector<std::string> copy_companions(const std::string& from, const std::string& to, bool card) {
  return copy_files(from, to, [card](const std::string& name) { return card || name != kCard; });
}

std::vector<std::string> copy_notes(const std::string& from, const std::string& to, bool card) {
  return copy_files(from, to, [card](const std::string& name) { return is_note(name) && (card || name != kCard); });
}

}  // namespace roundtable
