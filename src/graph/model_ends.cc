// Embedding and head.
#include "graph/model_ends.h"

#include <torch/types.h>

#include <vector>

#include "base/error.h"
#include "graph/block_loader.h"
#include "graph/fuse/fuse.h"
#include "graph/head_parts.h"

namespace roundtable {
namespace {

TensorsByName load_part(const TensorSource& source, const GraphPart& part, torch::Device device, HostCommunicator& comm,
                        int root) {
  std::vector<PlacedTensor> placed;
  std::vector<ParameterSpec> wanted;
  for (const DiskTensor& tensor : part.tensors) {
    placed.push_back({{tensor.disk, tensor.shape}, tensor.param, tensor.offset, tensor.stride});
    wanted.push_back(placed.back().spec);
  }
  return make_parameters(part, placed, load_tensors(source, wanted, comm, root), device);
}

}  // namespace

Embedding::Embedding(const TensorSource& source, const Model& model, torch::Device device, HostCommunicator& comm,
                     int root)
    : model_(model),
      device_(device),
      program_(fuse(model.graphs().embed, model.dtype()), model.constants(), device, model.graphs().batch),
      parameters_(load_part(source, model.graphs().embed, device, comm, root)) {}

States Embedding::forward(const torch::Tensor& ids) const {
  RT_CHECK(ids.size(1) == model_.seqlen());
  const torch::Tensor tokens = ids.to(device_);
  const GraphTensors out = program_.forward({{}, tokens, {}}, parameters_);
  return {out.hidden, {model_.takes_tokens() ? tokens : torch::Tensor(), out.carried}};
}

Head::Head(const TensorSource& source, const Model& model, torch::Device device, HostCommunicator& comm, int root)
    : model_(model) {
  const HeadParts parts = cut_head(model.graphs().head);
  const auto make = [&](const GraphPart& part, std::int64_t batch) {
    return std::unique_ptr<const Part>(new Part{{fuse(part, model.dtype()), model.constants(), device, batch},
                                                load_part(source, part, device, comm, root)});
  };
  features_ = make(parts.features, model.graphs().batch);
  if (parts.logits) logits_ = make(*parts.logits, 0);
}

torch::Tensor Head::features(const torch::Tensor& hidden) const {
  RT_CHECK(hidden.size(1) == model_.seqlen());
  const torch::Tensor out = features_->program.forward({hidden, {}, {}}, features_->parameters).hidden;
  const torch::Tensor rows = out.flatten(0, -2);
  RT_CHECK(rows.size(0) == hidden.size(0) * model_.seqlen());
  return rows;
}

torch::Tensor Head::logits(const torch::Tensor& features) const {
  return logits_ ? logits_->program.forward({features, {}, {}}, logits_->parameters).hidden : features;
}

}  // namespace roundtable
