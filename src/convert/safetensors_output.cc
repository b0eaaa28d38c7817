// A Hugging Face model directory.
#include <torch/types.h>

#include <cstring>
#include <map>
#include <numeric>
#include <optional>

#include "convert/output.h"
#include "export/checkpoint_files.h"
#include "io/json_file.h"

namespace roundtable {
namespace {

// What is read together and stays together in a file: a quantized layer, or one tensor as it is.
struct Unit {
  std::optional<LinearSpec> layer;
  std::vector<TensorSpec> tensors;
  TensorSpec stored;  // of a tensor as it is
};

// NaNs are what they are.
bool same_bytes(const torch::Tensor& a, const torch::Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

class SafetensorsOutput final : public ConversionOutput {
 public:
  SafetensorsOutput(const ConversionSource& source, const SafetensorsFormat& format, std::int64_t max_bytes)
      : source_(source), format_(format) {
    for (const LayerScheme& layer : source.layers().layers) {
      if (!layer.scheme) continue;
      units_.push_back({layer.linear, format.layout(layer.linear, *layer.scheme, source.float_type()), {}});
    }
    for (const TensorSpec& tensor : source.plain()) {
      TensorSpec own = tensor;
      if (source.is_quantized_bias(tensor.name)) own.type = format.bias_type().value_or(source.float_type());
      units_.push_back({std::nullopt, {own}, tensor});
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
                            ? format_.holds(reader, *unit.layer, source_.read_layer(*unit.layer), source_.float_type())
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
    if (unit.layer) return format_.pack(*unit.layer, source_.read_layer(*unit.layer), source_.float_type());
    return {{unit.tensors.front().name, source_.read_plain(unit.stored).to(unit.tensors.front().type)}};
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
