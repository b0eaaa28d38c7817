// Tuning stages, block by block.
#include "phases/tune/stage_worker.h"

#include <torch/types.h>

#include <algorithm>

#include "base/activity.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/stop_signal.h"
#include "cache/boundary_file.h"
#include "comm/agree.h"
#include "data/sampler.h"
#include "model/load/block_loader.h"
#include "model/load/tensor_span.h"
#include "phases/tune/block_file.h"
#include "phases/tune/block_report.h"
#include "phases/tune/messages.h"
#include "plan/tune_settings.h"
#include "tune/block_tuner.h"
#include "tune/losses/importance.h"
#include "tune/losses/layer_error.h"

namespace roundtable {
namespace {

// One group's walk through the blocks of one stage.
class StageWorker {
 public:
  StageWorker(RunContext& context, Mailbox& mailbox, std::int64_t stage)
      : context_(context),
        mailbox_(mailbox),
        stage_(stage),
        range_(shard_samples(context.config.calibration.n_samples, context.plan.batch, context.plan.shards,
                             context.ranks.grid.shard())),
        micro_batch_(micro_batch_of(context.config, context.plan.shards)),
        source_(context.config.model.path, context.tensors),
        loading_(context.ranks.grid.group_comm().duplicate()),
        loader_(source_, context.plan.model, *loading_),
        block_context_(make_block_context(context.plan.model, context.config.calibration.seqlen, context.ranks.dtype,
                                          context.ranks.device)),
        scale_check_(scale_check(context.config, context.plan)) {}

  // `finished` blocks at the start are replayed from their files: forward only.
  void run(std::int64_t finished) {
    const Stage stage = context_.plan.stages[static_cast<std::size_t>(stage_)];
    enter_block(stage.first);
    try {
      float_chain_ = read_inputs(stage.first);
      quantized_chain_ = float_chain_;
      for (std::int64_t first = stage.first; first < stage.last; first += context_.plan.joint_blocks) {
        const Stage unit{first, std::min(first + context_.plan.joint_blocks, stage.last)};
        enter_block(first);
        run_on_all(context_.ranks.grid.group_comm(), [&] {
          if (asked_to_leave()) throw Error(ExitCode::kStartAgain, "asked to leave");
        });
        run_unit(unit, first < stage.first + finished, unit.last == stage.last);
      }
    } catch (const BrokenLoss& loss) {
      end_for_broken_loss(loss);
    } catch (const AgreedError& error) {
      // The group agreed on it, but the other groups do not know of it.
      if (error.code() != ExitCode::kStartAgain) throw LocatedError(error.code(), error.what());
      throw;
    }
    enter_block(-1);
  }

 private:
  // By a signal, by run.max_time, or by the coordinator because another group was asked.
  bool asked_to_leave() {
    if (context_.ranks.grid.leads_group() && was_told_to_leave(mailbox_)) told_to_leave_ = true;
    return told_to_leave_ || !stop_reason().empty();
  }

  // The loss is the group's; the rank whose samples broke it is to be named.
  [[noreturn]] void end_for_broken_loss(const BrokenLoss& loss) {
    const std::string mine = located(loss.what());
    const std::vector<std::string> found =
        all_gather_text(context_.ranks.grid.group_comm(), loss.found_here() ? mine : "");
    const auto first = std::find_if(found.begin(), found.end(), [](const std::string& line) { return !line.empty(); });
    throw LocatedError(loss.code(), first == found.end() ? mine : *first);
  }

  torch::Tensor read_inputs(std::int64_t first_block) {
    const auto& calibration = context_.config.calibration;
    const BoundaryShape shape{calibration.n_samples, calibration.seqlen, context_.plan.model.hidden_size,
                              element_type_of(context_.ranks.dtype)};
    torch::Tensor inputs = torch::empty({range_.size(), shape.seqlen, shape.hidden}, context_.ranks.dtype);
    run_on_all(context_.ranks.grid.group_comm(), [&] {
      read_boundary(context_.ranks.grid.group_comm(), context_.boundaries.boundary(first_block), shape, first_block,
                    context_.boundaries.fingerprint, range_, inputs.data_ptr());
    });
    return context_.config.tuning.low_gpu_mem_usage ? inputs : inputs.to(context_.ranks.device);
  }

