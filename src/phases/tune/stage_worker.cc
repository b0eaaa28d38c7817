// Tuning stages, block by block.
#include "phases/tune/stage_worker.h"

#include <torch/types.h>

#include <algorithm>
#include <optional>

#include "base/activity.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/stop_signal.h"
#include "cache/boundary_file.h"
#include "comm/agree.h"
#include "data/sampler.h"
#include "graph/block_loader.h"
#include "model/load/stacked_rows.h"
#include "model/load/tensor_span.h"
#include "phases/boundary/boundary_states.h"
#include "phases/tune/block_file.h"
#include "phases/tune/block_report.h"
#include "phases/tune/messages.h"
#include "plan/tune_settings.h"
#include "tune/block_tuner.h"
#include "tune/losses/importance.h"
#include "tune/losses/layer_error.h"
#include "tune/losses/starved_experts.h"

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
        loader_(source_, context.plan.model, *loading_, context.ranks.expert_part, alone_),
        maker_(context.plan.model, context.ranks.device, context.ranks.exchange),
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

  States read_inputs(std::int64_t first_block) {
    const BoundaryShape shape = boundary_shape(context_.plan.model, context_.config.calibration.n_samples, first_block);
    States inputs = empty_states(context_.plan.model, first_block, range_.size());
    run_on_all(context_.ranks.grid.group_comm(), [&] {
      read_boundary(context_.ranks.grid.group_comm(), context_.boundaries.boundary(first_block), shape, first_block,
                    context_.boundaries.fingerprint, range_, pointers_of(context_.plan.model, first_block, inputs));
      add_tokens(context_.config.calibration, context_.plan.model, range_, inputs);
    });
    return context_.config.tuning.low_gpu_mem_usage ? inputs : inputs.to(context_.ranks.device);
  }

  // The blocks [first, last), which are tuned as one; `finished`: in an earlier start of this run.
  void run_unit(const Stage& unit, bool finished, bool last_of_stage) {
    std::vector<BlockWeights> weights;
    std::vector<Block> worked;
    std::vector<torch::Tensor> importance;
    few_tokens_.clear();
    States target = float_chain_;
    for (std::int64_t block = unit.first; block < unit.last; ++block) {
      weights.push_back(loader_.load(block, 0));
      if (block + 1 < context_.plan.stages[static_cast<std::size_t>(stage_)].last) loader_.load_ahead(block + 1, 0);
      worked.push_back(maker_.make(weights.back()));
      target = finished ? run_block(worked.back(), target, micro_batch_)
                        : run_float(worked.back(), block, target, importance);
    }
    if (finished) {
      for (std::int64_t i = 0; i < unit.size(); ++i) set_weights(worked[static_cast<std::size_t>(i)], unit.first + i);
    } else {
      tune(unit, weights, worked, target, importance);
    }
    // Nobody reads the chains after the stage's last block.
    if (last_of_stage) return;
    drop_unneeded(context_.plan.model, unit.last, target);
    if (context_.config.tuning.use_quant_input) {
      for (const Block& block : worked)
        quantized_chain_ = run_block(block, quantized_chain_, micro_batch_);
    }
    drop_unneeded(context_.plan.model, unit.last, quantized_chain_);
    float_chain_ = target;
  }

  // The float block's output for `states`; where scales are to be searched, what enters its layers is weighed meanwhile,
  // and experts that few tokens choose are shown more of them.
  States run_float(Block& block, std::int64_t index, const States& states, std::vector<torch::Tensor>& importance) {
    HostCommunicator& group = context_.ranks.grid.group_comm();
    std::optional<Importance> inputs;
    if (context_.config.tuning.init_scale == InitScale::kSearch) {
      inputs.emplace(block, context_.plan.model.linears(index));
    }
    States out = run_block(block, states, micro_batch_);
    if (const std::int64_t least = context_.config.tuning.min_expert_tokens; least > 0) {
      const std::int64_t all = context_.config.calibration.n_samples;
      few_tokens_.push_back(show_more_tokens(block, {states, range_, all}, quantized_experts(block, index), least,
                                             inputs ? &*inputs : nullptr, group));
    }
    if (!inputs) return out;
    for (torch::Tensor& layer : inputs->sum(group)) importance.push_back(std::move(layer));
    return out;
  }

  // Replay: the weights of a block that an earlier start of this run has tuned.
  void set_weights(Block& block, std::int64_t index) {
    const auto read = read_block_file(context_.paths.tuned, context_.plan, index, context_.ranks.grid.group_comm());
    for (std::size_t i = 0; i < read.size(); ++i) {
      if (read[i]) block.linears()[i].weight = dequantize(*read[i], context_.ranks.dtype).to(context_.ranks.device);
    }
  }

  // Tunes the blocks of a unit together; then writes, proves and reports each of them.
  void tune(const Stage& unit, const std::vector<BlockWeights>& weights, std::vector<Block>& worked,
            const States& target, const std::vector<torch::Tensor>& importance) {
    const Stopwatch watch;
    const TunedBlock tuned = tune_unit(unit, weights, worked, {quantized_chain_, target.hidden, range_, importance});
    const double seconds = watch.seconds() / static_cast<double>(worked.size());
    States sample = quantized_chain_.narrow(0, 1);  // of each rank, to report errors on
    for (std::size_t i = 0; i < worked.size(); ++i) {
      finish_block(unit.first + static_cast<std::int64_t>(i), weights[i], worked[i], part_of_unit(tuned, worked, i),
                   i, sample, seconds);
    }
  }

  TunedBlock tune_unit(const Stage& unit, const std::vector<BlockWeights>& weights, std::vector<Block>& worked,
                       const BlockSamples& samples) {
    const Config& config = context_.config;
    TuningUnit blocks;
    for (std::size_t i = 0; i < worked.size(); ++i) {
      worked[i].clear_expert_tokens();
      blocks.blocks.push_back(&worked[i]);
      for (torch::Tensor& weight : on_device(weights[i].weights, context_.ranks.device)) {
        blocks.original.push_back(std::move(weight));
      }
      const BlockSchemes& own = schemes_of(unit.first + static_cast<std::int64_t>(i));
      blocks.schemes.insert(blocks.schemes.end(), own.begin(), own.end());
    }
    run_on_all(context_.ranks.grid.group_comm(), [&] { check_scales(unit, blocks.original); });
    const Sampler sampler(config.tuning.sampler, config.calibration.n_samples, context_.plan.batch,
                          static_cast<std::uint64_t>(config.tuning.seed), unit.first);
    return BlockTuner(blocks, samples, sampler, tune_settings(config, context_.plan.shards),
                      context_.ranks.tensor_group(), observer(unit.first))
        .tune();
  }

  // Refuses weights with a scale that a format cannot store. `weights` are those of all blocks of the unit, in their
  // order.
  void check_scales(const Stage& unit, const std::vector<torch::Tensor>& weights) const {
    auto weight = weights.begin();
    for (std::int64_t block = unit.first; block < unit.last; ++block) {
      for (const LinearSpec& linear : context_.plan.model.linears(block)) {
        const torch::Tensor& held = *weight++;
        if (held.defined()) scale_check_(context_.plan.model.block_prefix(block) + linear.weight().name, held);
      }
    }
  }

  // Each rank writes the file of its part of the block and proves it; then the leading rank reports all of them: a
  // block is done with all of its files, or not at all. `place`: of the block in its unit. `sample` is run through the
  // block: its output is left there.
  void finish_block(std::int64_t block, const BlockWeights& weights, Block& worked, const TunedBlock& tuned,
                    std::size_t place, States& sample, double seconds) {
    const std::vector<std::int64_t> tokens = tokens_of_group(worked, context_.ranks.grid.group_comm());
    std::vector<LayerError> errors = layer_errors(worked, weights.weights, schemes_of(block), sample,
                                                  context_.ranks.grid.group_comm());
    std::optional<BlockFile> mine;
    const Stopwatch saving;
    run_on_all(context_.ranks.grid.group_comm(), [&] {
      const ExpertPart part = part_to_write(block);
      if (part.part != context_.ranks.grid.shard()) return;
      mine = write_block_file(context_.paths.tuned, context_.plan, block, part, weights, tuned);
      prove_block_file(context_.paths.tuned, context_.plan, block, part, tuned, worked);
    });
    const std::vector<BlockFile> files = gather_block_files(mine, context_.ranks.grid.group_comm());
    std::vector<std::int64_t> exchanged{tuned.exchanged_bytes};
    context_.ranks.grid.group_comm().all_reduce_sum(host_span(exchanged));
    if (!context_.ranks.grid.leads_group()) return;
    tell_coordinator(mailbox_, to_message({.stage = stage_,
                                           .block = block,
                                           .files = files,
                                           .tuned = tuned,
                                           .idle_experts = idle_experts(block, worked, tokens),
                                           .few_tokens = few_tokens(block, worked, tokens, place),
                                           .exchanged_bytes = exchanged_per_rank(exchanged.front()),
                                           .errors = std::move(errors),
                                           .seconds = seconds,
                                           .save_seconds = saving.seconds()}));
  }

  // `bytes`: of all ranks of the group.
  std::optional<double> exchanged_per_rank(std::int64_t bytes) const {
    if (context_.ranks.exchange == nullptr) return std::nullopt;
    return static_cast<double>(bytes) / context_.ranks.grid.group_comm().size();
  }

  // A block that is not divided is the leading rank's to write.
  ExpertPart part_to_write(std::int64_t block) const {
    return context_.plan.files_of_block(block) > 1 ? context_.ranks.expert_part : ExpertPart{};
  }

  const BlockSchemes& schemes_of(std::int64_t block) const {
    return context_.plan.schemes[static_cast<std::size_t>(block)];
  }

  std::vector<bool> quantized_experts(const Block& block, std::int64_t index) const {
    return roundtable::quantized_experts(block, context_.plan.model.linears(index), schemes_of(index));
  }

  // Experts that no token of any rank of the group has reached in all of tuning: their weights are rounded to nearest.
  // Without iterations nothing was tuned, and nothing is named.
  std::vector<std::string> idle_experts(std::int64_t index, const Block& block,
                                        const std::vector<std::int64_t>& tokens) const {
    if (tokens.empty() || context_.config.tuning.iters == 0) return {};
    const std::vector<bool> quantized = quantized_experts(block, index);
    std::vector<std::string> idle;
    for (const LinearSpec& linear : context_.plan.model.linears(index)) {
      const auto e = static_cast<std::size_t>(linear.expert);
      if (linear.expert >= 0 && quantized[e] && tokens[e] == 0) {
        const std::string expert = linear.name.substr(0, linear.name.rfind('.'));
        if (std::find(idle.begin(), idle.end(), expert) == idle.end()) idle.push_back(expert);
      }
    }
    return idle;
  }

  // `tokens` of all steps, by expert; `place`: of the block in its unit.
  std::optional<FewTokens> few_tokens(std::int64_t index, const Block& block, const std::vector<std::int64_t>& tokens,
                                      std::size_t place) const {
    const std::vector<bool> quantized = quantized_experts(block, index);
    const std::int64_t experts = std::count(quantized.begin(), quantized.end(), true);
    if (few_tokens_.empty() || experts == 0) return std::nullopt;
    const StarvedExperts& starved = few_tokens_[place];
    FewTokens few{.least = context_.config.tuning.min_expert_tokens,
                  .experts = experts,
                  .in_calibration = starved.starved,
                  .tokens_added = starved.added,
                  .left = starved.left};
    for (std::size_t e = 0; e < quantized.size() && context_.config.tuning.iters > 0; ++e) {
      few.in_tuning += quantized[e] && tokens[e] < few.least ? 1 : 0;
    }
    return few;
  }

  // Block `index` of a unit: its weights, and the losses that all of the unit share.
  static TunedBlock part_of_unit(const TunedBlock& tuned, const std::vector<Block>& worked, std::size_t index) {
    TunedBlock own = tuned;
    auto first = tuned.weights.begin();
    for (std::size_t i = 0; i < index; ++i) first += std::ssize(worked[i].linears());
    own.weights.assign(first, first + std::ssize(worked[index].linears()));
    return own;
  }

  TuneObserver observer(std::int64_t block) {
    TuneObserver observer;
    observer.wants_to_leave = [this] { return asked_to_leave(); };
    const ExpertPart& part = context_.ranks.expert_part;
    const bool first_of_stage = block == context_.plan.stages[static_cast<std::size_t>(stage_)].first;
    if (context_.config.run.save_gradients && first_of_stage &&
        (context_.ranks.grid.leads_group() || part.divides())) {
      observer.on_gradients = [this, block, part](const StepGradients& step) {
        if (step.iteration == 0) write_gradients(context_.paths.gradients(block, part.part), step);
      };
    }
    if (!context_.ranks.grid.leads_group()) return observer;
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
  SelfCommunicator alone_;                    // no other rank of the group holds the same part of the experts
  BlockLoader loader_;
  BlockMaker maker_;
  ScaleCheck scale_check_;
  States float_chain_;      // of range_: what enters the present block of the float model
  States quantized_chain_;  // what enters it of the quantized model
  std::vector<StarvedExperts> few_tokens_;  // of the present unit's blocks; empty without tuning.min_expert_tokens
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
