// Assembly on the coordinator's rank; proof on all.
#include "pipeline/assemble.h"

#include <torch/torch.h>

#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/hash.h"
#include "export/auto_gptq.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "io/json_file.h"
#include "pipeline/layer_schemes.h"
#include "pipeline/leave.h"
#include "pipeline/run_paths.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

// Larger files beside a model are weights in other formats.
constexpr std::uintmax_t kMaxCompanion = 128u << 20;

bool is_companion(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  const std::string extension = entry.path().extension().string();
  for (const char* weights : {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}) {
    if (extension == weights) return false;
  }
  return entry.is_regular_file() && entry.file_size() <= kMaxCompanion && name != "config.json" &&
         !name.ends_with(".index.json") && name.front() != '.';
}

void copy_file(const std::string& from, const std::string& to) {
  const std::string content = read_text_file(from, kMaxCompanion);
  write_file_atomically(to, [&](OutputFile& file) { file.write(content.data(), content.size()); });
}

void copy_companions(const Config& config) {
  for (const fs::directory_entry& entry : fs::directory_iterator(config.model.path)) {
    if (is_companion(entry)) copy_file(entry.path().string(), config.output.path + "/" + entry.path().filename().string());
  }
}

void write_config(const Config& config, const Plan& plan) {
  std::vector<LayerScheme> layers;
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  for (std::int64_t block = 0; block < plan.model.n_blocks; ++block) {
    const BlockSchemes& schemes = plan.schemes[static_cast<std::size_t>(block)];
    for (std::size_t i = 0; i < linears.size(); ++i) {
      layers.push_back({plan.model.block_name(block) + "." + linears[i].name, schemes[i]});
    }
    // Older transformers make the router a linear layer, which readers would take for a quantized one.
    if (plan.model.n_experts == 0) continue;
    layers.push_back({plan.model.block_name(block) + "." + plan.model.block_names.router, std::nullopt});
  }
  if (plan.head) layers.push_back({plan.model.names.head, plan.head, /*outside_blocks=*/true});
  nlohmann::json json = load_json(config.model.path + "/config.json");
  json["quantization_config"] = auto_gptq_config(scheme_of(config.quantization), config.tuning.iters,
                                                 plan.model.names.blocks, layers);
  save_json(config.output.path + "/config.json", json);
  // vLLM and older readers look for the same object in a file of its own.
  save_json(config.output.path + "/quantization_config.json", json["quantization_config"]);
}

// The head, rounded to nearest (auto-round's own way for a layer outside of the blocks whose inputs it has not kept).
std::vector<NamedTensor> quantized_head(const Config& config, const Plan& plan) {
  const CheckpointSource source(config.model.path);
  const std::string& name = plan.model.names.head;
  const torch::Tensor weight = source.read({name + ".weight", {plan.model.vocab_size, plan.model.hidden_size}});
  return auto_gptq_tensors(name, round_to_nearest(weight, *plan.head));
}

// Everything outside the blocks as it is; a head that is tied too, where the file has one all the same. Written under
// the names of transformers' own modules, as the blocks are.
ShardRecord write_outside(const Config& config, const Plan& plan) {
  const Checkpoint checkpoint(config.model.path);
  std::vector<std::string> names;
  for (const ParameterSpec& spec : outside_parameters(plan.model)) names.push_back(spec.name);
  const std::string head = plan.model.names.head + ".weight";
  if (plan.model.tie_word_embeddings && checkpoint.contains(head)) names.push_back(head);
  std::vector<std::vector<char>> data;
  std::vector<TensorView> views;
  for (const std::string& name : names) {
    leave_here_if_asked();
    if (plan.head && name == head) continue;
    const TensorInfo& info = checkpoint.info(stored_name(checkpoint, name));
    data.emplace_back(info.bytes);
    checkpoint.read(info.name, data.back().data());
    views.push_back({name, info.type, info.shape, data.back().data()});
  }
  std::vector<NamedTensor> packed;
  if (plan.head) packed = quantized_head(config, plan);
  for (const NamedTensor& named : packed) {
    views.push_back({named.name, element_type_of(named.tensor.scalar_type()), named.tensor.sizes().vec(),
                     named.tensor.const_data_ptr()});
  }
  const std::string file = shard_name(plan.model.n_blocks, plan.model.n_blocks + 1);
  const WrittenFile written = write_safetensors(config.output.path + "/" + file, views, {{"format", "pt"}});
  return {file, written.digest, written.bytes};
}

void write_index(const Config& config, const Plan& plan) {
  std::map<std::string, std::string> weight_map;
  std::uint64_t total = 0;
  for (std::int64_t i = 0; i <= plan.model.n_blocks; ++i) {
    const std::string name = shard_name(i, plan.model.n_blocks + 1);
    const SafetensorsFile shard(config.output.path + "/" + name);
    for (const auto& [tensor, info] : shard.tensors()) {
      weight_map[tensor] = name;
      total += info.bytes;
    }
  }
  write_checkpoint_index(config.output.path, weight_map, total);
}

}  // namespace

ShardRecord assemble(const Config& config, const Plan& plan) {
  const ShardRecord outside = write_outside(config, plan);
  leave_here_if_asked();
  copy_companions(config);
  write_config(config, plan);
  write_index(config, plan);
  return outside;
}

void prove_files(Communicator& comm, const std::string& output, const nlohmann::json& digests) {
  const nlohmann::json all = nlohmann::json::parse(broadcast_text(comm, digests.dump(), 0));
  run_on_all(comm, [&] {
    int index = 0;
    for (const auto& [file, digest] : all.items()) {
      if (index++ % comm.size() != comm.rank()) continue;
      leave_here_if_asked();
      const std::string path = output + "/" + file;
      if (hash_file(path) == digest) continue;
      throw machine_error(path, "does not hold what was written",
                          "suspect the file system; remove the file and start the same command again");
    }
  });
}

std::int64_t checkpoint_bytes(const std::string& directory) {
  std::int64_t bytes = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return bytes;
}

}  // namespace roundtable
