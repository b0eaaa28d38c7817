// `roundtable quantize`: the whole run, phase by phase.
#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "base/activity.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/version.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "commands/checks/launch_checks.h"
#include "commands/start.h"
#include "commands/summary.h"
#include "export/registry.h"
#include "io/file.h"
#include "io/json_fields.h"
#include "phases/assemble.h"
#include "phases/boundary/boundary_cache.h"
#include "phases/calibrate.h"
#include "phases/evaluate.h"
#include "phases/formats.h"
#include "phases/model_card.h"
#include "phases/model_check.h"
#include "phases/phase.h"
#include "phases/prove.h"
#include "phases/scheme/choose_scheme.h"
#include "phases/tune/tune.h"
#include "plan/path_checks.h"
#include "run/fingerprint.h"
#include "run/verify.h"
#include "run/vital_signs.h"

namespace roundtable {
namespace {

class QuantizeRun {
 public:
  QuantizeRun(MpiCommunicator& world, Watchdog& watchdog, const Config& config)
      : world_(world), watchdog_(watchdog), config_(config), paths_(config, true), progress_(display_stream(world)) {}

  nlohmann::json run() {
    try {
      return json_of(run_to_the_end());
    } catch (const AgreedError& error) {
      if (error.code() != ExitCode::kStartAgain) throw;
      throw AgreedError(ExitCode::kStartAgain, is_root() ? words_of_leaving(error.what()) : error.what());
    }
  }

 private:
  bool is_root() const { return world_.rank() == 0; }

  RunSummary run_to_the_end() {
    meter_.run("plan", [&] { plan(); });
    if (plan_.is_guess) meter_.run("scheme", [&] { choose(); });
    if (const auto summary = finished_summary()) return *summary;
    std::optional<VitalSigns> vital_signs;
    if (is_root()) vital_signs.emplace(watchdog_, paths_.ranks());
    RunContext context = make_context();
    meter_.set_device(context.ranks.device);
    recall_tensors(context);
    if (events_ && meter_.seconds().contains("scheme")) {
      events_->append(event::Phase{"scheme", meter_.seconds()["scheme"]});
    }
    run_phases(phases(context), context, meter_);
    return summarize();
  }

  // Everything that can be checked is checked before the first byte is written.
  void plan() {
    here_ = world_of(world_);
    here_.devices = check_devices(config_, world_);
    check_shared_memory_everywhere(world_, config_);
    run_on_root(world_, [&] { require_keys(config_, {"calibration.tokens", "output.path"}); });
    here_.parts_on_record = run_on_root(world_, [&] { return parts_on_record(paths_); });
    const auto choice = run_on_root(world_, [&] { return scheme_on_record(paths_, config_); });
    models_ = models_for(world_, config_);
    plan_with(choice);
    if (!plan_.is_guess) open();
  }

  // The same plan on all ranks. Collective.
  void plan_with(const SchemeChoice& choice) {
    run_on_root(world_, [&] {
      plan_ = make_plan(config_, models_, here_, choice);
      check_places(config_, plan_);
      paths_ = RunPaths(config_, plan_.tuned_in_place);
      print_ = fingerprint(config_, plan_);
      if (plan_.is_guess) refuse_other_run(paths_, print_);
    });
    if (!is_root()) plan_ = lay_out(config_, models_, here_, choice);
    paths_ = RunPaths(config_, plan_.tuned_in_place);
  }

  // Phase scheme: the plan is made again with what was chosen. Collective.
  void choose() {
    enter_phase("scheme");
    const RankContext ranks = make_rank_context(config_, plan_.shards, 1, world_);
    const std::string folder = paths_.boundary_root(config_);
    plan_with(choose_scheme(ranks, config_, plan_, folder, progress_).choice);
    open();
  }

  // From here on the run directory is this run's. Collective.
  void open() {
    run_on_root(world_, [&] {
      state_.emplace(paths_, print_, plan_);
      if (!plan_.mixed || state_->journal().last<record::Scheme>() != nullptr) return;
      state_->journal().append(record::Scheme{
          written(config_.quantization.auto_scheme),
          in_words(*plan_.mixed, config_.quantization, plan_.model, plan_.chosen)});
    });
    take_stock();
    run_on_root(world_, [&] {
      events_.emplace(paths_.events());
      const std::string yaml = to_yaml(config_);
      write_file_atomically(paths_.resolved_config(), [&](OutputFile& file) { file.write(yaml.data(), yaml.size()); });
      log_start();
      fmt::print("{}\n{}", yaml, describe(plan_, config_));
      std::fflush(stdout);
    });
  }

