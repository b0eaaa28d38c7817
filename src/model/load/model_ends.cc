// Embedding and head, loaded by name.
#include "model/load/model_ends.h"

#include <torch/types.h>

#include <algorithm>

namespace roundtable {
namespace {

// Loads the tensors that are asked for by name; an empty name gives an undefined tensor.
class EndLoader {
 public:
  EndLoader(const TensorSource& source, const ModelConfig& config, torch::ScalarType dtype, torch::Device device,
            HostCommunicator& comm, int root)
      : source_(source), dtype_(dtype), device_(device), comm_(comm), root_(root), specs_(outside_parameters(config)) {}

  torch::Tensor tensor(const std::string& layer, const std::string& which = ".weight") {
    const auto spec =
        std::find_if(specs_.begin(), specs_.end(), [&](const ParameterSpec& s) { return s.name == layer + which; });
    if (layer.empty() || spec == specs_.end()) return {};
    return load_tensors(source_, {*spec}, comm_, root_).front().to(device_, dtype_);
  }

 private:
  const TensorSource& source_;
  torch::ScalarType dtype_;
  torch::Device device_;
  HostCommunicator& comm_;
  int root_;
  std::vector<ParameterSpec> specs_;
};

}  // namespace

torch::Tensor Embedding::forward(const torch::Tensor& ids) const {
  torch::Tensor x = torch::embedding(table, ids);
  // The scale is rounded to the dtype first, as in Gemma's own code: sqrt(3072) becomes 55.5 in bf16.
  if (scale != 1) x = x * torch::tensor(scale, torch::kFloat32).to(table.device(), table.scalar_type());
  if (project_in.defined()) x = torch::linear(x, project_in);
  if (positions.defined()) x = x + positions.narrow(0, position_offset, ids.size(1));
  return x;
}

torch::Tensor Head::forward(const torch::Tensor& hidden) const {
  torch::Tensor x = norm.forward(hidden);
  if (project_out.defined()) x = torch::linear(x, project_out);
  const torch::Tensor logits = torch::linear(x, weight).to(torch::kFloat32);
  return soft_cap > 0 ? torch::tanh(logits / soft_cap) * soft_cap : logits;
}

Embedding load_embedding(const TensorSource& source, const ModelConfig& config, torch::ScalarType dtype,
                         torch::Device device, HostCommunicator& comm, int root) {
  EndLoader load(source, config, dtype, device, comm, root);
  return {load.tensor(config.names.embedding), load.tensor(config.names.positions),
          load.tensor(config.names.project_in), config.embedding_scale, config.position_offset};
}

Head load_head(const TensorSource& source, const ModelConfig& config, torch::ScalarType dtype, torch::Device device,
               HostCommunicator& comm, int root) {
  EndLoader load(source, config, dtype, device, comm, root);
  const ModelNames& names = config.names;
  const Norm norm{config.norm, config.norm_eps, load.tensor(names.final_norm), load.tensor(names.final_norm, ".bias")};
  return {norm, load.tensor(names.project_out), load.tensor(config.tie_word_embeddings ? names.embedding : names.head),
          config.final_soft_cap};
}

}  // namespace roundtable
