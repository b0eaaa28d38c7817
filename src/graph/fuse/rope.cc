// The rotation of positions, as transformers' apply_rotary_pos_emb() writes it: x * cos + rotate_half(x) * sin, with
// rotate_half(x) = cat((-x[..., half:], x[..., :half]), -1).
#include <limits>

#include "graph/fuse/pattern.h"

namespace roundtable {
namespace {

struct Slice {  // x[..., begin:end] along `dim`
  Argument x;
  std::int64_t dim = 0, begin = 0, end = 0;
};

std::optional<Slice> slice_of(const GraphNode* node) {
  if (node == nullptr || node->args.size() != 4) return std::nullopt;
  const auto* dim = std::get_if<std::int64_t>(&node->args[1].is);
  const auto* begin = std::get_if<std::int64_t>(&node->args[2].is);
  const auto* end = std::get_if<std::int64_t>(&node->args[3].is);
  if (dim == nullptr || begin == nullptr || end == nullptr) return std::nullopt;
  return Slice{node->args[0], *dim, *begin, *end};
}

struct Turned {  // rotate_half(x)
  Argument x;
  std::int64_t half = 0, dim = 0;
};

std::optional<Turned> turned_of(const PatternGraph& graph, const GraphNode& user, const Argument& argument) {
  constexpr std::int64_t kToTheEnd = std::numeric_limits<std::int64_t>::max();
  const GraphNode* cat = graph.maker(user, argument, {"aten::cat"});
  if (cat == nullptr || cat->args.size() != 2) return std::nullopt;
  const auto* parts = std::get_if<Argument::List>(&cat->args[0].is);
  const auto* dim = std::get_if<std::int64_t>(&cat->args[1].is);
  if (parts == nullptr || parts->size() != 2 || dim == nullptr) return std::nullopt;
  const GraphNode* negative = graph.maker(*cat, (*parts)[0], {"aten::neg"});
  if (negative == nullptr) return std::nullopt;
  const auto high = slice_of(graph.maker(*negative, negative->args[0], {"aten::slice.Tensor"}));
  const auto low = slice_of(graph.maker(*cat, (*parts)[1], {"aten::slice.Tensor"}));
  if (!high || !low || !same_value(high->x, low->x) || high->dim != low->dim) return std::nullopt;
  const bool halves = low->begin == 0 && low->end == high->begin && low->end > 0 && high->end == kToTheEnd;
  if (!halves || (*dim != low->dim && *dim != -1)) return std::nullopt;
  return Turned{low->x, low->end, low->dim};
}

}  // namespace

std::optional<Fused> fused_rope_of(const PatternGraph& graph, const GraphNode& node) {
  if (node.op != "aten::add.Tensor" || node.args.size() > 2) return std::nullopt;
  for (const std::size_t i : {0, 1}) {
    const GraphNode* straight = graph.maker(node, node.args[i], {"aten::mul.Tensor"});
    const GraphNode* across = graph.maker(node, node.args[1 - i], {"aten::mul.Tensor"});
    if (straight == nullptr || across == nullptr) continue;
    for (const std::size_t j : {0, 1}) {
      const auto turned = turned_of(graph, *across, across->args[j]);
      if (!turned) continue;
      for (const std::size_t k : {0, 1}) {
        if (!same_value(straight->args[k], turned->x)) continue;
        return Fused{"fused::rope",
                     {turned->x, straight->args[1 - k], across->args[1 - j], {turned->half}, {turned->dim}}};
      }
    }
  }
  return std::nullopt;
}

}  // namespace roundtable
