// Fake quantization on CUDA: some lanes of a warp (a team) per group, along the group's weights.
// tests/simt runs this file on a CPU and compares it with the CPU's kernels; tests/quant/fake_quant_cuda_test.cc (label
// gpu) does so on a GPU.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "quant/fake_quant_kernels.h"
#include "quant/fake_quant_math.h"
#include "quant/scale_search.h"

namespace roundtable::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsABlock = 8;
constexpr unsigned kThreads = kWarp * kWarpsABlock;

__device__ inline float load(float x) { return x; }
__device__ inline float load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void store(float x, float& out) { out = x; }
__device__ inline void store(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }

// Weights that lie together, which a lane loads and stores at once: 16 bytes of fp32. One by one, the loads of a loop
// that also stores wait for the store before them: the compiler does not know that it goes elsewhere.
constexpr int kPack = 4;
template <class T, int kWide>
struct alignas(sizeof(T) * kWide) Pack {
  T at[kWide];
};

template <int kWide, class T>
__device__ inline Pack<T, kWide> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kWide>*>(from);
}
template <class T, int kWide>
__device__ inline void store_pack(const Pack<T, kWide>& pack, T* to) {
  *reinterpret_cast<Pack<T, kWide>*>(to) = pack;
}

// Groups of `width` weights, each with 2^shift lanes. A lane has four weights of a group if there are as many: every
// lane makes the group's grid, which takes as long as several weights.
struct Teams {
  std::int64_t width;
  int shift;
};

Teams teams_for(const WeightArrays& a, const QuantScheme& scheme) {
  const std::int64_t width = scheme.group_columns(a.columns);
  int shift = 5;
  while (shift > 2 && (std::int64_t{4} << shift) > width) --shift;
  return {width, shift};
}

// The group of this thread's team. Past the last group it is the first one, of which `size` leaves nothing to do: all
// lanes of a warp take part in its sums.
struct Group {
  std::int64_t offset;
  std::int64_t index;
  std::uint32_t size;
  std::uint32_t lane;
  std::uint32_t team;
};

// Threads and groups are counted in 32 bits (blocks_for() sees to it): a division of 64 takes as long as all else here.
__device__ inline Group group_of_team(const WeightArrays& a, const Teams& teams) {
  const std::uint32_t found = (blockIdx.x * blockDim.x + threadIdx.x) >> teams.shift;
  const bool is_there = found < a.rows * a.groups;
  const std::uint32_t index = is_there ? found : 0;
  const auto width = static_cast<std::uint32_t>(teams.width);
  const auto groups = static_cast<std::uint32_t>(a.groups);
  const std::uint32_t row = index / groups;
  const std::uint32_t column = (index - row * groups) * width;
  const std::uint32_t left = static_cast<std::uint32_t>(a.columns) - column;
  const std::uint32_t size = left < width ? left : width;
  const std::uint32_t team = 1u << teams.shift;
  return {row * a.columns + column, index, is_there ? size : 0, threadIdx.x & (team - 1), team};
}

__device__ inline GroupGrid grid_of(const WeightArrays& a, const QuantScheme& scheme, std::int64_t index) {
  return group_grid(scheme, {a.wmin[index], a.wmax[index], a.min_scale[index], a.max_scale[index]});
}

// The sum over the lanes of a team. All lanes of the warp call it.
__device__ inline float team_sum(float x, std::uint32_t team) {
  for (std::uint32_t step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, step);
    if (step < team) x += other;
  }
  return x;
}

template <WeightType kType, int kWide, class W, class R>
__global__ void fake_quantize_kernel(WeightArrays a, QuantScheme scheme, Teams teams, R* result) {
  const Group group = group_of_team(a, teams);
  if (group.size == 0) return;
  const GroupGrid grid = grid_of(a, scheme, group.index);
  const W* weight = static_cast<const W*>(a.weight) + group.offset;
  const float* v = a.v + group.offset;
  result += group.offset;
  for (std::uint32_t i = group.lane * kWide; i < group.size; i += group.team * kWide) {
    const auto weights = load_pack<kWide>(weight + i);
    const auto moved = load_pack<kWide>(v + i);
    Pack<R, kWide> out;
    for (int k = 0; k < kWide; ++k) {
      store(grid.scale * level_of<kType>(grid, load(weights.at[k]), moved.at[k]), out.at[k]);
    }
    store_pack(out, result + i);
  }
}

