// Writing, proving and reading a block's file.
#include "phases/tune/block_file.h"

#include <torch/types.h>

#include "base/error.h"
#include "comm/agree.h"
#include "export/checkpoint_files.h"
#include "io/safetensors.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

std::string name_of_block(const Plan& plan, std::int64_t block) { return shard_name(block, plan.files()); }

WrittenFile write_tensors(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::vector<TensorView> views;
  for (const NamedTensor& named : tensors) views.push_back(named.view());
  return write_safetensors(path, views, {{"format", "pt"}});  // transformers asks for this entry
}

// A layer by its full name.
LinearSpec named_in_block(const Plan& plan, std::int64_t block, LinearSpec linear) {
  linear.name = plan.model.block_name(block) + "." + linear.name;
  return linear;
}

}  // namespace

BlockFile write_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block,
                           const BlockWeights& weights, const TunedBlock& tuned) {
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  const std::vector<ParameterSpec> norms = block_norms(plan.model);
  const std::string prefix = plan.model.block_name(block) + ".";
  std::vector<NamedTensor> tensors;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const LinearSpec linear = named_in_block(plan, block, linears[i]);
    const torch::Tensor& weight = weights.weights[i];
    torch::Tensor bias = weights.biases[i];
    if (tuned.weights[i]) {
      for (NamedTensor& tensor : plan.tuned->pack(linear, *tuned.weights[i], weight.scalar_type())) {
        tensors.push_back(std::move(tensor));
      }
      if (bias.defined() && plan.tuned->bias_type()) bias = bias.to(*plan.tuned->bias_type());
    } else {
      tensors.push_back({linear.name + ".weight", linear.transposed ? weight.t().contiguous() : weight});
    }
    if (bias.defined()) tensors.push_back({linear.name + ".bias", bias});
  }
  for (std::size_t i = 0; i < norms.size(); ++i) tensors.push_back({prefix + norms[i].name, weights.norms[i]});
  const std::string file = name_of_block(plan, block);
  const WrittenFile written = write_tensors(checkpoint + "/" + file, tensors);
  return {file, written.digest, written.bytes};
}

void prove_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block, const TunedBlock& tuned,
                      const DecoderBlock& quantized) {
  const SafetensorsFile file(checkpoint + "/" + name_of_block(plan, block));
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (!tuned.weights[i]) continue;
    const LinearSpec linear = named_in_block(plan, block, linears[i]);
    const QuantizedWeight& written = *tuned.weights[i];
    const QuantizedWeight read = plan.tuned->unpack(reader_of(file), linear, written.scheme);
    const torch::Tensor& weight = quantized.linears()[i].weight;
    if (torch::equal(read.q, written.q.cpu()) && torch::equal(read.scale, written.scale.cpu()) &&
        torch::equal(read.zero_point, written.zero_point.cpu()) &&
        torch::equal(dequantize(read, weight.scalar_type()), weight.cpu())) {
      continue;
    }
    throw machine_error(file.path(), fmt::format("what was read back of '{}' is not what was tuned", linear.name),
                        "suspect the file system or memory; run the same command again: it resumes");
  }
}

std::vector<std::optional<QuantizedWeight>> read_block_file(const std::string& checkpoint, const Plan& plan,
                                                            std::int64_t block, HostCommunicator& comm) {
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
  std::vector<std::optional<QuantizedWeight>> weights(linears.size());
  run_on_all(comm, [&] {
    if (comm.rank() != 0) return;
    const SafetensorsFile file(checkpoint + "/" + name_of_block(plan, block));
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (!schemes[i]) continue;
      weights[i] = plan.tuned->unpack(reader_of(file), named_in_block(plan, block, linears[i]), *schemes[i]);
    }
  });
  const auto share = [&](torch::Tensor& tensor, std::vector<std::int64_t> shape, torch::ScalarType dtype) {
    if (comm.rank() != 0) tensor = torch::empty(shape, dtype);
    comm.broadcast(host_span(tensor), 0);
  };
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (!schemes[i]) continue;
    if (!weights[i]) weights[i].emplace();
    const std::int64_t groups = schemes[i]->groups(linears[i].in);
    if (comm.rank() != 0) weights[i]->scheme = *schemes[i];
    float& global_scale = weights[i]->scheme.global_scale;
    if (schemes[i]->type == WeightType::kNvFp4) global_scale = comm.broadcast_value(global_scale, 0);
    share(weights[i]->q, {linears[i].out, linears[i].in}, torch::kUInt8);
    share(weights[i]->scale, {linears[i].out, groups}, torch::kFloat32);
    share(weights[i]->zero_point, {linears[i].out, groups}, torch::kUInt8);
  }
  return weights;
}

void write_gradients(const std::string& path, const StepGradients& step) {
  std::vector<NamedTensor> tensors;
  for (std::size_t i = 0; i < step.names.size(); ++i) tensors.push_back({step.names[i], step.gradients[i].cpu()});
  tensors.push_back({"loss", torch::tensor({step.loss})});
  write_tensors(path, tensors);
}

}  // namespace roundtable
