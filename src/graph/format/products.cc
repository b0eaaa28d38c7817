// Products of a graph, found by the parameters that they take.
#include "graph/format/products.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text.h"

namespace roundtable {
namespace {

const Argument* argument(const GraphNode& node, std::size_t i) {
  return i < node.args.size() ? &node.args[i] : nullptr;
}

bool is_none(const Argument* arg) { return arg == nullptr || std::holds_alternative<Argument::None>(arg->is); }

bool is_one(const Argument* arg) {
  if (arg == nullptr) return true;
  const auto* whole = std::get_if<std::int64_t>(&arg->is);
  const auto* real = std::get_if<double>(&arg->is);
  return (whole != nullptr && *whole == 1) || (real != nullptr && *real == 1.0);
}

struct FormOfOperator {
  const char* op;
  ProductForm form;
  std::size_t weight, bias;  // places of arguments; bias 99: it has none
};
constexpr std::size_t kNoBias = 99;
constexpr FormOfOperator kForms[] = {{"aten::linear", ProductForm::kLinear, 1, 2},
                                     {"aten::addmm", ProductForm::kAddmm, 2, 0},
                                     {"aten::bmm", ProductForm::kBmm, 1, kNoBias},
                                     {"rt::expert_linear", ProductForm::kExperts, 1, 2}};

class Finder {
 public:
  explicit Finder(const GraphPart& part) : part_(part) {
    for (const GraphInput& input : part.inputs) {
      if (input.kind == InputKind::kParameter) parameter_of_[input.value] = input.name;
    }
    for (const DiskTensor& tensor : part.tensors) {
      entries_[tensor.param].push_back(&tensor);
      if (tensor.use == TensorUse::kLinear) linear_[tensor.param];
    }
  }

  std::map<std::size_t, Product> find() {
    for (std::size_t i = 0; i < part_.nodes.size(); ++i) look_at(i);
    for (const GraphOutput& output : part_.outputs) {
      if (const std::string* name = linear_parameter(output.value)) {
        refuse_graph(part_.place + ".outputs", fmt::format("the weight {} is an output", shown(*name)));
      }
    }
    check_role();
    return std::move(products_);
  }

 private:
  // The name behind a value, if it is a parameter with linear entries.
  const std::string* linear_parameter(std::int64_t value) const {
    const auto found = parameter_of_.find(value);
    return found != parameter_of_.end() && linear_.contains(found->second) ? &found->second : nullptr;
  }

  void look_at(std::size_t index) {
    const GraphNode& node = part_.nodes[index];
    for (std::size_t i = 0; i < node.args.size(); ++i) {
      node.args[i].for_each_value([&](std::int64_t value) {
        const std::string* name = linear_parameter(value);
        if (name == nullptr) return;
        const FormOfOperator* form = form_at(node, i);
        if (form == nullptr) {
          refuse_graph(part_.place_of(node),
                       fmt::format("it takes the weight {}, and only a product may", shown(*name)));
        }
        if (!linear_[*name].empty()) {
          refuse_graph(part_.place_of(node), fmt::format("a second product takes the weight {}", shown(*name)));
        }
        linear_[*name] = node.op;
        products_[index] = product(node, *form, *name);
      });
    }
  }

  static const FormOfOperator* form_at(const GraphNode& node, std::size_t argument) {
    const auto* found = std::find_if(std::begin(kForms), std::end(kForms), [&](const FormOfOperator& form) {
      return form.op == node.op && form.weight == argument;
    });
    return found == std::end(kForms) ? nullptr : found;
  }

  Product product(const GraphNode& node, const FormOfOperator& form, const std::string& name) {
    Product found;
    found.form = form.form;
    found.weight = name;
    found.in_out = form.form == ProductForm::kAddmm || form.form == ProductForm::kBmm || is_transposed(node, form);
    const Argument* bias = form.bias == kNoBias ? nullptr : argument(node, form.bias);
    if (!is_none(bias)) found.bias = bias_name(node, *bias);
    if (form.form == ProductForm::kAddmm && !(is_one(argument(node, 3)) && is_one(argument(node, 4)))) {
      refuse_graph(part_.place_of(node), "beta and alpha of a linear layer must be 1");
    }
    add_matrices(node, found);
    return found;
  }

  bool is_transposed(const GraphNode& node, const FormOfOperator& form) const {
    if (form.form != ProductForm::kExperts) return false;
    const Argument* arg = argument(node, 4);
    return arg != nullptr && std::get_if<bool>(&arg->is) != nullptr && std::get<bool>(arg->is);
  }

  std::string bias_name(const GraphNode& node, const Argument& bias) const {
    const auto found = parameter_of_.find(bias.value().value_or(-1));
    if (found == parameter_of_.end())
      refuse_graph(part_.place_of(node), "the bias of a linear layer must be a parameter");
    return found->second;
  }

