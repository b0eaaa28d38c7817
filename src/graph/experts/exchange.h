// The exchange of tokens between the ranks of a group that divide the experts of a block: expert parallelism, as GShard
// (arXiv 2006.16668, section 3.3) has it, by all-to-all with counts that vary.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "graph/expert_part.h"
#include "model/group/tensor_group.h"

namespace roundtable {

// What exchanges have moved, by this rank's count: bytes to other ranks.
struct ExchangeFigures {
  std::int64_t bytes = 0;
};

// The ranks that divide the experts of a block, and what that has cost so far.
struct ExpertExchange {
  TensorGroup group;
  // The ranks take turns: in each pass one of them has samples. Then an expert's product has the rows of one rank alone,
  // as if that rank held all experts, and gives the same bits (run.reproducible).
  bool turns = false;
  ExchangeFigures figures = {};
};

// The way of the rows of one rt::dispatch to the ranks that hold the experts, and back. All tensors are on one device.
// Held by a shared_ptr, which what autograd remembers of it shares.
class ExpertRoute : public std::enable_shared_from_this<ExpertRoute> {
 public:
  // `ends` [experts] of this rank's rows, which lie expert after expert, on the host. `device`: where rows are.
  // `figures` must outlive this. Collective over the group.
  ExpertRoute(const TensorGroup& group, const std::vector<std::int64_t>& ends, torch::Device device,
              ExchangeFigures& figures);

  // This rank's rows [n, ...] -> the rows of all ranks for the experts that this rank holds, expert after expert, and of
  // each expert rank after rank. Differentiable. Collective, and so is the backward pass.
  torch::Tensor to_owners(const torch::Tensor& rows) const;
  // What the owners made of `there`, a result of to_owners() -> the rows of this rank in their old places.
  // Differentiable: where gradients are computed at all, its result asks for one on every rank, so that all ranks take
  // part in the backward pass. Collective, and so is the backward pass.
  torch::Tensor from_owners(const torch::Tensor& rows, const torch::Tensor& there) const;

  // Of the rows there, for all experts of the block: those of other ranks have none.
  const std::vector<std::int64_t>& host_ends() const { return host_ends_; }
  torch::Tensor ends() const { return ends_; }

 private:
  friend struct Sent;
  friend struct Returned;
  torch::Tensor send(const torch::Tensor& rows) const;
  torch::Tensor bring_back(const torch::Tensor& rows) const;
  void note(const std::vector<std::int64_t>& sent, const torch::Tensor& rows) const;

  TensorGroup group_;
  ExchangeFigures& figures_;
  std::vector<std::int64_t> send_;     // rows to each rank
  std::vector<std::int64_t> receive_;  // rows from each rank
  torch::Tensor by_expert_;            // of the rows in the order of their arrival, rank after rank
  torch::Tensor by_rank_;              // and back
  std::vector<std::int64_t> host_ends_;
  torch::Tensor ends_;
};

}  // namespace roundtable
