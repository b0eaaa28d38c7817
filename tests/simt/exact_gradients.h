// The gradients of min_scale and max_scale with sums in fp64, and how far those of fp32 may be from them.
#pragma once

#include <cmath>
#include <vector>

#include "matrix.h"

namespace roundtable {

// A gradient, and the bound of |x - value| for every x that fp32 can make of it, in whatever order it sums.
struct Sum {
  double value = 0;
  double bound = 0;

  // Where not, rounding decides about the sign. A bound of 0: all terms are 0.
  bool has_sign() const { return std::fabs(value) > bound || bound == 0; }
};

struct ExactGradient {
  Sum min_scale;
  Sum max_scale;
};

// One for each group.
std::vector<ExactGradient> exact_gradients(const Matrix& matrix);

}  // namespace roundtable
