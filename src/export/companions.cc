// Choosing and copying what goes along.
#include "export/companions.h"

#include <cstdint>
#include <filesystem>

#include "io/file.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCard = "README.md";
// Larger files beside a model are weights in other formats.
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

}  // namespace

void copy_companions(const std::string& from, const std::string& to, bool card) {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (is_companion(entry) && (card || name != kCard)) copy_file(entry.path().string(), to + "/" + name);
  }
}

void copy_notes(const std::string& from, const std::string& to) {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (is_companion(entry) && is_note(name)) copy_file(entry.path().string(), to + "/" + name);
  }
}

}  // namespace roundtable