  // The blocks [first, last), which are tuned as one; `finished`: in an earlier start of this run.
  void run_unit(const Stage& unit, bool finished, bool last_of_stage) {
    std::vector<BlockWeights> weights;
    std::vector<DecoderBlock> worked;
    std::vector<torch::Tensor> importance;
    torch::Tensor target = float_chain_;
    for (std::int64_t block = unit.first; block < unit.last; ++block) {
      weights.push_back(loader_.load(block, 0));
      if (block + 1 < context_.plan.stages[static_cast<std::size_t>(stage_)].last) loader_.load_ahead(block + 1, 0);
      worked.push_back(make_block(context_.plan.model, weights.back(), context_.ranks.dtype, context_.ranks.device));
      target = finished ? run_block(worked.back(), target, block_context_, micro_batch_)
                        : run_float(worked.back(), target, importance);
    }
    if (finished) {
      for (std::int64_t i = 0; i < unit.size(); ++i) set_weights(worked[static_cast<std::size_t>(i)], unit.first + i);
    } else {
      tune(unit, weights, worked, target, importance);
    }
    // Nobody reads the chains after the stage's last block.
    if (last_of_stage) return;
    if (context_.config.tuning.use_quant_input) {
      for (const DecoderBlock& block : worked)
        quantized_chain_ = run_block(block, quantized_chain_, block_context_, micro_batch_);
    }
    float_chain_ = target;
  }

  // The float block's output for `hidden`; where scales are to be searched, what enters its layers is weighed
  // meanwhile.
  torch::Tensor run_float(DecoderBlock& block, const torch::Tensor& hidden, std::vector<torch::Tensor>& importance) {
    if (context_.config.tuning.init_scale != InitScale::kSearch)
      return run_block(block, hidden, block_context_, micro_batch_);
    const Importance inputs(block);
    torch::Tensor out = run_block(block, hidden, block_context_, micro_batch_);
    for (torch::Tensor& layer : inputs.sum(context_.ranks.grid.group_comm())) importance.push_back(std::move(layer));
    return out;
  }

  // Replay: the weights of a block that an earlier start of this run has tuned.
  void set_weights(DecoderBlock& block, std::int64_t index) {
    const auto read = read_block_file(context_.paths.tuned, context_.plan, index, context_.ranks.grid.group_comm());
    for (std::size_t i = 0; i < read.size(); ++i) {
      if (read[i]) block.linears()[i].weight = dequantize(*read[i], context_.ranks.dtype).to(context_.ranks.device);
    }
  }

  // Tunes the blocks of a unit together; then writes, proves and reports each of them.
  void tune(const Stage& unit, const std::vector<BlockWeights>& weights, std::vector<DecoderBlock>& worked,
            const torch::Tensor& target, const std::vector<torch::Tensor>& importance) {
    const Stopwatch watch;
    const TunedBlock tuned = tune_unit(unit, weights, worked, {quantized_chain_, target, range_, importance});
    const double seconds = watch.seconds() / static_cast<double>(worked.size());
    torch::Tensor sample = quantized_chain_.narrow(0, 0, 1);  // of each rank, to report errors on
    for (std::size_t i = 0; i < worked.size(); ++i) {
      finish_block(unit.first + static_cast<std::int64_t>(i), weights[i], worked[i], part_of_unit(tuned, worked, i),
                   sample, seconds);
    }
  }

  TunedBlock tune_unit(const Stage& unit, const std::vector<BlockWeights>& weights, std::vector<DecoderBlock>& worked,
                       const BlockSamples& samples) {
    const Config& config = context_.config;
    TuningUnit blocks;
    for (std::size_t i = 0; i < worked.size(); ++i) {
      worked[i].clear_expert_tokens();
      blocks.blocks.push_back(&worked[i]);
      for (const torch::Tensor& weight : weights[i].weights)
        blocks.original.push_back(weight.to(context_.ranks.device));
      const BlockSchemes& own = schemes_of(unit.first + static_cast<std::int64_t>(i));
      blocks.schemes.insert(blocks.schemes.end(), own.begin(), own.end());
    }
    run_on_all(context_.ranks.grid.group_comm(), [&] { check_scales(unit, blocks.original); });
    const Sampler sampler(config.tuning.sampler, config.calibration.n_samples, context_.plan.batch,
                          static_cast<std::uint64_t>(config.tuning.seed), unit.first);
    return BlockTuner(blocks, samples, block_context_, sampler, tune_settings(config, context_.plan.shards),
                      context_.ranks.gradient_group(), observer(unit.first))
        .tune();
  }

  // Refuses weights with a scale that a format cannot store. `weights` are those of all blocks of the unit, in their
  // order.
  void check_scales(const Stage& unit, const std::vector<torch::Tensor>& weights) const {
    const std::vector<LinearSpec> linears = block_linears(context_.plan.model);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const std::int64_t block = unit.first + static_cast<std::int64_t>(i / linears.size());
      const std::string& name = linears[i % linears.size()].weight().name;
      scale_check_(context_.plan.model.block_name(block) + "." + name, weights[i]);
    }
  }

