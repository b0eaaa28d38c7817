// gguf: one file that llama.cpp reads, with the tokenizer inside.
//
// Source: see container.h (the container), blocks.h (quantized layers), model.h (names and entries) and vocab.h
// (tokenizer). A layer's type follows from its scheme. What is not quantized stays in its type, except for norms and
// biases, which llama.cpp wants in fp32. convert/gguf_output.cc writes the file.
#include "export/gguf/blocks.h"
#include "export/gguf/model.h"
#include "export/gguf/vocab.h"
#include "export/registry.h"

namespace roundtable {
namespace {

class Gguf final : public CheckpointFormat {
 public:
  std::optional<std::string> scheme_obstacle(const QuantScheme& scheme) const override {
    return gguf_scheme_obstacle(scheme);
  }
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override {
    return gguf_layer_obstacle(linear, scheme);
  }
  std::uint64_t layer_bytes(const LinearSpec& linear, const QuantScheme& scheme, torch::ScalarType) const override {
    return static_cast<std::uint64_t>(linear.out * gguf_row_bytes(gguf_type(scheme, linear.in), linear.in));
  }
  std::optional<std::string> number_obstacle(const QuantScheme& scheme, std::int64_t columns,
                                             const GroupScales& scales) const override {
    if (auto reason = CheckpointFormat::number_obstacle(scheme, columns, scales)) return reason;
    return gguf_minimum_obstacle(scheme, columns, scales);
  }
  std::optional<std::string> model_obstacle(const CheckpointModel& model) const override {
    return gguf_model_obstacle(model);
  }
  std::optional<std::string> directory_obstacle(const std::string& directory) const override {
    return gguf_vocab_obstacle(directory);
  }
};

}  // namespace

const CheckpointFormat& gguf_format() {
  static const Gguf format;
  return format;
}

}  // namespace roundtable
