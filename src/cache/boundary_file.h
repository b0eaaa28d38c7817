// The HDF5 cache of a stage's boundary: the float model's hidden states at the start of the stage, for all samples.
//
//   /hidden_states  [n_samples, seqlen, hidden]  bf16 or fp32, chunked by sample
//   /checksums      [n_samples]  uint64, XXH3 of each sample's bytes
//   attributes of /hidden_states: first_block, fingerprint
//
// bf16 is written as a self-describing 16-bit float (1 sign, 8 exponent, 7 mantissa bits, bias 127), which h5dump and
// h5py show as numbers.
#pragma once

#include <cstdint>
#include <string>

#include "base/element_type.h"
#include "base/sample_range.h"
#include "cache/file_layout.h"

namespace roundtable {

class MpiCommunicator;

struct BoundaryShape {
  std::int64_t n_samples = 0;
  std::int64_t seqlen = 0;
  std::int64_t hidden = 0;
  ElementType type = ElementType::kBF16;  // kBF16 or kF32

  std::int64_t sample_bytes() const { return seqlen * hidden * static_cast<std::int64_t>(size_of(type)); }
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

  // Writes samples [range) from `data` ([range.size(), seqlen, hidden], host memory). Collective if the layout says so:
  // then a rank without samples must call it, too.
  void write(const SampleRange& range, const void* data);

  // Collective: closes the file and commits it (commit_file() in io/file.h): when this returns, it is on the disk as
  // `path`. If `replace` is false and `path` exists by now, that file stays, since other jobs may be reading it, and
  // ours is removed. Throws as the constructor.
  void finish(bool replace = true);

 private:
  MpiCommunicator& comm_;
  std::string path_;
  std::string temporary_;
  BoundaryShape shape_;
  FileLayout layout_;
  std::int64_t file_ = -1;  // hid_t, which <hdf5.h> makes int64_t
  std::int64_t states_ = -1;
  std::int64_t checksums_ = -1;
};

// Reads samples [range) of a boundary into `data` ([range.size(), seqlen, hidden], host memory) and compares them with
// their checksums. Collective over `comm`: each rank reads its own range. Throws Error if the file is missing or
// broken, has another shape or type, or has the fingerprint of another run.
void read_boundary(MpiCommunicator& comm, const std::string& path, const BoundaryShape& shape, std::int64_t first_block,
                   const std::string& fingerprint, const SampleRange& range, void* data);

}  // namespace roundtable
