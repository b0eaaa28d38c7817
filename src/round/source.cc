// Finding, reading and rounding.
#include "round/source.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.h"
#include "comm/agree.h"
#include "export/expert_layers.h"
#include "io/json_file.h"
#include "model/load/tensor_span.h"
#include "round/layers.h"
#include "round/names.h"
#include "round/schemes.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// fp16 scales give fp32 (model/load/published): a checkpoint then holds that.
torch::ScalarType type_of_published(const Checkpoint& checkpoint, const std::vector<StoredTensor>& tensors) {
  const bool wide = tensors.size() > 1 && checkpoint.info(tensors[1].name).type == ElementType::kF16;
  return wide ? torch::kFloat32 : torch::kBFloat16;
}

torch::ScalarType float_type_of(const Checkpoint& checkpoint, const NamedModel& model) {
  const std::string& embedding = model.facts.embedding;
  if (!embedding.empty() && is_weight_type(checkpoint.info(embedding).type)) {
    return scalar_type_of(checkpoint.info(embedding).type);
  }
  for (const FoundLayer& layer : model.layers) {
    const std::string name = layer.linear.weight().tensor();
    if (checkpoint.contains(name) && is_weight_type(checkpoint.info(name).type)) {
      return scalar_type_of(checkpoint.info(name).type);
    }
  }
  return torch::kBFloat16;
}

}  // namespace

RoundedSource::RoundedSource(const Config& config, const Formats& formats, torch::Device device)
    : ConversionSource(config.model.path),
      search_(config.tuning.init_scale == InitScale::kSearch),
      device_(device),
      source_(config.model.path, &record_) {
  const NamedModel named = name_model(source_, directory_, JsonObject::load(directory_ + "/config.json").json());
  RoundedLayers chosen = choose_schemes(config.quantization, named, formats);
  model_ = named.facts;
  layers_ = std::move(chosen.scheme);
  float_reasons_ = std::move(chosen.float_reasons);
  float_type_ = float_type_of(source_.checkpoint(), named);
  scale_check_ = std::make_unique<ScaleCheck>(layers_, formats);
  for (const LayerScheme& layer : layers_.layers) {
    origins_[layer.linear.name] = source_.stored_tensors(layer.linear.weight()).front().name;
    if (layer.scheme) schemes_[layer.linear.name] = *layer.scheme;
  }
  note_quantized_layers();
  find_plain(named.published);
}

void RoundedSource::find_plain(const std::vector<std::pair<LinearSpec, std::vector<StoredTensor>>>& published) {
  const Checkpoint& checkpoint = source_.checkpoint();
  std::set<std::string> taken;
  for (const auto& [name, scheme] : schemes_) taken.insert(origins_.at(name));
  for (const auto& [linear, tensors] : published) {
    for (const StoredTensor& tensor : tensors) taken.insert(tensor.name);
    // Outputs put a stack of blocks together themselves, from its experts.
    if (schemes_.contains(linear.name) || (linear.stack && origins_.contains(linear.name))) continue;
    const ParameterSpec weight = linear.weight();
    std::vector<ParameterSpec>& experts = published_[weight.tensor()];
    experts.push_back(weight);
    if (experts.size() > 1) continue;
    std::vector<std::int64_t> shape = weight.stored_shape();
    if (linear.stack) shape.insert(shape.begin(), linear.stack->experts);
    plain_.push_back({weight.tensor(), type_of_published(checkpoint, tensors), shape});
    origins_.emplace(weight.tensor(), tensors.front().name);
  }
  for (const std::string& name : checkpoint.names()) {
    if (taken.contains(name) || is_activation_scale(name)) continue;
    const TensorInfo& info = checkpoint.info(name);
    plain_.push_back({name, scalar_type_of(info.type), info.shape});
  }
}

std::int64_t RoundedSource::files() const {
  std::set<std::string> files;
  for (const std::string& name : source_.checkpoint().names()) files.insert(source_.checkpoint().file_of(name));
  return std::ssize(files);
}

std::int64_t RoundedSource::rounded_weights() const {
  std::int64_t weights = 0;
  for (const LayerScheme& layer : layers_.layers) {
    if (layer.scheme) weights += layer.linear.out * layer.linear.in;
  }
  return weights;
}

