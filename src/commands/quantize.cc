// The whole run: plan, calibrate, tune, assemble, prove.
#include <torch/types.h>

#include <filesystem>
#include <map>
#include <optional>

#include "base/activity.h"
#include "base/error.h"
#include "base/hash.h"
#include "export/quantized_checkpoint.h"
#include "io/file.h"
#include "phases/assemble.h"
#include "phases/calibrate.h"
#include "commands/commands.h"
#include "convert/convert.h"
#include "phases/tune/coordinator.h"
#include "rundir/events.h"
#include "run/fingerprint.h"
#include "run/stop.h"
#include "phases/model_card.h"
#include "run/phase_meter.h"
#include "run/progress.h"
#include "run/resume.h"
#include "commands/start.h"
#include "phases/boundary_cache.h"
#include "phases/forward_pass.h"
#include "run/vital_signs.h"
#include "phases/tune/stage_worker.h"

namespace roundtable {
namespace {

class QuantizeRun {
 public:
  QuantizeRun(MpiCommunicator& world, Watchdog& watchdog, const Config& config)
      : world_(world), watchdog_(watchdog), config_(config), paths_(config, true), progress_(display_stream(world)) {}

  nlohmann::json run() {
    try {
      return run_phases();
    } catch (const AgreedError& error) {
      if (error.code() != ExitCode::kStartAgain) throw;
      throw AgreedError(ExitCode::kStartAgain, root() ? words_of_leaving(error.what()) : error.what());
    }
  }

 private:
  bool root() const { return world_.rank() == 0; }

  nlohmann::json run_phases() {
    meter_.run("plan", [&] { plan(); });
    if (const auto summary = finished_summary()) return *summary;
    if (root()) vital_signs_.emplace(watchdog_, paths_.ranks());
    env_.emplace(make_environment(config_, plan_, world_));
    env_->boundaries = place_boundaries(*env_, print_);
    phase("calibrate", [&] { calibrate(*env_, root() ? &*state_ : nullptr, progress_); });
    phase("tune", [&] { tune(); });
    phase("assemble", [&] { assemble_output(); });
    phase("prove", [&] { prove(); });
    if (!other_formats().empty()) phase("formats", [&] { make_formats(); });
    if (!config_.run.eval_tokens.empty()) phase("evaluate", [&] { evaluate(); });
    return summarize();
  }

  // On rank 0: what stands when the run leaves, for `reason`.
  std::string words_of_leaving(const std::string& reason) {
    const std::string phase = present_phase().empty() ? "plan" : present_phase();
    if (!state_) return fmt::format("left in time ({}) in plan, before any work of this start; the same command goes on", reason);
    const std::int64_t blocks = state_->blocks_on_record();
    if (events_) events_->append("leave", {{"reason", reason}, {"phase", phase}, {"blocks", blocks}});
    return fmt::format("left in time ({}) in {}: {} of {} blocks stand in {}; the same command goes on", reason, phase,
                       blocks, plan_.model.n_blocks, paths_.output);
  }

  void phase(const std::string& name, const std::function<void()>& work) {
    enter_phase(name);
    leave_if_asked(world_);
    if (events_) events_->append("phase_start", {{"phase", name}});
    meter_.run(name, work);
    if (events_) events_->append("phase", {{"phase", name}, {"seconds", meter_.seconds()[name]}});
  }

  // Everything that can be checked is, before the first byte is written.
  void plan() {
    const World ranks = world_of(world_);
    run_on_root(world_, [&] {
      require_keys(config_, {"calibration.tokens", "output.path"});
      plan_ = make_plan(config_, ranks);
      paths_ = RunPaths(config_, plan_.tuned_in_place);
      print_ = fingerprint(config_, plan_);
      state_.emplace(paths_, print_, plan_);
      events_.emplace(paths_.events());
      const std::string yaml = to_yaml(config_);
      write_file_atomically(paths_.resolved_config(), [&](OutputFile& file) { file.write(yaml.data(), yaml.size()); });
      log_start();
      fmt::print("{}\n{}", yaml, describe(plan_, config_));
      std::fflush(stdout);
      return std::string();
    });
    if (!root()) plan_ = lay_out(config_, ranks);
    paths_ = RunPaths(config_, plan_.tuned_in_place);
  }

