// Reading and describing a layer's tensors.
#include "export/layer_tensors.h"

#include <fmt/ranges.h>
#include <torch/types.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "model/load/tensor_span.h"

namespace roundtable {

TensorView NamedTensor::view() const {
  return {name, element_type_of(tensor.scalar_type()), tensor.sizes().vec(), tensor.const_data_ptr()};
}

std::uint64_t TensorSpec::bytes() const {
  std::uint64_t bytes = size_of(element_type_of(type));
  for (const std::int64_t dimension : shape) bytes *= static_cast<std::uint64_t>(dimension);
  return bytes;
}

torch::Tensor TensorReader::read_tensor(const TensorSpec& spec) const {
  const TensorInfo* info = find(spec.name);
  const std::string where = fmt::format("{}: tensor '{}'", place, spec.name);
  if (info == nullptr) throw bad_input(where, "is missing");
  if (info->type != element_type_of(spec.type) || info->shape != spec.shape) {
    throw bad_input(where, fmt::format("has shape [{}] of {}; quantization_config and config.json call for [{}] of {}",
                                       fmt::join(info->shape, ", "), safetensors_dtype(info->type),
                                       fmt::join(spec.shape, ", "), safetensors_dtype(element_type_of(spec.type))));
  }
  torch::Tensor tensor = torch::empty(spec.shape, spec.type);
  read(*info, tensor.data_ptr());
  return tensor;
}

TensorReader reader_of(const SafetensorsFile& file) {
  return {[&file](const std::string& name) { return file.find(name); },
          [&file](const TensorInfo& info, void* data) { file.read(info, data); }, file.path()};
}

TensorReader reader_of(const Checkpoint& checkpoint, const std::string& named) {
  return {
      [&checkpoint](const std::string& name) { return checkpoint.contains(name) ? &checkpoint.info(name) : nullptr; },
      [&checkpoint](const TensorInfo& info, void* data) { checkpoint.read(info.name, data); },
      checkpoint.contains(named) ? checkpoint.file_of(named) : "config.json"};
}

TensorReader reader_of(const std::vector<NamedTensor>& tensors, const std::string& place) {
  auto infos = std::make_shared<std::vector<TensorInfo>>();  // in the order of the tensors
  for (const NamedTensor& named : tensors) {
    const TensorView view = named.view();
    infos->push_back({view.name, view.type, view.shape, 0, named.tensor.nbytes()});
  }
  return {[infos](const std::string& name) {
            const auto found = std::ranges::find(*infos, name, &TensorInfo::name);
            return found == infos->end() ? nullptr : &*found;
          },
          [&tensors, infos](const TensorInfo& info, void* data) {
            const auto place = static_cast<std::size_t>(&info - infos->data());
            std::memcpy(data, tensors[place].tensor.const_data_ptr(), info.bytes);
          },
          place};
}

}  // namespace roundtable
