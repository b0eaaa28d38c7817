// Sums over samples and ranks.
#include "tune/gradients/gradient_sum.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace roundtable {
namespace {

// Leaves in `arena` the sum over the samples [first, last).
void sum_subtree(GradientArena& arena, std::size_t first, std::size_t last, const AddSamples& add) {
  if (last - first == 1) {
    arena.clear();
    add(first, last);
    arena.settle();
    return;
  }
  const std::size_t middle = first + (last - first) / 2;
  sum_subtree(arena, first, middle, add);
  const torch::Tensor left = arena.whole().clone();
  sum_subtree(arena, middle, last, add);
  arena.whole().add_(left);
}

}  // namespace

void sum_gradients(GradientArena& arena, std::size_t samples, std::size_t most, std::size_t width, const AddSamples& add,
                   BucketedSum& sum) {
  arena.clear();
  for (std::size_t first = 0; first < most; first += width) {
    if (first + width >= most) sum.begin();
    add(std::min(samples, first), std::min(samples, first + width));
  }
  arena.settle();
  sum.finish();
}

void sum_gradients_by_tree(GradientArena& arena, std::size_t samples, bool turns, const AddSamples& add,
                           const TensorGroup& group) {
  RT_CHECK(samples > 0 && std::has_single_bit(static_cast<unsigned>(group.size())));
  if (turns) {
    // What a rank adds for the samples of others is zero but for its experts: each layer's sum is the same tree.
    const std::size_t before = samples * static_cast<std::size_t>(group.rank());
    sum_subtree(arena, 0, samples * static_cast<std::size_t>(group.size()), [&](std::size_t first, std::size_t) {
      const bool mine = first >= before && first < before + samples;
      add(mine ? first - before : 0, mine ? first - before + 1 : 0);
    });
  } else {
    sum_subtree(arena, 0, samples, add);
  }
  if (group.size() == 1) return;
  torch::Tensor mine = arena.reduced();
  torch::Tensor other = torch::empty_like(mine);
  for (int distance = 1; distance < group.size(); distance *= 2) {
    group.exchange(mine, other, group.rank() ^ distance);
    mine.add_(other);  // a + b and b + a are the same bits
  }
}

std::size_t tree_arenas(std::size_t samples, int ranks) {
  return 1 + std::max<std::size_t>(static_cast<std::size_t>(std::bit_width(samples - 1)), ranks > 1 ? 1 : 0);
}

}  // namespace roundtable
