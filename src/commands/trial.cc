// The parts of a run in small, with a stopwatch.
#include "commands/trial.h"

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include "base/activity.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "cache/boundary_file.h"
#include "comm/agree.h"
#include "commands/start.h"
#include "data/sampler.h"
#include "device/device.h"
#include "device/process.h"
#include "io/checkpoint.h"
#include "graph/block_loader.h"
#include "model/load/stacked_rows.h"
#include "phases/boundary/boundary_states.h"
#include "phases/forward_pass.h"
#include "plan/tune_settings.h"
#include "tune/block_tuner.h"

namespace roundtable {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

double rate(double bytes, double seconds) { return bytes / std::max(seconds, 1e-9); }

// The seconds of the slowest rank. Collective.
double slowest(HostCommunicator& world, double seconds) {
  const std::vector<double> all = world.all_gather(seconds);
  return *std::max_element(all.begin(), all.end());
}

// A directory that is made where it is missing, and removed again if it was.
class BorrowedDirectory {
 public:
  explicit BorrowedDirectory(const std::string& path) : path_(fs::absolute(path)) {
    for (fs::path missing = path_; !fs::exists(missing); missing = missing.parent_path()) outermost_ = missing;
    std::error_code error;
    fs::create_directories(path, error);
    if (error) throw machine_error(path, "cannot be made: " + error.message());
  }
  ~BorrowedDirectory() {
    std::error_code not_empty;
    for (fs::path made = path_; !outermost_.empty() && fs::remove(made, not_empty) && made != outermost_;)
      made = made.parent_path();
  }
  BorrowedDirectory(const BorrowedDirectory&) = delete;
  BorrowedDirectory& operator=(const BorrowedDirectory&) = delete;

 private:
  fs::path path_;
  fs::path outermost_;
};

class Trial {
 public:
  Trial(RunContext& context) : context_(context), source_(context.config.model.path) {}

  json run() {
    enter_phase("trial");
    json result;
    result["read"] = read_shards();
    result["boundary"] = pass_boundary();
    result["step"] = steps();
    result["all_reduce"] = reduce();
    if (context_.ranks.world.rank() == 0) {
      result["disk"] = disk();
      result["warnings"] = warnings(result);
    }
    return result;
  }

 private:
  // Its largest tensor of each shard, the shards spread over the ranks.
  json read_shards() {
    const Checkpoint& checkpoint = source_.checkpoint();
    std::map<std::string, std::string> largest;  // file -> tensor
    run_on_all(context_.ranks.world, [&] {
      for (const std::string& name : checkpoint.names()) {
        std::string& best = largest[checkpoint.file_of(name)];
        if (best.empty() || checkpoint.info(name).bytes > checkpoint.info(best).bytes) best = name;
      }
    });
    std::int64_t bytes = 0;
    const Stopwatch watch;
    run_on_all(context_.ranks.world, [&] {
      int index = 0;
      for (const auto& [file, tensor] : largest) {
        if (index++ % context_.ranks.world.size() != context_.ranks.world.rank()) continue;
        std::vector<char> data(checkpoint.info(tensor).bytes);
        checkpoint.read(tensor, data.data());
        bytes += std::ssize(data);
      }
    });
    const double seconds = slowest(context_.ranks.world, watch.seconds());
    bytes = context_.ranks.world.sum(bytes);
    return {{"shards", largest.size()},
            {"bytes", bytes},
            {"seconds", seconds},
            {"rate", rate(static_cast<double>(bytes), seconds)}};
  }

