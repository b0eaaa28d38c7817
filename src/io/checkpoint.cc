// Finds a checkpoint's shards and keeps them open.
#include "io/checkpoint.h"

#include <fmt/format.h>

#include <set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "io/file.h"
#include "io/json_file.h"
#include "io/safetensors_header.h"

namespace roundtable {

namespace {

constexpr const char* kSingleFile = "model.safetensors";

Error no_weights(const std::string& directory) {
  if (!is_there(directory))
    return bad_input(directory, "there is no such folder", "check the path" + searched_from(directory));
  const std::string problem = fmt::format("holds neither {} nor {}", kSingleFile, kIndexFile);
  if (is_there(directory + "/pytorch_model.bin") || is_there(directory + "/pytorch_model.bin.index.json")) {
    return bad_input(directory, problem, "convert pytorch_model.bin first (transformers: save_pretrained)");
  }
  return bad_input(directory, problem, "fetch the weights, or check the path" + searched_from(directory));
}

Error two_models(const std::string& directory, const std::string& file) {
  return bad_input(
      directory,
      fmt::format("holds {} and {}, which names other files ({}): readers disagree on which of them counts",
                  kSingleFile, kIndexFile, printable(file)),
      "remove the one that is out of date");
}

// Shards lie in the directory itself. A name from an index must not lead out of it.
void check_file_name(const std::string& index, const std::string& file) {
  if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos ||
      file.find('\0') != std::string::npos) {
    throw bad_input(index, fmt::format("'{}' is not the name of a file next to it", printable(file)),
                    "weight_map must name files without a folder");
  }
}

}  // namespace

bool has_checkpoint(const std::string& directory) {
  return is_there(directory + "/" + kSingleFile) || is_there(directory + "/" + kIndexFile);
}

Checkpoint::Checkpoint(const std::string& directory) : directory_(directory) {
  const std::string index = directory + "/" + kIndexFile;
  const bool single = is_there(directory + "/" + kSingleFile);
  if (is_there(index)) load_index(index, single);
  if (single) {
    for (const auto& [name, file] : file_of_) {
      if (file != kSingleFile) throw two_models(directory, file);
    }
    file_of_.clear();  // what the file holds counts
    for (const auto& [name, info] : shard(kSingleFile).tensors()) file_of_.emplace(name, kSingleFile);
  } else if (!is_there(index)) {
    throw no_weights(directory);
  }
  for (const auto& [name, file] : file_of_) names_.push_back(name);
}

Checkpoint::~Checkpoint() = default;

void Checkpoint::load_index(const std::string& index_path, bool single) {
  const JsonObject weight_map = JsonObject::load(index_path).get_object("weight_map");
  std::set<std::string> checked;
  for (const auto& item : weight_map.json().items()) {
    std::string file = weight_map.get_string(item.key());
    if (checked.insert(file).second) {
      check_file_name(index_path, file);
      if (!single && !is_there(directory_ + "/" + file)) {
        throw bad_input(index_path, fmt::format("names the file {}, which is missing", printable(file)),
                        "fetch the rest of the model");
      }
    }
    file_of_.emplace(item.key(), std::move(file));
  }
}

bool Checkpoint::contains(std::string_view name) const { return file_of_.find(name) != file_of_.end(); }

const std::string& Checkpoint::file_of(std::string_view name) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end()) throw bad_input(tensor_place(directory_, name), "is missing from the checkpoint");
  return found->second;
}

std::string Checkpoint::place_of(std::string_view name) const {
  return tensor_place(directory_ + "/" + file_of(name), name);
}

const SafetensorsFile& Checkpoint::shard(const std::string& file) const {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<SafetensorsFile>& slot = shards_[file];
  if (!slot) slot = std::make_unique<SafetensorsFile>(directory_ + "/" + file);
  return *slot;
}

const TensorInfo& Checkpoint::info(std::string_view name) const {
  const SafetensorsFile& file = shard(file_of(name));
  const TensorInfo* found = file.find(name);
  if (found == nullptr) {
    throw bad_input(tensor_place(file.path(), name), fmt::format("is missing, though {} places it there", kIndexFile),
                    "fetch the model again");
  }
  return *found;
}

void Checkpoint::read(std::string_view name, void* dst) const {
  const TensorInfo& tensor = info(name);
  shard(file_of(name)).read(tensor, dst);
}

void Checkpoint::read_part(std::string_view name, std::uint64_t offset, void* dst, std::size_t bytes) const {
  const TensorInfo& tensor = info(name);
  shard(file_of(name)).read_part(tensor, offset, dst, bytes);
}

std::uint64_t Checkpoint::total_bytes() const {
  std::uint64_t total = 0;
  for (const std::string& name : names_) total += info(name).bytes;
  return total;
}

std::vector<Checkpoint::Stray> Checkpoint::strays() const {
  std::set<std::string> files;
  for (const auto& [name, file] : file_of_) files.insert(file);
  std::vector<Stray> found;
  for (const std::string& file : files) {
    for (const auto& [name, info] : shard(file).tensors()) {
      const auto place = file_of_.find(name);
      if (place == file_of_.end() || place->second != file) found.push_back({name, file});
    }
  }
  return found;
}

void write_checkpoint_index(const std::string& directory, const std::map<std::string, std::string>& weight_map,
                            std::uint64_t total_size) {
  save_json(directory + "/" + kIndexFile, {{"metadata", {{"total_size", total_size}}}, {"weight_map", weight_map}});
}

}  // namespace roundtable
