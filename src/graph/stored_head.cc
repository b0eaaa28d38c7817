// Comparing the two tables piece by piece.
#include "graph/stored_head.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "io/file.h"
#include "model/load/tensor_source.h"

namespace roundtable {

bool same_tensors(const std::string& directory, const Checkpoint& checkpoint, const std::string& a,
                  const std::string& b) {
  constexpr std::uint64_t kPiece = 4 << 20;
  const TensorInfo& one = checkpoint.info(a);
  const TensorInfo& two = checkpoint.info(b);
  if (one.type != two.type || one.shape != two.shape) return false;
  const InputFile file_of_one(directory + "/" + checkpoint.file_of(a));
  const InputFile file_of_two(directory + "/" + checkpoint.file_of(b));
  std::vector<char> bytes_of_one(kPiece), bytes_of_two(kPiece);
  for (std::uint64_t done = 0; done < one.bytes; done += kPiece) {
    const std::uint64_t bytes = std::min(kPiece, one.bytes - done);
    file_of_one.read_at(one.offset + done, bytes_of_one.data(), bytes);
    file_of_two.read_at(two.offset + done, bytes_of_two.data(), bytes);
    if (std::memcmp(bytes_of_one.data(), bytes_of_two.data(), bytes) != 0) return false;
  }
  return true;
}

Model with_head_of(const Model& model, const std::string& directory) {
  if (model.tied_head().empty() || !has_checkpoint(directory)) return model;
  const Checkpoint checkpoint(directory);
  const std::string head = stored_name(checkpoint, model.tied_head());
  const std::string embedding = stored_name(checkpoint, model.embedding());
  if (!checkpoint.contains(head) || !checkpoint.contains(embedding)) return model;
  return same_tensors(directory, checkpoint, head, embedding) ? model : model.with_stored_head();
}

}  // namespace roundtable