std::int64_t RoundedSource::largest_matrix() const {
  std::int64_t most = 0;
  for (const LayerScheme& layer : layers_.layers) {
    if (layer.scheme) most = std::max(most, layer.linear.out * layer.linear.in);
  }
  return most;
}

std::string RoundedSource::file_of(const std::string& name) const {
  const auto origin = origins_.find(name);
  const std::string& tensor = origin == origins_.end() ? name : origin->second;
  // A stack that is put together has the name of none of its tensors.
  return source_.checkpoint().contains(tensor) ? source_.checkpoint().file_of(tensor) : "";
}

torch::Tensor RoundedSource::read_weight(const LinearSpec& layer) const {
  const torch::Tensor weight = source_.read(layer.weight());
  if (!record_.take_large().empty()) {
    (*scale_check_)(layer.weight().name, weight);
  }
  return weight;
}

void RoundedSource::find_global_scales(HostCommunicator& world) {
  if (layers_.common.type != WeightType::kNvFp4) return;
  std::map<std::int64_t, std::vector<const LinearSpec*>> blocks;
  for (const LayerScheme& layer : layers_.layers) {
    if (!layer.scheme || layer.outside_blocks) continue;
    blocks[place_of(layer.linear.name)->block].push_back(&layer.linear);
  }
  std::map<std::string, float> largest;  // of the blocks of this rank
  run_on_all(world, [&] {
    std::int64_t turn = 0;
    for (const auto& [block, layers] : blocks) {
      if (turn++ % world.size() != world.rank()) continue;
      float& most = largest[fmt::format("{}", block)];
      for (const LinearSpec* layer : layers) {
        leave_here_if_asked();
        most = std::max(most, read_weight(*layer).abs().amax().to(torch::kFloat32).item<float>());
      }
    }
  });
  for (const std::string& text : all_gather_text(world, nlohmann::json(largest).dump())) {
    largest.merge(nlohmann::json::parse(text).get<std::map<std::string, float>>());
  }
  for (const auto& [block, layers] : blocks) {
    const torch::Tensor most = torch::full({1, 1}, largest.at(fmt::format("{}", block)));
    for (const LinearSpec* layer : layers) {
      QuantScheme& scheme = schemes_.at(layer->name);
      scheme = with_global_scale(scheme, {most});
    }
  }
}

QuantizedWeight RoundedSource::rounded(const LinearSpec& layer) const {
  const torch::Tensor weight = read_weight(layer).to(device_);
  torch::Tensor alike;  // every input counts as much as every other
  if (search_) alike = torch::ones({layer.in}, torch::TensorOptions(device_).dtype(torch::kFloat32));
  QuantizedWeight result = round_to_nearest(weight, schemes_.at(layer.name), alike);
  return {result.scheme, result.q.cpu(), result.scale.cpu(), result.zero_point.cpu()};
}

QuantizedWeight RoundedSource::read_layer(const LinearSpec& layer, const CheckpointFormat&) const {
  return rounded(layer);
}

torch::Tensor RoundedSource::read_plain(const TensorSpec& spec) const {
  const auto published = published_.find(spec.name);
  if (published != published_.end()) {
    std::vector<torch::Tensor> experts;
    for (const ParameterSpec& expert : published->second) {
      const torch::Tensor matrix = source_.read(expert).to(spec.type);
      experts.push_back(expert.transposed ? matrix.t().contiguous() : matrix);
    }
    return published->second.front().stack ? torch::stack(experts) : experts.front();
  }
  torch::Tensor tensor = torch::empty(spec.shape, spec.type);
  const std::vector<char> bytes = source_.read_bytes(spec.name);
  std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

torch::Tensor RoundedSource::read_floats(const ParameterSpec& spec) const {
  constexpr std::string_view kWeight = ".weight";
  LinearSpec layer;
  layer.name = spec.name.substr(0, spec.name.size() - kWeight.size());
  if (!spec.name.ends_with(kWeight) || !schemes_.contains(layer.name)) return source_.read(spec);
  layer = {layer.name, spec.shape[0], spec.shape[1], spec.transposed, -1, spec.stack};
  return dequantize(rounded(layer), torch::kFloat32);
}

}  // namespace roundtable
