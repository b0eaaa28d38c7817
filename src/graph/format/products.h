// Where the weights of linear layers meet their inputs, so that these products can be made by Linear::forward() and
// each gradient goes where the tuner wants it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/format/manifest.h"

namespace roundtable {

// Places in rt::dispatch(x, index, experts) -> (rows, ends, order) and in rt::expert_linear(rows, weight, bias, ends, ..).
constexpr std::size_t kIndexOfDispatch = 1, kExpertsOfDispatch = 2;  // arguments
constexpr std::size_t kEndsOfDispatch = 1;                           // a result
constexpr std::size_t kRowsOfExpertLinear = 0, kEndsOfExpertLinear = 3;

enum class ProductForm {
  kLinear,   // aten::linear(x, weight [out, in], bias)
  kAddmm,    // aten::addmm(bias, x, weight [in, out])
  kBmm,      // aten::bmm(x [experts, rows, in], weight [experts, in, out])
  kExperts,  // rt::expert_linear(rows, weight [experts, out, in] or transposed, bias, ends, transposed)
};

// One disk tensor, or one expert's part of it, as rows of a weight [out, in].
struct MatrixPlace {
  std::string name;  // "mlp.experts.3.up_proj"
  TensorUse use = TensorUse::kLinear;
  std::int64_t expert = 0;  // which [out, in] of a weight of three dimensions
  std::int64_t first = 0;   // its rows: first, first + step, ..., so many of them
  std::int64_t step = 1;
  std::int64_t rows = 0;
};

// "mlp.up_proj" of "mlp.up_proj.weight"; "mlp.experts.3.down_proj" of the fourth expert of "mlp.experts.down_proj".
std::string matrix_name(const std::string& disk, std::optional<std::int64_t> expert);

// A node that multiplies by a parameter that has `linear` entries.
struct Product {
  ProductForm form = ProductForm::kLinear;
  std::string weight;  // parameters
  std::string bias;    // empty: none
  bool in_out = false;
  std::vector<MatrixPlace> matrices;  // all that make up the weight, expert after expert, in the order of the table

  std::size_t x_argument() const { return form == ProductForm::kAddmm ? 1 : 0; }
};

// By the index of the node in part.nodes. Throws bad input where a parameter with linear entries is used in another way
// than FORMAT.md says.
std::map<std::size_t, Product> products_of(const GraphPart& part);

// Whether products_of() would take `tensor`, an entry of the part's table, if it were `linear`.
bool may_be_linear(const GraphPart& part, const DiskTensor& tensor);

}  // namespace roundtable
