// The float pass, and boundaries written behind it.
#include "phases/calibrate.h"

#include <torch/types.h>

#include <filesystem>
#include <optional>

#include "base/error.h"
#include "cache/boundary_file.h"
#include "comm/agree.h"
#include "data/token_set.h"
#include "export/quantized_checkpoint.h"
#include "phases/assemble.h"
#include "phases/boundary/boundary_cache.h"
#include "phases/boundary/boundary_states.h"
#include "phases/forward_pass.h"
#include "phases/model_check.h"
#include "plan/tune_settings.h"
#include "run/background_write.h"

namespace roundtable {
namespace {

class Calibration {
 public:
  explicit Calibration(RunContext& context)
      : context_(context),
        samples_(context.config.calibration.n_samples),
        range_(part_of(samples_, context.ranks.world.size(), context.ranks.world.rank())) {}

  void run() {
    const std::vector<BoundaryToMake> missing = boundaries_to_make();
    if (!missing.empty()) make(missing);
    check_rest_of_model(context_);
  }

 private:
  void make(const std::vector<BoundaryToMake>& missing) {
    writing_comm_ = context_.ranks.world.duplicate();
    context_.progress.begin_phase("calibrate", missing.back().block + 1);
    try {
      pass(missing);
    } catch (const AgreedError& error) {
      if (error.code() == ExitCode::kStartAgain) finish_write();  // what is nearly done should not be done again
      throw;
    }
    finish_write();
    context_.progress.end_phase();
  }

  // Of the stages that have work left. Collective.
  std::vector<BoundaryToMake> boundaries_to_make() {
    const bool shared = context_.boundaries.shared;
    const std::vector<std::int64_t> blocks = run_on_root(context_.ranks.world, [&] {
      return shared ? context_.state->needed_boundaries() : context_.state->missing_boundaries();
    });
    if (shared && !blocks.empty()) return shared_boundaries_to_make(context_, blocks);
    std::vector<BoundaryToMake> own;
    for (const std::int64_t block : blocks) own.push_back({block});
    return own;
  }

  // The chain that enters each stage: the float model's, or near to what the stages before will make of it.
  void pass(const std::vector<BoundaryToMake>& missing) {
    const auto& c = context_.config.calibration;
    const TokenRows tokens = load_tokens(c.tokens, c.n_samples, c.seqlen, context_.plan.model.vocab_size());
    const auto source = c.estimate.empty() ? open_tensor_source(context_.config.model.path, context_.tensors)
                                           : open_tensor_source(c.estimate);
    const ForwardPass forward(context_.ranks, context_.plan.model, pass_width_of(context_.config));
    States embedded = forward.embed_rows(*source, tokens, range_);
    if (context_.config.tuning.low_gpu_mem_usage) embedded = embedded.to(torch::kCPU);
    forward.run_blocks(*source, std::move(embedded), missing.back().block, [&](std::int64_t block, const States& states) {
      writer_.check();
      for (const BoundaryToMake& boundary : missing) {
        if (boundary.block == block) start_write(boundary, states);
      }
      context_.progress.advance(1);
    });
  }

  void start_write(const BoundaryToMake& boundary, const States& states) {
    finish_write();
    under_way_ = boundary.block;
    States host = states.to(torch::kCPU);
    host.for_each([](torch::Tensor& tensor) { tensor = tensor.contiguous(); });
    writer_.start([this, boundary, host = std::move(host)]() mutable {
      const BoundaryPlace& place = context_.boundaries;
      const Model& model = context_.plan.model;
      BoundaryWriter file(*writing_comm_, place.boundary(boundary.block), boundary_shape(model, samples_, boundary.block),
                          boundary.block, place.fingerprint, file_layout(context_.config), place.temporary);
      file.write(range_, const_pointers(pointers_of(model, boundary.block, host)));
      file.finish(boundary.replace);
    });
  }

  // Collective. The journal records only the run's own boundaries.
  void finish_write() {
    if (!under_way_) return;
    writer_.finish();
    const std::int64_t block = *std::exchange(under_way_, std::nullopt);
    record_tensors(context_);  // first: the boundary was made from them
    if (context_.boundaries.shared) return;
    run_on_root(context_.ranks.world, [&] {
      const std::uintmax_t bytes = std::filesystem::file_size(context_.boundaries.boundary(block));
      context_.state->journal().append(record::Boundary{block, bytes});
    });
  }

  RunContext& context_;
  std::int64_t samples_;
  SampleRange range_;
  std::unique_ptr<MpiCommunicator> writing_comm_;
  std::optional<std::int64_t> under_way_;  // the block of the boundary that is being written
  WriteBehind writer_;
};

}  // namespace

void calibrate(RunContext& context) {
  check_head(context);
  Calibration(context).run();
}

}  // namespace roundtable
