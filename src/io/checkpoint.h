// The weights in a Hugging Face model directory: one model.safetensors, or several files and their index.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace roundtable {

inline constexpr const char* kIndexFile = "model.safetensors.index.json";

// Whether a directory has the files that Checkpoint reads first. Does not check whether they are valid.
bool has_checkpoint(const std::string& directory);

// Read-only and thread-safe. The constructor reads the index and checks that every file it names exists. A file is
// opened (and its header checked) when a tensor in it is first asked for, and stays open.
//
// A directory with model.safetensors and an index of other files is refused, because readers disagree on it:
// transformers 5.23 takes the single file (modeling_utils.py, _get_resolved_checkpoint_files), vLLM the files of the
// index (model_loader/weight_utils.py, filter_duplicate_safetensors_files).
class Checkpoint {
 public:
  // A tensor in a file in which the index does not place it.
  struct Stray {
    std::string name;
    std::string file;
  };

  explicit Checkpoint(const std::string& directory);
  ~Checkpoint();

  // All tensors, sorted by name.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const;
  // The file that holds the tensor: its name in the directory.
  const std::string& file_of(std::string_view name) const;
  // "directory/file: tensor 'name'", for errors. Throws as file_of().
  std::string place_of(std::string_view name) const;

  // These throw bad input if the checkpoint has no such tensor, or if it is not in the file that the index names. The
  // reference stays valid as long as this object.
  const TensorInfo& info(std::string_view name) const;
  // Copies info(name).bytes bytes to `dst`.
  void read(std::string_view name, void* dst) const;
  // The same for `bytes` of its bytes, from its byte `offset` on.
  void read_part(std::string_view name, std::uint64_t offset, void* dst, std::size_t bytes) const;

  // Bytes of all tensors, summed from the headers: opens every file. (The index has a number too, but writers disagree
  // on what it counts.)
  std::uint64_t total_bytes() const;

  // All strays, by file and name: tensors that the index places in another file, and tensors that it does not name
  // (contains() tells them apart). Opens every file.
  std::vector<Stray> strays() const;

 private:
  const SafetensorsFile& shard(const std::string& file) const;
  // `single`: there is a single file too, and the files need not exist.
  void load_index(const std::string& index_path, bool single);

  std::string directory_;
  std::vector<std::string> names_;
  std::map<std::string, std::string, std::less<>> file_of_;  // tensor -> file name
  mutable std::mutex mutex_;                                 // guards shards_, not the reads
  mutable std::map<std::string, std::unique_ptr<SafetensorsFile>> shards_;
};

// Writes model.safetensors.index.json into `directory`, byte for byte as Hugging Face's save_pretrained lays it out.
// `weight_map` gives each tensor's file name, `total_size` the bytes of all tensors.
void write_checkpoint_index(const std::string& directory, const std::map<std::string, std::string>& weight_map,
                            std::uint64_t total_size);

}  // namespace roundtable