  // The files that an earlier start has made are compared with the journal. Collective.
  void take_stock() {
    const std::vector<std::string> damaged =
        damaged_files(world_, is_root() ? state_->files_on_record() : std::vector<FileOnRecord>());
    if (is_root()) state_->take_stock(damaged);
  }

  // How this start of the program lays out the work. A run that is finished is not started again.
  void log_start() {
    if (state_->finished_summary() != nullptr) return;
    events_->append(event::Start{.version = std::string(program_version()),
                                 .devices = plan_.world.devices.names,
                                 .ranks = plan_.world.ranks,
                                 .groups = plan_.groups,
                                 .shards = plan_.shards,
                                 .expert_parts = plan_.expert_parts,
                                 .stages = std::ssize(plan_.stages),
                                 .blocks = plan_.model.n_blocks(),
                                 .finished_blocks = state_->finished_blocks(),
                                 .locked = state_->journal().locked(),
                                 .warnings = plan_.warnings,
                                 .layers_in_16_bits = plan_.float_reasons});
  }

  // The summary of a run that an earlier start has finished: there is no work left. Collective.
  std::optional<RunSummary> finished_summary() {
    const auto found = run_on_root(world_, [&] {
      const auto* done = state_->finished_summary();
      return done == nullptr ? nlohmann::json() : json_of(done->summary);
    });
    if (found.is_null()) return std::nullopt;
    const auto summary = read_fields<RunSummary>(found, "summary");
    if (is_root()) {
      fmt::print("this run is finished already, and its {} files are as they were written\n",
                 state_->files_on_record().size());
      print_summary(summary);
    }
    run_on_root(world_, [&] { warn_of_other_tokens(); });
    return summary;
  }

  // A finished run measures nothing any more.
  void warn_of_other_tokens() const {
    const std::string& tokens = config_.run.eval_tokens;
    if (tokens.empty()) return;
    bool measured = false;
    const std::string digest = hash_file(tokens);
    for_each_record<record::Evaluation>(state_->journal().records(), [&](const record::Evaluation& evaluation) {
      measured = measured || evaluation.digest == digest;
    });
    if (measured) return;
    log_warning(
        fmt::format("run.eval_tokens: this run was finished without {}; to measure its result on them, use: "
                    "roundtable eval CONFIG --set model.path={} --set run.eval_tokens={}",
                    tokens, paths_.tuned, tokens));
  }

  RunContext make_context() {
    RankContext ranks = make_rank_context(config_, plan_.shards, plan_.expert_parts, world_);
    BoundaryPlace boundaries = place_boundaries(ranks, config_, plan_.model, paths_.directory, print_);
    return {.ranks = std::move(ranks),
            .config = config_,
            .plan = plan_,
            .paths = paths_,
            .boundaries = std::move(boundaries),
            .progress = progress_,
            .state = state_ ? &*state_ : nullptr,
            .events = events_ ? &*events_ : nullptr,
            .tensors = &tensors_};
  }

  std::vector<Phase> phases(RunContext& context) {
    const auto all_tuned = [this] { return state_->finished_blocks() == plan_.model.n_blocks(); };
    const auto assembled = [this] { return state_->assembled() != nullptr; };
    std::vector<Phase> phases = {{"calibrate", {}, [&] { calibrate(context); }},
                                 {"tune", all_tuned, [&] { tune(context, watchdog_); }},
                                 {"assemble", assembled, [&] { assemble(context); }},
                                 {"prove", {}, [&] { prove(context); }}};
    if (!formats_to_make(plan_).empty()) phases.push_back({"formats", {}, [&] { make_formats(context); }});
    if (!config_.run.eval_tokens.empty()) phases.push_back({"evaluate", {}, [&] { evaluation_ = evaluate(context); }});
    return phases;
  }

