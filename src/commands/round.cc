// `roundtable round`: weights rounded to nearest, file by file, without a graph of the model and without samples.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/activity.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "commands/checks/launch_checks.h"
#include "commands/start.h"
#include "convert/convert.h"
#include "convert/output.h"
#include "export/registry.h"
#include "plan/checks.h"
#include "plan/path_checks.h"
#include "plan/warnings.h"
#include "round/source.h"
#include "run/fingerprint.h"
#include "run/progress.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

// What rounding depends on: the quantization section, the start of the scales, the formats and the size of files.
nlohmann::json fingerprint_of(const Config& config) {
  nlohmann::json print = {{"rounding", "data-free"}, {"model.path", model_digest(config.model.path)}};
  const nlohmann::json settings = settings_fingerprint(config);
  for (const auto& [key, value] : settings.items()) {
    if (key.starts_with("quantization.") || key.starts_with("output.") || key == "tuning.init_scale") print[key] = value;
  }
  return print;
}

class RoundRun {
 public:
  RoundRun(MpiCommunicator& world, const Config& config)
      : world_(world), config_(config), paths_(config, true), progress_(display_stream(world)) {}

  nlohmann::json run() {
    open();
    enter_phase("round");
    nlohmann::json result = {{"output", config_.output.path}, {"formats", nlohmann::json::array()}};
    result["layers_in_16_bits"] = source_->float_reasons();
    try {
      source_->find_global_scales(world_);
      for (std::size_t i = 0; i < formats_.size(); ++i) result["formats"].push_back(make(i));
    } catch (const AgreedError& error) {
      if (error.code() != ExitCode::kStartAgain) throw;
      throw AgreedError(error.code(), fmt::format("stopped early ({}): files that are finished are kept; run the same "
                                                  "command again: it resumes",
                                                  error.what()));
    }
    result["seconds"] = watch_.seconds();
    return result;
  }

 private:
  // Everything that can be checked is checked before the first byte is written.
  void open() {
    devices_ = check_devices(config_, world_).names;
    check_shared_memory_everywhere(world_, config_);
    run_on_root(world_, [&] {
      require_keys(config_, {"output.path"});
      if (config_.quantization.auto_scheme.is_on()) {
        throw bad_input("quantization.auto_scheme", "needs samples and a graph of the model, and round has neither",
                        "remove it, or use quantize");
      }
      check_not_quantized(config_);
      check_strays(config_);
    });
    const RankContext ranks = make_rank_context(config_, /*shards=*/1, /*expert_parts=*/1, world_);
    run_on_all(world_, [&] {
      for (const std::string& name : config_.output.formats) formats_.push_back(&format_named(name, "output.formats"));
      source_ = std::make_shared<RoundedSource>(config_, formats_, ranks.device);
    });
    run_on_root(world_, [&] {
      for (const CheckpointFormat* format : formats_) check(*format);
      for (const CheckpointFormat* format : formats_) outputs_.push_back(output_of(*format));
      const bool resumes = !is_empty_or_absent(paths_.directory);
      check_output_place(config_, resumes ? 0 : bytes_to_write());
      fmt::print("{}", describe());
      std::fflush(stdout);
    });
  }

  void check(const CheckpointFormat& format) const {
    refuse_obstacle("output.formats", format, source_->model(), source_->layers());
    if (const auto reason = format.directory_obstacle(config_.model.path)) {
      throw bad_input("output.formats", fmt::format("{} cannot hold this: {}", format.name(), *reason),
                      "leave this format out");
    }
  }

  std::unique_ptr<ConversionOutput> output_of(const CheckpointFormat& format) const {
    const std::int64_t size = config_.output.max_shard_size.bytes();
    const SafetensorsFormat* safetensors = as_safetensors(format);
    return safetensors ? make_safetensors_output(*source_, *safetensors, size)
                       : make_gguf_output(*source_, format, size);
  }

  // All weights of an output; with a rank, those that it writes.
  std::int64_t bytes_of(const ConversionOutput& output, int rank = -1) const {
    std::int64_t bytes = 0;
    for (std::int64_t file = std::max(rank, 0); file < output.files(); file += rank < 0 ? 1 : world_.size()) {
      bytes += output.bytes_of(file);
    }
    return bytes;
  }

  std::int64_t bytes_to_write() const {
    std::int64_t bytes = 0;
    for (const auto& output : outputs_) bytes += bytes_of(*output);
    return bytes;
  }

  std::int64_t most_of_a_rank() const {
    std::int64_t most = 0;
    for (int rank = 0; rank < world_.size(); ++rank) {
      std::int64_t bytes = 0;
      for (const auto& output : outputs_) bytes += bytes_of(*output, rank);
      most = std::max(most, bytes);
    }
    return most;
  }

