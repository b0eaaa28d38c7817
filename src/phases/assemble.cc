// Writing what no block holds, configs and index, on rank 0.
#include "phases/assemble.h"

#include <torch/types.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>

#include "base/error.h"
#include "comm/agree.h"
#include "export/checkpoint_files.h"
#include "export/checkpoint_model.h"
#include "plan/layer_schemes.h"
#include "run/stop.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

// The head, rounded to nearest (auto-round's own way for a layer outside of the blocks whose inputs it has not kept).
std::vector<NamedTensor> quantized_head(const CheckpointSource& source, const Plan& plan) {
  const LinearSpec head = *plan.model.head();
  const torch::Tensor weight = source.read(head.weight());
  return plan.tuned->pack(head, round_to_nearest(weight, *plan.head), weight.scalar_type());
}

// Some of what is outside the blocks as it is, under the names of transformers' own modules, as the blocks are.
record::Outside write_outside(const CheckpointSource& source, const Plan& plan, const std::string& directory,
                              std::size_t index) {
  const Checkpoint& checkpoint = source.checkpoint();
  const std::string head = plan.model.head() ? plan.model.head()->weight().name : plan.model.tied_head();
  std::vector<ParameterSpec> specs = plan.outside_files[index];
  const bool last = index + 1 == plan.outside_files.size();
  // A head that is tied too, where the file has one all the same.
  if (last && !plan.model.head() && checkpoint.contains(head)) specs.push_back({head, checkpoint.info(head).shape});
  std::vector<std::vector<char>> data;
  std::vector<NamedTensor> packed;
  std::vector<TensorView> views;
  for (const ParameterSpec& spec : specs) {
    leave_here_if_asked();
    if (plan.head && spec.name == head) {
      std::ranges::move(quantized_head(source, plan), std::back_inserter(packed));
      continue;
    }
    const std::string stored = stored_name(checkpoint, spec.name);
    const bool there = checkpoint.contains(stored);
    if (!plan.model.is_carried_over(spec.name) && !(there && is_weight_type(checkpoint.info(stored).type))) {
      packed.push_back({spec.name, source.read(spec)});  // its publisher quantized it
      continue;
    }
    const TensorInfo& info = checkpoint.info(stored);
    data.push_back(source.read_bytes(stored));
    views.push_back({spec.name, info.type, info.shape, data.back().data()});
  }
  for (const NamedTensor& named : packed) views.push_back(named.view());
  const std::string file = plan.outside_file(index);
  const WrittenFile written = write_safetensors(directory + "/" + file, views, {{"format", "pt"}});
  return {file, written.digest};
}

void write_index(const Plan& plan, const std::string& directory) {
  std::map<std::string, std::string> weight_map;
  std::uint64_t total = 0;
  for (std::int64_t i = 0; i < plan.files(); ++i) {
    const std::string name = shard_name(i, plan.files());
    const SafetensorsFile shard(directory + "/" + name);
    for (const auto& [tensor, info] : shard.tensors()) {
      weight_map[tensor] = name;
      total += info.bytes;
    }
  }
  write_checkpoint_index(directory, weight_map, total);
}

}  // namespace

void check_head(const RunContext& context) {
  run_on_root(context.ranks.world, [&] {
    const Plan& plan = context.plan;
    if (!plan.head || context.state->assembled() != nullptr) return;
    const ParameterSpec weight = plan.model.head()->weight();
    const CheckpointSource source(context.config.model.path, context.tensors);
    scale_check(context.config, plan)(weight.name, source.read(weight));
  });
}

void assemble(RunContext& context) {
  run_on_root(context.ranks.world, [&] {
    const std::string& directory = context.paths.tuned;
    const CheckpointSource source(context.config.model.path, context.tensors);
    std::vector<record::Outside> outside;
    for (std::size_t i = 0; i < context.plan.outside_files.size(); ++i) {
      outside.push_back(write_outside(source, context.plan, directory, i));
    }
    leave_here_if_asked();
    refuse_other_weights(directory, context.plan.weight_files());
    std::vector<std::string> names = copy_companions(context.config.model.path, directory, /*card=*/false);
    const CheckpointScheme scheme = checkpoint_scheme(context.config, context.plan);
    std::ranges::move(write_checkpoint_config(directory, *context.plan.tuned, scheme, context.plan.model),
                      std::back_inserter(names));
    write_index(context.plan, directory);
    names.push_back(kIndexFile);
    for (const record::Outside& file : outside) context.state->journal().append(file);
    context.state->record_tuned_files(names);
    context.state->refuse_what_stays_damaged(context.config.model.path);
    context.state->journal().append(record::Assembled{});
  });
}

std::int64_t bytes_of_files(const std::string& directory, const std::string& extension) {
  std::int64_t bytes = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == extension) bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return bytes;
}

}  // namespace roundtable