  // Up to eight samples per rank, as calibration writes them and tuning reads them.
  json pass_boundary() {
    const auto& calibration = context_.config.calibration;
    const std::int64_t samples = std::min<std::int64_t>(calibration.n_samples, 8 * context_.ranks.world.size());
    const Model& model = context_.plan.model;
    const BoundaryShape shape = boundary_shape(model, samples, 0);
    const SampleRange range = part_of(samples, context_.ranks.world.size(), context_.ranks.world.rank());
    States states = empty_states(model, 0, range.size());
    states.for_each([](torch::Tensor& tensor) { tensor.random_(0, 100); });
    States read = empty_states(model, 0, range.size());
    const std::string path = context_.boundaries.folder + "/trial.h5";
    std::optional<BorrowedDirectory> directory;
    run_on_root(context_.ranks.world, [&] { directory.emplace(context_.boundaries.folder); });
    const Stopwatch writing;
    {
      BoundaryWriter writer(context_.ranks.world, path, shape, 0, context_.boundaries.fingerprint,
                            file_layout(context_.config));
      writer.write(range, const_pointers(pointers_of(model, 0, states)));
      writer.finish();
    }
    const double write_seconds = slowest(context_.ranks.world, writing.seconds());
    const Stopwatch reading;
    read_boundary(context_.ranks.world, path, shape, 0, context_.boundaries.fingerprint, range,
                  pointers_of(model, 0, read));
    const double read_seconds = slowest(context_.ranks.world, reading.seconds());
    run_on_root(context_.ranks.world, [&] {
      std::error_code ignored;
      fs::remove(path, ignored);
    });
    run_on_all(context_.ranks.world, [&] {
      if (!torch::equal(states.hidden, read.hidden))
        throw machine_error(path, "what was read is not what was written", "suspect the file system");
    });
    const double bytes = static_cast<double>(samples * shape.sample_bytes());
    return {{"samples", samples},
            {"bytes", samples * shape.sample_bytes()},
            {"write_rate", rate(bytes, write_seconds)},
            {"read_rate", rate(bytes, read_seconds)}};
  }

  // Steps of the first block on embedded calibration samples; the first one warms up.
  json steps() {
    enter_block(0);
    const auto& c = context_.config.calibration;
    const TokenRows tokens = load_tokens(c.tokens, c.n_samples, c.seqlen, context_.plan.model.vocab_size());
    const SampleRange range =
        shard_samples(c.n_samples, context_.plan.batch, context_.plan.shards, context_.ranks.grid.shard());
    TuneSettings settings = tune_settings(context_.config, context_.plan.shards);
    settings.iters = 2;

    reset_peak_resident_bytes();
    reset_peak_device_bytes(context_.ranks.device);
    States states = ForwardPass(context_.ranks, context_.plan.model, 0).embed_rows(source_, tokens, range);
    if (context_.config.tuning.low_gpu_mem_usage) states = states.to(torch::kCPU);
    SelfCommunicator alone;
    const BlockWeights weights = BlockLoader(source_, context_.plan.model, context_.ranks.grid.group_comm(),
                                             context_.ranks.expert_part, alone)
                                     .load(0, 0);
    Block block = BlockMaker(context_.plan.model, context_.ranks.device, context_.ranks.exchange).make(weights);
    const torch::Tensor target = run_block(block, states, settings.micro_batch).hidden;
    const std::vector<torch::Tensor> original = on_device(weights.weights, context_.ranks.device);
    const Sampler sampler(context_.config.tuning.sampler, c.n_samples, context_.plan.batch,
                          static_cast<std::uint64_t>(context_.config.tuning.seed), 0);
    std::array<double, 2> own{}, step{};
    const auto time = [&](const TuneSettings& how, const TensorGroup& group, std::array<double, 2>& seconds) {
      Stopwatch watch;
      TuneObserver observer;
      observer.on_iteration = [&](std::int64_t iteration, float, float) {
        seconds[static_cast<std::size_t>(iteration)] = watch.seconds();
        watch = Stopwatch();
      };
      BlockTuner({{&block}, original, context_.plan.schemes.front()}, {states, target, range}, sampler, how,
                 group, observer)
          .tune();
    };
    // Alone first: what this rank computes, without waiting for its group, whose order of sums it need not keep then.
    // Where ranks divide experts, none can work alone.
    TuneSettings by_itself = settings;
    by_itself.reproducible = false;
    time(by_itself, context_.ranks.exchange ? context_.ranks.tensor_group() : TensorGroup(alone), own);
    time(settings, context_.ranks.tensor_group(), step);
    enter_block(-1);
    return {{"first_seconds", context_.ranks.world.all_gather(own[0])},
            {"seconds", context_.ranks.world.all_gather(step[1])},
            {"own_seconds", context_.ranks.world.all_gather(own[1])},
            {"peak_bytes", context_.ranks.world.all_gather(peak_resident_bytes())},
            {"peak_device_bytes", context_.ranks.world.all_gather(peak_device_bytes(context_.ranks.device))},
            {"hosts", all_gather_text(context_.ranks.world, host_name())}};
  }

