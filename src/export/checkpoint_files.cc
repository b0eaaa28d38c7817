// Naming and filling files of weights, and choosing and copying the others.
#include "export/checkpoint_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>

#include "base/error.h"
#include "io/file.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCard = "README.md";
// Larger files next to a model are weights in other formats.
constexpr std::uintmax_t kMaxCompanion = 128u << 20;

// Folders of a model that transformers 5.23 reads besides its files: chat templates (utils/hub.py, CHAT_TEMPLATE_DIR),
// and code for generate() (generation/utils.py, load_custom_generate).
constexpr const char* kCompanionFolders[] = {"additional_chat_templates/", "custom_generate/"};

bool is_weights(const std::string& name) {
  for (const char* ending :
       {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json"}) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

// vLLM (get_config_filenames of its quantization methods) and SGLang take every file with such an ending.
bool says_quantization(const std::string& name) {
  for (const char* ending : {"quantize_config.json", "quant_config.json", "quantization_config.json",
                             "quant_model_description.json", "quantization_map.json"}) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

bool has_companion_name(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return !is_weights(name) && name.front() != '.' && name != "config.json" && !says_quantization(name);
}

// A link that leads nowhere is one too: whoever opens it says so.
bool is_companion(const fs::directory_entry& entry) {
  if (!has_companion_name(entry)) return false;
  if (entry.is_symlink() && !entry.exists()) return true;
  return entry.is_regular_file() && entry.file_size() <= kMaxCompanion;
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

// The companions of the model in `directory`, those of its folders as "folder/name".
std::vector<std::string> companions_of(const std::string& directory) {
  std::vector<std::string> names;
  const auto add = [&](const std::string& folder) {
    if (!fs::is_directory(directory + "/" + folder)) return;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory + "/" + folder)) {
      if (is_companion(entry)) names.push_back(folder + entry.path().filename().string());
    }
  };
  add("");
  for (const char* folder : kCompanionFolders) add(folder);
  return names;
}

// Copies the companions whose names are `wanted`. Returns their names.
template <class Wanted>
std::vector<std::string> copy_files(const std::string& from, const std::string& to, const Wanted& wanted) {
  std::vector<std::string> names;
  for (const std::string& name : companions_of(from)) {
    if (!wanted(name)) continue;
    fs::create_directories(fs::path(to + "/" + name).parent_path());
    copy_file(from + "/" + name, to + "/" + name);
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

void check_companions(const std::string& from) {
  for (const std::string& name : companions_of(from)) const InputFile readable(from + "/" + name);
}

void refuse_other_weights(const std::string& directory, const std::set<std::string>& own) {
  std::error_code missing;
  std::set<std::string> others;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, missing)) {
    const std::string name = entry.path().filename().string();
    if (is_weights(name) && !own.contains(name) && !entry.is_directory()) others.insert(name);
  }
  if (others.empty()) return;
  throw bad_input(directory + "/" + *others.begin(),
                  "is not a file of this checkpoint, and readers would take it for one", "move it to another folder");
}

std::vector<std::string> quantization_files(const std::string& directory) {
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (says_quantization(name)) found.push_back(name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::string> copy_companions(const std::string& from, const std::string& to, bool card) {
  return copy_files(from, to, [card](const std::string& name) { return card || name != kCard; });
}

std::vector<std::string> copy_notes(const std::string& from, const std::string& to, bool card) {
  return copy_files(from, to, [card](const std::string& name) { return is_note(name) && (card || name != kCard); });
}

}  // namespace roundtable
