// A Hugging Face model directory.
#include <torch/types.h>

#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "convert/output.h"
#include "export/checkpoint_files.h"
#include "export/expert_layers.h"
#include "io/json_file.h"

namespace roundtable {
namespace {

// What is read together and stays together in a file: a quantized layer, one tensor as it is, or a tensor of all
// experts that the source has one by one.
struct Unit {
  std::optional<LinearSpec> layer;
  std::vector<TensorSpec> tensors;
  TensorSpec stored;                   // of a tensor as it is
  std::vector<ParameterSpec> experts;  // weights that are stacked, or biases of all experts
};

// The tensors of all experts that are made of single ones, and the names of those in the source.
struct Stacks {
  std::vector<Unit> units;
  std::set<std::string> singles;
};

Stacks stacks_of(const ConversionSource& source) {
  Stacks stacks;
  std::set<std::string> there;
  for (const TensorSpec& tensor : source.plain()) there.insert(tensor.name);
  for (std::int64_t block = 0; block < source.model().n_blocks(); ++block) {
    const std::string& prefix = source.model().block_prefix(block);
    std::map<std::string, Unit> units;
    for (const LinearSpec& own : source.model().table(block).linears) {
      const LinearSpec linear = own.below(prefix);
      if (!linear.stack || there.contains(linear.stack->name)) continue;
      units[linear.stack->name].experts.push_back(linear.weight());
      for (const LayerPart& part : parts_of(linear)) stacks.singles.insert(part.linear.weight().name);
    }
    for (const ParameterSpec& own : source.model().table(block).others) {
      const ParameterSpec biases = own.below(prefix);
      const std::vector<BiasPart> parts = parts_of_biases(biases);
      if (parts.empty() || there.contains(biases.name)) continue;
      units[biases.name].experts.push_back(biases);
      for (const BiasPart& part : parts) stacks.singles.insert(part.name);
    }
    for (auto& [name, unit] : units) {
      std::vector<std::int64_t> shape = unit.experts.front().stored_shape();
      if (unit.experts.front().stack) shape.insert(shape.begin(), std::ssize(unit.experts));
      unit.tensors = {{name, source.float_type(), shape}};
      stacks.units.push_back(std::move(unit));
    }
  }
  return stacks;
}

// NaNs are what they are.
bool same_bytes(const torch::Tensor& a, const torch::Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

class SafetensorsOutput final : public ConversionOutput {
 public:
  SafetensorsOutput(const ConversionSource& source, const SafetensorsFormat& format, std::int64_t max_bytes)
      : source_(source), format_(format) {
    Stacks stacks = format.keeps_stacks() ? stacks_of(source) : Stacks();
    for (const LayerScheme& layer : source.layers().layers) {
      if (!layer.scheme || (format.keeps_stacks() && layer.linear.stack)) continue;
      units_.push_back({layer.linear, layout_of(format, layer.linear, *layer.scheme, source.float_type()), {}, {}});
    }
    for (Unit& unit : stacks.units) units_.push_back(std::move(unit));
    for (const TensorSpec& tensor : source.plain()) {
      if (stacks.singles.contains(tensor.name)) continue;
      TensorSpec own = tensor;
      if (source.is_quantized_bias(tensor.name)) own.type = format.bias_type().value_or(source.float_type());
      units_.push_back({std::nullopt, {own}, tensor, {}});
    }
    std::vector<std::uint64_t> sizes;
    for (const Unit& unit : units_) {
      sizes.push_back(0);
      for (const TensorSpec& tensor : unit.tensors) sizes.back() += tensor.bytes();
    }
    bytes_ = static_cast<std::int64_t>(std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0}));
    files_ = cut_by_size(sizes, max_bytes);
  }

  std::int64_t files() const override { return static_cast<std::int64_t>(files_.size()); }
  std::string file_name(std::int64_t file) const override {
    return files() == 1 ? "model.safetensors" : shard_name(file, files());
  }
  std::int64_t bytes() const override { return bytes_; }

  void write(const std::string& directory, std::int64_t file) const override {
    std::vector<NamedTensor> tensors;
    for (const std::size_t unit : files_[static_cast<std::size_t>(file)]) {
      for (NamedTensor& tensor : tensors_of(units_[unit])) tensors.push_back(std::move(tensor));
    }
    std::vector<TensorView> views;
    for (const NamedTensor& tensor : tensors) views.push_back(tensor.view());
    write_safetensors(directory + "/" + file_name(file), views, {{"format", "pt"}});
  }

  bool holds(const std::string& directory, std::int64_t file) const override {
    const SafetensorsFile written(directory + "/" + file_name(file));
    const TensorReader reader = reader_of(written);
    std::size_t tensors = 0;
    for (const std::size_t index : files_[static_cast<std::size_t>(file)]) {
      const Unit& unit = units_[index];
      tensors += unit.tensors.size();
      const bool same = unit.layer
                            ? holds_parts(format_, reader, *unit.layer, source_.read_layer(*unit.layer),
                                          source_.float_type())
                            : same_bytes(reader.read_tensor(unit.tensors.front()), tensors_of(unit).front().tensor);
      if (!same) return false;
    }
    return tensors == written.tensors().size();
  }

  std::vector<std::string> finish(const std::string& directory, bool card) const override {
    std::vector<std::string> names = copy_companions(source_.directory(), directory, card);
    if (files() > 1) {
      std::map<std::string, std::string> weight_map;
      for (std::int64_t file = 0; file < files(); ++file) {
        for (const std::size_t unit : files_[static_cast<std::size_t>(file)]) {
          for (const TensorSpec& tensor : units_[unit].tensors) weight_map[tensor.name] = file_name(file);
        }
      }
      write_checkpoint_index(directory, weight_map, static_cast<std::uint64_t>(bytes()));
      names.push_back(kIndexFile);
    }
    nlohmann::json config = source_.config();
    config.erase("quantization_config");
    if (source_.model().stored_head()) untie_head(config, source_.model());
    const nlohmann::json quantization = format_.quantization_config(source_.layers(), source_.model());
    if (!quantization.is_null()) config["quantization_config"] = quantization;
    for (const std::string& file : format_.config_files()) {
      save_json(directory + "/" + file, quantization);
      names.push_back(file);
    }
    save_json(directory + "/config.json", config);
    names.push_back("config.json");
    return names;
  }

 private:
  std::vector<NamedTensor> tensors_of(const Unit& unit) const {
    if (unit.layer) return pack_parts(format_, *unit.layer, source_.read_layer(*unit.layer), source_.float_type());
    if (!unit.experts.empty()) return {{unit.tensors.front().name, read_experts(unit.experts)}};
    return {{unit.tensors.front().name, source_.read_plain(unit.stored).to(unit.tensors.front().type)}};
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

  const ConversionSource& source_;
  const SafetensorsFormat& format_;
  std::vector<Unit> units_;
  std::vector<std::vector<std::size_t>> files_;
  std::int64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<ConversionOutput> make_safetensors_output(const ConversionSource& source,
                                                          const SafetensorsFormat& format, std::int64_t max_bytes) {
  return std::make_unique<SafetensorsOutput>(source, format, max_bytes);
}

}  // namespace roundtable