  // How this start of the program lays out the work. A run that is finished is not started again.
  void log_start() {
    if (state_->completed("summary") != nullptr) return;
    events_->append("start", {{"ranks", plan_.world.ranks},
                              {"groups", plan_.groups},
                              {"shards", plan_.shards},
                              {"stages", plan_.stages.size()},
                              {"blocks", plan_.model.n_blocks},
                              {"finished_blocks", state_->finished_blocks()},
                              {"locked", state_->journal().locked()},
                              {"warnings", plan_.warnings},
                              {"layers_in_16_bits", plan_.float_reasons}});
  }

  // A run that was finished before: its summary, and no work.
  std::optional<nlohmann::json> finished_summary() {
    const std::string text = run_on_root(world_, [&] {
      const nlohmann::json* done = state_->completed("summary");
      return done == nullptr ? std::string() : (*done)["summary"].dump();
    });
    if (text.empty()) return std::nullopt;
    const nlohmann::json summary = nlohmann::json::parse(text);
    if (root()) {
      fmt::print("this run is finished already\n");
      print_summary(summary);
    }
    return summary;
  }

  void tune() {
    Mailbox mailbox(world_);
    std::optional<Coordinator> coordinator;
    std::thread thread;
    if (root()) {
      progress_.begin_phase("tune", plan_.model.n_blocks);
      progress_.set_groups(plan_.groups);
      progress_.set_total_blocks(plan_.model.n_blocks - state_->finished_blocks());
      coordinator.emplace(plan_, paths_, config_.run.keep_boundaries, *state_, mailbox, *events_, progress_);
      // A coordinator that fails leaves every worker waiting for it: the job ends here and now.
      thread = start_coordinator(*coordinator, [this](std::exception_ptr error) { end_job(error); });
    }
    try {
      work(*env_, mailbox);
    } catch (...) {
      if (thread.joinable()) {
        Coordinator::stop(mailbox);
        thread.join();
      }
      throw;
    }
    if (thread.joinable()) thread.join();
    leave_if_asked(world_);
    progress_.end_phase();
  }

  void assemble_output() {
    run_on_root(world_, [&] {
      if (state_->completed("assembled") != nullptr) return std::string();
      for (const ShardRecord& outside : assemble(config_, plan_, paths_.tuned)) {
        state_->journal().append({{"type", "outside"}, {"file", outside.file}, {"digest", outside.digest}});
      }
      state_->journal().append({{"type", "assembled"}});
      return std::string();
    });
  }

  void prove() { prove_files(world_, paths_.tuned, root() ? state_->shard_digests() : nlohmann::json()); }

  std::vector<const CheckpointFormat*> other_formats() const {
    std::vector<const CheckpointFormat*> others;
    for (const CheckpointFormat* format : plan_.formats) {
      if (format != plan_.tuned || !plan_.tuned_in_place) others.push_back(format);
    }
    return others;
  }

  void make_formats() {
    for (const CheckpointFormat* format : other_formats()) {
      const std::string name(format->name());
      convert_checkpoint(world_, {paths_.tuned, format, paths_.format(config_, name), paths_.format_record(name),
                                  config_.output.max_shard_size.bytes()}, {});
    }
  }

  void evaluate() {
    progress_.begin_phase("evaluate", 2 * plan_.model.n_blocks);
    const std::string tokens = run_on_root(world_, [&] { return hash_file(config_.run.eval_tokens); });
    for (const auto& [which, directory] : {std::pair{"float", config_.model.path}, {"quantized", paths_.tuned}}) {
      const nlohmann::json measured = measured_perplexity(which, tokens);
      if (measured.is_null()) {
        const Perplexity result =
            measure_perplexity(*env_, directory, config_.run.eval_tokens, "", [&] { progress_.advance(1); });
        perplexity_[which] = result.value;
        perplexity_["tokens"] = result.tokens;
        note_perplexity(which, tokens, result);
      } else {
        perplexity_[which] = measured["value"];
        perplexity_["tokens"] = measured["tokens"];
        progress_.advance(plan_.model.n_blocks);
      }
    }
    progress_.end_phase();
  }

  // Of an earlier start of this run, on the same tokens; null where there is none. Collective.
  nlohmann::json measured_perplexity(const std::string& which, const std::string& token_digest) {
    return nlohmann::json::parse(run_on_root(world_, [&] {
      nlohmann::json found;
      for (const nlohmann::json& record : state_->journal().records()) {
        if (record["type"] == "perplexity" && record["which"] == which && record["digest"] == token_digest) found = record;
      }
      return found.dump();
    }));
  }

