// Tuning one block: signed gradient descent on the rounding of its weights (SignRound, arXiv 2309.05516).
#pragma once

#include <torch/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/sample_range.h"
#include "comm/communicator.h"
#include "data/sampler.h"
#include "model/decoder_block.h"
#include "quant/fake_quant.h"

namespace roundtable {

struct TuneSettings {
  std::int64_t iters = 200;
  std::int64_t micro_batch = 0;  // samples a forward pass; 0: all that a rank has in a step
  double lr = 0;                 // 0: 1 / iters
  double minmax_lr = 0;          // 0: lr
  bool enable_minmax_tuning = true;
  bool not_use_mse = false;      // keep the last parameters instead of those of the least loss
};

// How each linear layer of a block is quantized; empty for a layer that stays in 16 bits.
using BlockSchemes = std::vector<std::optional<QuantScheme>>;

// What a rank holds of a block's calibration data: its samples of the chain that enters, and of the float block's
// output. Both [range.size(), seqlen, hidden] in the compute dtype, on one device.
struct BlockSamples {
  torch::Tensor input;
  torch::Tensor target;
  SampleRange range;
};

struct TunedBlock {
  std::vector<std::optional<QuantizedWeight>> weights;  // in the order of the block's linear layers
  std::vector<float> losses;                            // of each iteration, before its step
  std::int64_t best_iteration = 0;

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

// What a caller may want to see while a block is tuned. Called on every rank, after the reduction.
struct TuneObserver {
  std::function<void(const StepGradients&)> on_gradients;                                   // before the sign step
  std::function<void(std::int64_t iteration, float first, float best)> on_iteration;
};

// Tunes `block`, whose linear weights are overwritten. `original` holds the weights to quantize ([out, in], bf16 or
// fp32, on the block's device), in the order of block.linears(). Ends with the block's weights set to the dequantized
// result, ready to run the quantized chain.
//
// Collective over `group`: loss and gradients are summed over its ranks before any decision, so that every rank takes
// the same steps and returns the same integers. `group` moves data where the block lives (MPI: host, NCCL: device).
// Throws AgreedError (kNumeric) on all ranks of the group when a loss is not finite, naming the layer where that begins.
TunedBlock tune_block(DecoderBlock& block, const std::vector<torch::Tensor>& original, const BlockSchemes& schemes,
                      const BlockSamples& samples, const BlockContext& context, const Sampler& sampler,
                      const TuneSettings& settings, Communicator& group, const TuneObserver& observer = {});

// Runs `block` over [n, seqlen, hidden], `micro_batch` samples at a time (0: 8), without gradients.
torch::Tensor run_block(const DecoderBlock& block, const torch::Tensor& hidden, const BlockContext& context,
                        std::int64_t micro_batch);

}  // namespace roundtable
