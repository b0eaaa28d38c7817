// The layers of experts, as products take them.
#pragma once

#include <torch/types.h>

#include <vector>

#include "model/forward/linear.h"

namespace roundtable {

// The layers that one expert's rows enter.
struct ExpertLayers {
  std::vector<const Linear*> side_by_side;  // their outputs next to each other are the expert's output
  torch::Tensor order;  // int64: its column j is column order[j] of those; undefined: as they are
};

}  // namespace roundtable
