// The checkpoint layout `auto_round:auto_gptq`, which transformers (with auto-round), vLLM and SGLang read.
//
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch_zp.py (tensors) and
// auto_round/export/export_to_autoround/export.py (quantization_config). Per linear layer [out, in]:
//
//   NAME.qweight  int32 [in / 32 * bits, out]       the integers, packed down the input dimension
//   NAME.qzeros   int32 [groups, out / 32 * bits]   zero point minus one, packed along the output dimension
//   NAME.scales   fp16  [groups, out]
//   NAME.bias     fp16  [out], where the layer has one
//
// A Conv1D of transformers, whose float weight is [in, out], is packed as the linear layer that it is (W.t() first).
#pragma once

#include <torch/types.h>

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "model/tensor_source.h"
#include "quant/fake_quant.h"

namespace roundtable {

struct NamedTensor {
  std::string name;
  torch::Tensor tensor;  // host, contiguous
};

// Why this layout cannot hold a layer, in words for the user; empty where it can.
std::optional<std::string> auto_gptq_obstacle(const LinearSpec& linear, const QuantScheme& scheme);

// The three tensors of a quantized layer called `name`.
std::vector<NamedTensor> auto_gptq_tensors(const std::string& name, const QuantizedWeight& weight);

// Where the tensors of a layer are found: a whole checkpoint or a single shard.
using FindTensor = std::function<const TensorInfo*(const std::string& name)>;
using ReadTensor = std::function<void(const TensorInfo& info, void* data)>;

// The inverse: reads layer `name`. Throws Error (kBadInput), opened by `place`, where a tensor is missing or its shape
// or type does not fit.
QuantizedWeight read_auto_gptq(const FindTensor& find, const ReadTensor& read, const std::string& place,
                               const std::string& name, const LinearSpec& linear, const QuantScheme& scheme);

// A layer by its full name, and how it is quantized; without a scheme it stays in 16 bits.
struct LayerScheme {
  std::string name;
  std::optional<QuantScheme> scheme;
  bool outside_blocks = false;  // lm_head, which readers take for a float layer unless extra_config names it
};

// config.json's `quantization_config` for a model with the layers `layers`. What differs from `scheme` in a layer is
// written under `extra_config`, as auto_round/export/export_to_autoround/export.py does.
nlohmann::json auto_gptq_config(const QuantScheme& scheme, std::int64_t iters, const std::string& blocks,
                                const std::vector<LayerScheme>& layers);

// The schemes that a quantization_config of this layout states.
class AutoGptqSchemes {
 public:
  // Throws Error (kBadInput), opened by `place`, where it is another layout or a value is senseless.
  AutoGptqSchemes(const nlohmann::json& config, const std::string& place);

  // Of a quantized layer. `extra_config` goes before the rest; its keys are layer names, or else regular expressions
  // (the first that matches), as auto_round/inference/utils.py, _expand_regex_config reads them.
  QuantScheme of(const std::string& layer) const;

 private:
  struct Extra {
    std::string name;
    std::shared_ptr<const std::regex> regex;  // null where the name is none
    QuantScheme scheme;
  };
  QuantScheme scheme_;
  std::map<std::string, std::size_t> by_name_;
  std::vector<Extra> extra_;
};

// The source for a model directory, float or quantized in this layout: quantized layers are dequantized as they are
// read (to fp32, which holds scale * (q - zero_point) exactly enough to round to bf16 as the tuner did).
std::unique_ptr<TensorSource> open_tensor_source(const std::string& directory);

}  // namespace roundtable
