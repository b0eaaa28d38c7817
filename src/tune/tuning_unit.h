// What is tuned and how, and what comes out.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/sample_range.h"
#include "graph/states.h"
#include "quant/fake_quant.h"
#include "tune/gradients/bucketed_sum.h"
#include "tune/optimizer.h"

namespace roundtable {

struct TuneSettings {
  std::int64_t iters = 200;
  std::int64_t micro_batch = 0;  // samples per forward pass; 0: all that a rank has in a step
  double lr = 0;                 // 0: default_lr() of each layer
  double minmax_lr = 0;          // 0: the layer's lr
  bool enable_minmax_tuning = true;
  double minmax_scale_bound = 1;  // the largest factor on a range
  double outliers = 0;            // squared_error()
  bool not_use_mse = false;  // keep the last parameters instead of those of the least loss
  OptimizerKind optimizer = OptimizerKind::kSignRound;
  double momentum = 0;  // signround only
  LrScheduler lr_scheduler = LrScheduler::kLinear;
  std::int64_t dynamic_max_gap = -1;  // stop after so many iterations without a lower loss; below 1: never
  bool reproducible = false;  // sum_gradients_by_tree: one sample per pass, the same bytes from 1, 2, 4, ... ranks
  ElementType gradient_type = ElementType::kF32;  // in the reduction over the group, see BucketedSum
  std::int64_t bucket_bytes = kBucketBytes;
  // The host learns of a loss, and of a wish to leave, one step late, so that a device does not wait for the host; the
  // integers are the same. Empty: only if the blocks are on a device. With dynamic_max_gap it learns at once.
  std::optional<bool> late_reports = {};
};

// How each linear layer of a block is quantized; empty for a layer that stays in 16 bits.
using BlockSchemes = std::vector<std::optional<QuantScheme>>;

// Consecutive blocks that are tuned as one (auto-round's WrapperMultiblock if there are several): x -> block -> block.
struct TuningUnit {
  std::vector<Block*> blocks;    // not owned; their linear weights are overwritten
  std::vector<torch::Tensor> original;  // the weights to quantize, [out, in] bf16 or fp32 on the blocks' device, block
                                        // after block in the order of linears(); undefined where another rank
                                        // of the group holds the expert
  BlockSchemes schemes;                 // how, in the same order
};

// A rank's part of the calibration data of a unit: range.size() samples of the chain that enters, and of the hidden
// states that the float blocks make of them, in the compute dtype. On the blocks' device or (low_gpu_mem_usage) on the
// host, from where each micro-batch is copied when it is needed.
struct BlockSamples {
  States input;
  torch::Tensor target;  // [range.size(), ...boundary.hidden]
  SampleRange range;
  // Of the input of each linear layer, [in] fp32 on the blocks' device (Importance): scales start where search_scales()
  // finds them. Empty: scales start at 1.
  std::vector<torch::Tensor> importance = {};
};

struct TunedBlock {
  std::vector<std::optional<QuantizedWeight>> weights;  // block after block, in the order of their linear layers
  std::vector<float> losses;                            // of each iteration that was run, before its step, of all ranks
  std::int64_t best_iteration = 0;
  ReductionFigures reduction;  // all 0 with settings.reproducible
  std::int64_t exchanged_bytes = 0;  // that this rank sent to the ranks of its tokens' experts and back

  float first_loss() const { return losses.empty() ? 0 : losses.front(); }
  float best_loss() const { return losses.empty() ? 0 : losses[static_cast<std::size_t>(best_iteration)]; }
};

// The gradients dL/dWq of one step, summed over all ranks, one [out, in] fp32 for each quantized linear layer, and the
// loss of the step.
struct StepGradients {
  std::int64_t iteration = 0;
  float loss = 0;
  std::vector<std::string> names;
  std::vector<torch::Tensor> gradients;
};

// A loss that is not finite. Every rank of the group throws it, each with what it has found on its own samples.
class BrokenLoss : public AgreedError {
 public:
  BrokenLoss(const std::string& line, bool found_here)
      : AgreedError(ExitCode::kNumeric, line), found_here_(found_here) {}
  // The samples of this rank break the loss: the line names the first layer whose output is not finite.
  bool found_here() const { return found_here_; }

 private:
  bool found_here_;
};

// What a caller wants to see, and to say, while a unit is tuned. Called on every rank in each step; wants_to_leave
// before the reduction, the others after it.
struct TuneObserver {
  std::function<bool()> wants_to_leave;  // true on any rank: all ranks throw AgreedError (kStartAgain)
  std::function<void(const StepGradients&)> on_gradients;  // before the sign step
  std::function<void(std::int64_t iteration, float first, float best)> on_iteration;
};

}  // namespace roundtable
