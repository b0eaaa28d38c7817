// What flows from part to part: the carried tensors of `boundary`.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/text.h"
#include "graph/format/checks.h"

namespace roundtable {
namespace {

std::vector<std::string> carried_in(const GraphPart& part) {
  std::vector<std::string> names;
  for (const GraphInput& input : part.inputs) {
    if (input.kind == InputKind::kCarried) names.push_back(input.name);
  }
  return names;
}

std::vector<std::string> carried_out(const GraphPart& part) {
  std::vector<std::string> names;
  for (const GraphOutput& output : part.outputs) {
    if (output.kind == OutputKind::kCarried) names.push_back(output.name);
  }
  return names;
}

// A block names in `takes` all that its kind takes, and in `gives` what later blocks need of what its kind gives.
void check_maps(const GraphBlock& block, const GraphPart& kind, const std::string& place) {
  const std::vector<std::string> taken = carried_in(kind), given = carried_out(kind);
  for (const std::string& name : taken) {
    if (!block.takes.contains(name))
      refuse_graph(place, fmt::format("takes says nothing of the kind's {}", shown(name)));
  }
  if (block.takes.size() != taken.size()) refuse_graph(place, "takes names what its kind does not have");
  for (const auto& [name, flowing] : block.gives) {
    if (std::find(given.begin(), given.end(), name) != given.end()) continue;
    refuse_graph(place, fmt::format("gives names {}, which its kind does not have", shown(name)));
  }
}

class Flow {
 public:
  explicit Flow(const GraphManifest& manifest) : manifest_(manifest) {}

  void give(const std::string& name, const std::string& place) {
    if (name == "hidden" || !manifest_.boundary.contains(name)) {
      refuse_graph(place, fmt::format("it gives {}, which is no carried tensor of boundary", shown(name)));
    }
    if (!given_.insert(name).second) refuse_graph(place, fmt::format("{} is given a second time", shown(name)));
  }
  void take(const std::string& name, const std::string& place) const {
    if (!given_.contains(name))
      refuse_graph(place, fmt::format("it takes {}, which nothing before it gives", shown(name)));
  }
  void check_all_given() const {
    for (const auto& [name, spec] : manifest_.boundary) {
      if (name == "hidden" || given_.contains(name)) continue;
      refuse_graph(fmt::format("{}: boundary", manifest_.path), fmt::format("nothing gives {}", shown(name)));
    }
  }

 private:
  const GraphManifest& manifest_;
  std::set<std::string> given_;
};

}  // namespace

void check_flow(const GraphManifest& manifest) {
  Flow flow(manifest);
  for (const std::string& name : carried_out(manifest.embed)) flow.give(name, manifest.embed.place);
  std::vector<bool> used(manifest.kinds.size());
  for (std::size_t i = 0; i < manifest.blocks.size(); ++i) {
    const GraphBlock& block = manifest.blocks[i];
    const std::string place = fmt::format("{}: blocks[{}]", manifest.path, i);
    if (block.kind >= manifest.kinds.size()) refuse_graph(place, fmt::format("there is no kind {}", block.kind));
    used[block.kind] = true;
    const GraphPart& kind = manifest.kinds[block.kind];
    check_maps(block, kind, place);
    for (const auto& [name, flowing] : block.takes) flow.take(flowing, place);
    for (const auto& [name, flowing] : block.gives) flow.give(flowing, place);
  }
  flow.check_all_given();
  for (std::size_t kind = 0; kind < used.size(); ++kind) {
    if (!used[kind]) refuse_graph(manifest.kinds[kind].place, "no block is of this kind");
  }
}

}  // namespace roundtable
