// The tensors of constants.safetensors.
#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <set>

#include "base/error.h"
#include "base/text.h"
#include "graph/format/limits.h"
#include "graph/format/read_manifest.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

torch::ScalarType dtype_of(const TensorInfo& info, const std::string& place) {
  if (info.type != ElementType::kF8E4M3 && info.type != ElementType::kF8E8M0) return scalar_type_of(info.type);
  throw bad_input(place, std::string(safetensors_dtype(info.type)) + " is no dtype that a graph may have",
                  kExportAgain);
}

}  // namespace

torch::Tensor read_graph_tensor(const SafetensorsFile& file, const TensorInfo& info, bool is_complex) {
  const std::string place = fmt::format("{}: {}", file.path(), shown(info.name));
  const torch::ScalarType dtype = dtype_of(info, place);
  const bool pairs = !info.shape.empty() && info.shape.back() == 2 && dtype == torch::kFloat32;
  if (is_complex && !pairs) throw bad_input(place, "must hold pairs of F32: it is complex", kExportAgain);
  if (info.shape.size() > kMaxDimensions) throw bad_input(place, "has too many dimensions", kExportAgain);
  torch::Tensor tensor = torch::empty(info.shape, dtype);
  file.read(info, tensor.data_ptr());
  return is_complex ? torch::view_as_complex(tensor) : tensor;
}

TensorsByName read_constants(const std::string& folder, const GraphManifest& manifest) {
  std::map<std::string, bool> wanted;  // name -> complex
  const auto want = [&](const GraphPart& part) {
    for (const GraphInput& input : part.inputs) {
      if (input.kind != InputKind::kConstant) continue;
      if (wanted.emplace(input.name, input.is_complex).first->second == input.is_complex) continue;
      throw bad_input(part.place, fmt::format("input {} is complex here and real elsewhere", shown(input.name)),
                      kExportAgain);
    }
  };
  want(manifest.embed);
  want(manifest.head);
  for (const GraphPart& kind : manifest.kinds) want(kind);
  TensorsByName constants;
  if (wanted.empty()) return constants;
  const SafetensorsFile file(folder + "/constants.safetensors");
  std::uint64_t bytes = 0;
  for (const auto& [name, info] : file.tensors()) {
    bytes += info.bytes;
    if (!wanted.contains(name)) {
      throw bad_input(fmt::format("{}: {}", file.path(), shown(name)), "no graph takes it", kExportAgain);
    }
  }
  if (bytes > kMaxConstantBytes) throw bad_input(file.path(), "holds more than 4 GiB", kExportAgain);
  for (const auto& [name, is_complex] : wanted) {
    const TensorInfo* info = file.find(name);
    if (info == nullptr) throw bad_input(file.path(), fmt::format("has no {}", shown(name)), kExportAgain);
    constants[name] = read_graph_tensor(file, *info, is_complex);
  }
  return constants;
}

}  // namespace roundtable
