// Where a model's tensors come from, as host tensors in the precision that they are tuned in.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "io/checkpoint.h"
#include "model/decoder_block.h"

namespace roundtable {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // The whole tensor on the host: bf16 where the file has bf16, else fp32 (fp16 is widened).
  // Throws Error (kBadInput) where it is missing, of another shape or type, or holds a value that is not finite.
  virtual torch::Tensor read(const std::string& name, const std::vector<std::int64_t>& shape) const = 0;
  virtual bool contains(const std::string& name) const = 0;
};

// A Hugging Face model directory with float weights. Opens files as they are needed; thread-safe.
class CheckpointSource : public TensorSource {
 public:
  explicit CheckpointSource(const std::string& directory) : checkpoint_(directory) {}

  torch::Tensor read(const std::string& name, const std::vector<std::int64_t>& shape) const override;
  bool contains(const std::string& name) const override { return checkpoint_.contains(name); }

  const Checkpoint& checkpoint() const { return checkpoint_; }

 private:
  Checkpoint checkpoint_;
};

// A block's parameters on the host, in the order of block_linears() and block_norms().
struct BlockWeights {
  std::vector<torch::Tensor> weights;  // [out, in] each, bf16 or fp32
  std::vector<torch::Tensor> biases;   // [out] each, undefined where the layer has none
  std::vector<torch::Tensor> norms;
};

// Reads block `block` on rank `root` of `comm` and broadcasts it, so that the file system is asked once.
// `source` is used on the root alone. Collective over `comm`; an Error on the root is thrown on all ranks.
BlockWeights load_block(const TensorSource& source, const ModelConfig& config, std::int64_t block, Communicator& comm,
                        int root);

// One tensor, likewise.
torch::Tensor load_tensor(const TensorSource& source, const std::string& name, const std::vector<std::int64_t>& shape,
                          Communicator& comm, int root);

// A block that computes in `dtype` on `device`.
DecoderBlock make_block(const ModelConfig& config, const BlockWeights& weights, torch::ScalarType dtype,
                        torch::Device device);

// The element type of a torch dtype, for files and messages.
ElementType element_type_of(torch::ScalarType dtype);

}  // namespace roundtable
