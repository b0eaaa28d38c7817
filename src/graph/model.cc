// Tables from the graphs.
#include "graph/model.h"

#include <torch/types.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "graph/format/products.h"

namespace roundtable {
namespace {

constexpr std::string_view kWeight = ".weight";

std::string layer_name(const std::string& tensor) {
  return tensor.ends_with(kWeight) ? tensor.substr(0, tensor.size() - kWeight.size()) : tensor;
}

std::vector<std::int64_t> without_first(const std::vector<std::int64_t>& list) { return {list.begin() + 1, list.end()}; }

// One [out, in] of a tensor on disk: the whole, or expert `index` of a stack.
PlacedTensor matrix_of(const DiskTensor& tensor, std::int64_t index) {
  const bool stacked = tensor.shape.size() == 3;
  PlacedTensor placed;
  placed.param = tensor.param;
  placed.offset = tensor.offset + (stacked ? index * tensor.stride.front() : 0);
  placed.stride = stacked ? without_first(tensor.stride) : tensor.stride;
  placed.spec.shape = stacked ? without_first(tensor.shape) : tensor.shape;
  placed.spec.transposed = tensor.in_out;
  if (tensor.in_out) {
    std::reverse(placed.stride.begin(), placed.stride.end());
    std::reverse(placed.spec.shape.begin(), placed.spec.shape.end());
  }
  if (stacked) placed.spec.stack = StackPlace{tensor.disk, index, tensor.shape.front()};
  return placed;
}

PlacedTensor whole_of(const DiskTensor& tensor) {
  return {{tensor.disk, tensor.shape}, tensor.param, tensor.offset, tensor.stride};
}

LinearSpec linear_of(const ParameterSpec& weight, std::int64_t expert) {
  return {layer_name(weight.name), weight.shape[0], weight.shape[1], weight.transposed, expert, weight.stack};
}

bool is_linear(const DiskTensor& tensor) {
  return tensor.use == TensorUse::kLinear || tensor.use == TensorUse::kRouter || tensor.use == TensorUse::kKept;
}

// The matrices of a part by the names that products have for them.
std::map<std::string, PlacedTensor> matrices_by_name(const GraphPart& part) {
  std::map<std::string, PlacedTensor> found;
  for (const DiskTensor& tensor : part.tensors) {
    if (tensor.use != TensorUse::kLinear) continue;
    const bool stacked = tensor.shape.size() == 3;
    for (std::int64_t i = 0; i < (stacked ? tensor.shape.front() : 1); ++i) {
      const std::string name = matrix_name(tensor.disk, stacked ? std::optional(i) : std::nullopt);
      PlacedTensor& matrix = found[name] = matrix_of(tensor, i);
      matrix.spec.name = name + std::string(kWeight);
      if (!stacked) matrix.spec.name = tensor.disk;
    }
  }
  return found;
}

// Whether the columns of a product are taken by turns, as gpt_oss does with gate and up (transformers 5.23,
// modeling_gpt_oss.py: gate_up[..., ::2], gate_up[..., 1::2]).
bool is_taken_by_turns(const GraphPart& part, std::size_t product) {
  const auto& out = part.nodes[product].out;
  return std::any_of(part.nodes.begin(), part.nodes.end(), [&](const GraphNode& node) {
    if (node.op != "aten::slice.Tensor" || node.args.size() < 5 || out.empty() || !out.front()) return false;
    const auto* step = std::get_if<std::int64_t>(&node.args[4].is);
    return node.args[0].value() == out.front() && step != nullptr && *step == 2;
  });
}

// KindTable::undivided of `experts` experts.
std::string obstacle_to_dividing(const GraphPart& part, const std::map<std::size_t, Product>& products,
                                 std::int64_t experts) {
  constexpr const char* kNeverQuantized = "have a weight that is never quantized";
  std::set<std::int64_t> dispatched;  // ends
  for (const GraphNode& node : part.nodes) {
    if (node.op == "rt::dispatch") dispatched.insert(node.out.at(1).value_or(-1));
  }
  for (std::size_t node = 0; node < part.nodes.size(); ++node) {
    const auto product = products.find(node);
    if (product == products.end()) {
      if (part.nodes[node].op == "rt::expert_linear") return kNeverQuantized;
      continue;
    }
    if (product->second.form == ProductForm::kBmm) return "are multiplied in one product (aten::bmm)";
    if (product->second.form != ProductForm::kExperts) continue;
    if (!dispatched.contains(part.nodes[node].args.at(3).value().value_or(-1))) return "are chosen without rt::dispatch";
    const std::vector<MatrixPlace>& matrices = product->second.matrices;
    const bool linear = std::all_of(matrices.begin(), matrices.end(),
                                    [](const MatrixPlace& matrix) { return matrix.use == TensorUse::kLinear; });
    if (!linear) return kNeverQuantized;
    if (matrices.back().expert + 1 != experts) return "are of two kinds, of different numbers";
  }
  return "";
}

KindTable table_of(const GraphPart& part) {
  KindTable table;
  const std::map<std::string, PlacedTensor> matrices = matrices_by_name(part);
  const std::map<std::size_t, Product> products = products_of(part);
  const bool by_turns = std::any_of(products.begin(), products.end(), [&](const auto& product) {
    return product.second.form == ProductForm::kExperts && is_taken_by_turns(part, product.first);
  });
  for (const auto& [node, product] : products) {
    const bool batched = product.form == ProductForm::kExperts || product.form == ProductForm::kBmm;
    for (const MatrixPlace& place : product.matrices) {
      if (place.use != TensorUse::kLinear) continue;
      PlacedTensor matrix = matrices.at(place.name);
      if (matrix.spec.stack) matrix.spec.stack->by_turns = by_turns;
      table.linears.push_back(linear_of(matrix.spec, batched ? place.expert : -1));
      table.linears.back().name = place.name;
      table.experts = std::max(table.experts, table.linears.back().expert + 1);
      table.placed.push_back(std::move(matrix));
    }
  }
  if (table.experts > 0) table.undivided = obstacle_to_dividing(part, products, table.experts);
  for (const DiskTensor& tensor : part.tensors) {
    if (tensor.use == TensorUse::kLinear) continue;
    table.others.push_back({tensor.disk, tensor.shape});
    table.placed.push_back(whole_of(tensor));
    if (is_linear(tensor) && tensor.shape.size() == 2) {
      table.fixed.push_back(linear_of(matrix_of(tensor, 0).spec, -1));
      table.fixed.back().name = layer_name(tensor.disk);
      if (tensor.use == TensorUse::kKept && !tensor.in_out && may_be_linear(part, tensor)) {
        table.by_rule.insert(table.fixed.back().name);
      }
    }
  }
  return table;
}

// The tensor on disk that is the weight of the head, if that is a plain linear layer.
const DiskTensor* head_weight(const GraphPart& head) {
  for (const auto& [node, product] : products_of(head)) {
    for (const DiskTensor& tensor : head.tensors) {
      if (tensor.param == product.weight) return &tensor;
    }
  }
  return nullptr;
}

std::vector<std::vector<std::string>> carried_by_block(const GraphManifest& manifest) {
  const std::size_t blocks = manifest.blocks.size();
  std::vector<std::set<std::string>> carried(blocks + 1);
  std::set<std::string> wanted;
  for (std::size_t block = blocks; block-- > 0;) {
    for (const auto& [own, name] : manifest.blocks[block].gives) wanted.erase(name);
    for (const auto& [own, name] : manifest.blocks[block].takes) wanted.insert(name);
    carried[block] = wanted;
  }
  std::vector<std::vector<std::string>> lists;
  for (const auto& names : carried) lists.emplace_back(names.begin(), names.end());
  return lists;
}

}  // namespace

std::shared_ptr<Model::Data> Model::describe(GraphManifest manifest, TensorsByName constants, nlohmann::json config) {
  auto data = std::make_shared<Data>();
  for (const GraphPart& kind : manifest.kinds) data->tables.push_back(table_of(kind));
  data->carried = carried_by_block(manifest);
  std::set<std::string> seen;
  std::set<std::string> embedded;
  for (const GraphPart* part : {&manifest.embed, &manifest.head}) {
    for (const DiskTensor& tensor : part->tensors) {
      if (part == &manifest.embed) embedded.insert(tensor.disk);
      if (tensor.use == TensorUse::kEmbedding && data->embedding.empty()) data->embedding = tensor.disk;
      if (seen.insert(tensor.disk).second) data->outside.push_back({tensor.disk, tensor.shape});
    }
  }
  const DiskTensor* head = head_weight(manifest.head);
  if (head != nullptr && !embedded.contains(head->disk)) {
    data->head = linear_of(matrix_of(*head, 0).spec, -1);
    data->head->name = layer_name(head->disk);
  }
  if (head != nullptr && !data->head) data->tied_head = manifest.head_name;
  for (const GraphPart* part : {&manifest.embed, &manifest.head}) {
    for (const DiskTensor& tensor : part->tensors) {
      if (is_linear(tensor) && &tensor != head) data->outside_linears.push_back(layer_name(tensor.disk));
    }
  }
  data->untouched.insert(manifest.untouched.begin(), manifest.untouched.end());
  for (const std::string& pattern : manifest.ignored) {
    data->ignored.emplace_back(pattern, manifest.path + ": ignored");
  }
  data->manifest = std::move(manifest);
  data->constants = std::move(constants);
  data->config = std::move(config);
  return data;
}

Model::Model(GraphManifest manifest, TensorsByName constants, nlohmann::json config, std::string digest) {
  const std::shared_ptr<Data> data = describe(std::move(manifest), std::move(constants), std::move(config));
  data->digest = std::move(digest);
  data_ = data;
}

std::string Model::block_name(std::int64_t block) const {
  const std::string& prefix = block_prefix(block);
  return prefix.ends_with('.') ? prefix.substr(0, prefix.size() - 1) : prefix;
}

bool Model::takes_tokens() const {
  const auto takes = [](const GraphPart& kind) {
    return std::any_of(kind.inputs.begin(), kind.inputs.end(),
                       [](const GraphInput& input) { return input.kind == InputKind::kTokens; });
  };
  return std::any_of(graphs().kinds.begin(), graphs().kinds.end(), takes);
}

const std::vector<std::string>& Model::carried_into(std::int64_t block) const {
  return data_->carried[static_cast<std::size_t>(block)];
}

std::string Model::head_layer() const { return head() ? head()->name : layer_name(tied_head()); }

bool Model::is_carried_over(const std::string& name) const {
  return data_->untouched.contains(name) ||
         std::any_of(data_->ignored.begin(), data_->ignored.end(), [&](const Pattern& p) { return p.is_in(name); });
}

std::int64_t Model::head_elements() const {
  const DiskTensor* weight = head_weight(graphs().head);
  return weight == nullptr ? 0 : ParameterSpec{weight->disk, weight->shape}.elements();
}

const nlohmann::json& Model::text_config() const {
  const nlohmann::json* part = &config();
  std::istringstream path(graphs().text_config);
  for (std::string key; std::getline(path, key, '.');) {
    const auto inner = part->find(key);
    if (inner == part->end() || !inner->is_object()) break;
    part = &*inner;
  }
  return *part;
}

Model Model::with_stored_head() const {
  RT_CHECK(!tied_head().empty());
  GraphManifest manifest = graphs();
  const DiskTensor* tied = head_weight(manifest.head);
  for (DiskTensor& tensor : manifest.head.tensors) {
    if (tensor.param == tied->param && tensor.disk == tied->disk) {
      tensor.disk = tied_head();
      break;
    }
  }
  Model model;
  const std::shared_ptr<Data> data = describe(std::move(manifest), constants(), config());
  data->stored_head = true;
  data->digest = digest() + ", stored head";
  model.data_ = data;
  return model;
}

Model Model::with_linears(const std::function<bool(const LinearSpec& linear)>& is_wanted) const {
  std::vector<std::set<std::string>> layers(kinds());
  for (std::int64_t block = 0; block < n_blocks(); ++block) {
    for (const LinearSpec& linear : table(block).fixed) {
      const bool possible = table(block).by_rule.contains(linear.name);
      if (possible && is_wanted(linear.below(block_prefix(block)))) layers[kind_of(block)].insert(linear.name);
    }
  }
  if (std::all_of(layers.begin(), layers.end(), [](const auto& names) { return names.empty(); })) return *this;
  GraphManifest manifest = graphs();
  for (std::size_t i = 0; i < manifest.kinds.size(); ++i) {
    for (DiskTensor& tensor : manifest.kinds[i].tensors) {
      if (layers[i].contains(layer_name(tensor.disk))) tensor.use = TensorUse::kLinear;
    }
  }
  Model model;
  const std::shared_ptr<Data> data = describe(std::move(manifest), constants(), config());
  data->stored_head = stored_head();
  data->digest = digest();
  model.data_ = data;
  return model;
}

}  // namespace roundtable
