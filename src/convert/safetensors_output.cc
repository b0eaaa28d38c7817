// A Hugging Face model directory.
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "convert/output.h"
#include "export/checkpoint_files.h"
#include "export/checkpoint_model.h"
#include "export/expert_layers.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// What is read together and stays together in a file.
struct Unit {
  std::vector<TensorSpec> tensors;                  // as they are written
  std::string name;                                 // of a tensor or a layer of the source
  std::function<std::vector<NamedTensor>()> read;
};

class SafetensorsOutput final : public ConversionOutput {
 public:
  SafetensorsOutput(const ConversionSource& source, const SafetensorsFormat& format, std::int64_t max_bytes)
      : source_(source), format_(format), apart_(!format.keeps_stacks() && takes_stacks_apart(source.layers())) {
    for (const TensorSpec& tensor : source.plain()) plain_.emplace(tensor.name, &tensor);
    for (const LayerScheme& layer : source.layers().layers) {
      if (layer.scheme && !(format.keeps_stacks() && layer.linear.stack)) add_layer(layer);
    }
    if (apart_) {
      take_apart();
    } else {
      put_together();
    }
    for (const TensorSpec& tensor : source.plain()) {
      if (!written_.contains(tensor.name)) add_plain(tensor);
    }
    cut(max_bytes);
  }

  std::int64_t files() const override { return static_cast<std::int64_t>(files_.size()); }
  std::string file_name(std::int64_t file) const override {
    return files() == 1 ? "model.safetensors" : shard_name(file, files());
  }
  std::int64_t bytes_of(std::int64_t file) const override {
    std::uint64_t bytes = 0;
    for (const std::size_t unit : units_of(file)) bytes += bytes_of(units_[unit]);
    return static_cast<std::int64_t>(bytes);
  }

  std::string write(const std::string& directory, std::int64_t file) const override {
    std::vector<NamedTensor> tensors;
    for (const std::size_t unit : units_of(file)) {
      leave_here_if_asked();
      std::ranges::move(units_[unit].read(), std::back_inserter(tensors));
    }
    std::vector<TensorView> views;
    for (const NamedTensor& tensor : tensors) views.push_back(tensor.view());
    return write_safetensors(directory + "/" + file_name(file), views, {{"format", "pt"}}).digest;
  }

  std::vector<std::string> finish(const std::string& directory, bool card) const override {
    std::vector<std::string> names = copy_companions(source_.directory(), directory, card);
    if (files() > 1) {
      std::map<std::string, std::string> weight_map;
      std::uint64_t total = 0;
      for (std::int64_t file = 0; file < files(); ++file) {
        for (const std::size_t unit : units_of(file)) {
          for (const TensorSpec& tensor : units_[unit].tensors) weight_map[tensor.name] = file_name(file);
          total += bytes_of(units_[unit]);
        }
      }
      write_checkpoint_index(directory, weight_map, total);
      names.push_back(kIndexFile);
    }
    std::ranges::move(write_checkpoint_config(directory, format_, source_.layers(), source_.model()),
                      std::back_inserter(names));
    return names;
  }

 private:
  const std::vector<std::size_t>& units_of(std::int64_t file) const { return files_[static_cast<std::size_t>(file)]; }

  static std::uint64_t bytes_of(const Unit& unit) {
    std::uint64_t bytes = 0;
    for (const TensorSpec& tensor : unit.tensors) bytes += tensor.bytes();
    return bytes;
  }

  void add_layer(const LayerScheme& layer) {
    units_.push_back({layout_of(format_, layer.linear, *layer.scheme, source_.float_type()), layer.linear.name,
                      [this, linear = layer.linear] { return packed(linear); }});
  }

  // A layer's tensors, proven to be what its integers are.
  std::vector<NamedTensor> packed(const LinearSpec& linear) const {
    const QuantizedWeight weight = source_.read_layer(linear, format_);
    std::vector<NamedTensor> tensors = pack_parts(format_, linear, weight, source_.float_type());
    if (!holds_parts(format_, reader_of(tensors, linear.name), linear, weight, source_.float_type())) {
      throw machine_error(linear.name, "what was read back is not what was packed",
                          "suspect memory; run the same command again");
    }
    return tensors;
  }

  // Of a tensor as it is, where the format gives the biases of quantized layers another type.
  torch::ScalarType type_of(const std::string& name, torch::ScalarType stored) const {
    return source_.is_quantized_bias(name) ? format_.bias_type().value_or(source_.float_type()) : stored;
  }

  void add_plain(const TensorSpec& tensor) {
    TensorSpec own = tensor;
    own.type = type_of(tensor.name, tensor.type);
    units_.push_back({{own}, tensor.name, [this, tensor, own] {
                        return std::vector<NamedTensor>{{own.name, source_.read_plain(tensor).to(own.type)}};
                      }});
  }

