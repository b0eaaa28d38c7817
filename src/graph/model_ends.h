// What comes before the first block and after the last: the graphs of the embedding and of the head, with their tensors.
#pragma once

#include <torch/types.h>

#include <memory>

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

// In two steps, because the logits of a whole sample are the largest tensor of all.
class Head {
 public:
  Head(const TensorSource& source, const Model& model, torch::Device device, HostCommunicator& comm, int root);

  // hidden [rows, ...boundary.hidden] -> [rows * seqlen, width], one row for each position, for logits(). If the head
  // cannot be cut (head_parts.h), these are the logits already.
  torch::Tensor features(const torch::Tensor& hidden) const;

  // Of any of those rows: [n, width] -> [n, vocab], in the type in which the model gives logits.
  torch::Tensor logits(const torch::Tensor& features) const;

 private:
  struct Part {
    Program program;
    TensorsByName parameters;
  };

  const Model& model_;
  std::unique_ptr<const Part> features_;
  std::unique_ptr<const Part> logits_;  // null: the head cannot be cut
};

}  // namespace roundtable
