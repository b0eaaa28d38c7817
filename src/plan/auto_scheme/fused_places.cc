// Names of layers that engines fuse.
#include "plan/auto_scheme/fused_places.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace roundtable {
namespace {

// Layers below one module that vLLM and SGLang make one of: packed_modules_mapping of vLLM's models.
const std::vector<std::vector<std::string_view>>& fused_names() {
  static const std::vector<std::vector<std::string_view>> names = {{"q_proj", "k_proj", "v_proj"},
                                                                   {"gate_proj", "up_proj"},
                                                                   {"w1", "w3"},
                                                                   {"q_a_proj", "kv_a_proj_with_mqa"},
                                                                   {"in_proj_qkv", "in_proj_z"}};
  return names;
}

}  // namespace

std::vector<std::vector<std::size_t>> fused_places(const std::vector<LinearSpec>& linears) {
  std::map<std::pair<std::string, std::size_t>, std::vector<std::size_t>> found;  // by module and list of names
  std::vector<std::size_t> experts;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const std::string& name = linears[i].name;
    if (linears[i].expert >= 0) {
      experts.push_back(i);
      continue;
    }
    const std::size_t dot = name.rfind('.') + 1;
    for (std::size_t list = 0; list < fused_names().size(); ++list) {
      for (const std::string_view part : fused_names()[list]) {
        if (name.substr(dot) == part) found[{name.substr(0, dot), list}].push_back(i);
      }
    }
  }
  std::vector<std::vector<std::size_t>> fused;
  for (auto& [key, places] : found) fused.push_back(std::move(places));
  // Expert after expert, as the formats look at them.
  std::stable_sort(experts.begin(), experts.end(),
                   [&](std::size_t a, std::size_t b) { return linears[a].expert < linears[b].expert; });
  fused.push_back(experts);
  std::erase_if(fused, [](const auto& places) { return places.size() < 2; });
  return fused;
}

}  // namespace roundtable
