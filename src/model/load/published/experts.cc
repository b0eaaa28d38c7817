// The names of both forms.
#include "model/load/published/experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

namespace roundtable {
namespace {

struct Names {
  std::string_view gate, up, down;
};
constexpr Names kNames[] = {{"gate_proj", "up_proj", "down_proj"}, {"w1", "w3", "w2"}};
constexpr std::string_view kGateUp = "gate_up_proj", kDown = "down_proj";

// "mlp.experts.gate_up_proj" -> "mlp.experts." and "gate_up_proj"
std::pair<std::string_view, std::string_view> split_at_last_dot(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {{}, name};
  return {name.substr(0, dot + 1), name.substr(dot + 1)};
}

// One expert's matrices for a part of the tensor of all experts.
std::vector<std::vector<MatrixSlice>> as_singles(const ParameterSpec& spec) {
  const auto [prefix, last] = split_at_last_dot(spec.stack->name);
  const std::int64_t out = spec.shape[0], in = spec.shape[1];
  const auto single = [&, before = prefix](std::string_view layer, std::int64_t rows) {
    PublishedMatrix place{fmt::format("{}{}.{}.weight", before, spec.stack->index, layer)};
    place.out = rows;
    place.in = in;
    return MatrixSlice{place, 0, rows};
  };
  std::vector<std::vector<MatrixSlice>> forms;
  for (const Names& names : kNames) {
    if (last == kGateUp && out % 2 == 0) forms.push_back({single(names.gate, out / 2), single(names.up, out / 2)});
    if (last == kDown) forms.push_back({single(names.down, out)});
  }
  return forms;
}

// A part of the tensor of all experts for one expert's matrix.
std::vector<std::vector<MatrixSlice>> as_part(const Checkpoint& checkpoint, const ParameterSpec& spec) {
  const auto [layer, last] = split_at_last_dot(std::string_view(spec.name).substr(0, layer_of(spec.name).size()));
  if (layer.empty() || !spec.name.ends_with(".weight")) return {};
  const auto [prefix, number] = split_at_last_dot(layer.substr(0, layer.size() - 1));
  std::int64_t index = 0;
  const auto parsed = std::from_chars(number.data(), number.data() + number.size(), index);
  if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size() || index < 0) return {};
  for (const Names& names : kNames) {
    const bool gate = last == names.gate, up = last == names.up;
    if (!gate && !up && last != names.down) continue;
    PublishedMatrix place{std::string(prefix) + std::string(gate || up ? kGateUp : kDown)};
    const auto stored = find_stored(checkpoint, place.name);
    if (!stored) return {};
    const std::vector<std::int64_t>& shape = checkpoint.info(*stored).shape;
    if (shape.size() != 3 || index >= shape[0]) return {};
    place.part = index;
    place.experts = shape[0];
    place.out = gate || up ? 2 * spec.shape[0] : spec.shape[0];
    place.in = spec.shape[1];
    place.transposed = shape[1] != place.out && shape[1] == place.in;
    return {{{place, up ? spec.shape[0] : 0, spec.shape[0]}}};
  }
  return {};
}

}  // namespace

std::vector<std::vector<MatrixSlice>> other_forms(const Checkpoint& checkpoint, const ParameterSpec& spec) {
  if (spec.shape.size() != 2) return {};
  return spec.stack ? as_singles(spec) : as_part(checkpoint, spec);
}

}  // namespace roundtable
