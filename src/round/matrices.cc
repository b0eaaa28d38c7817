// One kind of tensor after the other.
#include "round/matrices.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "export/expert_layers.h"
#include "graph/format/products.h"
#include "model/load/tensor_source.h"
#include "round/names.h"

namespace roundtable {
namespace {

bool ends_with(const std::string& name, std::string_view ending, std::string& before) {
  if (!name.ends_with(ending)) return false;
  before = name.substr(0, name.size() - ending.size());
  return true;
}

class Finder {
 public:
  Finder(const Checkpoint& checkpoint, const std::string& model_type)
      : checkpoint_(checkpoint), model_type_(model_type) {}

  std::vector<StoredMatrix> find() {
    for (const std::string& name : checkpoint_.names()) {
      if (is_activation_scale(name)) continue;
      const TensorInfo& info = checkpoint_.info(name);
      if (info.shape.size() == 2) add_matrix(name, info);
      if (info.shape.size() == 3) add_stack(name, info);
      if (info.shape.size() == 4) add_mxfp4(name, info);
    }
    return std::move(found_);
  }

 private:
  bool has(const std::string& name) const { return checkpoint_.contains(name); }

  // Whether it is known how engines name the experts of this stack.
  static bool has_names(const std::string& stack) {
    LinearSpec expert;
    expert.stack = StackPlace{stack};
    return has_known_parts(expert);
  }

  void add_matrix(const std::string& name, const TensorInfo& info) {
    std::string layer;
    const std::int64_t rows = info.shape[0], columns = info.shape[1];
    if (ends_with(name, ".weight_packed", layer) && info.type == ElementType::kI32) return add_packed_int(layer);
    if (!ends_with(name, ".weight", layer)) return;
    if (is_weight_type(info.type)) {
      if (is_conv1d() && place_of(name)) return add({layer, columns, rows, /*transposed=*/true}, false);
      return add({layer, rows, columns}, false);
    }
    if (info.type == ElementType::kF8E4M3) return add({layer, rows, columns}, true);
    const bool scaled = has(layer + ".weight_scale") || has(layer + ".scale") || has(layer + ".weight_scale_inv");
    const bool bytes = info.type == ElementType::kU8 || info.type == ElementType::kI8;
    if (bytes && scaled) add({layer, rows, 2 * columns}, true);  // two E2M1 in a byte
  }

  // How many columns the words hold is what the file says next to them.
  void add_packed_int(const std::string& layer) {
    const std::string name = layer + ".weight_shape";
    if (!has(name)) return;
    const TensorInfo& info = checkpoint_.info(name);
    if (info.element_count() != 2 || (info.type != ElementType::kI64 && info.type != ElementType::kI32)) return;
    std::int64_t wide[2] = {0, 0};
    std::int32_t narrow[2] = {0, 0};
    const bool is_wide = info.type == ElementType::kI64;
    checkpoint_.read(name, is_wide ? static_cast<void*>(wide) : narrow);
    const std::int64_t out = is_wide ? wide[0] : narrow[0], in = is_wide ? wide[1] : narrow[1];
    if (out < 1 || in < 1) throw bad_input(checkpoint_.place_of(name), "is not a layer's shape", "fetch the model again");
    add({layer, out, in}, true);
  }

  // gpt-oss: the parameter of these experts is [experts, in, out], gate and up by turns.
  void add_mxfp4(const std::string& name, const TensorInfo& info) {
    std::string stack;
    if (!ends_with(name, "_blocks", stack) || !has(stack + "_scales") || info.type != ElementType::kU8) return;
    if (!has_names(stack)) return;
    add_experts(stack, info.shape[0], {"", info.shape[1], info.shape[2] * info.shape[3] * 2, /*transposed=*/true}, true);
  }

  void add_stack(const std::string& name, const TensorInfo& info) {
    const bool published = info.type == ElementType::kF8E4M3;
    if (!published && !is_weight_type(info.type)) return;
    if (!has_names(name)) return;
    const std::optional<bool> in_out = is_in_out(name, info.shape);
    if (!in_out) return;
    const std::int64_t rows = info.shape[1], columns = info.shape[2];
    add_experts(name, info.shape[0],
                *in_out ? LinearSpec{"", columns, rows, /*transposed=*/true} : LinearSpec{"", rows, columns}, published);
  }

  // Of gate and up [2 inner, width] and down [width, inner], or both the other way round.
  std::optional<bool> is_in_out(const std::string& name, const std::vector<std::int64_t>& shape) const {
    constexpr std::pair<std::string_view, std::string_view> kPairs[] = {{"gate_up_proj", "down_proj"},
                                                                        {"input_linear.weight", "output_linear.weight"}};
    for (const auto& [first, second] : kPairs) {
      const bool is_first = name.ends_with(first);
      const std::string_view own = is_first ? first : second, other = is_first ? second : first;
      if (!name.ends_with(own)) continue;
      const std::string sibling = name.substr(0, name.size() - own.size()) + std::string(other);
      if (!has(sibling) || checkpoint_.info(sibling).shape.size() != 3) return std::nullopt;
      const std::vector<std::int64_t>& theirs = checkpoint_.info(sibling).shape;
      const std::vector<std::int64_t>& up = is_first ? shape : theirs;
      const std::vector<std::int64_t>& down = is_first ? theirs : shape;
      if (up[1] == 2 * down[2] && up[2] == down[1]) return false;
      if (up[2] == 2 * down[1] && up[1] == down[2]) return true;
    }
    return std::nullopt;
  }

  void add_experts(const std::string& stack, std::int64_t experts, LinearSpec linear, bool published) {
    for (std::int64_t expert = 0; expert < experts; ++expert) {
      linear.name = matrix_name(stack, expert);
      linear.stack = StackPlace{stack, expert, experts, model_type_ == "gpt_oss" && stack.ends_with("gate_up_proj")};
      linear.expert = expert;
      found_.push_back({linear, published});
    }
  }

  void add(LinearSpec linear, bool published) {
    linear.expert = expert_in(linear.name);
    found_.push_back({std::move(linear), published});
  }

  // transformers' pytorch_utils.Conv1D holds [in, out]; the blocks of these models are made of it.
  bool is_conv1d() const {
    return model_type_ == "gpt2" || model_type_ == "openai-gpt" || model_type_ == "imagegpt" ||
           model_type_ == "decision_transformer";
  }

  const Checkpoint& checkpoint_;
  std::string model_type_;
  std::vector<StoredMatrix> found_;
};

}  // namespace

std::vector<StoredMatrix> find_matrices(const Checkpoint& checkpoint, const std::string& model_type) {
  return Finder(checkpoint, model_type).find();
}

}  // namespace roundtable