  // The record of the summary is written last: from then on nothing is done again.
  RunSummary summarize() {
    RunSummary summary;
    summary.output = paths_.output;
    summary.seconds = meter_.seconds();
    summary.peak_bytes = meter_.peak_bytes(world_);
    summary.peak_device_bytes = meter_.peak_device_bytes(world_);
    if (evaluation_) {
      summary.perplexity = evaluation_->perplexity;
      summary.divergence = evaluation_->divergence;
    }
    if (!is_root()) return summary;
    if (plan_.mixed) summary.auto_scheme = figures_of(*plan_.mixed, config_.quantization, plan_.chosen);
    summary.experts_without_tokens = experts_without_tokens();
    summarize_blocks(summary);
    summary.bytes = sizes();
    write_cards();
    events_->append(event::Summary{summary});
    state_->journal().append(record::Summary{summary});
    print_summary(summary);
    return summary;
  }

  WeightSizes sizes() const {
    WeightSizes sizes;
    sizes.before = bytes_of_files(config_.model.path, ".safetensors");
    for (const CheckpointFormat* format : plan_.formats) {
      const std::string name(format->name());
      sizes.formats[name] =
          bytes_of_files(paths_.format(config_, name), as_safetensors(*format) != nullptr ? ".safetensors" : ".gguf");
    }
    sizes.after = sizes.formats.at(std::string(plan_.formats.front()->name()));
    return sizes;
  }

  void write_cards() {
    for (const CheckpointFormat* format : plan_.formats) {
      write_card(paths_.format(config_, std::string(format->name())));
    }
    if (!plan_.tuned_in_place) write_model_card(paths_.tuned, config_, plan_, evaluation_);
  }

  // A card that somebody has changed since an earlier start wrote it stays.
  void write_card(const std::string& folder) {
    const std::string path = folder + "/" + kModelCard;
    if (state_->was_edited(path)) return;
    write_model_card(folder, config_, plan_, evaluation_);
    state_->record_output_files({{path, hash_file(path)}});
  }

  // Full names. On rank 0.
  std::vector<std::string> experts_without_tokens() const {
    std::vector<std::string> names;
    for (const auto& [block, record] : state_->blocks_on_record()) {
      for (const std::string& expert : record->experts_without_tokens) {
        names.push_back(plan_.model.block_name(block) + "." + expert);
      }
    }
    return names;
  }

  // Of the figures of all blocks. On rank 0.
  void summarize_blocks(RunSummary& summary) const {
    const auto blocks = static_cast<double>(state_->blocks_on_record().size());
    const auto add = [&](std::optional<double>& mean, const std::optional<double>& one) {
      if (one) mean = mean.value_or(0) + *one / blocks;
    };
    for (const auto& [block, record] : state_->blocks_on_record()) {
      add(summary.bytes_per_step.all_reduce, record->bytes_per_step.all_reduce);
      add(summary.bytes_per_step.all_to_all, record->bytes_per_step.all_to_all);
      if (!record->experts_with_few_tokens) continue;
      if (!summary.experts_with_few_tokens) summary.experts_with_few_tokens.emplace();
      *summary.experts_with_few_tokens += *record->experts_with_few_tokens;
    }
  }

  // On rank 0: what is done when the run leaves, for `reason`.
  std::string words_of_leaving(const std::string& reason) {
    const std::string phase = present_phase().empty() ? "plan" : present_phase();
    if (!state_) {
      return fmt::format("stopped early ({}) in {}, before {}; run the same command again: it resumes", reason, phase,
                         phase == "plan" ? "this start did any work" : "any block was tuned");
    }
    const std::int64_t blocks = std::ssize(state_->blocks_on_record());
    if (events_) events_->append(event::Leave{reason, phase, blocks});
    return fmt::format(
        "stopped early ({}) in {}: {} of {} blocks are on disk in {}; run the same command again: it resumes", reason,
        phase, blocks, plan_.model.n_blocks(), paths_.output);
  }

  MpiCommunicator& world_;
  Watchdog& watchdog_;
  const Config& config_;
  RunPaths paths_;
  World here_;
  Models models_;
  Plan plan_;
  nlohmann::json print_;            // rank 0
  std::optional<RunState> state_;   // rank 0
  std::optional<EventLog> events_;  // rank 0
  TensorRecord tensors_;
  Progress progress_;
  PhaseMeter meter_;
  std::optional<record::Evaluation> evaluation_;
};

}  // namespace

nlohmann::json run_quantize(MpiCommunicator& world, Watchdog& watchdog, const Config& config) {
  return QuantizeRun(world, watchdog, config).run();
}

}  // namespace roundtable
