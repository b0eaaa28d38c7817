// Reading tensors, checking them, and handing them to all ranks.
#include "model/load/tensor_source.h"

#include <fmt/ranges.h>
#include <torch/types.h>

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "comm/agree.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

constexpr std::uint64_t kCheckedAtOnce =
    4 << 20;  // of a tensor that is only looked at; a multiple of every element's size

torch::ScalarType scalar_type_of(ElementType type, const std::string& place) {
  switch (type) {
    case ElementType::kF32:
      return torch::kFloat32;
    case ElementType::kF16:
      return torch::kFloat16;
    case ElementType::kBF16:
      return torch::kBFloat16;
    default:
      throw bad_input(place, "is not a float tensor (F32, F16 or BF16)", "quantize from the float model");
  }
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// The dtypes of tensors as one letter each, as the root tells the others.
std::string dtype_letters(const std::vector<torch::Tensor>& tensors) {
  std::string letters;
  for (const torch::Tensor& tensor : tensors) letters += tensor.scalar_type() == torch::kBFloat16 ? 'b' : 'f';
  return letters;
}

}  // namespace

std::vector<torch::Tensor> load_tensors(const TensorSource& source, const std::vector<ParameterSpec>& wanted,
                                        HostCommunicator& comm, int root) {
  std::vector<torch::Tensor> tensors;
  const std::string dtypes = run_on_root(comm, root, [&] {
    for (const ParameterSpec& spec : wanted) tensors.push_back(source.read(spec));
    return dtype_letters(tensors);
  });
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (comm.rank() != root) {
      tensors.push_back(torch::empty(wanted[i].shape, dtypes[i] == 'b' ? torch::kBFloat16 : torch::kFloat32));
    }
    comm.broadcast(host_span(tensors[i]), root);
  }
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

bool is_weight_type(ElementType type) {
  return type == ElementType::kF32 || type == ElementType::kF16 || type == ElementType::kBF16;
}

torch::Tensor CheckpointSource::read(const ParameterSpec& spec) const {
  const std::string name = stored_name(checkpoint_, spec.name);
  const std::vector<std::int64_t> shape = spec.stored_shape();
  const TensorInfo& info = checkpoint_.info(name);
  const std::string place = checkpoint_.place_of(name);
  if (info.shape != shape) {
    throw bad_input(
        place, fmt::format("has shape {} and config.json calls for {}", shape_text(info.shape), shape_text(shape)));
  }
  torch::Tensor tensor = torch::empty(shape, scalar_type_of(info.type, place));
  checkpoint_.read(name, tensor.data_ptr());
  TensorCheck check(info.type);
  check.update(tensor.const_data_ptr(), info.bytes);
  judge(name, check);
  if (info.type == ElementType::kF16) tensor = tensor.to(torch::kFloat32);
  return spec.transposed ? tensor.t().contiguous() : tensor;
}

std::vector<char> CheckpointSource::read_bytes(const std::string& stored) const {
  const TensorInfo& info = checkpoint_.info(stored);
  std::vector<char> bytes(info.bytes);
  checkpoint_.read(stored, bytes.data());
  TensorCheck check(info.type);
  check.update(bytes.data(), bytes.size());
  judge(stored, check);
  return bytes;
}

void CheckpointSource::check(const std::string& stored) const {
  const TensorInfo& info = checkpoint_.info(stored);
  std::vector<char> piece(std::min<std::uint64_t>(info.bytes, kCheckedAtOnce));
  TensorCheck check(info.type);
  for (std::uint64_t offset = 0; offset < info.bytes; offset += piece.size()) {
    const std::size_t size = std::min<std::uint64_t>(piece.size(), info.bytes - offset);
    checkpoint_.read_part(stored, offset, piece.data(), size);
    check.update(piece.data(), size);
  }
  judge(stored, check);
}

void CheckpointSource::judge(const std::string& stored, const TensorCheck& check) const {
  const std::string place = checkpoint_.place_of(stored);
  if (!check.finite()) throw not_finite(place);
  if (record_ == nullptr) return;
  record_->see(place, stored, check.digest());
  // Below 2^15 the scale of every scheme fits fp16: at 2 bits it is up to two thirds of a weight.
  constexpr int kLargeExponent = 15;
  if (check.exponent() >= kLargeExponent) record_->note_large(stored);
}

}  // namespace roundtable