  // Writes the block's file, proves it and reports it. `sample` is run through the block: its output is left there.
  void finish_block(std::int64_t block, const BlockWeights& weights, DecoderBlock& worked, const TunedBlock& tuned,
                    torch::Tensor& sample, double seconds) {
    std::vector<std::string> idle = idle_experts(worked);
    std::vector<LayerError> errors = layer_errors(worked, weights.weights, schemes_of(block), sample, block_context_,
                                                  context_.ranks.grid.group_comm());
    BlockFile file;
    const Stopwatch saving;
    run_on_all(context_.ranks.grid.group_comm(), [&] {
      if (!context_.ranks.grid.leads_group()) return;
      file = write_block_file(context_.paths.tuned, context_.plan, block, weights, tuned);
      prove_block_file(context_.paths.tuned, context_.plan, block, tuned, worked);
    });
    if (!context_.ranks.grid.leads_group()) return;
    tell_coordinator(mailbox_, to_message({.stage = stage_,
                                           .block = block,
                                           .file = file,
                                           .tuned = tuned,
                                           .idle_experts = std::move(idle),
                                           .errors = std::move(errors),
                                           .seconds = seconds,
                                           .save_seconds = saving.seconds()}));
  }

  const BlockSchemes& schemes_of(std::int64_t block) const {
    return context_.plan.schemes[static_cast<std::size_t>(block)];
  }

  // Experts that no token of any rank of the group has reached in all of tuning: their weights are rounded to nearest.
  // Collective over the group. Without iterations nothing was tuned, and nothing is named.
  std::vector<std::string> idle_experts(const DecoderBlock& block) {
    std::vector<std::int64_t> tokens = block.expert_tokens();
    if (tokens.empty() || context_.config.tuning.iters == 0) return {};
    context_.ranks.grid.group_comm().all_reduce_sum(host_span(tokens));
    std::vector<std::string> idle;
    for (std::size_t expert = 0; expert < tokens.size(); ++expert) {
      if (tokens[expert] == 0) idle.push_back(fmt::format("{}.{}", context_.plan.model.block_names.experts, expert));
    }
    return idle;
  }

  // Block `index` of a unit: its weights, and the losses that all of the unit share.
  static TunedBlock part_of_unit(const TunedBlock& tuned, const std::vector<DecoderBlock>& worked, std::size_t index) {
    TunedBlock own = tuned;
    const auto layers = static_cast<std::ptrdiff_t>(worked[index].linears().size());
    const auto first = tuned.weights.begin() + static_cast<std::ptrdiff_t>(index) * layers;
    own.weights.assign(first, first + layers);
    return own;
  }

  TuneObserver observer(std::int64_t block) {
    TuneObserver observer;
    observer.wants_to_leave = [this] { return asked_to_leave(); };
    if (!context_.ranks.grid.leads_group()) return observer;
    const bool first_of_stage = block == context_.plan.stages[static_cast<std::size_t>(stage_)].first;
    if (context_.config.run.save_gradients && first_of_stage) {
      observer.on_gradients = [this, block](const StepGradients& step) {
        if (step.iteration == 0) write_gradients(context_.paths.gradients(block), step);
      };
    }
    observer.on_iteration = [this, block](std::int64_t iteration, float first, float best) {
      if (since_report_.seconds() < 0.5) return;
      since_report_ = Stopwatch();
      tell_coordinator(mailbox_,
                       message::Progress{stage_, block, iteration + 1, context_.config.tuning.iters, first, best});
    };
    return observer;
  }

  RunContext& context_;
  Mailbox& mailbox_;
  std::int64_t stage_;
  SampleRange range_;
  std::int64_t micro_batch_;
  CheckpointSource source_;
  std::unique_ptr<MpiCommunicator> loading_;  // a block is broadcast while another is tuned
  BlockLoader loader_;
  BlockContext block_context_;
  ScaleCheck scale_check_;
  torch::Tensor float_chain_;      // [range, seqlen, hidden]: what enters the present block of the float model
  torch::Tensor quantized_chain_;  // what enters it of the quantized model
  Stopwatch since_report_;
  bool told_to_leave_ = false;
};

ToWorker next_order(RunContext& context, Mailbox& mailbox) {
  std::string order;
  if (context.ranks.grid.leads_group()) {
    tell_coordinator(mailbox, message::Ready{});
    order = mailbox.receive(MailTo::kWorker).text;
  }
  return to_worker_from(broadcast_text(context.ranks.grid.group_comm(), order, 0));
}

}  // namespace

void tune_stages(RunContext& context, Mailbox& mailbox) {
  const auto tell = [&](const ToCoordinator& message) {
    if (context.ranks.grid.leads_group()) tell_coordinator(mailbox, message);
  };
  while (true) {
    const ToWorker order = next_order(context, mailbox);
    const auto* stage = std::get_if<message::TuneStage>(&order);
    if (stage == nullptr) return;  // End
    try {
      StageWorker(context, mailbox, stage->stage).run(stage->finished);
    } catch (const AgreedError& error) {
      if (error.code() != ExitCode::kStartAgain) throw;
      return tell(message::Left{});
    }
    tell(message::StageDone{stage->stage});
  }
}

}  // namespace roundtable