  // Of the first block: an expert's gradient is not summed where ranks divide the experts.
  std::int64_t summed_parameters() const {
    std::int64_t count = 1;
    for (const LinearSpec& linear : context_.plan.model.linears(0)) {
      if (linear.expert < 0 || context_.plan.expert_parts == 1) count += linear.out * linear.in;
    }
    return count;
  }

  // The gradients of a block over a group; the best of three.
  json reduce() {
    const std::int64_t count = summed_parameters();
    torch::Tensor arena =
        torch::zeros({count}, torch::TensorOptions().dtype(torch::kFloat32).device(context_.ranks.device));
    double best = 1e300;
    for (int i = 0; i < 3; ++i) {
      context_.ranks.grid.group_comm().barrier();
      const Stopwatch watch;
      context_.ranks.tensor_group().sum(arena);
      arena[0].item<float>();  // waits for the device
      best = std::min(best, watch.seconds());
    }
    const double seconds = slowest(context_.ranks.world, best);
    const double shards = context_.plan.shards;
    const auto bytes = static_cast<double>(4 * count);
    // Bus bandwidth as nccl-tests has it: what a link carries in a ring.
    return {{"bytes", 4 * count},
            {"seconds", seconds},
            {"rate", rate(bytes, seconds)},
            {"bus_rate", rate(2 * (shards - 1) / shards * bytes, seconds)}};
  }

  json disk() const {
    std::int64_t needed = 0;
    for (const Forecast::Bytes& item : context_.plan.forecast.disk) needed += item.bytes;
    fs::path place = fs::absolute(context_.paths.output);
    while (!fs::exists(place)) place = place.parent_path();
    std::error_code unknown;
    const fs::space_info space = fs::space(place, unknown);
    return {{"needed", needed}, {"free", unknown ? json() : json(space.available)}, {"path", place.string()}};
  }

  std::vector<std::string> warnings(const json& result) const {
    std::vector<std::string> found;
    const std::vector<double> own = result["step"]["own_seconds"];
    std::vector<double> sorted = own;
    std::sort(sorted.begin(), sorted.end());
    const double median = sorted[(sorted.size() - 1) / 2];
    for (std::size_t rank = 0; rank < own.size(); ++rank) {
      if (own[rank] < 1.3 * median || own[rank] - median < 0.01) continue;
      found.push_back(
          fmt::format("rank {} on {} takes {:.2f} s of work per step, the median is {:.2f} s: its group waits for it",
                      rank, result["step"]["hosts"][rank].get<std::string>(), own[rank], median));
    }
    const double step = result["step"]["seconds"][0];
    const double reduction = result["all_reduce"]["seconds"];
    if (context_.plan.shards > 1 && reduction > 0.3 * step) {
      found.push_back(
          fmt::format("the all-reduce takes {:.0f} % of a step: try fewer ranks per group (parallel.shards)",
                      100 * reduction / step));
    }
    const double io = boundary_seconds(result["boundary"]);
    if (const double tune = tune_seconds(context_, step); io > 0.1 * tune) {
      found.push_back(
          fmt::format("boundaries would take {:.0f} s, compared with {:.0f} s of tuning: use a faster file system for "
                      "them than that of {}",
                      io, tune, context_.boundaries.folder));
    }
    return found;
  }

  double boundary_seconds(const json& boundary) const {
    const auto& c = context_.config.calibration;
    const BoundaryShape shape = boundary_shape(context_.plan.model, c.n_samples, 0);
    const auto bytes =
        static_cast<double>(c.n_samples * shape.sample_bytes()) * static_cast<double>(context_.plan.stages.size());
    return bytes / boundary["write_rate"].get<double>() + bytes / boundary["read_rate"].get<double>();
  }