// The step (out == nullptr) or the gradients themselves, which share everything but the last line.
//
// Five blocks share a multiprocessor, with 48 registers per thread: more, as the compiler takes on its own for nv_fp,
// leave too few warps to wait for the memory.
template <WeightType kType, int kWide, class W>
__global__ void __launch_bounds__(kThreads, 5) gradient_kernel(WeightArrays a, QuantScheme scheme, Teams teams,
                                                               const float* gradient, StepSize size,
                                                               GradientArrays out) {
  const Group group = group_of_team(a, teams);
  const GroupGrid grid = grid_of(a, scheme, group.index);
  const W* weight = static_cast<const W*>(a.weight) + group.offset;
  float* v = a.v + group.offset;
  gradient += group.offset;
  float dscale = 0;
  float dzero = 0;
  float* to = out.v != nullptr ? out.v + group.offset : v;
  for (std::uint32_t i = group.lane * kWide; i < group.size; i += group.team * kWide) {
    const auto weights = load_pack<kWide>(weight + i);
    const auto gradients = load_pack<kWide>(gradient + i);
    auto moved = load_pack<kWide>(v + i);
    for (int k = 0; k < kWide; ++k) {
      const WeightGradient one = weight_gradient<kType>(grid, load(weights.at[k]), moved.at[k], gradients.at[k]);
      dscale += one.dscale;
      dzero += one.dzero;
      moved.at[k] = out.v != nullptr ? one.dv : stepped(moved.at[k], one.dv, size.lr);
    }
    store_pack(moved, to + i);
  }
  dscale = team_sum(dscale, group.team);
  dzero = team_sum(dzero, group.team);
  if (group.lane != 0 || group.size == 0) return;
  const RangeGradient d = range_gradient(grid, dscale, dzero);
  if (out.v != nullptr) {
    out.min_scale[group.index] = d.dmin_scale;
    out.max_scale[group.index] = d.dmax_scale;
  } else if (size.minmax_lr != 0) {
    a.min_scale[group.index] = stepped_scale(a.min_scale[group.index], d.dmin_scale, size.minmax_lr,
                                             size.minmax_bound);
    a.max_scale[group.index] = stepped_scale(a.max_scale[group.index], d.dmax_scale, size.minmax_lr,
                                             size.minmax_bound);
  }
}

// All lanes of the warp call the functions below: a team sums the errors of each candidate. All lanes of a team return
// the same.
template <WeightType kType, class W>
__device__ inline FoundRange search_symmetric(const QuantScheme& scheme, const ScaleCandidates& candidates,
                                              const Group& group, const W* weight, const float* importance,
                                              FoundRange range) {
  const LevelBounds bounds = symmetric_bounds<kType>(scheme);
  const float anchor = search_anchor(scheme, range);
  const float anchor_inverse = reciprocal_or_zero(anchor);
  float least = INFINITY;
  float best = candidates.value[0];
  for (int candidate = 0; candidate < candidates.count; ++candidate) {
    const float value = candidates.value[candidate];
    const CandidateScale one = candidate_scale<kType>(scheme, anchor, anchor_inverse, value);
    float error = 0;
    for (std::uint32_t i = group.lane; i < group.size; i += group.team) {
      const float difference = nearest_error<kType>(one, bounds, load(weight[i]));
      error += importance[i] * (difference * difference);
    }
    error = team_sum(error, group.team);
    if (error < least) {
      least = error;
      best = value;
    }
  }
  return symmetric_range<kType>(scheme, range, best);
}

