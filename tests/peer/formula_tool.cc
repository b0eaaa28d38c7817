// What formula_test.py holds against auto-round's own functions: formula_tool IN OUT.
//
// IN holds tensors and, under the metadata key `cases`, a JSON list of objects {name, weight, bits, group_size, sym,
// full_range} and for floats of 4 bits
// {type: WeightType's number, global_scale}. The case's parameters are the tensors NAME.v [out, in], NAME.min_scale and NAME.max_scale [out, groups],
// fp32. OUT gets NAME.q and NAME.zero_point (uint8), NAME.scale (fp32) and NAME.dequantized (the weight's dtype); with
// NAME.upstream, dL/dWq in fp32, the gradients NAME.dv and NAME.dmax_scale too. With NAME.importance [in] only the
// search for scales is run: OUT gets NAME.wmin and NAME.wmax [out, groups].
#include <fmt/format.h>
#include <torch/types.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/safetensors.h"
#include "quant/fake_quant.h"

namespace roundtable {
namespace {

torch::Tensor read(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo* info = file.find(name);
  RT_CHECK(info != nullptr && (info->type == ElementType::kF32 || info->type == ElementType::kBF16));
  torch::Tensor tensor =
      torch::empty(info->shape, info->type == ElementType::kBF16 ? torch::kBFloat16 : torch::kFloat32);
  file.read(*info, tensor.data_ptr());
  return tensor;
}

ElementType type_of(const torch::Tensor& tensor) {
  if (tensor.scalar_type() == torch::kBFloat16) return ElementType::kBF16;
  return tensor.scalar_type() == torch::kUInt8 ? ElementType::kU8 : ElementType::kF32;
}

void run(const std::string& in, const std::string& out) {
  const SafetensorsFile file(in);
  std::vector<std::pair<std::string, torch::Tensor>> results;
  for (const nlohmann::json& each : nlohmann::json::parse(file.metadata().at("cases"))) {
    const std::string name = each["name"];
    const QuantScheme scheme{each["bits"], each["group_size"], each["sym"], each["full_range"], true, 0,
                             static_cast<WeightType>(each.value("type", 0)), each.value("global_scale", 0.0f)};
    const torch::Tensor weight = read(file, each["weight"]);
    RoundingParameters parameters = make_rounding_parameters(weight, scheme);
    if (file.find(name + ".importance") != nullptr) {
      search_scales(weight, parameters, scheme, read(file, name + ".importance"));
      results.emplace_back(name + ".wmin", parameters.wmin);
      results.emplace_back(name + ".wmax", parameters.wmax);
      continue;
    }
    parameters.v = read(file, name + ".v");
    parameters.min_scale = read(file, name + ".min_scale");
    parameters.max_scale = read(file, name + ".max_scale");
    const QuantizedWeight quantized = quantize(weight, parameters, scheme);
    torch::Tensor dequantized = torch::empty_like(weight);
    fake_quantize(weight, parameters, scheme, dequantized);
    results.emplace_back(name + ".q", quantized.q);
    results.emplace_back(name + ".zero_point", quantized.zero_point);
    results.emplace_back(name + ".scale", quantized.scale);
    results.emplace_back(name + ".dequantized", dequantized);
    if (file.find(name + ".upstream") == nullptr) continue;
    const RoundingGradients gradients = rounding_gradients(weight, parameters, scheme, read(file, name + ".upstream"));
    results.emplace_back(name + ".dv", gradients.v);
    results.emplace_back(name + ".dmax_scale", gradients.max_scale);
  }
  std::vector<TensorView> views;
  for (const auto& [name, tensor] : results) {
    views.push_back({name, type_of(tensor), tensor.sizes().vec(), tensor.const_data_ptr()});
  }
  write_safetensors(out, views, {});
}

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: formula_tool IN OUT\n", stderr);
    return 1;
  }
  try {
    roundtable::run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
