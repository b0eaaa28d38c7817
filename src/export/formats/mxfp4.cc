// mxfp4: compressed-tensors' mxfp4-pack-quantized with activations in 16 bits, which vLLM reads.
//
// Source: compressed-tensors 0.20.0, compressors/mxfp4/base.py and mx_utils.py (compress_mx_scale,
// decompress_mx_scale), quantization/quant_scheme.py (MXFP4A16); OCP Microscaling Formats 1.0, section 5.3.
// layouts/float4.h has the rest.
//
//   NAME.weight_scale  uint8 [out, groups]   the power of two's exponent, plus 127 (E8M0)
#include <fmt/format.h>
#include <torch/types.h>

#include "base/error.h"
#include "export/layouts/float4.h"
#include "export/registry.h"

namespace roundtable {
namespace {

constexpr int kBias = 127;
constexpr int kNotANumber = 255;

class MxFp4 final : public Float4Format {
 public:
  MxFp4()
      : Float4Format("mxfp4-pack-quantized", WeightType::kMxFp4, torch::kUInt8,
                     {{"num_bits", 4},
                      {"type", "float"},
                      {"strategy", "group"},
                      {"group_size", group_size_of(WeightType::kMxFp4)},
                      {"symmetric", true},
                      {"dynamic", false},
                      {"scale_dtype", "torch.uint8"},
                      {"zp_dtype", "torch.uint8"}}) {}

  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType) const override {
    return pack_with(linear, weight.q, weight.scale.cpu().log2().round().add(kBias).to(torch::kUInt8));
  }

  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override {
    const TensorSpec spec = layout(linear, scheme, torch::kFloat32)[1];
    const torch::Tensor exponents = reader.read_tensor(spec);
    if (exponents.eq(kNotANumber).any().item<bool>()) {
      throw bad_input(fmt::format("{}: tensor '{}'", reader.place, spec.name), "holds a scale that is not a number");
    }
    const torch::Tensor scale = torch::ldexp(torch::ones(exponents.sizes()), exponents.to(torch::kInt32).sub(kBias));
    return unpack_with(reader, linear, scheme, scale);
  }
};

}  // namespace

const CheckpointFormat& mxfp4_format() {
  static const MxFp4 format;
  return format;
}

}  // namespace roundtable