template <class W>
__device__ inline FoundRange search_asymmetric(const QuantScheme& scheme, const ScaleCandidates& coarse,
                                               const Group& group, const W* weight, const float* importance,
                                               FoundRange range) {
  const float top = top_level(scheme);
  const float widest = widest_scale(scheme, range);
  // Where nothing is better, and that is where no token came: rounding to nearest.
  float best_scale = widest;
  float best_zero = nearest_zero_point(scheme, range, 1.0f / widest);
  int best = kCoarseFractions - 1;
  const auto error_of = [&](float scale, float zero, bool tried, const auto& ratio_of) {
    float error = 0;
    for (std::uint32_t j = group.lane; tried && j < group.size; j += group.team) {
      const float own = load(weight[j]);
      const float difference = level_error(scale, within(rintf(ratio_of(own)), -zero, top - zero), own);
      error += importance[j] * (difference * difference);
    }
    return team_sum(error, group.team);
  };
  float least = error_of(widest, best_zero, true, [&](float own) { return own / widest; });
  for (int i = 0, center = 0; i < kCoarseFractions + kFineFractions; ++i) {
    if (i <= kCoarseFractions) center = best;
    const float scale = widest * fraction_of(coarse, i, center);
    const float inverse = 1.0f / scale;
    const ZeroPointRange zeros = zero_points_of(scheme, range, inverse);
    // Teams of a warp have as many zero points to try as the one that has most: all take part in its sums.
    for (int step = 0; step < kMostZeroPoints; ++step) {
      const float zero = zeros.first + static_cast<float>(step);
      const bool tried = zero <= zeros.last;
      if (!__any_sync(0xffffffffu, tried)) break;
      const float error = error_of(scale, zero, tried, [&](float own) { return own * inverse; });
      if (tried && error < least) {
        least = error;
        best_scale = scale;
        best_zero = zero;
        best = i;
      }
    }
  }
  return asymmetric_range(scheme, best_scale, best_zero);
}

template <WeightType kType, class W>
__global__ void search_kernel(WeightArrays a, QuantScheme scheme, Teams teams, ScaleCandidates candidates,
                              const float* importance) {
  const Group group = group_of_team(a, teams);
  const W* weight = static_cast<const W*>(a.weight) + group.offset;
  const float* inputs = importance + group.offset % a.columns;
  const FoundRange range{a.wmin[group.index], a.wmax[group.index]};
  FoundRange found;
  if (kType == WeightType::kInt && !scheme.symmetric) {  // the same in all threads
    found = search_asymmetric(scheme, candidates, group, weight, inputs, range);
  } else {
    found = search_symmetric<kType>(scheme, candidates, group, weight, inputs, range);
  }
  if (group.lane != 0 || group.size == 0) return;
  a.wmin[group.index] = found.wmin;
  a.wmax[group.index] = found.wmax;
}

template <WeightType kType, int kWide, class W>
__global__ void quantize_kernel(WeightArrays a, QuantScheme scheme, Teams teams, const bool* wanted,
                                QuantizedArrays out) {
  if (wanted != nullptr && !*wanted) return;
  const Group group = group_of_team(a, teams);
  if (group.size == 0) return;
  const GroupGrid grid = grid_of(a, scheme, group.index);
  const W* weight = static_cast<const W*>(a.weight) + group.offset;
  const float* v = a.v + group.offset;
  std::uint8_t* q = out.q + group.offset;
  for (std::uint32_t i = group.lane * kWide; i < group.size; i += group.team * kWide) {
    const auto weights = load_pack<kWide>(weight + i);
    const auto moved = load_pack<kWide>(v + i);
    Pack<std::uint8_t, kWide> bits;
    for (int k = 0; k < kWide; ++k) {
      bits.at[k] = static_cast<std::uint8_t>(bits_of<kType>(grid, load(weights.at[k]), moved.at[k]));
    }
    store_pack(bits, q + i);
  }
  if (group.lane != 0) return;
  out.scale[group.index] = grid.scale;
  out.zero_point[group.index] = static_cast<std::uint8_t>(grid.zero_point);
}

// Calls body with a null pointer of the weight's type and with what it becomes as a type, to pick the templates.
template <class Body>
void with_types(const WeightArrays& a, const QuantScheme& scheme, const Body& body) {
  with_type(scheme, [&](auto type) {
    if (a.weight_is_bf16) {
      body(static_cast<__nv_bfloat16*>(nullptr), type);
    } else {
      body(static_cast<float*>(nullptr), type);
    }
  });
}

template <class T>
bool begins_a_pack(const T* array) {
  return reinterpret_cast<std::uintptr_t>(array) % (kPack * sizeof(T)) == 0;
}

