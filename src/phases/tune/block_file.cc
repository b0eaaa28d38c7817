// Writing, proving and reading a block's files.
#include "phases/tune/block_file.h"

#include <torch/types.h>

#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "comm/agree.h"
#include "export/expert_layers.h"
#include "io/json_fields.h"
#include "io/safetensors.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

// Whether a layer of a block's table belongs into the file of a part.
bool is_in_file(const LinearSpec& linear, const KindTable& table, const ExpertPart& part) {
  return linear.expert < 0 ? part.part == 0 : part.holds(linear.expert, table.experts);
}

WrittenFile write_tensors(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::vector<TensorView> views;
  for (const NamedTensor& named : tensors) views.push_back(named.view());
  return write_safetensors(path, views, {{"format", "pt"}});  // transformers asks for this entry
}

// Of all parts of a block, by the names that they are written under, within the block.
std::set<std::string> quantized_layers(const Plan& plan, std::int64_t block) {
  const std::vector<LinearSpec>& linears = plan.model.linears(block);
  const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
  std::set<std::string> names;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (!schemes[i]) continue;
    for (const LayerPart& part : parts_of(linears[i])) names.insert(part.linear.name);
  }
  return names;
}

// The bias of a quantized layer has the type that the format gives it.
torch::Tensor stored(const Plan& plan, const std::set<std::string>& quantized, const std::string& name,
                     const torch::Tensor& tensor) {
  constexpr std::string_view kBias = ".bias";
  if (!plan.tuned->bias_type() || !name.ends_with(kBias)) return tensor;
  const std::string layer = name.substr(0, name.size() - kBias.size());
  return quantized.contains(layer) ? tensor.to(*plan.tuned->bias_type()) : tensor;
}

// Weights that stay as they are. Experts that lie in one tensor on disk do so again, unless stacks are taken apart.
class FloatWeights {
 public:
  FloatWeights(std::vector<NamedTensor>& tensors, bool apart) : tensors_(tensors), apart_(apart) {}

  void add(const LinearSpec& linear, const torch::Tensor& weight) {
    if (linear.stack && apart_) {
      for (const LayerPart& part : parts_of(linear)) {
        tensors_.push_back({part.linear.weight().name, rows_of(weight, part)});
      }
      return;
    }
    const torch::Tensor stored = linear.transposed ? weight.t().contiguous() : weight;
    if (!linear.stack) return tensors_.push_back({linear.weight().name, stored});
    std::vector<torch::Tensor>& experts = stacks_[linear.stack->name];
    experts.push_back(stored);
    if (std::ssize(experts) == linear.stack->experts) tensors_.push_back({linear.stack->name, torch::stack(experts)});
  }

 private:
  std::vector<NamedTensor>& tensors_;
  bool apart_;
  std::map<std::string, std::vector<torch::Tensor>> stacks_;  // in the order of the experts
};

// The other tensors of a block, biases of quantized layers in the type that the format gives them.
void add_other(const Plan& plan, const std::string& prefix, const std::set<std::string>& quantized,
               const ParameterSpec& spec, const torch::Tensor& tensor, std::vector<NamedTensor>& tensors) {
  const std::vector<BiasPart> biases = plan.stacks_apart ? parts_of_biases(spec) : std::vector<BiasPart>();
  for (const BiasPart& bias : biases) {
    const torch::Tensor rows = rows_of(tensor[bias.expert], bias.part);
    tensors.push_back({prefix + bias.name, stored(plan, quantized, bias.name, rows)});
  }
  if (biases.empty()) tensors.push_back({prefix + spec.name, stored(plan, quantized, spec.name, tensor)});
}

}  // namespace

BlockFile write_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block, const ExpertPart& part,
                           const BlockWeights& weights, const TunedBlock& tuned) {
  const std::string& prefix = plan.model.block_prefix(block);
  const KindTable& table = plan.model.table(block);
  std::vector<NamedTensor> tensors;
  FloatWeights floats(tensors, plan.stacks_apart);
  for (std::size_t i = 0; i < table.linears.size(); ++i) {
    if (!is_in_file(table.linears[i], table, part)) continue;
    const LinearSpec linear = table.linears[i].below(prefix);
    const torch::Tensor& weight = weights.weights[i];
    RT_CHECK(weight.defined());
    RT_CHECK(plan.stacks_apart || !linear.stack || !part.divides());
    if (!tuned.weights[i]) {
      floats.add(linear, weight);
      continue;
    }
    for (NamedTensor& tensor : pack_parts(*plan.tuned, linear, *tuned.weights[i], weight.scalar_type())) {
      tensors.push_back(std::move(tensor));
    }
  }
  if (part.part == 0) {
    const std::set<std::string> quantized = quantized_layers(plan, block);
    for (std::size_t i = 0; i < table.others.size(); ++i) {
      add_other(plan, prefix, quantized, table.others[i], weights.others[i], tensors);
    }
  }
  const std::string file = plan.block_file(block, part.part);
  const WrittenFile written = write_tensors(checkpoint + "/" + file, tensors);
  return {file, written.digest, written.bytes};
}

void prove_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block, const ExpertPart& part,
                      const TunedBlock& tuned, const Block& quantized) {
  const SafetensorsFile file(checkpoint + "/" + plan.block_file(block, part.part));
  const KindTable& table = plan.model.table(block);
  for (std::size_t i = 0; i < table.linears.size(); ++i) {
    if (!tuned.weights[i] || !is_in_file(table.linears[i], table, part)) continue;
    const LinearSpec linear = table.linears[i].below(plan.model.block_prefix(block));
    const QuantizedWeight& written = *tuned.weights[i];
    const QuantizedWeight read = unpack_parts(*plan.tuned, reader_of(file), linear, written.scheme);
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

std::vector<BlockFile> gather_block_files(const std::optional<BlockFile>& mine, HostCommunicator& group) {
  std::vector<BlockFile> files;
  for (const std::string& text : all_gather_text(group, mine ? json_of(*mine).dump() : "")) {
    if (!text.empty()) files.push_back(read_fields<BlockFile>(nlohmann::json::parse(text), "a block's file"));
  }
  return files;
}

std::vector<std::optional<QuantizedWeight>> read_block_file(const std::string& checkpoint, const Plan& plan,
                                                            std::int64_t block, HostCommunicator& comm) {
  const KindTable& table = plan.model.table(block);
  const std::vector<LinearSpec>& linears = table.linears;
  const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
  const ExpertPart part = plan.files_of_block(block) > 1 ? plan.expert_part(comm.rank()) : ExpertPart{};
  std::vector<std::optional<QuantizedWeight>> weights(linears.size());
  run_on_all(comm, [&] {
    if (comm.rank() != part.part) return;
    const SafetensorsFile file(checkpoint + "/" + plan.block_file(block, part.part));
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (!schemes[i] || !is_in_file(linears[i], table, part)) continue;
      weights[i] =
          unpack_parts(*plan.tuned, reader_of(file), linears[i].below(plan.model.block_prefix(block)), *schemes[i]);
    }
  });
  const auto share = [&](torch::Tensor& tensor, std::vector<std::int64_t> shape, torch::ScalarType dtype) {
    if (comm.rank() != 0) tensor = torch::empty(shape, dtype);
    comm.broadcast(host_span(tensor), 0);
  };
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (!schemes[i] || (part.divides() && linears[i].expert >= 0)) continue;
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
