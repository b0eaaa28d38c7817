// Stands in for fake_quant_cuda.cu in builds without a CUDA toolkit: no tensor can be on a CUDA device there.
#include "base/error.h"
#include "quant/fake_quant_kernels.h"

namespace roundtable::cuda {

void search_scales(const WeightArrays&, const QuantScheme&, const float*) { RT_UNREACHABLE("no CUDA"); }
void fake_quantize(const WeightArrays&, const QuantScheme&, void*, bool) { RT_UNREACHABLE("no CUDA"); }
void sign_step(const WeightArrays&, const QuantScheme&, const float*, const StepSize&) { RT_UNREACHABLE("no CUDA"); }
void rounding_gradients(const WeightArrays&, const QuantScheme&, const float*, const GradientArrays&) {
  RT_UNREACHABLE("no CUDA");
}
void quantize(const WeightArrays&, const QuantScheme&, const bool*, const QuantizedArrays&) {
  RT_UNREACHABLE("no CUDA");
}

}  // namespace roundtable::cuda