  // Stacks of which some expert is quantized: their other experts, and their biases, one by one.
  void take_apart() {
    for (const LayerScheme& layer : source_.layers().layers) {
      if (layer.scheme || !layer.linear.stack || !is_to_be_read(layer.linear)) continue;
      written_.insert(layer.linear.stack->name);
      Unit unit{{}, layer.linear.name, [this, linear = layer.linear] { return floats_of(linear); }};
      for (const LayerPart& part : parts_of(layer.linear)) {
        unit.tensors.push_back({part.linear.weight().name, source_.float_type(), {part.linear.out, part.linear.in}});
      }
      units_.push_back(std::move(unit));
    }
    for (const TensorSpec& tensor : source_.plain()) {
      for (const BiasPart& bias : parts_of_biases({tensor.name, tensor.shape})) {
        written_.insert(tensor.name);
        const TensorSpec own{bias.name, type_of(bias.name, tensor.type), {bias.part.linear.out}};
        units_.push_back({{own}, tensor.name, [this, tensor, own, bias] {
                            const torch::Tensor all = source_.read_plain(tensor);
                            return std::vector<NamedTensor>{
                                {own.name, rows_of(all[bias.expert], bias.part).to(own.type)}};
                          }});
      }
    }
  }

  // Whether an expert in 16 bits is in the source's stack still: else it is among the plain tensors.
  bool is_to_be_read(const LinearSpec& linear) const {
    return plain_.contains(linear.stack->name) || !plain_.contains(parts_of(linear).front().linear.weight().name);
  }

  std::vector<NamedTensor> floats_of(const LinearSpec& linear) const {
    const torch::Tensor weight = source_.read_floats(linear.weight()).to(source_.float_type());
    std::vector<NamedTensor> tensors;
    for (const LayerPart& part : parts_of(linear)) {
      tensors.push_back({part.linear.weight().name, rows_of(weight, part)});
    }
    return tensors;
  }

  // Stacks that the source has in another form, as the one tensor that the model has.
  void put_together() {
    std::map<std::string, std::vector<ParameterSpec>> stacks;
    for (const LayerScheme& layer : source_.layers().layers) {
      if (!layer.linear.stack || plain_.contains(layer.linear.stack->name)) continue;
      stacks[layer.linear.stack->name].push_back(layer.linear.weight());
      for (const LayerPart& part : parts_of(layer.linear)) written_.insert(part.linear.weight().name);
    }
    for (const ParameterSpec& biases : source_.expert_biases()) {
      if (plain_.contains(biases.name)) continue;
      stacks[biases.name].push_back(biases);
      for (const BiasPart& part : parts_of_biases(biases)) written_.insert(part.name);
    }
    for (const auto& [name, experts] : stacks) {
      std::vector<std::int64_t> shape = experts.front().stored_shape();
      if (experts.front().stack) shape.insert(shape.begin(), std::ssize(experts));
      units_.push_back({{{name, source_.float_type(), shape}}, name, [this, name = name, experts = experts] {
                          return std::vector<NamedTensor>{{name, read_experts(experts)}};
                        }});
    }
  }

  torch::Tensor read_experts(const std::vector<ParameterSpec>& experts) const {
    if (!experts.front().stack) return source_.read_floats(experts.front()).to(source_.float_type());
    std::vector<torch::Tensor> list;
    for (const ParameterSpec& expert : experts) {
      const torch::Tensor weight = source_.read_floats(expert).to(source_.float_type());
      list.push_back(expert.transposed ? weight.t() : weight);
    }
    return torch::stack(list);
  }

  // Units of one file of the source lie side by side, and share files with no others.
  void cut(std::int64_t max_bytes) {
    std::map<std::string, std::vector<std::size_t>> origins;
    for (std::size_t unit = 0; unit < units_.size(); ++unit) {
      origins[source_.file_of(units_[unit].name)].push_back(unit);
    }
    for (const auto& [origin, units] : origins) {
      std::vector<std::uint64_t> sizes;
      for (const std::size_t unit : units) sizes.push_back(bytes_of(units_[unit]));
      for (const std::vector<std::size_t>& file : cut_by_size(sizes, max_bytes)) {
        files_.emplace_back();
        for (const std::size_t place : file) files_.back().push_back(units[place]);
      }
    }
  }

  const ConversionSource& source_;
  const SafetensorsFormat& format_;
  bool apart_;                                      // stacks are written expert by expert
  std::map<std::string, const TensorSpec*> plain_;  // those of the source
  std::set<std::string> written_;                   // plain tensors that are a part of other units
  std::vector<Unit> units_;
  std::vector<std::vector<std::size_t>> files_;
};

}  // namespace

std::unique_ptr<ConversionOutput> make_safetensors_output(const ConversionSource& source,
                                                          const SafetensorsFormat& format, std::int64_t max_bytes) {
  return std::make_unique<SafetensorsOutput>(source, format, max_bytes);
}

}  // namespace roundtable