  // The sizes [experts, out, in] of a weight, and the elements from one to the next.
  struct Weight {
    std::int64_t experts, out, in, expert_stride, out_stride, in_stride;
  };
  Weight weight_of(const GraphNode& node, const Product& product) const {
    const std::vector<std::int64_t>& shape = part_.parameters.at(product.weight).shape;
    const bool batched = product.form == ProductForm::kBmm || product.form == ProductForm::kExperts;
    if (shape.size() != (batched ? 3U : 2U)) {
      refuse_graph(part_.place_of(node),
                   fmt::format("the weight {} must have {} dimensions", shown(product.weight), batched ? 3 : 2));
    }
    const std::int64_t rows = shape[shape.size() - 2];
    const std::int64_t columns = shape.back();
    const std::int64_t experts = batched ? shape.front() : 1;
    if (experts == 0 || rows == 0 || columns == 0) {
      refuse_graph(part_.place_of(node), fmt::format("the weight {} is empty", shown(product.weight)));
    }
    return product.in_out ? Weight{experts, columns, rows, rows * columns, 1, columns}
                          : Weight{experts, rows, columns, rows * columns, columns, 1};
  }

  void add_matrices(const GraphNode& node, Product& product) const {
    const Weight weight = weight_of(node, product);
    if (!product.bias.empty()) {
      const bool batched = product.form == ProductForm::kExperts;
      const std::vector<std::int64_t> wanted =
          batched ? std::vector{weight.experts, weight.out} : std::vector{weight.out};
      if (part_.parameters.at(product.bias).shape != wanted) {
        refuse_graph(part_.place_of(node),
                     fmt::format("the bias {} must be [{}]", shown(product.bias), fmt::join(wanted, ", ")));
      }
    }
    for (const DiskTensor* entry : entries_.at(product.weight)) add_entry(node, *entry, weight, product);
    std::stable_sort(product.matrices.begin(), product.matrices.end(),
                     [](const MatrixPlace& a, const MatrixPlace& b) { return a.expert < b.expert; });
  }

  // The entry's [out, in], or one for each expert: whole rows of the weight, evenly spaced.
  void add_entry(const GraphNode& node, const DiskTensor& entry, const Weight& weight, Product& product) const {
    const std::size_t dims = entry.shape.size();
    if (dims < 2 || dims > 3) refuse_entry(node, entry);
    const std::size_t out = entry.in_out ? dims - 1 : dims - 2;
    const std::size_t in = entry.in_out ? dims - 2 : dims - 1;
    const std::int64_t experts = dims == 3 ? entry.shape[0] : 1;
    const std::int64_t row = entry.offset % weight.expert_stride;
    const bool whole_rows = entry.shape[in] == weight.in && (weight.in == 1 || entry.stride[in] == weight.in_stride) &&
                            row % weight.out_stride == 0 && row / weight.out_stride < weight.out &&
                            (entry.shape[out] == 1 || entry.stride[out] % weight.out_stride == 0);
    if (!whole_rows || (experts > 1 && entry.stride[0] != weight.expert_stride)) refuse_entry(node, entry);
    for (std::int64_t i = 0; i < experts; ++i) {
      MatrixPlace matrix;
      matrix.use = entry.use;
      matrix.expert = entry.offset / weight.expert_stride + i;
      matrix.first = row / weight.out_stride;
      matrix.rows = entry.shape[out];
      matrix.step = matrix.rows == 1 ? 1 : entry.stride[out] / weight.out_stride;
      matrix.name = matrix_name(entry.disk, dims == 3 ? std::optional(i) : std::nullopt);
      product.matrices.push_back(std::move(matrix));
    }
  }

  [[noreturn]] void refuse_entry(const GraphNode& node, const DiskTensor& entry) const {
    refuse_graph(part_.place_of(node), fmt::format("{} is not made of whole rows of the weight {}, [out, in]",
                                                   shown(entry.disk), shown(entry.param)));
  }

  // Linear layers lie in blocks; besides these there is the output head.
  void check_role() const {
    if (part_.role == PartRole::kKind) return;
    const std::size_t most = part_.role == PartRole::kHead ? 1 : 0;
    const bool plain = std::all_of(products_.begin(), products_.end(), [](const auto& product) {
      return product.second.form == ProductForm::kLinear && product.second.matrices.size() == 1;
    });
    if (linear_.size() > most || !plain) {
      refuse_graph(part_.place, most == 1 ? "only the weight of the output head may be 'linear' here"
                                          : "no tensor may be 'linear' here");
    }
  }

  const GraphPart& part_;
  std::map<std::int64_t, std::string> parameter_of_;               // by value
  std::map<std::string, std::vector<const DiskTensor*>> entries_;  // by parameter
  std::map<std::string, std::string> linear_;                      // those with linear entries -> what took it
  std::map<std::size_t, Product> products_;
};

}  // namespace

std::string matrix_name(const std::string& disk, std::optional<std::int64_t> expert) {
  constexpr std::string_view kWeight = ".weight";
  std::string name = disk;
  if (name.ends_with(kWeight)) name.resize(name.size() - kWeight.size());
  if (!expert) return name;
  const std::size_t dot = name.rfind('.');
  return dot == std::string::npos ? fmt::format("{}.{}", *expert, name)
                                  : fmt::format("{}.{}{}", name.substr(0, dot), *expert, name.substr(dot));
}

std::map<std::size_t, Product> products_of(const GraphPart& part) { return Finder(part).find(); }

bool may_be_linear(const GraphPart& part, const DiskTensor& tensor) {
  GraphPart other = part;
  other.tensors[static_cast<std::size_t>(&tensor - part.tensors.data())].use = TensorUse::kLinear;
  try {
    products_of(other);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace roundtable
