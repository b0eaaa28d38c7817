// Blocks of a checkpoint on all ranks of a communicator. The next block is read and broadcast while the present one is
// worked on.
#pragma once

#include <torch/types.h>

#include <future>
#include <vector>

#include "comm/communicator.h"
#include "model/load/tensor_source.h"

namespace roundtable {

// A block's parameters on the host, in the order of block_linears() and block_norms().
struct BlockWeights {
  std::int64_t block = 0;              // its place in the model
  std::vector<torch::Tensor> weights;  // [out, in] each, bf16 or fp32
  std::vector<torch::Tensor> biases;   // [out] each, undefined where the layer has none
  std::vector<torch::Tensor> norms;
};

class BlockLoader {
 public:
  // All three must outlive this. `source` is used on the reading ranks only, also from a second thread. `comm` must be
  // used for nothing else while a block is on its way.
  BlockLoader(const TensorSource& source, const ModelConfig& config, HostCommunicator& comm)
      : source_(source), config_(config), comm_(comm) {}

  // Starts load() of `block` in a thread of its own, for the call of load() that comes next, which throws its error.
  // Does not block. Collective over the communicator.
  void load_ahead(std::int64_t block, int root);

  // A block that rank `root` reads and broadcasts, so that each weight is read from the file system once. Collective
  // over the communicator; an Error on the root is thrown on all ranks and names the root.
  BlockWeights load(std::int64_t block, int root);

 private:
  void drop();
  std::vector<ParameterSpec> parameters(std::int64_t block) const;

  const TensorSource& source_;
  const ModelConfig& config_;
  HostCommunicator& comm_;
  std::int64_t ahead_ = -1;                         // the block that `loaded_` is of
  std::future<std::vector<torch::Tensor>> loaded_;  // its destructor waits
};

// A block that computes in `dtype` on `device`.
DecoderBlock make_block(const ModelConfig& config, const BlockWeights& weights, torch::ScalarType dtype,
                        torch::Device device);

}  // namespace roundtable
