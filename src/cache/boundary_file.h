// The HDF5 cache of a stage's boundary: what enters the stage in the float model, for all samples. These are named
// tensors: first the hidden states, then those that embed or earlier blocks carry to later ones, numbered from 1.
//
//   /hidden_states        [n_samples, ...shape of a sample], chunked by sample
//   /checksums            [n_samples]  uint64, XXH3 of each sample's bytes
//   /carried/1/values     as /hidden_states, of the first carried tensor
//   /carried/1/checksums  as /checksums
//   attributes of /hidden_states: first_block, fingerprint; of /carried/1/values: name
//
// The names of tensors may hold '/' and '.', so they are no names in the file. hdf5_objects.h has the element types.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/element_type.h"
#include "base/sample_range.h"
#include "cache/file_layout.h"

namespace roundtable {

class MpiCommunicator;

struct BoundaryTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // of one sample; empty for a number per sample
  ElementType type = ElementType::kBF16;

  std::int64_t sample_bytes() const;
};

struct BoundaryShape {
  std::int64_t n_samples = 0;
  std::vector<BoundaryTensor> tensors;  // the hidden states first

  std::int64_t sample_bytes() const;  // of all tensors
};

// Writes one boundary in parallel, each rank its own samples, under a temporary name, `path` + `temporary`; finish()
// gives it its name. A file with the temporary name is overwritten: jobs that may write one path at the same time need
// a `temporary` of their own.
class BoundaryWriter {
 public:
  // Collective over `comm`, which must outlive the writer. Throws Error (kMachine) on HDF5 and file errors.
  BoundaryWriter(MpiCommunicator& comm, const std::string& path, const BoundaryShape& shape, std::int64_t first_block,
                 const std::string& fingerprint, const FileLayout& layout = {}, const std::string& temporary = ".tmp");
  ~BoundaryWriter();
  BoundaryWriter(const BoundaryWriter&) = delete;
  BoundaryWriter& operator=(const BoundaryWriter&) = delete;

  // Writes samples [range) of every tensor, in the order of the shape, from `data` ([range.size(), ...shape], host
  // memory). Collective if the layout says so: then a rank without samples must call it, too.
  void write(const SampleRange& range, const std::vector<const void*>& data);

  // Collective: closes the file and commits it (commit_file() in io/file.h): when this returns, it is on the disk as
  // `path`. If `replace` is false and `path` exists by now, that file stays, since other jobs may be reading it, and
  // ours is removed. Throws as the constructor.
  void finish(bool replace = true);

 private:
  struct Datasets {
    std::int64_t values = -1;  // hid_t, which <hdf5.h> makes int64_t
    std::int64_t checksums = -1;
  };

  MpiCommunicator& comm_;
  std::string path_;
  std::string temporary_;
  BoundaryShape shape_;
  FileLayout layout_;
  std::int64_t file_ = -1;
  std::vector<Datasets> datasets_;  // of each tensor
};

// Reads samples [range) of every tensor of a boundary into `data` (as for BoundaryWriter::write()) and compares them
// with their checksums. Collective over `comm`: each rank reads its own range. Throws Error if the file is missing or
// broken, has other tensors, another shape or type, or has the fingerprint of another run.
void read_boundary(MpiCommunicator& comm, const std::string& path, const BoundaryShape& shape, std::int64_t first_block,
                   const std::string& fingerprint, const SampleRange& range, const std::vector<void*>& data);

}  // namespace roundtable
