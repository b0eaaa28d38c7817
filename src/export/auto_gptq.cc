// Writing and reading auto_round:auto_gptq.
#include "export/auto_gptq.h"

#include <fmt/ranges.h>
#include <torch/torch.h>

#include <string_view>

#include "base/error.h"
#include "io/json_file.h"
#include "quant/packing.h"

namespace roundtable {
namespace {

constexpr const char* kPackingFormat = "auto_round:auto_gptq";
constexpr std::int64_t kRun = 32;  // values that are packed together

struct LayerReader {
  const FindTensor& find;
  const ReadTensor& read;
  const std::string& place;

  torch::Tensor tensor(const std::string& name, torch::ScalarType dtype, const std::vector<std::int64_t>& shape) const {
    const TensorInfo* info = find(name);
    const std::string where = fmt::format("{}: tensor '{}'", place, name);
    if (info == nullptr) throw bad_input(where, "is missing");
    if (info->type != element_type_of(dtype) || info->shape != shape) {
      throw bad_input(where, fmt::format("has shape [{}]; quantization_config and config.json call for [{}] of {}",
                                         fmt::join(info->shape, ", "), fmt::join(shape, ", "), torch::toString(dtype)));
    }
    torch::Tensor tensor = torch::empty(shape, dtype);
    read(*info, tensor.data_ptr());
    return tensor;
  }
};

// A quantized model directory.
class AutoGptqSource final : public TensorSource {
 public:
  AutoGptqSource(const std::string& directory, AutoGptqSchemes schemes)
      : floats_(directory), schemes_(std::move(schemes)) {}

  torch::Tensor read(const ParameterSpec& spec) const override {
    constexpr std::string_view kWeight = ".weight";
    const std::string& name = spec.name;
    const std::string layer = name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
    if (floats_.contains(name) || !floats_.contains(layer + ".qweight")) return floats_.read(spec);
    const Checkpoint& checkpoint = floats_.checkpoint();
    return dequantize(
        read_auto_gptq(
            [&](const std::string& part) { return checkpoint.contains(part) ? &checkpoint.info(part) : nullptr; },
            [&](const TensorInfo& info, void* data) { checkpoint.read(info.name, data); },
            checkpoint.file_of(layer + ".qweight"), layer, {layer, spec.shape[0], spec.shape[1]}, schemes_.of(layer)),
        torch::kFloat32);
  }

  bool contains(const std::string& name) const override { return floats_.contains(name); }

