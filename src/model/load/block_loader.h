// Blocks of a checkpoint on all ranks of a communicator, the next one read and broadcast while the present one is worked
// on.
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
  // All three outlive this. `source` is used on the reading ranks alone, from a second thread too, and `comm` for nothing
  // else while a block is under way.
  BlockLoader(const TensorSource& source, const ModelConfig& config, HostCommunicator& comm)
      : source_(source), config_(config), comm_(comm) {}

  // Begins what load() does, in a thread of its own, for the load() that comes next. Collective over the communicator. An
  // error shows in load().
  void load_ahead(std::int64_t block, int root);

  // A block that rank `root` reads and broadcasts, so that the file system is asked once. Collective over the
  // communicator; an Error on the root is thrown on all ranks.
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
