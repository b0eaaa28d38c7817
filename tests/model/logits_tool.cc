// What config_json_test.py compares with transformers: logits_tool reads the paths of model directories from stdin, a
// line each, and answers each with a line of JSON: {"error": line}, or what the description says of sizes and windows.
// If the directory holds model.safetensors, the logits of its tokens.safetensors (`input_ids`, int32 [rows, seqlen])
// are written to its logits.safetensors, in fp32.
#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "io/safetensors.h"
#include "model/load/block_loader.h"
#include "model/load/model_ends.h"
#include "model/load/stored_head.h"

namespace roundtable {
namespace {

torch::Tensor read_ids(const std::string& path) {
  const SafetensorsFile file(path);
  const TensorInfo* info = file.find("input_ids");
  RT_CHECK(info != nullptr && info->type == ElementType::kI32);
  torch::Tensor ids = torch::empty(info->shape, torch::kInt32);
  file.read(*info, ids.data_ptr());
  return ids.to(torch::kInt64);
}

torch::Tensor logits_of(const ModelConfig& model, const std::string& directory) {
  const torch::NoGradGuard no_gradients;
  const CheckpointSource source(directory);
  SelfCommunicator alone;
  const torch::Tensor ids = read_ids(directory + "/tokens.safetensors");
  torch::Tensor hidden = load_embedding(source, model, torch::kFloat32, torch::kCPU, alone, 0).forward(ids);
  const BlockContext context = make_block_context(model, ids.size(1), torch::kFloat32, torch::kCPU);
  BlockLoader loader(source, model, alone);
  for (std::int64_t block = 0; block < model.n_blocks; ++block) {
    const DecoderBlock weights = make_block(model, loader.load(block, 0), torch::kFloat32, torch::kCPU);
    hidden = run_block(weights, hidden, context, 0);
  }
  return load_head(source, model, torch::kFloat32, torch::kCPU, alone, 0).forward(hidden).contiguous();
}

nlohmann::json answer(const std::string& directory) {
  const ModelConfig model = load_model_description(directory);
  std::vector<std::int64_t> windows;
  for (std::int64_t i = 0; i < model.n_blocks; ++i) windows.push_back(model.slides(i) ? model.sliding_window : 0);
  if (has_checkpoint(directory)) {
    const torch::Tensor logits = logits_of(model, directory);
    write_safetensors(directory + "/logits.safetensors",
                      {{"logits", ElementType::kF32, logits.sizes().vec(), logits.const_data_ptr()}});
  }
  return {{"windows", windows},
          {"num_key_value_heads", model.n_kv_heads},
          {"max_position_embeddings", model.max_position_embeddings}};
}

}  // namespace
}  // namespace roundtable

int main() {
  for (std::string directory; std::getline(std::cin, directory);) {
    nlohmann::json line;
    try {
      line = roundtable::answer(directory);
    } catch (const roundtable::Error& error) {
      line = {{"error", error.what()}};
    }
    fmt::print("{}\n", line.dump());
  }
}