 private:
  CheckpointSource floats_;
  AutoGptqSchemes schemes_;
};

// The keys of a scheme, as the peer names them.
nlohmann::json scheme_json(const QuantScheme& scheme) {
  return {{"bits", scheme.bits}, {"group_size", scheme.group_size}, {"sym", scheme.symmetric}};
}

// What `scheme` has otherwise than `common` (export_to_autoround/utils.py, check_neq_config).
nlohmann::json differing(const QuantScheme& scheme, const QuantScheme& common) {
  nlohmann::json keys = nlohmann::json::object();
  const nlohmann::json usual = scheme_json(common);
  const nlohmann::json own = scheme_json(scheme);
  for (const auto& [key, value] : own.items()) {
    if (value != usual[key]) keys[key] = value;
  }
  return keys;
}

// Reads the keys that are there over `scheme`.
QuantScheme read_scheme(const JsonObject& json, QuantScheme scheme) {
  scheme.bits = static_cast<int>(json.get_int_or("bits", scheme.bits, 2, 16));
  if (scheme.bits != 2 && scheme.bits != 3 && scheme.bits != 4 && scheme.bits != 8 && scheme.bits != 16) {
    json.fail("bits", fmt::format("{} is not supported", scheme.bits), "supported are 2, 3, 4, 8");
  }
  scheme.group_size = json.get_int_or("group_size", scheme.group_size, -1, 1 << 24);
  if (scheme.group_size == 0) json.fail("group_size", "is 0");
  scheme.symmetric = json.get_bool_or("sym", scheme.symmetric);
  return scheme;
}

// Null where `text` is no regular expression: the peer passes over those.
std::shared_ptr<const std::regex> regex_of(const std::string& text) {
  try {
    return std::make_shared<const std::regex>(text);
  } catch (const std::regex_error&) {
    return nullptr;
  }
}

}  // namespace

std::optional<std::string> auto_gptq_obstacle(const LinearSpec& linear, const QuantScheme& scheme) {
  if (linear.in % kRun != 0) return fmt::format("its input dimension {} is not a multiple of {}", linear.in, kRun);
  if (linear.out % kRun != 0) return fmt::format("its output dimension {} is not a multiple of {}", linear.out, kRun);
  if (scheme.group_size > 0 && linear.in % scheme.group_size != 0) {
    // qlinear_torch_zp.py spreads whole groups over the input dimension; the other backends check the same.
    return fmt::format("group_size {} does not divide its input dimension {}, which readers of this layout need",
                       scheme.group_size, linear.in);
  }
  return std::nullopt;
}

std::vector<NamedTensor> auto_gptq_tensors(const std::string& name, const QuantizedWeight& weight) {
  const int bits = weight.scheme.bits;
  const torch::Tensor q = weight.q.cpu();
  // The reader adds the one again. Zero points are at least 1 in this layout (QuantScheme::min_zero_point).
  const torch::Tensor zeros = weight.zero_point.cpu().sub(1);  // [out, groups]
  return {{name + ".qweight", pack_rows(q.t(), bits)},
          {name + ".qzeros", pack_rows(zeros, bits).t().contiguous()},
          {name + ".scales", weight.scale.cpu().t().to(torch::kFloat16).contiguous()}};
}

QuantizedWeight read_auto_gptq(const FindTensor& find, const ReadTensor& read, const std::string& place,
                               const std::string& name, const LinearSpec& linear, const QuantScheme& scheme) {
  const LayerReader reader{find, read, place};
  const std::int64_t groups = scheme.groups(linear.in);
  const torch::Tensor qweight =
      reader.tensor(name + ".qweight", torch::kInt32, {linear.in / kRun * scheme.bits, linear.out});
  const torch::Tensor qzeros = reader.tensor(name + ".qzeros", torch::kInt32, {groups, linear.out / kRun * scheme.bits});
  const torch::Tensor scales = reader.tensor(name + ".scales", torch::kFloat16, {groups, linear.out});
  if (!scales.isfinite().all().item<bool>()) {
    throw bad_input(fmt::format("{}: tensor '{}.scales'", place, name), "holds a value that is not finite");
  }
  return {scheme, unpack_rows(qweight, scheme.bits).t().contiguous(), scales.to(torch::kFloat32).t().contiguous(),
          unpack_rows(qzeros.t(), scheme.bits).add(1)};
}

nlohmann::json auto_gptq_config(const QuantScheme& scheme, std::int64_t iters, const std::string& blocks,
                                const std::vector<LayerScheme>& layers) {
  nlohmann::json config = {{"quant_method", "auto-round"},
                           {"packing_format", kPackingFormat},
                           {"data_type", "int"},
                           {"iters", iters},
                           {"block_name_to_quantize", blocks},
                           {"autoround_version", "0.16.1"},
                           {"producer", "roundtable"}};
  config.update(scheme_json(scheme));
  for (const LayerScheme& layer : layers) {
    nlohmann::json keys = {{"bits", 16}, {"data_type", "float"}};
    if (layer.scheme) keys = layer.outside_blocks ? scheme_json(*layer.scheme) : differing(*layer.scheme, scheme);
    if (layer.outside_blocks) keys["data_type"] = "int";
    if (!keys.empty()) config["extra_config"][layer.name] = keys;
  }
  return config;
}

AutoGptqSchemes::AutoGptqSchemes(const nlohmann::json& config, const std::string& place) {
  const JsonObject json(config, place + ": quantization_config");
  if (json.get_string_or("packing_format", "") != kPackingFormat) {
    json.fail("packing_format", "is not " + std::string(kPackingFormat), "that is the one layout that can be read");
  }
  for (const char* key : {"bits", "group_size"}) json.get_int(key, -1);
  json.get_bool("sym");
  scheme_ = read_scheme(json, {});
  if (scheme_.bits == 16) json.fail("bits", "16 is not supported", "supported are 2, 3, 4, 8");
  if (!json.has("extra_config")) return;
  const JsonObject extra = json.get_object("extra_config");
  for (const auto& [name, keys] : extra.json().items()) {
    by_name_[name] = extra_.size();
    extra_.push_back({name, regex_of(name), read_scheme(extra.get_object(name), scheme_)});
  }
}

QuantScheme AutoGptqSchemes::of(const std::string& layer) const {
  if (const auto found = by_name_.find(layer); found != by_name_.end()) return extra_[found->second].scheme;
  for (const Extra& extra : extra_) {
    if (extra.regex && std::regex_search(layer, *extra.regex)) return extra.scheme;
  }
  return scheme_;
}

std::unique_ptr<TensorSource> open_tensor_source(const std::string& directory) {
  const JsonObject json = JsonObject::load(directory + "/config.json");
  if (!json.has("quantization_config")) return std::make_unique<CheckpointSource>(directory);
  return std::make_unique<AutoGptqSource>(
      directory, AutoGptqSchemes(json.get_object("quantization_config").json(), directory + "/config.json"));
}

}  // namespace roundtable