  void note_perplexity(const std::string& which, const std::string& token_digest, const Perplexity& result) {
    run_on_root(world_, [&] {
      state_->journal().append({{"type", "perplexity"},
                                {"which", which},
                                {"digest", token_digest},
                                {"value", result.value},
                                {"tokens", result.tokens}});
      return std::string();
    });
  }

  // Full names, from the records of the blocks. On rank 0.
  std::vector<std::string> experts_without_tokens() {
    std::map<std::int64_t, nlohmann::json> idle;  // a block may have been tuned twice: the last record counts
    for (const nlohmann::json& record : state_->journal().records()) {
      if (record["type"] != "block") continue;
      idle[record["block"].get<std::int64_t>()] = record.value("experts_without_tokens", nlohmann::json::array());
    }
    std::vector<std::string> names;
    for (const auto& [block, experts] : idle) {
      for (const auto& expert : experts) names.push_back(plan_.model.block_name(block) + "." + expert.get<std::string>());
    }
    return names;
  }

  nlohmann::json summarize() {
    nlohmann::json summary = {{"output", paths_.output},
                              {"seconds", meter_.seconds()},
                              {"peak_bytes", meter_.peak_bytes(world_)}};
    if (!perplexity_.empty()) summary["perplexity"] = perplexity_;
    if (!root()) return summary;
    if (const auto idle = experts_without_tokens(); !idle.empty()) summary["experts_without_tokens"] = idle;
    summary["bytes"] = {{"before", checkpoint_bytes(config_.model.path)}, {"after", checkpoint_bytes(paths_.tuned)}};
    for (const CheckpointFormat* format : plan_.formats) {
      write_model_card(paths_.format(config_, std::string(format->name())), config_, plan_, perplexity_);
    }
    if (!plan_.tuned_in_place) write_model_card(paths_.tuned, config_, plan_, perplexity_);
    events_->append("summary", summary);
    state_->journal().append({{"type", "summary"}, {"summary", summary}});  // last: with it nothing is done again
    print_summary(summary);
    return summary;
  }

  static void print_summary(const nlohmann::json& summary) {
    fmt::print("\n");
    if (summary.contains("perplexity")) {
      const auto& p = summary["perplexity"];
      fmt::print("perplexity   float {:.3f}, quantized {:.3f} ({} held-out tokens)\n", p["float"].get<double>(),
                 p["quantized"].get<double>(), p["tokens"].get<std::int64_t>());
    }
    fmt::print("size         {} -> {}\n", human_bytes(summary["bytes"]["before"]),
               human_bytes(summary["bytes"]["after"]));
    if (summary.contains("experts_without_tokens")) {
      fmt::print("experts      {} saw no token and are rounded to nearest (their names: --json, events.jsonl)\n",
                 summary["experts_without_tokens"].size());
    }
    std::string times;
    for (const char* name : {"plan", "calibrate", "tune", "assemble", "prove", "formats", "evaluate"}) {
      if (!summary["seconds"].contains(name)) continue;
      times += fmt::format("{}{} {:.1f} s", times.empty() ? "" : ", ", name, summary["seconds"][name].get<double>());
    }
    fmt::print("time         {}\n", times);
    for (const auto& [name, ranks] : summary["peak_bytes"].items()) {
      std::int64_t peak = 0;
      for (const auto& bytes : ranks) peak = std::max(peak, bytes.get<std::int64_t>());
      if (name == "tune") fmt::print("peak memory  {} a rank in tuning\n", human_bytes(peak));
    }
    fmt::print("checkpoint   {}\n", summary["output"].get<std::string>());
  }

  // On the coordinator's thread.
  [[noreturn]] void end_job(std::exception_ptr error);

  MpiCommunicator& world_;
  Watchdog& watchdog_;
  const Config& config_;
  RunPaths paths_;
  Plan plan_;
  nlohmann::json print_;                // rank 0
  std::optional<RunState> state_;       // rank 0
  std::optional<EventLog> events_;      // rank 0
  std::optional<VitalSigns> vital_signs_;  // rank 0
  Progress progress_;
  PhaseMeter meter_;
  std::optional<Environment> env_;
  nlohmann::json perplexity_ = nlohmann::json::object();
};

void QuantizeRun::end_job(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    watchdog_.end_all(known.code(), located(known.what()));
  } catch (const std::exception& unknown) {
    watchdog_.end_all(ExitCode::kInternal, located(unknown.what()));
  }
}

}  // namespace

nlohmann::json run_quantize(MpiCommunicator& world, Watchdog& watchdog, const Config& config) {
  return QuantizeRun(world, watchdog, config).run();
}

}  // namespace roundtable
