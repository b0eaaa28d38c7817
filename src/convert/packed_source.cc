// Finding layers and reading them.
#include "convert/packed_source.h"

#include <torch/types.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "base/error.h"
#include "export/expert_layers.h"
#include "export/registry.h"
#include "graph/stored_head.h"
#include "io/json_file.h"
#include "model/load/tensor_span.h"
#include "plan/layer_schemes.h"

namespace roundtable {
namespace {

QuantScheme most_frequent(const std::vector<LayerScheme>& layers) {
  std::map<std::tuple<int, std::int64_t, bool>, std::int64_t> counts;
  std::int64_t most = 0;
  QuantScheme found;
  for (const LayerScheme& layer : layers) {
    if (!layer.scheme || layer.outside_blocks) continue;
    std::int64_t& count = counts[{layer.scheme->bits, layer.scheme->group_size, layer.scheme->symmetric}];
    if (++count > most) {
      most = count;
      found = *layer.scheme;
    }
  }
  return found;
}

}  // namespace

PackedSource::PackedSource(const std::string& directory, const Model& float_model)
    : ConversionSource(directory), checkpoint_(directory) {
  const Model model = with_head_of(float_model, directory).with_linears([&](const LinearSpec& linear) {
    return checkpoint_.is_quantized(linear);  // a rule asked for these
  });
  model_ = model;
  find_layers(model);
  const std::string embedding = stored_name(checkpoint_.checkpoint(), model.embedding());
  float_type_ = scalar_type_of(checkpoint_.checkpoint().info(embedding).type);
  find_plain(model);
}

void PackedSource::find_layers(const Model& model) {
  layers_.layers = checkpoint_layers(model, [&](const LinearSpec& linear, std::int64_t, std::size_t) {
    return checkpoint_.is_quantized(linear) ? std::optional(checkpoint_.scheme_of(linear)) : std::nullopt;
  });
  layers_.common = most_frequent(layers_.layers);
  const JsonObject quantization(checkpoint_.config()["quantization_config"],
                                directory_ + "/config.json: quantization_config");
  if (quantization.has("iters")) layers_.iters = quantization.get_int("iters", 0);
  for (const std::string& name : checkpoint_.checkpoint().names()) {
    if (model.is_carried_over(name) && !is_derived_table(name)) layers_.carried_over.push_back(name);
  }
  note_quantized_layers();
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    for (const ParameterSpec& own : model.table(block).others) {
      const ParameterSpec biases = own.below(model.block_prefix(block));
      if (!parts_of_biases(biases).empty()) expert_biases_.push_back(biases);
    }
  }
}

void PackedSource::find_plain(const Model& model) {
  std::set<std::string> taken;
  for (const LayerScheme& layer : layers_.layers) {
    if (!layer.scheme) continue;
    for (const TensorSpec& tensor : layout_of(checkpoint_.format(), layer.linear, *layer.scheme, float_type_)) {
      taken.insert(tensor.name);
    }
  }
  for (const std::string& name : checkpoint_.checkpoint().names()) {
    if (taken.contains(name)) continue;
    const TensorInfo& info = checkpoint_.checkpoint().info(name);
    if (!is_weight_type(info.type) && !is_derived_table(name) && !model.is_carried_over(name)) {
      throw bad_input(fmt::format("{}/{}: tensor '{}'", directory_, checkpoint_.checkpoint().file_of(name), name),
                      fmt::format("is of type {} and belongs to no quantized layer: its meaning is not known",
                                  safetensors_dtype(info.type)),
                      "convert a checkpoint without such tensors");
    }
    plain_.push_back({name, scalar_type_of(info.type), info.shape});
  }
}

QuantizedWeight PackedSource::read_layer(const LinearSpec& layer, const CheckpointFormat& format) const {
  QuantizedWeight weight = checkpoint_.read(layer);
  const int least = weight.zero_point.min().item<int>();
  if (weight.scheme.symmetric || least >= format.min_zero_point()) return weight;
  std::vector<const CheckpointFormat*> others;
  for (const CheckpointFormat* other : checkpoint_formats()) {
    if (other->min_zero_point() <= least && !obstacle(*other, model_, layers_)) others.push_back(other);
  }
  throw bad_input(fmt::format("{}: layer '{}'", directory_, layer.name),
                  fmt::format("has a zero point of {}, which {} cannot hold", least, format.name()),
                  "formats that can: " + names_of(others));
}

torch::Tensor PackedSource::read_plain(const TensorSpec& spec) const {
  torch::Tensor tensor = torch::empty(spec.shape, spec.type);
  checkpoint_.checkpoint().read(spec.name, tensor.data_ptr());
  if (is_weight_type(element_type_of(spec.type)) &&
      !all_finite(element_type_of(spec.type), tensor.const_data_ptr(), tensor.nbytes())) {
    throw not_finite(checkpoint_.checkpoint().place_of(spec.name));
  }
  return tensor;
}

}  // namespace roundtable