// The same with an integer as a third type: kPack where every group of all these arrays is whole packs, else 1.
template <class... Arrays, class Body>
void with_packs(const WeightArrays& a, const QuantScheme& scheme, const Body& body, const Arrays*... arrays) {
  const bool is_whole = a.columns % kPack == 0 && scheme.group_columns(a.columns) % kPack == 0;
  with_types(a, scheme, [&](auto* weight, auto type) {
    const auto* weights = static_cast<const std::remove_pointer_t<decltype(weight)>*>(a.weight);
    if (is_whole && begins_a_pack(weights) && begins_a_pack(a.v) && (begins_a_pack(arrays) && ...)) {
      body(weight, type, std::integral_constant<int, kPack>());
    } else {
      body(weight, type, std::integral_constant<int, 1>());
    }
  });
}

unsigned blocks_for(const WeightArrays& a, const Teams& teams) {
  const std::int64_t threads = (a.rows * a.groups) << teams.shift;
  TORCH_CHECK(threads <= std::int64_t{1} << 31 && a.columns <= std::int64_t{1} << 31,
              "a weight of ", a.rows, " x ", a.columns, " is too large for the kernels of fake quantization");
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

// Runs a kernel with a team per group on the current stream. It is a call and not <<<>>>, which compilers other than
// nvcc cannot read: tests/simt runs this file on a CPU.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(WeightArrays, QuantScheme, Teams, Parameters...), const WeightArrays& a,
            const QuantScheme& scheme, const Arguments&... arguments) {
  const Teams teams = teams_for(a, scheme);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks_for(a, teams));
  config.blockDim = dim3(kThreads);
  config.stream = c10::cuda::getCurrentCUDAStream().stream();
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, a, scheme, teams, arguments...));
}

void launch_gradient(const WeightArrays& a, const QuantScheme& scheme, const float* gradient, const StepSize& size,
                     const GradientArrays& out) {
  const auto run = [&](auto* weight, auto type, auto wide) {
    using W = std::remove_pointer_t<decltype(weight)>;
    launch(gradient_kernel<decltype(type)::value, decltype(wide)::value, W>, a, scheme, gradient, size, out);
  };
  with_packs(a, scheme, run, gradient, out.v);
}

}  // namespace

void search_scales(const WeightArrays& a, const QuantScheme& scheme, const float* importance) {
  const ScaleCandidates candidates = scale_candidates(scheme);
  with_types(a, scheme, [&](auto* weight, auto type) {
    using W = std::remove_pointer_t<decltype(weight)>;
    launch(search_kernel<decltype(type)::value, W>, a, scheme, candidates, importance);
  });
}

void fake_quantize(const WeightArrays& a, const QuantScheme& scheme, void* result, bool result_is_bf16) {
  const auto run_into = [&](auto* out) {
    const auto run = [&](auto* weight, auto type, auto wide) {
      using W = std::remove_pointer_t<decltype(weight)>;
      using R = std::remove_pointer_t<decltype(out)>;
      launch(fake_quantize_kernel<decltype(type)::value, decltype(wide)::value, W, R>, a, scheme, out);
    };
    with_packs(a, scheme, run, out);
  };
  if (result_is_bf16) {
    run_into(static_cast<__nv_bfloat16*>(result));
  } else {
    run_into(static_cast<float*>(result));
  }
}

void sign_step(const WeightArrays& a, const QuantScheme& scheme, const float* gradient, const StepSize& size) {
  launch_gradient(a, scheme, gradient, size, GradientArrays{nullptr, nullptr, nullptr});
}

void rounding_gradients(const WeightArrays& a, const QuantScheme& scheme, const float* gradient,
                        const GradientArrays& out) {
  launch_gradient(a, scheme, gradient, StepSize{}, out);
}

void quantize(const WeightArrays& a, const QuantScheme& scheme, const bool* wanted, const QuantizedArrays& out) {
  const auto run = [&](auto* weight, auto type, auto wide) {
    using W = std::remove_pointer_t<decltype(weight)>;
    launch(quantize_kernel<decltype(type)::value, decltype(wide)::value, W>, a, scheme, wanted, out);
  };
  with_packs(a, scheme, run, out.q);
}

}  // namespace roundtable::cuda
