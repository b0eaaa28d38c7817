// gguf: one file that llama.cpp reads, with the tokenizer inside.
//
// Source: see export/gguf/container.h (the container), gguf_blocks.h (quantized layers), gguf_model.h (names and entries) and
// gguf_vocab.h (tokenizer). A layer's type follows from its scheme. What is not quantized stays in its type, but norms
// and biases, which llama.cpp wants in fp32.
#include <torch/types.h>

#include "export/formats/formats.h"
#include "export/gguf/blocks.h"
#include "export/gguf/model.h"
#include "export/gguf/vocab.h"

namespace roundtable {
namespace {

class Gguf final : public CheckpointFormat {
 public:
  std::string_view name() const override { return "gguf"; }
  Container container() const override { return Container::kGguf; }
  std::optional<std::string> scheme_obstacle(const QuantScheme& scheme) const override {
    return gguf_scheme_obstacle(scheme);
  }
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override {
    return gguf_layer_obstacle(linear, scheme);
  }
  std::optional<std::string> checkpoint_obstacle(const ModelConfig& model, const CheckpointScheme&) const override {
    return gguf_model_obstacle(model);
  }
  std::optional<std::string> directory_obstacle(const std::string& directory) const override {
    return gguf_vocab_obstacle(directory);
  }
  std::optional<torch::ScalarType> bias_type() const override { return torch::kFloat32; }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType) const override {
    const GgufType type = gguf_type(scheme, linear.in);
    return {{linear.name + ".weight", torch::kUInt8, {linear.out, gguf_row_bytes(type, linear.in)}}};
  }
  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType) const override {
    return {{linear.name + ".weight", gguf_blocks(weight)}};
  }
  bool holds(const TensorReader& reader, const LinearSpec& linear, const QuantizedWeight& weight,
             torch::ScalarType float_type) const override {
    const torch::Tensor read = reader.read_tensor(layout(linear, weight.scheme, float_type).front());
    return torch::equal(read, gguf_blocks(weight));
  }
  nlohmann::json quantization_config(const CheckpointScheme&, const ModelConfig&) const override { return nullptr; }
};

}  // namespace

const CheckpointFormat& gguf_format() {
  static const Gguf format;
  return format;
}

}  // namespace roundtable
