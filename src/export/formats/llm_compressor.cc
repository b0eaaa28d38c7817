// llm_compressor: compressed-tensors' pack-quantized, which vLLM, SGLang and transformers read.
//
// Source: compressed-tensors 0.20.0, compressors/pack_quantized/base.py and helpers.py (pack_to_int32, a dense stream
// of bits). Per linear layer [out, in]:
//
//   NAME.weight_packed      int32 [out, in * bits / 32]      the integers, packed along the input dimension
//   NAME.weight_scale       fp16  [out, groups]
//   NAME.weight_shape       int64 [2]                        out, in
//   NAME.weight_zero_point  int32 [out * bits / 32, groups]  asym alone, packed down the output dimension
//
// Both packed dimensions are rounded up to whole words. Integers are signed there and stored with 2^(bits-1) added,
// which makes them ours; sym has no zero point, and ours is that 2^(bits-1).
//
// Engines load the scales in the type that they compute in: fp16 keeps them, bf16 rounds them to 8 bits.
#include <fmt/format.h>
#include <torch/types.h>

#include "base/error.h"
#include "export/formats/scheme_keys.h"
#include "export/layouts/compressed_tensors.h"
#include "export/registry.h"
#include "quant/packing.h"

namespace roundtable {
namespace {

class LlmCompressor final : public CompressedTensorsFormat {
 public:
  LlmCompressor() : CompressedTensorsFormat("pack-quantized") {}
  bool is_home_of(WeightType type) const override { return type == WeightType::kInt; }
  std::optional<std::string> scheme_obstacle(const QuantScheme&) const override { return std::nullopt; }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType) const override {
    const std::int64_t groups = scheme.groups(linear.in);
    std::vector<TensorSpec> specs = {
        {linear.name + ".weight_packed", torch::kInt32, {linear.out, packed_words(linear.in, scheme.bits)}},
        {linear.name + ".weight_scale", torch::kFloat16, {linear.out, groups}},
        {linear.name + ".weight_shape", torch::kInt64, {2}}};
    if (!scheme.symmetric) {
      specs.push_back(
          {linear.name + ".weight_zero_point", torch::kInt32, {packed_words(linear.out, scheme.bits), groups}});
    }
    return specs;
  }

  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType) const override {
    const int bits = weight.scheme.bits;
    std::vector<NamedTensor> tensors = {
        {linear.name + ".weight_packed", pack_rows(weight.q.cpu().t(), bits).t().contiguous()},
        {linear.name + ".weight_scale", weight.scale.cpu().to(torch::kFloat16).contiguous()},
        {linear.name + ".weight_shape", torch::tensor({linear.out, linear.in}, torch::kInt64)}};
    if (!weight.scheme.symmetric) {
      tensors.push_back({linear.name + ".weight_zero_point", pack_rows(weight.zero_point.cpu(), bits)});
    }
    return tensors;
  }

  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override {
    const std::vector<TensorSpec> specs = layout(linear, scheme, torch::kFloat32);
    const torch::Tensor packed = reader.read_tensor(specs[0]);
    if (!torch::equal(reader.read_tensor(specs[2]), torch::tensor({linear.out, linear.in}, torch::kInt64))) {
      throw bad_input(fmt::format("{}: tensor '{}'", reader.place, specs[2].name), "is not the layer's shape");
    }
    const std::int64_t groups = scheme.groups(linear.in);
    const torch::Tensor zeros = scheme.symmetric
                                    ? torch::full({linear.out, groups}, 1 << (scheme.bits - 1), torch::kUInt8)
                                    : unpack_rows(reader.read_tensor(specs[3]), scheme.bits, linear.out);
    return {scheme, unpack_rows(packed.t(), scheme.bits, linear.in).t().contiguous(), read_scales(reader, specs[1]),
            zeros};
  }

 protected:
  nlohmann::json weights_json(const QuantScheme& scheme) const override {
    nlohmann::json weights = {{"num_bits", scheme.bits},
                              {"type", "int"},
                              {"symmetric", scheme.symmetric},
                              {"strategy", scheme.group_size < 0 ? "channel" : "group"},
                              {"dynamic", false}};
    if (scheme.group_size > 0) weights["group_size"] = scheme.group_size;
    return weights;
  }
  QuantScheme read_weights(const JsonObject& weights) const override {
    if (weights.get_string_or("type", "int") != "int") weights.fail("type", "is not int");
    nlohmann::json keys = {{"bits", weights.get_int("num_bits", 2, 8)},
                           {"sym", weights.get_bool_or("symmetric", true)},
                           {"group_size", -1}};
    const std::string strategy = weights.get_string("strategy");
    if (strategy == "group") {
      keys["group_size"] = weights.get_int("group_size", 1, 1 << 24);
    } else if (strategy != "channel") {
      weights.fail("strategy", "is neither group nor channel");
    }
    return read_common_scheme(JsonObject(keys, weights.place()));
  }
};

}  // namespace

const CheckpointFormat& llm_compressor_format() {
  static const LlmCompressor format;
  return format;
}

}  // namespace roundtable
