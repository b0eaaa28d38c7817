// Bandwidth of NCCL as a run uses it: the sum of an arena of gradients over the ranks of a node, one GPU each.
//
//   mpirun -n DEVICES nccl_bench [--blocks 1] [--json]
//
// The arena is that of so many blocks of Llama-3.1-8B's shape, fp32, on each device:
//   all-reduce fp32, bf16   the whole arena in one call, in either type
//   buckets fp32, bf16      layer by layer, as at the end of a backward pass (tune/gradients/bucketed_sum.h): bf16 with
//                           the roundings there and back
//   exchange fp32           two ranks send each other the arena, as run.reproducible does; for an even number of ranks
// Bus bandwidth is what each rank's link carries whatever the number of ranks: bytes of the arena a second, times
// 2 (n - 1) / n for a sum and 1 for an exchange (nccl-tests, doc/PERFORMANCE.md). One rank has no link: its sum in
// place moves nothing, its buckets are not sent at all, and what is measured is the cost of the calls.
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "comm/agree.h"
#include "comm/mpi/communicator.h"
#include "comm/nccl/nccl.h"
#include "device/device.h"
#include "model/load/tensor_span.h"
#include "tune/gradients/bucketed_sum.h"

namespace roundtable {
namespace {

constexpr int kWarmUp = 3;
constexpr int kSamples = 9;
constexpr int kCalls = 5;  // per sample
// q, k, v, o, gate, up, down of Llama-3.1-8B (tests/data/models/llama-3.1-8b/config.json).
constexpr std::int64_t kLayers[] = {4096 * 4096,  1024 * 4096,  1024 * 4096, 4096 * 4096,
                                    14336 * 4096, 14336 * 4096, 4096 * 14336};

struct Options {
  int blocks = 1;
  bool json = false;
};

class Bench {
 public:
  Bench(HostCommunicator& host, const Options& options)
      : host_(host), device_(torch::kCUDA, static_cast<c10::DeviceIndex>(host.rank())) {
    nccl_ = make_nccl_communicator(host, current_stream(device_));
    std::int64_t weights = 0;
    for (int block = 0; block < options.blocks; ++block) {
      for (const std::int64_t layer : kLayers) {
        layers_.push_back({weights, weights + layer});
        weights += layer;
      }
    }
    // Zeros: sums of sums of anything else would not stay finite. Two numbers more, as BucketedSum has them.
    arena_ = torch::zeros({weights + 2}, torch::TensorOptions().dtype(torch::kFloat32).device(device_));
  }

  nlohmann::json run() {
    nlohmann::json rows = nlohmann::json::array();
    rows.push_back(all_reduce(torch::kFloat32, ElementType::kF32));
    rows.push_back(all_reduce(torch::kBFloat16, ElementType::kBF16));
    rows.push_back(buckets(ElementType::kF32));
    rows.push_back(buckets(ElementType::kBF16));
    if (host_.size() % 2 == 0) rows.push_back(exchange());
    return rows;
  }

 private:
  nlohmann::json all_reduce(torch::ScalarType dtype, ElementType type) {
    const torch::Tensor data = arena_.to(dtype);
    return row("all-reduce", type, data.numel(), sum_factor(),
               [&] { nccl_->all_reduce_sum(device_span(data)); });
  }

  nlohmann::json buckets(ElementType type) {
    BucketedSum sum(arena_, layers_, type, {host_, nccl_.get()});
    return row("buckets", type, arena_.numel(), sum_factor(), [&] {
      sum.begin();
      for (std::size_t layer = layers_.size(); layer-- > 0;) sum.whole(layer);
      sum.finish();
    });
  }

  nlohmann::json exchange() {
    torch::Tensor theirs = torch::empty_like(arena_);
    return row("exchange", ElementType::kF32, arena_.numel(), 1,
               [&] { nccl_->exchange(device_span(arena_), device_span(theirs), host_.rank() ^ 1); });
  }

  double sum_factor() const { return 2.0 * (host_.size() - 1) / host_.size(); }

  nlohmann::json row(const std::string& what, ElementType type, std::int64_t count, double factor,
                     const std::function<void()>& call) const {
    const double bytes = static_cast<double>(count) * static_cast<double>(size_of(type));
    const double seconds = seconds_a_call(call);
    nlohmann::json found = {{"what", what + (type == ElementType::kF32 ? " fp32" : " bf16")},
                            {"bytes", bytes},
                            {"seconds", seconds},
                            {"gb_per_s", nullptr},
                            {"bus_gb_per_s", nullptr}};
    if (host_.size() > 1) {
      found["gb_per_s"] = bytes / seconds / 1e9;
      found["bus_gb_per_s"] = factor * bytes / seconds / 1e9;
    }
    return found;
  }

  // The median over the samples of what the slowest rank took. Collective.
  double seconds_a_call(const std::function<void()>& call) const {
    std::vector<double> samples;
    for (int i = 0; i < kWarmUp + kSamples; ++i) {
      torch::cuda::synchronize(device_.index());
      host_.barrier();
      const Stopwatch watch;
      for (int n = 0; n < kCalls; ++n) call();
      torch::cuda::synchronize(device_.index());
      const std::vector<double> all = host_.all_gather(watch.seconds() / kCalls);
      if (i >= kWarmUp) samples.push_back(*std::max_element(all.begin(), all.end()));
    }
    std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
    return samples[kSamples / 2];
  }

  HostCommunicator& host_;
  torch::Device device_;
  std::unique_ptr<DeviceCommunicator> nccl_;
  std::vector<ArenaPart> layers_;
  torch::Tensor arena_;
};

void print_rows(const nlohmann::json& rows, int ranks) {
  fmt::print("{} rank{}, one GPU each\n", ranks, ranks > 1 ? "s" : "");
  for (const nlohmann::json& row : rows) {
    fmt::print("{:16} {:8.1f} MB {:10.1f} us", row["what"].get<std::string>(), row["bytes"].get<double>() / 1e6,
               1e6 * row["seconds"].get<double>());
    if (ranks > 1) fmt::print(" {:8.1f} GB/s on the bus", row["bus_gb_per_s"].get<double>());
    fmt::print("\n");
  }
}

void run(MpiCommunicator& world, const Options& options) {
  run_on_all(world, [&] {
    const int devices = torch::cuda::is_available() ? static_cast<int>(torch::cuda::device_count()) : 0;
    if (devices < world.size()) {
      throw machine_error("nccl_bench",
                          fmt::format("{} ranks need one GPU each, and there are {}", world.size(), devices),
                          "start as many ranks as this node has GPUs");
    }
  });
  const nlohmann::json rows = Bench(world, options).run();
  if (world.rank() != 0) return;
  if (options.json) {
    fmt::print("{}\n", nlohmann::json{{"ranks", world.size()}, {"reductions", rows}}.dump());
  } else {
    print_rows(rows, world.size());
  }
}

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  roundtable::Options options;
  CLI::App app("Bandwidth of the sum of an arena of gradients over the GPUs of a node.");
  app.add_option("--blocks", options.blocks, "of Llama-3.1-8B's shape, that the arena is for")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object on stdout, nothing else");
  CLI11_PARSE(app, argc, argv);
  roundtable::MpiRuntime mpi(&argc, &argv);
  try {
    roundtable::run(mpi.world(), options);
  } catch (const roundtable::AgreedError& error) {
    if (mpi.world().rank() == 0) fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  } catch (const roundtable::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    std::fflush(stderr);
    roundtable::abort_all_ranks(static_cast<int>(error.code()));
  }
  return 0;
}
