// What comes before the first block and after the last: the graphs of the embedding and of the head, with their tensors.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "comm/communicator.h"
#include "graph/model.h"
#include "graph/run/program.h"
#include "graph/states.h"
#include "model/load/tensor_source.h"

namespace roundtable {

// Tensors are read on rank `root` of `comm` and broadcast. Construction is collective over `comm`. `model` must outlive
// both classes.
class Embedding {
 public:
  Embedding(const TensorSource& source, const Model& model, torch::Device device, HostCommunicator& comm, int root);

  // ids [rows, seqlen] int64, on any device -> what enters the first block, on the embedding's device. The tokens go
  // along where a block takes them.
  States forward(const torch::Tensor& ids) const;

 private:
  const Model& model_;
  torch::Device device_;
  Program program_;
  TensorsByName parameters_;
};

class Head {
 public:
  Head(const TensorSource& source, const Model& model, torch::Device device, HostCommunicator& comm, int root);

  // hidden [rows, ...boundary.hidden] -> logits [rows, seqlen, vocab] in the model's dtype.
  torch::Tensor forward(const torch::Tensor& hidden) const;

 private:
  const Model& model_;
  Program program_;
  TensorsByName parameters_;
};

}  // namespace roundtable
