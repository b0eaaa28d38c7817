// The sum of a step's gradients: over a rank's samples, then over the ranks of its group.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <functional>

#include "tune/gradients/bucketed_sum.h"
#include "tune/gradients/gradient_arena.h"
#include "model/group/tensor_group.h"

namespace roundtable {

// Adds to the arena what the samples [first, last) of this rank's part of a step give. With first == last it is there
// for the other ranks of the group alone: see sum_gradients().
using AddSamples = std::function<void(std::size_t first, std::size_t last)>;

// Both below are given the same things and are collective over a group:
//   arena    on the host or on a device; overwritten
//   samples  how many of the step's samples this rank has
// and leave the sum over all ranks' samples in `arena`, the same bits on every rank. On a device the sum is only
// enqueued.

// `width` samples at a time, then over the ranks by `sum`, which is of this arena. Which sums are formed depends on
// `width` and on the number of ranks. `add` is called so often as `most` samples need, which is at least `samples`, and
// at the end without samples: ranks that divide experts take part in each pass of any of them.
void sum_gradients(GradientArena& arena, std::size_t samples, std::size_t most, std::size_t width, const AddSamples& add,
                   BucketedSum& sum);

// Over one fixed binary tree whose leaves are the step's samples in the order of their strata; a node over [a, b) adds
// those over [a, m) and [m, b), m = a + (b - a) / 2. If the number of ranks is a power of two that divides the samples
// of a step, a rank's samples are one subtree, so that 1, 2, 4, ... ranks form the same sums. Within a rank the left
// sums that wait take up to ceil(log2(samples)) arenas; between ranks one more, and one exchange per level. `turns`:
// ranks divide experts. Then they take turns, sample after sample, and `add` is called on each of them for the samples of
// all, without samples where they are another rank's; every rank must have as many.
void sum_gradients_by_tree(GradientArena& arena, std::size_t samples, bool turns, const AddSamples& add,
                           const TensorGroup& group);

// Arenas that sum_gradients_by_tree holds at once, its own included.
std::size_t tree_arenas(std::size_t samples, int ranks);

}  // namespace roundtable