 public:
  // All blocks' steps, spread over the groups.
  static double tune_seconds(const RunContext& context, double step) {
    const double at_work = std::min<double>(context.plan.groups, static_cast<double>(context.plan.stages.size()));
    return step * static_cast<double>(context.config.tuning.iters * context.plan.model.n_blocks()) / at_work;
  }

 private:
  RunContext& context_;
  CheckpointSource source_;
};

}  // namespace

json run_trial(MpiCommunicator& world, const Config& config, const Plan& plan) {
  const RunPaths paths(config, plan.tuned_in_place);
  BoundaryPlace boundaries;
  boundaries.folder = paths.boundary_root(config);
  boundaries.fingerprint = "trial";
  Progress progress(display_stream(world));
  RunContext context{.ranks = make_rank_context(config, plan.shards, plan.expert_parts, world),
                     .config = config,
                     .plan = plan,
                     .paths = paths,
                     .boundaries = std::move(boundaries),
                     .progress = progress,
                     .state = nullptr,
                     .events = nullptr};
  json result = Trial(context).run();
  if (world.rank() == 0) result["tune_seconds"] = Trial::tune_seconds(context, result["step"]["seconds"][0]);
  return result;
}

std::string describe_trial(const json& trial) {
  std::string text = "trial\n";
  const auto line = [&](const char* what, const std::string& value) {
    text += fmt::format("  {:<12} {}\n", what, value);
  };
  const auto bytes = [](const json& value) { return human_bytes(static_cast<std::int64_t>(value.get<double>())); };
  const json& step = trial["step"];
  line("read",
       fmt::format("the largest weight of each of {} shards: {} at {}/s", trial["read"]["shards"].get<std::size_t>(),
                   bytes(trial["read"]["bytes"]), bytes(trial["read"]["rate"])));
  line("boundary", fmt::format("{} samples in parallel HDF5: {}, written at {}/s, read at {}/s",
                               trial["boundary"]["samples"].get<std::int64_t>(), bytes(trial["boundary"]["bytes"]),
                               bytes(trial["boundary"]["write_rate"]), bytes(trial["boundary"]["read_rate"])));
  const std::vector<double> own = step["own_seconds"];
  const std::vector<std::int64_t> peaks = step["peak_bytes"], on_device = step["peak_device_bytes"];
  const std::int64_t most_on_device = *std::max_element(on_device.begin(), on_device.end());
  line("step", fmt::format("{:.3f} s for block 0 (the first one {:.3f} s); work of one rank {:.3f} to {:.3f} s",
                           step["seconds"][0].get<double>(), step["first_seconds"][0].get<double>(),
                           *std::min_element(own.begin(), own.end()), *std::max_element(own.begin(), own.end())));
  line("memory", fmt::format("peak {} per rank{}", human_bytes(*std::max_element(peaks.begin(), peaks.end())),
                             most_on_device == 0 ? "" : fmt::format(", and {} of its device", human_bytes(most_on_device))));
  const json& reduction = trial["all_reduce"];
  line("all-reduce", reduction["bus_rate"] == 0
                         ? "none: a group is one rank"
                         : fmt::format("{} in {:.1f} ms, bus bandwidth {}/s", bytes(reduction["bytes"]),
                                       1e3 * reduction["seconds"].get<double>(), bytes(reduction["bus_rate"])));
  line("disk", fmt::format("{} needed, {} free in {}", bytes(trial["disk"]["needed"]),
                           trial["disk"]["free"].is_number() ? bytes(trial["disk"]["free"]) : "an unknown amount",
                           trial["disk"]["path"].get<std::string>()));
  line("tuning", fmt::format("about {:.0f} s at this pace", trial["tune_seconds"].get<double>()));
  for (const json& warning : trial["warnings"]) line("warning", warning.get<std::string>());
  if (trial["warnings"].empty()) line("result", "found nothing that would fail or be slow");
  return text;
}

}  // namespace roundtable
