// Tuning one block: signed gradient descent on the rounding of its weights (SignRound, arXiv 2309.05516).
#pragma once

#include <torch/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/sample_range.h"
#include "data/sampler.h"
#include "model/forward/decoder_block.h"
#include "quant/fake_quant.h"
#include "tune/gradients/bucketed_sum.h"
#include "tune/gradients/gradient_group.h"
#include "tune/optimizer.h"

namespace roundtable {

struct TuneSettings {
  std::int64_t iters = 200;
  std::int64_t micro_batch = 0;  // samples a forward pass; 0: all that a rank has in a step
  double lr = 0;                 // 0: default_lr() of each layer
  double minmax_lr = 0;          // 0: the layer's lr
  bool enable_minmax_tuning = true;
  bool not_use_mse = false;      // keep the last parameters instead of those of the least loss
  OptimizerKind optimizer = OptimizerKind::kSignRound;
  double momentum = 0;  // signround only
  LrScheduler lr_scheduler = LrScheduler::kLinear;
  std::int64_t dynamic_max_gap = -1;  // end after so many iterations without a lower loss; below 1: never
  bool reproducible = false;          // sum_gradients_by_tree: a sample a pass, the same bytes from 1, 2, 4, ... ranks
  ElementType gradient_type = ElementType::kF32;  // in the reduction over the group, see BucketedSum
  std::int64_t bucket_bytes = kBucketBytes;
  // The host learns of a loss, and of a wish to leave, a step late, so that a device need not wait for it; the integers are
  // the same. Empty: where the blocks are on a device. With dynamic_max_gap it learns at once.
  std::optional<bool> late_reports = {};
};

// How each linear layer of a block is quantized; empty for a layer that stays in 16 bits.
using BlockSchemes = std::vector<std::optional<QuantScheme>>;

// What a rank holds of the calibration data of a block (or of several that are tuned together): its samples of the
// chain that enters, and of the float block's output. Both [range.size(), seqlen, hidden] in the compute dtype, on the
// blocks' device or (low_gpu_mem_usage) on the host, from where each micro-batch is moved as it is needed.
struct BlockSamples {
  torch::Tensor input;
  torch::Tensor target;
  SampleRange range;
  // Of each linear layer's input, [in] fp32 on the blocks' device (Importance): scales start where search_scales() finds
  // them. Empty: they start at 1.
  std::vector<torch::Tensor> importance = {};
};

struct TunedBlock {
  std::vector<std::optional<QuantizedWeight>> weights;  // block after block, in the order of their linear layers
  std::vector<float> losses;                            // of each iteration that was run, before its step
  std::int64_t best_iteration = 0;
  ReductionFigures reduction;  // none where settings.reproducible

  float first_loss() const { return losses.empty() ? 0 : losses.front(); }
  float best_loss() const { return losses.empty() ? 0 : losses[static_cast<std::size_t>(best_iteration)]; }
};

// Reduced gradients dL/dWq of one step, one [out, in] fp32 for each quantized linear layer, and the step's loss.
struct StepGradients {
  std::int64_t iteration = 0;
  float loss = 0;
  std::vector<std::string> names;
  std::vector<torch::Tensor> gradients;
};

// A loss that is not finite. Every rank of the group throws it, each with what it found on its own samples.
class BrokenLoss : public AgreedError {
 public:
  BrokenLoss(const std::string& line, bool found_here) : AgreedError(ExitCode::kNumeric, line), found_here_(found_here) {}
  // This rank's samples break it: the line names the layer where that begins.
  bool found_here() const { return found_here_; }

 private:
  bool found_here_;
};

// What a caller may want to see, and to say, while a block is tuned. Called on every rank in each step, all but
// wants_to_leave after the reduction.
struct TuneObserver {
  std::function<bool()> wants_to_leave;  // true on any rank: all throw, see below
  std::function<void(const StepGradients&)> on_gradients;                                   // before the sign step
  std::function<void(std::int64_t iteration, float first, float best)> on_iteration;
};

// Tunes `blocks`, consecutive ones that are run as one (auto-round's WrapperMultiblock where there are several); their
// linear weights are overwritten. `original` holds the weights to quantize ([out, in], bf16 or fp32, on the blocks'
// device), block after block in the order of linears(), and `schemes` how. Ends with the blocks' weights set to the
// dequantized result, ready to run the quantized chain.
//
// Collective over `group`: loss and gradients are summed over its ranks before any decision, so that every rank takes
// the same steps and returns the same integers. `group` moves data where the blocks live (MPI: host, NCCL: device).
// Throws on all ranks of the group: BrokenLoss when a loss is not finite, AgreedError (kStartAgain) when the observer of
// any rank wants to leave.
TunedBlock tune_blocks(const std::vector<DecoderBlock*>& blocks, const std::vector<torch::Tensor>& original,
                       const BlockSchemes& schemes, const BlockSamples& samples, const BlockContext& context,
                       const Sampler& sampler, const TuneSettings& settings, const GradientGroup& group,
                       const TuneObserver& observer = {});

// The same for a single block.
TunedBlock tune_block(DecoderBlock& block, const std::vector<torch::Tensor>& original, const BlockSchemes& schemes,
                      const BlockSamples& samples, const BlockContext& context, const Sampler& sampler,
                      const TuneSettings& settings, const GradientGroup& group, const TuneObserver& observer = {});

// Runs `block` over [n, seqlen, hidden], `micro_batch` samples at a time (0: 8), without gradients. The result is
// where `hidden` is, the block's device or the host.
torch::Tensor run_block(const DecoderBlock& block, const torch::Tensor& hidden, const BlockContext& context,
                        std::int64_t micro_batch);

}  // namespace roundtable
