// From names in a graph to tensors and files.
#include "phases/boundary/boundary_states.h"

#include <torch/types.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

constexpr const char* kHidden = "hidden";

std::vector<std::string> names_of(const Model& model, std::int64_t block) {
  std::vector<std::string> names = {kHidden};
  const std::vector<std::string>& carried = model.carried_into(block);
  names.insert(names.end(), carried.begin(), carried.end());
  return names;
}

torch::Tensor& tensor_of(States& states, const std::string& name) {
  return name == kHidden ? states.hidden : states.side.carried[name];
}

}  // namespace

BoundaryShape boundary_shape(const Model& model, std::int64_t n_samples, std::int64_t block) {
  BoundaryShape shape;
  shape.n_samples = n_samples;
  for (const std::string& name : names_of(model, block)) {
    const GraphTensorSpec& spec = model.graphs().boundary.at(name);
    shape.tensors.push_back({name, spec.shape, element_type_of(spec.dtype)});
  }
  return shape;
}

States empty_states(const Model& model, std::int64_t block, std::int64_t samples) {
  States states;
  for (const std::string& name : names_of(model, block)) {
    const GraphTensorSpec& spec = model.graphs().boundary.at(name);
    std::vector<std::int64_t> shape{samples};
    shape.insert(shape.end(), spec.shape.begin(), spec.shape.end());
    tensor_of(states, name) = torch::empty(shape, spec.dtype);
  }
  return states;
}

std::vector<void*> pointers_of(const Model& model, std::int64_t block, States& states) {
  std::vector<void*> pointers;
  for (const std::string& name : names_of(model, block)) {
    const torch::Tensor& tensor = tensor_of(states, name);
    RT_CHECK(tensor.defined() && tensor.is_cpu() && tensor.is_contiguous());
    pointers.push_back(tensor.data_ptr());
  }
  return pointers;
}

std::vector<const void*> const_pointers(const std::vector<void*>& pointers) {
  return {pointers.begin(), pointers.end()};
}

torch::Tensor token_rows(const TokenRows& tokens, const SampleRange& range) {
  const auto begin = tokens.ids.begin() + range.begin * tokens.seqlen;
  const std::vector<std::int64_t> ids(begin, begin + range.size() * tokens.seqlen);
  return torch::tensor(ids, torch::kInt64).view({range.size(), tokens.seqlen});
}

void add_tokens(const CalibrationSection& calibration, const Model& model, const SampleRange& range, States& states) {
  if (!model.takes_tokens()) return;
  const TokenRows tokens =
      load_tokens(calibration.tokens, calibration.n_samples, calibration.seqlen, model.vocab_size());
  states.side.tokens = token_rows(tokens, range);
}

void drop_unneeded(const Model& model, std::int64_t block, States& states) {
  const std::vector<std::string>& needed = model.carried_into(block);
  std::erase_if(states.side.carried, [&](const auto& named) {
    return std::find(needed.begin(), needed.end(), named.first) == needed.end();
  });
}

}  // namespace roundtable
