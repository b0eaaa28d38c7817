// Digests from rank to rank and to the journal, and the reading of what no phase has read so far.
#include "phases/model_check.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/agree.h"
#include "io/json_file.h"
#include "model/load/tensor_source.h"
#include "run/stop.h"

namespace roundtable {
namespace {

struct Item {
  StoredTensor stored;
  std::int64_t elements = 0;  // of the parameter that it is a part of
};

// Tensors that reach the output and are not on record. The same on every rank.
std::vector<Item> unknown_tensors(const Plan& plan, const CheckpointSource& source, const TensorRecord& known) {
  std::vector<Item> items;
  const auto add = [&](const ParameterSpec& spec) {
    for (const StoredTensor& stored : source.stored_tensors(spec)) {
      if (!known.contains(stored.record_name())) items.push_back({stored, spec.elements()});
    }
  };
  plan.model.for_each_parameter(add);
  for (const ParameterSpec& spec : plan.carried_over) {
    if (!known.contains(spec.name)) items.push_back({{spec.name}, spec.elements()});
  }
  // A head that is tied, and that the file has all the same, is copied.
  const std::string& head = plan.model.tied_head();
  if (!head.empty() && source.checkpoint().contains(head)) add({head, source.checkpoint().info(head).shape});
  return items;
}

// Those of this rank: consecutive ones, because they lie in the same files, and about as many bytes as others have.
std::vector<StoredTensor> share_of(const std::vector<Item>& items, const HostCommunicator& world) {
  std::int64_t total = 0;
  for (const Item& item : items) total += item.elements;
  std::vector<StoredTensor> mine;
  std::int64_t before = 0;
  for (const Item& item : items) {
    const double middle = static_cast<double>(before) + static_cast<double>(item.elements) / 2;
    before += item.elements;
    if (static_cast<int>(middle / static_cast<double>(total) * world.size()) == world.rank()) {
      mine.push_back(item.stored);
    }
  }
  return mine;
}

// The digests of the model that shared boundaries were made from; empty: this run's own boundaries.
std::string shared_tensors(const BoundaryPlace& place) { return place.shared ? place.folder + "/tensors.json" : ""; }

TensorRecord::Digests read_digests(const std::string& path) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) return {};
  try {
    return load_json(path).get<TensorRecord::Digests>();
  } catch (const nlohmann::json::exception&) {
    throw bad_input(path, "is damaged", "remove the folder that it is in");
  }
}

// Of the tensors that were read since the last call, those with very large weights are shown to the formats.
// Collective.
void check_scales(RunContext& context) {
  HostCommunicator& world = context.ranks.world;
  std::set<std::string> large;
  for (const std::string& text : all_gather_text(world, nlohmann::json(context.tensors->take_large()).dump())) {
    large.merge(nlohmann::json::parse(text).get<std::set<std::string>>());
  }
  if (large.empty()) return;
  const CheckpointSource source(context.config.model.path);
  const ScaleCheck check = scale_check(context.config, context.plan);
  run_on_all(world, [&] {
    int index = 0;
    for (const ParameterSpec& weight : check.weights()) {
      if (!large.contains(stored_name(source.checkpoint(), weight.tensor()))) continue;
      if (index++ % world.size() == world.rank()) check(weight.name, source.read(weight));
    }
  });
}

}  // namespace

void recall_tensors(RunContext& context) {
  context.tensors->add(run_on_root(context.ranks.world, [&] {
    TensorRecord::Digests known;
    for_each_record<record::Tensors>(context.state->journal().records(), [&](const record::Tensors& tensors) {
      known.insert(tensors.digests.begin(), tensors.digests.end());
    });
    const TensorRecord::Digests own = known;
    record::Tensors from_others;
    const std::string path = shared_tensors(context.boundaries);
    for (const auto& [name, digest] : read_digests(path)) {
      if (known.emplace(name, digest).first->second != digest) {
        throw bad_input(path, fmt::format("its boundaries were made from another model: tensor '{}' differs", name),
                        "choose another calibration.cache, or remove this folder");
      }
      if (!own.contains(name)) from_others.digests[name] = digest;
    }
    if (!from_others.digests.empty()) context.state->journal().append(from_others);
    return known;
  }));
}

void record_tensors(RunContext& context) {
  check_scales(context);
  TensorRecord::Digests found;
  for (const std::string& text :
       all_gather_text(context.ranks.world, nlohmann::json(context.tensors->take_new()).dump())) {
    found.merge(nlohmann::json::parse(text).get<TensorRecord::Digests>());
  }
  if (found.empty()) return;
  context.tensors->add(found);
  run_on_root(context.ranks.world, [&] {
    context.state->journal().append(record::Tensors{found});
    const std::string path = shared_tensors(context.boundaries);
    if (path.empty() || !std::filesystem::is_directory(context.boundaries.folder)) return;
    TensorRecord::Digests all = read_digests(path);
    all.merge(found);
    save_json(path, all);
  });
}

void check_rest_of_model(RunContext& context) {
  HostCommunicator& world = context.ranks.world;
  const CheckpointSource source(context.config.model.path, context.tensors);
  const std::vector<Item> items = unknown_tensors(context.plan, source, *context.tensors);
  if (items.empty()) return;
  const std::vector<StoredTensor> mine = share_of(items, world);
  context.progress.begin_phase("check", std::ssize(mine), "tensors");
  run_on_all(world, [&] {
    for (const StoredTensor& stored : mine) {
      leave_here_if_asked();
      source.check(stored);
      context.progress.advance(1);
    }
  });
  record_tensors(context);
  context.progress.end_phase();
}

}  // namespace roundtable
