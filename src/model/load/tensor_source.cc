// Reading tensors, checking them, and handing them to all ranks.
#include "model/load/tensor_source.h"

#include <fmt/ranges.h>
#include <torch/types.h>

#include <string_view>

#include "base/error.h"
#include "comm/agree.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// The dtypes of tensors as one letter each, as the root tells the others.
std::string dtype_letters(const std::vector<torch::Tensor>& tensors) {
  std::string letters;
  for (const torch::Tensor& tensor : tensors) letters += tensor.scalar_type() == torch::kBFloat16 ? 'b' : 'f';
  return letters;
}

std::vector<torch::Tensor> read_all(const TensorSource& source, const std::vector<ParameterSpec>& wanted) {
  std::vector<torch::Tensor> tensors;
  for (const ParameterSpec& spec : wanted) tensors.push_back(source.read(spec));
  return tensors;
}

// Gives the root's tensors to the other ranks, which know their dtypes.
void share(std::vector<torch::Tensor>& tensors, const std::vector<ParameterSpec>& wanted, const std::string& dtypes,
           HostCommunicator& comm, int root) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (comm.rank() != root) {
      tensors.push_back(torch::empty(wanted[i].shape, dtypes[i] == 'b' ? torch::kBFloat16 : torch::kFloat32));
    }
    comm.broadcast(host_span(tensors[i]), root);
  }
}

}  // namespace

std::vector<torch::Tensor> load_tensors(const TensorSource& source, const std::vector<ParameterSpec>& wanted,
                                        HostCommunicator& comm, int root) {
  std::vector<torch::Tensor> tensors;
  const std::string dtypes = run_on_root(comm, root, [&] {
    tensors = read_all(source, wanted);
    return dtype_letters(tensors);
  });
  share(tensors, wanted, dtypes, comm, root);
  return tensors;
}

std::vector<torch::Tensor> load_tensors_apart(const TensorSource& source, const std::vector<ParameterSpec>& wanted,
                                              HostCommunicator& comm, int root, HostCommunicator& all) {
  std::vector<torch::Tensor> tensors;
  run_on_all(all, [&] {
    if (comm.rank() == root) tensors = read_all(source, wanted);
  });
  share(tensors, wanted, broadcast_text(comm, dtype_letters(tensors), root), comm, root);
  return tensors;
}

std::string stored_name(const Checkpoint& checkpoint, const std::string& name) {
  if (checkpoint.contains(name)) return name;
  for (const std::string_view prefix : {"transformer.", "model.", "gpt_neox."}) {
    if (name.starts_with(prefix) && checkpoint.contains(name.substr(prefix.size()))) return name.substr(prefix.size());
  }
  if (name == "embed_out.weight" && checkpoint.contains("lm_head.weight")) return "lm_head.weight";
  return name;
}

bool is_derived_table(const std::string& name) {
  for (const std::string_view table :
       {"rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"}) {
    if (name.ends_with(table)) return true;
  }
  return false;
}

bool is_activation_scale(const std::string& name) {
  for (const std::string_view ending : {".input_scale", ".activation_scale", ".input_scale_ub", ".input_global_scale",
                                        ".qscale_act", ".k_scale", ".v_scale", ".output_scale"}) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

bool is_weight_type(ElementType type) {
  return type == ElementType::kF32 || type == ElementType::kF16 || type == ElementType::kBF16;
}

std::optional<StoredTensor> CheckpointSource::find_floats(const ParameterSpec& spec) const {
  const std::string name = stored_name(checkpoint_, spec.tensor());
  if (!checkpoint_.contains(name) || !is_weight_type(checkpoint_.info(name).type)) return std::nullopt;
  std::vector<std::int64_t> shape = spec.stored_shape();
  if (spec.stack) shape.insert(shape.begin(), spec.stack->experts);
  const TensorInfo& info = checkpoint_.info(name);
  if (info.shape != shape) {
    throw bad_input(checkpoint_.place_of(name), fmt::format("has shape {} and config.json calls for {}",
                                                            shape_text(info.shape), shape_text(shape)));
  }
  return StoredTensor{name, spec.stack ? std::optional(spec.stack->index) : std::nullopt};
}

std::vector<FoundSlice> CheckpointSource::find_quantized(const ParameterSpec& spec) const {
  std::vector<FoundSlice> slices = find_matrix(checkpoint_, spec, block_);
  if (!slices.empty()) return slices;
  const std::string name = stored_name(checkpoint_, spec.tensor());
  const TensorInfo& info = checkpoint_.info(name);  // throws if it is missing
  throw bad_input(
      checkpoint_.place_of(name),
      fmt::format("is of type {}; weights are F32, F16 or BF16, or have a scale", safetensors_dtype(info.type)),
      "convert it, or quantize from the float model");
}

std::vector<StoredTensor> CheckpointSource::stored_tensors(const ParameterSpec& spec) const {
  if (const auto floats = find_floats(spec)) return {*floats};
  std::vector<StoredTensor> tensors;
  for (const FoundSlice& slice : find_quantized(spec)) {
    tensors.insert(tensors.end(), slice.tensors.begin(), slice.tensors.end());
  }
  return tensors;
}

torch::Tensor CheckpointSource::read(const ParameterSpec& spec) const {
  if (const auto floats = find_floats(spec)) {
    torch::Tensor tensor = reader_.read(*floats);
    if (tensor.scalar_type() == torch::kFloat16) tensor = tensor.to(torch::kFloat32);
    return spec.transposed ? tensor.t().contiguous() : tensor;
  }
  torch::Tensor matrix = read_matrix(reader_, find_quantized(spec), block_);
  const ElementType type = matrix.scalar_type() == torch::kBFloat16 ? ElementType::kBF16 : ElementType::kF32;
  if (record_ != nullptr && largest_exponent(type, matrix.const_data_ptr(), matrix.nbytes()) >= kLargeExponent) {
    record_->note_large(stored_name(checkpoint_, spec.name));
  }
  return matrix;
}

}  // namespace roundtable
