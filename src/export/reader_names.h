// How a quantization_config names layers, so that every reader finds them: each calls the modules of one model in its
// own way where the text model lies inside of a larger one.
//
//   in the checkpoint             language_model.model.layers.0 (Gemma 3), model.language_model.layers.0 (Qwen3-VL),
//                                 model.layers.0 (Qwen2-VL)
//   transformers, the whole       model.language_model.layers.0
//   transformers, the text alone  model.layers.0 (AutoModelForCausalLM of Qwen3.5, Llama 4)
//   vLLM                          language_model.model.layers.0
//   SGLang                        language_model.model.layers.0 or model.layers.0
//
// vLLM turns the names of a config into its own, by what they begin with (models/utils.py, WeightsMapper, from
// apply_vllm_mapper() of each config); SGLang takes them as they are. Expressions that know all of these names need
// neither. A text model that stands alone has one name everywhere, and is named by it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "export/format.h"

namespace roundtable {

// A layer as it is written, or all experts of a block where they are alike: readers of fused experts look for their
// common name ("mlp.experts").
struct NamedLayer {
  std::string name;
  std::string pattern;  // matches its names in all readers and no other layer's; empty: it has one name everywhere
  std::optional<QuantScheme> scheme;
  bool outside_blocks = false;
};

class ReaderNames {
 public:
  ReaderNames(const CheckpointModel& model, const CheckpointScheme& checkpoint);

  // Whether the text model lies inside of a larger one.
  bool is_wrapped() const { return !before_.empty(); }
  // What the names of blocks begin with: "model.layers"; of a model inside of another all that there are.
  const std::vector<std::string>& block_lists() const { return block_lists_; }
  // In the order of the checkpoint's layers.
  const std::vector<NamedLayer>& layers() const { return layers_; }
  // The pattern of one layer, as in NamedLayer.
  std::string pattern_of(const std::string& layer) const;
  // "layers.0.mlp.gate" of "language_model.model.layers.0.mlp.gate": an ending that all names have.
  std::string ending_of(const std::string& layer) const;

  // Parts of the model that are carried over: "visual", "mtp", "layers.61" (one for the prediction of several tokens
  // behind the last block). Their layers have these names somewhere below the whole model.
  const std::vector<std::string>& other_parts() const { return other_parts_; }
  // Matches every layer of such a part, from the start of its name to the end.
  static std::string pattern_of_part(const std::string& part);

 private:
  void add_layers(const CheckpointScheme& checkpoint);
  void add_other_parts(const CheckpointModel& model, const CheckpointScheme& checkpoint);

  std::string prefix_;               // of the text model in the checkpoint: "language_model.model."
  std::string list_;                 // "layers"
  std::vector<std::string> before_;  // what may stand before list_, without a dot; empty: it is not wrapped
  std::vector<std::string> block_lists_;
  std::vector<NamedLayer> layers_;
  std::vector<std::string> other_parts_;
};

}  // namespace roundtable
