// qdq: the dequantized model in the model's own float type, which every reader of the float model reads.
//
// Source: transformers 5.23, modeling_utils.py: NAME.weight [out, in] ([in, out] for a Conv1D), and no
// quantization_config. auto-round calls its own export of this kind "fake".
#include <torch/types.h>

#include "export/registry.h"

namespace roundtable {
namespace {

class Qdq final : public SafetensorsFormat {
 public:
  bool has_place_for(WeightType) const override { return true; }
  bool keeps_stacks() const override { return true; }
  std::optional<std::string> scheme_obstacle(const QuantScheme&) const override { return std::nullopt; }
  std::optional<std::string> layer_obstacle(const LinearSpec&, const QuantScheme&) const override {
    return std::nullopt;
  }
  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme&,
                                 torch::ScalarType float_type) const override {
    return {{linear.name + ".weight", float_type, linear.weight().stored_shape()}};
  }
  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType float_type) const override {
    const torch::Tensor plain = dequantize(weight, float_type);
    return {{linear.name + ".weight", linear.transposed ? plain.t().contiguous() : plain}};
  }
  bool holds(const TensorReader& reader, const LinearSpec& linear, const QuantizedWeight& weight,
             torch::ScalarType float_type) const override {
    const torch::Tensor read = reader.read_tensor(layout(linear, weight.scheme, float_type).front());
    return torch::equal(read, pack(linear, weight, float_type).front().tensor);
  }
  nlohmann::json quantization_config(const CheckpointScheme&, const CheckpointModel&) const override { return nullptr; }
};

}  // namespace

const CheckpointFormat& qdq_format() {
  static const Qdq format;
  return format;
}

}  // namespace roundtable
