// Tuning stages, block by block.
#include "phases/tune/stage_worker.h"

#include <torch/types.h>

#include <algorithm>
#include <nlohmann/json.hpp>

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
#include "plan/tune_settings.h"
#include "tune/block_tuner.h"
#include "tune/losses/importance.h"
#include "tune/losses/layer_error.h"

namespace roundtable {
namespace {

// One group's walk through the blocks of one stage.
class StageWorker {
 public:
  StageWorker(Environment& env, Mailbox& mailbox, std::int64_t stage)
      : env_(env),
        mailbox_(mailbox),
        stage_(stage),
        range_(shard_samples(env.config.calibration.n_samples, env.plan.batch, env.plan.shards, env.grid.shard())),
        micro_batch_(micro_batch_of(env.config, env.plan.shards)),
        source_(env.config.model.path),
        loading_(env.grid.group_comm().duplicate()),
        loader_(source_, env.plan.model, *loading_),
        context_(make_block_context(env.plan.model, env.config.calibration.seqlen, env.dtype, env.device)) {}

  // `finished` blocks at the start are replayed from their shards: forward only.
  void run(std::int64_t finished) {
    const Stage stage = env_.plan.stages[static_cast<std::size_t>(stage_)];
    enter_block(stage.first);
    try {
      float_chain_ = read_inputs(stage.first);
      quantized_chain_ = float_chain_;
      for (std::int64_t first = stage.first; first < stage.last; first += env_.plan.joint_blocks) {
        const Stage unit{first, std::min(first + env_.plan.joint_blocks, stage.last)};
        enter_block(first);
        run_on_all(env_.grid.group_comm(), [&] {
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
  // By a signal, by the time, or by the coordinator, since another group was.
  bool asked_to_leave() {
    if (env_.grid.leads_group() && mailbox_.look(MailTo::kWorkerAtWork)) told_to_leave_ = true;
    return told_to_leave_ || !stop_reason().empty();
  }

  // The loss is the group's; the rank whose samples broke it is to be named.
  [[noreturn]] void end_for_broken_loss(const BrokenLoss& loss) {
    const std::string mine = located(loss.what());
    const std::vector<std::string> found = all_gather_text(env_.grid.group_comm(), loss.found_here() ? mine : "");
    const auto first = std::find_if(found.begin(), found.end(), [](const std::string& line) { return !line.empty(); });
    throw LocatedError(loss.code(), first == found.end() ? mine : *first);
  }

  torch::Tensor read_inputs(std::int64_t first_block) {
    const auto& calibration = env_.config.calibration;
    const BoundaryShape shape{calibration.n_samples, calibration.seqlen, env_.plan.model.hidden_size,
                              element_type_of(env_.dtype)};
    torch::Tensor inputs = torch::empty({range_.size(), shape.seqlen, shape.hidden}, env_.dtype);
    run_on_all(env_.grid.group_comm(), [&] {
      read_boundary(env_.grid.group_comm(), env_.boundaries.boundary(first_block), shape, first_block,
                    env_.boundaries.fingerprint, range_, inputs.data_ptr());
    });
    return env_.config.tuning.low_gpu_mem_usage ? inputs : inputs.to(env_.device);
  }

  // The blocks [first, last), which are tuned as one; `finished`: in an earlier start of this run.
  void run_unit(const Stage& unit, bool finished, bool last_of_stage) {
    std::vector<BlockWeights> weights;
    std::vector<DecoderBlock> worked;
    std::vector<torch::Tensor> importance;
    torch::Tensor target = float_chain_;
    for (std::int64_t block = unit.first; block < unit.last; ++block) {
      weights.push_back(loader_.load(block, 0));
      if (block + 1 < env_.plan.stages[static_cast<std::size_t>(stage_)].last) loader_.load_ahead(block + 1, 0);
      worked.push_back(make_block(env_.plan.model, weights.back(), env_.dtype, env_.device));
      target = finished ? run_block(worked.back(), target, context_, micro_batch_)
                        : run_float(worked.back(), target, importance);
    }
    if (finished) {
      for (std::int64_t i = 0; i < unit.size(); ++i) set_weights(worked[static_cast<std::size_t>(i)], unit.first + i);
    } else {
      tune(unit, weights, worked, target, importance);
    }
    // Nobody reads the chains after the stage's last block.
    if (last_of_stage) return;
    if (env_.config.tuning.use_quant_input) {
      for (const DecoderBlock& block : worked)
        quantized_chain_ = run_block(block, quantized_chain_, context_, micro_batch_);
    }
    float_chain_ = target;
  }

  // The float block's output for `hidden`; where scales are to be searched, what enters its layers is weighed meanwhile.
  torch::Tensor run_float(DecoderBlock& block, const torch::Tensor& hidden, std::vector<torch::Tensor>& importance) {
    if (env_.config.tuning.init_scale != "search") return run_block(block, hidden, context_, micro_batch_);
    const Importance inputs(block);
    torch::Tensor out = run_block(block, hidden, context_, micro_batch_);
    for (torch::Tensor& layer : inputs.sum(env_.grid.group_comm())) importance.push_back(std::move(layer));
    return out;
  }

  // Replay: the weights of a block that an earlier start of this run has tuned.
  void set_weights(DecoderBlock& block, std::int64_t index) {
    const auto read = read_shard(env_.paths.tuned, env_.plan, index, env_.grid.group_comm());
    for (std::size_t i = 0; i < read.size(); ++i) {
      if (read[i]) block.linears()[i].weight = dequantize(*read[i], env_.dtype).to(env_.device);
    }
  }

  void tune(const Stage& unit, const std::vector<BlockWeights>& weights, std::vector<DecoderBlock>& worked,
            const torch::Tensor& target, const std::vector<torch::Tensor>& importance) {
    const Stopwatch watch;
    TuningUnit blocks;
    for (std::size_t i = 0; i < worked.size(); ++i) {
      blocks.blocks.push_back(&worked[i]);
      for (const torch::Tensor& weight : weights[i].weights) blocks.original.push_back(weight.to(env_.device));
      const BlockSchemes& own = env_.plan.schemes[static_cast<std::size_t>(unit.first) + i];
      blocks.schemes.insert(blocks.schemes.end(), own.begin(), own.end());
    }
    const Sampler sampler(env_.config.tuning.sampler, env_.config.calibration.n_samples, env_.plan.batch,
                          static_cast<std::uint64_t>(env_.config.tuning.seed), unit.first);
    const BlockSamples samples{quantized_chain_, target, range_, importance};
    for (DecoderBlock& block : worked) block.clear_expert_tokens();
    const TunedBlock tuned =
        BlockTuner(blocks, samples, context_, sampler, tune_settings(env_.config, env_.plan.shards), env_.gradient_group(),
                   observer(unit.first))
            .tune();
    const double seconds = watch.seconds() / static_cast<double>(worked.size());
    torch::Tensor sample = quantized_chain_.narrow(0, 0, 1);  // of each rank, to report errors on
    for (std::size_t i = 0; i < worked.size(); ++i) {
      const std::int64_t block = unit.first + static_cast<std::int64_t>(i);
      const TunedBlock own = part_of_unit(tuned, worked, i);
      const std::vector<std::string> idle = idle_experts(worked[i]);
      const BlockSchemes& own_schemes = env_.plan.schemes[static_cast<std::size_t>(block)];
      const std::vector<LayerError> errors =
          layer_errors(worked[i], weights[i].weights, own_schemes, sample, context_, env_.grid.group_comm());
      ShardRecord shard;
      const Stopwatch saving;
      run_on_all(env_.grid.group_comm(), [&] {
        if (!env_.grid.leads_group()) return;
        shard = write_shard(env_.paths.tuned, env_.plan, block, weights[i], own);
        prove_shard(env_.paths.tuned, env_.plan, block, own, worked[i]);
      });
      if (env_.grid.leads_group()) report(block, own, shard, idle, errors, seconds, saving.seconds());
    }
  }

  // Experts that no token of any rank of the group has reached in all of tuning: their weights are rounded to nearest.
  // Collective over the group. Without iterations nothing was tuned, and nothing is named.
  std::vector<std::string> idle_experts(const DecoderBlock& block) {
    std::vector<std::int64_t> tokens = block.expert_tokens();
    if (tokens.empty() || env_.config.tuning.iters == 0) return {};
    env_.grid.group_comm().all_reduce_sum(host_span(tokens));
    std::vector<std::string> idle;
    for (std::size_t expert = 0; expert < tokens.size(); ++expert) {
      if (tokens[expert] == 0) idle.push_back(fmt::format("{}.{}", env_.plan.model.block_names.experts, expert));
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
    if (!env_.grid.leads_group()) return observer;
    const bool first_of_stage = block == env_.plan.stages[static_cast<std::size_t>(stage_)].first;
    if (env_.config.run.save_gradients && first_of_stage) {
      observer.on_gradients = [this, block](const StepGradients& step) {
        if (step.iteration == 0) write_gradients(env_.paths.gradients(block), step);
      };
    }
    observer.on_iteration = [this, block](std::int64_t iteration, float first, float best) {
      if (since_report_.seconds() < 0.5) return;
      since_report_ = Stopwatch();
      send({{"type", "progress"},
            {"stage", stage_},
            {"block", block},
            {"iteration", iteration + 1},
            {"iterations", env_.config.tuning.iters},
            {"first_loss", first},
            {"best_loss", best}});
    };
    return observer;
  }

  void report(std::int64_t block, const TunedBlock& tuned, const ShardRecord& shard,
              const std::vector<std::string>& idle, const std::vector<LayerError>& errors, double seconds,
              double save_seconds) {
    nlohmann::json message = {{"type", "block"},
                              {"stage", stage_},
                              {"block", block},
                              {"file", shard.file},
                              {"digest", shard.digest},
                              {"bytes", shard.bytes},
                              {"first_loss", tuned.first_loss()},
                              {"best_loss", tuned.best_loss()},
                              {"best_iteration", tuned.best_iteration},
                              {"seconds", seconds},
                              {"save_seconds", save_seconds},  // written, brought to the disk, read back and compared
                              {"losses", tuned.losses}};
    if (tuned.reduction.bytes > 0) {
      message["reduction"] = {{"bytes", tuned.reduction.bytes},
                              {"seconds_under_way", tuned.reduction.seconds_under_way},
                              {"seconds_waiting", tuned.reduction.seconds_waiting}};
    }
    if (!idle.empty()) message["experts_without_tokens"] = idle;
    for (const LayerError& e : errors) message["layer_errors"][e.name] = {{"nearest", e.nearest}, {"tuned", e.tuned}};
    send(message);
  }

  void send(const nlohmann::json& message) { mailbox_.send(0, MailTo::kCoordinator, message.dump()); }

  Environment& env_;
  Mailbox& mailbox_;
  std::int64_t stage_;
  SampleRange range_;
  std::int64_t micro_batch_;
  CheckpointSource source_;
  std::unique_ptr<MpiCommunicator> loading_;  // a block is broadcast while another is tuned
  BlockLoader loader_;
  BlockContext context_;
  torch::Tensor float_chain_;      // [range, seqlen, hidden]: what enters the present block of the float model
  torch::Tensor quantized_chain_;  // what enters it of the quantized model
  Stopwatch since_report_;
  bool told_to_leave_ = false;
};

nlohmann::json next_order(Environment& env, Mailbox& mailbox) {
  std::string order;
  if (env.grid.leads_group()) {
    mailbox.send(0, MailTo::kCoordinator, nlohmann::json{{"type", "ready"}}.dump());
    order = mailbox.receive(MailTo::kWorker).text;
  }
  return nlohmann::json::parse(broadcast_text(env.grid.group_comm(), order, 0));
}

}  // namespace

void work(Environment& env, Mailbox& mailbox) {
  const auto tell = [&](const nlohmann::json& message) {
    if (env.grid.leads_group()) mailbox.send(0, MailTo::kCoordinator, message.dump());
  };
  while (true) {
    const nlohmann::json order = next_order(env, mailbox);
    if (order["type"] == "end") return;
    try {
      StageWorker(env, mailbox, order["stage"]).run(order["finished"]);
    } catch (const AgreedError& error) {
      if (error.code() != ExitCode::kStartAgain) throw;
      return tell({{"type", "leave"}});
    }
    tell({{"type", "stage"}, {"stage", order["stage"]}});
  }
}

}  // namespace roundtable
