// RMSNorm, as transformers' models write it:
//
//   weight * to(x * rsqrt(mean(x^2, -1) + eps))      LlamaRMSNorm; x was made fp32 before, to() is the way back
//   to((x * rsqrt(mean(x^2, -1) + eps)) * (1 + w))   Gemma's and Qwen3-Next's; w was made fp32 too
//
// In an fp32 model the conversions are not there.
#include "graph/fuse/pattern.h"

namespace roundtable {
namespace {

constexpr const char* kMul = "aten::mul.Tensor";
constexpr std::string_view kTo = "aten::to.dtype", kTypeAs = "aten::type_as";

struct Quotient {  // x / rms(x)
  Argument x;      // before it was made fp32
  double eps = 0;
};

class NormPattern {
 public:
  explicit NormPattern(const PatternGraph& graph) : graph_(graph) {}

  std::optional<Fused> plain(const GraphNode& node) const {
    if (node.op != kMul) return std::nullopt;
    for (const std::size_t i : {0, 1}) {
      if (!graph_.is_parameter(node.args[i])) continue;
      const GraphNode* back = graph_.maker(node, node.args[1 - i], {kTo, kTypeAs});
      const auto cast = back == nullptr ? std::nullopt : cast_of(*back);
      const auto quotient = quotient_of(cast ? *back : node, cast ? cast->from : node.args[1 - i]);
      if (quotient) return fused(*quotient, node.args[i], false, cast);
    }
    return std::nullopt;
  }

  std::optional<Fused> plus_one(const GraphNode& node) const {
    const auto cast = cast_of(node);
    const GraphNode* product = cast ? graph_.maker(node, cast->from, {kMul}) : node.op == kMul ? &node : nullptr;
    if (product == nullptr) return std::nullopt;
    for (const std::size_t i : {0, 1}) {
      const GraphNode* sum = graph_.maker(*product, product->args[i], {"aten::add.Tensor"});
      if (sum == nullptr || sum->args.size() > 2 || !is_number(*sum, 1, 1)) continue;
      const GraphNode* wide = graph_.maker(*sum, sum->args[0], {kTo});
      const Argument weight = wide == nullptr ? sum->args[0] : wide->args[0];
      if (!graph_.is_parameter(weight) || (wide != nullptr && !is_to_fp32(*wide))) continue;
      if (wide == nullptr && graph_.dtype() != c10::ScalarType::Float) continue;
      const auto quotient = quotient_of(*product, product->args[1 - i]);
      if (quotient) return fused(*quotient, weight, true, cast);
    }
    return std::nullopt;
  }

 private:
  static bool is_to_fp32(const GraphNode& node) { return cast_of(node)->dtype == c10::ScalarType::Float; }

  // The argument before it was made fp32; nothing where it is not fp32.
  std::optional<Argument> narrow(const GraphNode& user, const Argument& wide) const {
    const GraphNode* cast = graph_.maker(user, wide, {kTo});
    if (cast != nullptr && is_to_fp32(*cast)) return cast->args[0];
    return graph_.dtype() == c10::ScalarType::Float ? std::optional(wide) : std::nullopt;
  }

  std::optional<Quotient> quotient_of(const GraphNode& user, const Argument& argument) const {
    const GraphNode* product = graph_.maker(user, argument, {kMul});
    if (product == nullptr) return std::nullopt;
    for (const std::size_t i : {0, 1}) {
      const auto eps = eps_of(*product, product->args[i], product->args[1 - i]);
      const auto x = narrow(*product, product->args[1 - i]);
      if (eps && x) return Quotient{*x, *eps};
    }
    return std::nullopt;
  }

  // The eps of rsqrt(mean(wide^2, -1) + eps) or (..)^-0.5, if `argument` is that.
  std::optional<double> eps_of(const GraphNode& user, const Argument& argument, const Argument& wide) const {
    const GraphNode* root = graph_.maker(user, argument, {"aten::rsqrt", "aten::pow.Tensor_Scalar"});
    if (root == nullptr || (root->args.size() > 1 && !is_number(*root, 1, -0.5))) return std::nullopt;
    const GraphNode* sum = graph_.maker(*root, root->args[0], {"aten::add.Tensor"});
    if (sum == nullptr || sum->args.size() > 2) return std::nullopt;
    const GraphNode* mean = graph_.maker(*sum, sum->args[0], {"aten::mean.dim"});
    if (mean == nullptr || !is_over_rows(*mean)) return std::nullopt;
    const GraphNode* square = graph_.maker(*mean, mean->args[0], {"aten::pow.Tensor_Scalar", "aten::square", kMul});
    if (square == nullptr || !same_value(square->args[0], wide)) return std::nullopt;
    if (square->op == kMul && !same_value(square->args[1], wide)) return std::nullopt;
    if (square->op == "aten::pow.Tensor_Scalar" && !is_number(*square, 1, 2)) return std::nullopt;
    return number(sum->args[1]);
  }

  // mean over [-1], the dimension kept, in the dtype that there is.
  static bool is_over_rows(const GraphNode& mean) {
    const auto* dims = mean.args.size() == 3 ? std::get_if<Argument::List>(&mean.args[1].is) : nullptr;
    const auto* keep = mean.args.size() == 3 ? std::get_if<bool>(&mean.args[2].is) : nullptr;
    return dims != nullptr && dims->size() == 1 && number(dims->front()) == -1.0 && keep != nullptr && *keep;
  }

  static std::optional<Fused> fused(const Quotient& quotient, const Argument& weight, bool plus_one,
                                    const std::optional<Cast>& back) {
    if (back && back->like && !same_value(*back->like, quotient.x)) return std::nullopt;
    Argument dtype{c10::ScalarType::Float};
    if (back) dtype = back->dtype ? Argument{*back->dtype} : Argument{Argument::None{}};
    return Fused{"fused::rms_norm", {quotient.x, weight, {quotient.eps}, {plus_one}, dtype}};
  }

  const PatternGraph& graph_;
};

}  // namespace

std::optional<Fused> fused_norm_of(const PatternGraph& graph, const GraphNode& node) {
  const NormPattern pattern(graph);
  auto fused = pattern.plain(node);
  return fused ? fused : pattern.plus_one(node);
}

}  // namespace roundtable
