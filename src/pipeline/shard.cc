// Writing, proving and reading a block's shard.
#include "pipeline/shard.h"

#include <torch/torch.h>

#include "base/error.h"
#include "export/auto_gptq.h"
#include "io/safetensors.h"
#include "pipeline/run_paths.h"

namespace roundtable {
namespace {

std::string shard_of_block(const Plan& plan, std::int64_t block) {
  return shard_name(block, plan.model.n_blocks + 1);
}

WrittenFile write_tensors(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::vector<TensorView> views;
  for (const NamedTensor& named : tensors) {
    views.push_back({named.name, element_type_of(named.tensor.scalar_type()), named.tensor.sizes().vec(),
                     named.tensor.const_data_ptr()});
  }
  return write_safetensors(path, views, {{"format", "pt"}});  // transformers asks for this entry
}

// One shard, addressed by layer.
QuantizedWeight read_layer(const SafetensorsFile& file, const std::string& name, const LinearSpec& linear,
                           const QuantScheme& scheme) {
  return read_auto_gptq([&](const std::string& tensor) { return file.find(tensor); },
                        [&](const TensorInfo& info, void* data) { file.read(info, data); }, file.path(), name, linear,
                        scheme);
}

}  // namespace

ShardRecord write_shard(const std::string& output, const Plan& plan, std::int64_t block, const BlockWeights& weights,
                        const TunedBlock& tuned) {
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  const std::vector<ParameterSpec> norms = block_norms(plan.model);
  const std::string prefix = plan.model.block_name(block) + ".";
  std::vector<NamedTensor> tensors;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const std::string name = prefix + linears[i].name;
    if (tuned.weights[i]) {
      for (NamedTensor& tensor : auto_gptq_tensors(name, *tuned.weights[i])) tensors.push_back(std::move(tensor));
    } else {
      const torch::Tensor& weight = weights.weights[i];
      tensors.push_back({name + ".weight", linears[i].transposed ? weight.t().contiguous() : weight});
    }
    if (weights.biases[i].defined()) {
      // The layout holds the bias of a quantized layer in fp16.
      tensors.push_back({name + ".bias", tuned.weights[i] ? weights.biases[i].to(torch::kFloat16) : weights.biases[i]});
    }
  }
  for (std::size_t i = 0; i < norms.size(); ++i) tensors.push_back({prefix + norms[i].name, weights.norms[i]});
  const std::string file = shard_of_block(plan, block);
  const WrittenFile written = write_tensors(output + "/" + file, tensors);
  return {file, written.digest, written.bytes};
}

void prove_shard(const std::string& output, const Plan& plan, std::int64_t block, const TunedBlock& tuned,
                 const DecoderBlock& quantized) {
  const SafetensorsFile file(output + "/" + shard_of_block(plan, block));
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (!tuned.weights[i]) continue;
    const std::string name = plan.model.block_name(block) + "." + linears[i].name;
    const QuantizedWeight& written = *tuned.weights[i];
    const QuantizedWeight read = read_layer(file, name, linears[i], written.scheme);
    const torch::Tensor& weight = quantized.linears()[i].weight;
    if (torch::equal(read.q, written.q.cpu()) && torch::equal(read.scale, written.scale.cpu()) &&
        torch::equal(read.zero_point, written.zero_point.cpu()) &&
        torch::equal(dequantize(read, weight.scalar_type()), weight.cpu())) {
      continue;
    }
    throw machine_error(file.path(), fmt::format("what was read back of '{}' is not what was tuned", name),
                        "suspect the file system or memory; start the run again");
  }
}

std::vector<std::optional<QuantizedWeight>> read_shard(const std::string& output, const Plan& plan, std::int64_t block,
                                                       Communicator& comm) {
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
  std::vector<std::optional<QuantizedWeight>> weights(linears.size());
  run_on_all(comm, [&] {
    if (comm.rank() != 0) return;
    const SafetensorsFile file(output + "/" + shard_of_block(plan, block));
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (!schemes[i]) continue;
      weights[i] = read_layer(file, plan.model.block_name(block) + "." + linears[i].name, linears[i], *schemes[i]);
    }
  });
  const auto share = [&](torch::Tensor& tensor, std::vector<std::int64_t> shape, torch::ScalarType dtype) {
    if (comm.rank() != 0) tensor = torch::empty(shape, dtype);
    comm.broadcast(tensor.data_ptr(), static_cast<std::int64_t>(tensor.nbytes()), 0);
  };
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (!schemes[i]) continue;
    if (!weights[i]) weights[i].emplace();
    const std::int64_t groups = schemes[i]->groups(linears[i].in);
    weights[i]->scheme = *schemes[i];
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
