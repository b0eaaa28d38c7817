// What comes before the first block and after the last: embeddings, the final norm and the head.
#pragma once

#include <torch/types.h>

#include "model/forward/norm.h"
#include "model/load/tensor_source.h"

namespace roundtable {

struct Embedding {
  torch::Tensor table;       // [vocab, width]
  torch::Tensor positions;   // [positions, hidden], or undefined
  torch::Tensor project_in;  // [hidden, width], or undefined
  double scale = 1;
  std::int64_t position_offset = 0;

  // ids [rows, seqlen] int64 on the table's device -> [rows, seqlen, hidden] in the table's dtype.
  torch::Tensor forward(const torch::Tensor& ids) const;
};

struct Head {
  Norm norm;
  torch::Tensor project_out;  // [width, hidden], or undefined
  torch::Tensor weight;       // [vocab, width]
  double soft_cap = 0;        // logits become cap * tanh(logits / cap); 0: none

  // hidden [..., hidden] -> logits [..., vocab], fp32.
  torch::Tensor forward(const torch::Tensor& hidden) const;
};

// Read on rank `root` of `comm` and broadcast; on `device` in `dtype`. Collective over `comm`.
Embedding load_embedding(const TensorSource& source, const ModelConfig& config, torch::ScalarType dtype,
                         torch::Device device, HostCommunicator& comm, int root);
Head load_head(const TensorSource& source, const ModelConfig& config, torch::ScalarType dtype, torch::Device device,
               HostCommunicator& comm, int root);

}  // namespace roundtable
