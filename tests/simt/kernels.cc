// The CUDA source itself, compiled for this machine's CPU: the headers in device/ are found before CUDA's own.
#include <cmath>

#include "quant/fake_quant_cuda.cu"
