// How far a step of tuning moves each parameter. It is a header of its own because nvcc compiles its users: it includes
// no tensors.
#pragma once

namespace roundtable {

// The learning rates of a step: how far each parameter moves.
struct StepSize {
  float lr = 0;          // for v
  float minmax_lr = 0;   // for min_scale and max_scale; 0 leaves them
  float minmax_bound = 1;  // the largest min_scale and max_scale
};

}  // namespace roundtable
