// nvfp4: compressed-tensors' nvfp4-pack-quantized with activations in 16 bits, which vLLM and SGLang read.
//
// Source: compressed-tensors 0.20.0, compressors/nvfp4/base.py and quantization/lifecycle/forward.py (the scale is
// divided by the global one), quantization/quant_scheme.py (NVFP4A16). layouts/float4.h has the rest.
//
//   NAME.weight_scale         F8_E4M3 [out, groups]
//   NAME.weight_global_scale  fp32 [1]               group's scale = weight_scale / weight_global_scale
//
// vLLM (compressed_tensors_w4a16_nvfp4.py, process_weights_after_loading) takes the largest global scale of the layers
// that it fuses for all of them: here a block's layers have one and the same.
#include <fmt/format.h>
#include <torch/types.h>

#include "base/error.h"
#include "export/layouts/float4.h"
#include "export/registry.h"

namespace roundtable {
namespace {

class NvFp4 final : public Float4Format {
 public:
  NvFp4()
      : Float4Format("nvfp4-pack-quantized", WeightType::kNvFp4, torch::kFloat8_e4m3fn,
                     {{"num_bits", 4},
                      {"type", "float"},
                      {"strategy", "tensor_group"},
                      {"group_size", group_size_of(WeightType::kNvFp4)},
                      {"symmetric", true},
                      {"dynamic", false},
                      {"scale_dtype", "torch.float8_e4m3fn"},
                      {"zp_dtype", "torch.float8_e4m3fn"}}) {}

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType float_type) const override {
    std::vector<TensorSpec> specs = Float4Format::layout(linear, scheme, float_type);
    specs.push_back({linear.name + ".weight_global_scale", torch::kFloat32, {1}});
    return specs;
  }

  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType) const override {
    const float global_scale = weight.scheme.global_scale;
    std::vector<NamedTensor> tensors =
        pack_with(linear, weight.q, weight.scale.cpu().mul(global_scale).to(torch::kFloat8_e4m3fn));
    tensors.push_back({linear.name + ".weight_global_scale", torch::full({1}, global_scale)});
    return tensors;
  }

  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override {
    const std::vector<TensorSpec> specs = layout(linear, scheme, torch::kFloat32);
    QuantScheme found = scheme;
    found.global_scale = reader.read_tensor(specs[2]).item<float>();
    if (!std::isfinite(found.global_scale) || found.global_scale <= 0) {
      throw bad_input(fmt::format("{}: tensor '{}'", reader.place, specs[2].name), "is not a positive number");
    }
    const torch::Tensor scale = reader.read_tensor(specs[1]).to(torch::kFloat32);
    if (!scale.isfinite().all().item<bool>()) {
      throw bad_input(fmt::format("{}: tensor '{}'", reader.place, specs[1].name), "holds a value that is not finite");
    }
    return unpack_with(reader, linear, found, scale.div(found.global_scale));
  }
};

}  // namespace

const CheckpointFormat& nvfp4_format() {
  static const NvFp4 format;
  return format;
}

}  // namespace roundtable
