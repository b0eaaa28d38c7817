// Blocks of a checkpoint on all ranks of a communicator. The next block is read and broadcast while the present one is
// worked on.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "graph/block.h"
#include "graph/expert_part.h"
#include "graph/model.h"
#include "model/load/tensor_source.h"

namespace roundtable {

// A block's tensors on the host, in the orders of its KindTable.
struct BlockWeights {
  std::int64_t block = 0;              // its place in the model
  std::vector<torch::Tensor> weights;  // of `linears`, [out, in] each, bf16 or fp32; neighbours of one width and dtype
                                        // lie below each other (StackBuilder); undefined: another rank holds it
  std::vector<torch::Tensor> others;   // as on disk, fp16 widened to fp32
};

class BlockLoader {
 public:
  // All three must outlive this. `source` is used on the reading ranks only, also from a second thread. `comm` must be
  // used for nothing else while a block is on its way.
  BlockLoader(const TensorSource& source, const Model& model, HostCommunicator& comm)
      : source_(source), model_(model), comm_(comm) {}

  // The same for groups that divide the experts: rank r of `comm` holds part r mod part.parts of them. `holders` are
  // the ranks that hold the same part, in the order of `comm`.
  BlockLoader(const TensorSource& source, const Model& model, HostCommunicator& comm, const ExpertPart& part,
              HostCommunicator& holders)
      : source_(source), model_(model), comm_(comm), part_(part), holders_(&holders) {}

  // Starts load() of `block` in a thread of its own, for the call of load() that comes next, which throws its error.
  // Does not block. Collective over the communicator.
  void load_ahead(std::int64_t block, int root);

  // A block that rank `root` reads and broadcasts, so that each weight is read from the file system once. Experts that
  // are divided are read by the ranks of root's group, each its own part, and go to the holders of the same part: no
  // rank has others for a moment. Collective over the communicator; an Error on a reading rank is thrown on all ranks
  // and names it.
  BlockWeights load(std::int64_t block, int root);

 private:
  void drop();
  BlockWeights read(std::int64_t block, int root) const;

  const TensorSource& source_;
  const Model& model_;
  HostCommunicator& comm_;
  ExpertPart part_;
  HostCommunicator* holders_ = nullptr;  // null: all hold all
  std::int64_t ahead_ = -1;              // the block that `loaded_` is of
  std::future<BlockWeights> loaded_;     // its destructor waits
};

// Makes blocks that compute in the dtype of the model's graphs on a device. Kinds are prepared when they are first
// needed, and kept. Not thread-safe.
class BlockMaker {
 public:
  // `model` must outlive this; blocks need neither. `exchange`: as BlockKind has it, for kinds that have experts.
  BlockMaker(const Model& model, torch::Device device, std::shared_ptr<ExpertExchange> exchange = nullptr)
      : model_(model), device_(device), exchange_(std::move(exchange)) {}

  Block make(const BlockWeights& weights);
  torch::Device device() const { return device_; }

 private:
  const Model& model_;
  torch::Device device_;
  std::shared_ptr<ExpertExchange> exchange_;
  std::map<std::size_t, std::shared_ptr<const BlockKind>> kinds_;
};

// The parameters of a graph on `device`, from tensors that lie in them as `placed` says, in the same order. Those that
// are named in `without` are not made, and no tensor lies in one of them.
TensorsByName make_parameters(const GraphPart& part, const std::vector<PlacedTensor>& placed,
                              const std::vector<torch::Tensor>& tensors, torch::Device device,
                              const std::set<std::string>& without = {});

}  // namespace roundtable