  // A file's tensors, and a matrix with what its rounding needs: floats, integers, and fp32 for some rows.
  std::int64_t memory_of_a_rank() const {
    std::int64_t file = 0;
    for (const auto& output : outputs_) {
      for (std::int64_t i = 0; i < output->files(); ++i) file = std::max(file, output->bytes_of(i));
    }
    constexpr std::int64_t kBytesPerWeight = 12;
    return file + kBytesPerWeight * source_->largest_matrix();
  }

  std::string describe() const {
    const CheckpointScheme& scheme = source_->layers();
    const std::int64_t files = outputs_.front()->files();
    const auto rounded = std::ranges::count_if(scheme.layers, [](const auto& layer) { return layer.scheme.has_value(); });
    std::string text = "round\n";
    const auto line = [&](const char* what, const std::string& value) {
      text += fmt::format("  {:<12} {}\n", what, value);
    };
    line("model", fmt::format("{} ({}), {} blocks, {} tensors in {} files", config_.model.path, source_->model().type,
                              source_->model().n_blocks, source_->tensors(), source_->files()));
    line("weights", fmt::format("{}, {}", scheme_text(scheme.common), fmt::join(config_.output.formats, ", ")));
    line("layers", fmt::format("{} of {} are rounded ({:.1f} M weights), {}", rounded, scheme.layers.size(),
                               static_cast<double>(source_->rounded_weights()) / 1e6,
                               config_.tuning.init_scale == InitScale::kSearch
                                   ? "with a search of scales in which all inputs count the same"
                                   : "with the scales of rounding to nearest"));
    line("ranks", fmt::format("{}, up to {} of {} files per rank", devices_, (files + world_.size() - 1) / world_.size(), files));
    const bool twice = scheme.common.type == WeightType::kNvFp4;
    line("read", fmt::format("{}{}", human_bytes(source_->bytes()), twice ? ", twice: first for the global scales" : ""));
    line("write", fmt::format("{}, at most {} per rank", human_bytes(bytes_to_write()), human_bytes(most_of_a_rank())));
    line("memory", fmt::format("about {} per rank", human_bytes(memory_of_a_rank())));
    for (const std::string& reason : source_->float_reasons()) line("16 bits", reason);
    for (const std::string& warning : warnings_of_model(config_)) line("warning", warning);
    if (files < world_.size()) {
      line("warning", fmt::format("{} ranks have no file to write: start fewer, or lower output.max_shard_size",
                                  world_.size() - files));
    }
    return text;
  }

  nlohmann::json make(std::size_t index) {
    const CheckpointFormat& format = *formats_[index];
    const std::string name(format.name());
    const Stopwatch watch;
    std::int64_t own = 0;
    run_on_root(world_, [&] { own = (outputs_[index]->files() + world_.size() - 1) / world_.size(); });
    progress_.begin_phase("round " + name, own, world_.size() == 1 ? "files" : "files of rank 0");
    const CheckpointJob job{.open = [&] { return source_; },
                            .format = &format,
                            .output = paths_.format(config_, name),
                            .record = index == 0 ? paths_.directory : paths_.format_record(name),
                            .max_shard_size = config_.output.max_shard_size.bytes(),
                            .card = false,  // it describes the float model
                            .fingerprint = [&] { return fingerprint_of(config_); }};
    const Converted made = make_checkpoint(world_, job, [&] { progress_.advance(); });
    progress_.end_phase();
    const double seconds = watch.seconds();
    if (world_.rank() == 0) print_summary(name, job.output, made, seconds);
    return {{"format", name},       {"files", made.files}, {"bytes", made.bytes},
            {"kept", made.kept},    {"read", source_->bytes()}, {"seconds", seconds}};
  }

  void print_summary(const std::string& name, const std::string& output, const Converted& made, double seconds) const {
    const std::int64_t moved = source_->bytes() + made.bytes;
    const std::string kept = made.kept == 0 ? "" : fmt::format(", {} of them kept from an earlier start", made.kept);
    fmt::print("{} in {}: {} -> {} in {} {}{}, {}, {}/s read and written\n", name, output, human_bytes(source_->bytes()),
               human_bytes(made.bytes), made.files, made.files == 1 ? "file" : "files", kept, human_seconds(seconds),
               human_bytes(static_cast<std::int64_t>(static_cast<double>(moved) / std::max(seconds, 1e-3))));
  }

  MpiCommunicator& world_;
  const Config& config_;
  RunPaths paths_;
  Progress progress_;
  Stopwatch watch_;
  Formats formats_;
  std::string devices_;
  std::shared_ptr<RoundedSource> source_;
  std::vector<std::unique_ptr<ConversionOutput>> outputs_;  // on rank 0
};

}  // namespace

nlohmann::json run_round(MpiCommunicator& world, const Config& config) { return RoundRun(world, config).run(); }

}  // namespace roundtable
