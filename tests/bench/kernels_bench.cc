// Bytes a second of the fake quantization kernels, beside a plain copy of as many bytes in the same run.
//
//   kernels_bench [--device cpu|cuda] [--kernels fake_quantize,...] [--shapes 4096x4096,...]
//                 [--data-type int|mx_fp|nv_fp] [--bits 4] [--group-size 128] [--asym] [--threads N] [--json]
//
// Counted is what a kernel must read and write once, for a weight W [out, in] in bf16 with v and dL/dWq in fp32, and
// the four fp32 numbers of a group (wmin, wmax, min_scale, max_scale):
//   fake_quantize        reads W, v; writes Wq in bf16        8 bytes a weight, 16 a group
//   sign_step            reads W, v, dL/dWq; writes v         14 bytes a weight, 24 a group (two of its four written)
//   rounding_gradients   reads W, v, dL/dWq; writes dL/dv     14 bytes a weight, 24 a group
//   quantize             reads W, v; writes q, a byte         7 bytes a weight, 21 a group
//   search_scales        reads W; writes both ranges          2 bytes a weight, 16 a group; rounds each weight about 200
//                                                             times (mx_fp: 3, nv_fp: 14)
// rounding_gradients and quantize make their results anew in each call, as in the program: on a CPU that is part of their time.
//
// The copy reads half of those bytes and writes the other half, as STREAM's does (McCalpin 1995). Everything is called
// over and over on the same arrays, the copy too: what fits into a cache stays there.
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "quant/fake_quant.h"

namespace roundtable {
namespace {

constexpr int kSamples = 9;
constexpr double kSampleSeconds = 0.02;  // long against the clock and the start of a kernel

struct Options {
  std::string device = "cpu";
  std::vector<std::string> kernels = {"fake_quantize", "sign_step", "rounding_gradients", "quantize", "search_scales"};
  std::string data_type = "int";
  std::vector<std::string> shapes = {"4096x4096"};
  QuantScheme scheme;
  int threads = 0;
  bool json = false;
};

struct Shape {
  std::int64_t rows, columns;
};

Shape parse_shape(const std::string& text) {
  long long rows = 0, columns = 0;
  int end = 0;
  const int found = std::sscanf(text.c_str(), "%lldx%lld%n", &rows, &columns, &end);
  const auto is_size = [](long long n) { return n >= 1 && n <= 1 << 20; };
  if (found != 2 || end != static_cast<int>(text.size()) || !is_size(rows) || !is_size(columns)) {
    throw bad_input("--shapes", fmt::format("'{}' is no shape of a weight", text), "write OUTxIN, as in 4096x4096");
  }
  return {rows, columns};
}

// Seconds of one call, the median of some samples of many calls each. Kernels of a GPU are waited for once a sample.
double seconds_a_call(const std::function<void()>& call, const torch::Device& device) {
  const auto run = [&](std::int64_t calls) {
    const Stopwatch watch;
    for (std::int64_t i = 0; i < calls; ++i) call();
    if (device.is_cuda()) torch::cuda::synchronize();
    return watch.seconds() / static_cast<double>(calls);
  };
  run(3);  // first touch of memory, first load of a kernel
  const auto calls = static_cast<std::int64_t>(std::ceil(kSampleSeconds / std::max(run(3), 1e-7)));
  std::vector<double> samples;
  for (int i = 0; i < kSamples; ++i) samples.push_back(run(calls));
  std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
  return samples[kSamples / 2];
}

double seconds_to_copy(std::int64_t bytes, const torch::Device& device) {
  const auto half = torch::TensorOptions().dtype(torch::kFloat32).device(device);
  const torch::Tensor from = torch::ones({bytes / 2 / 4}, half);
  torch::Tensor to = torch::empty_like(from);
  return seconds_a_call([&] { to.copy_(from); }, device);
}

// What --data-type, --bits and --group-size ask for. Floats of 4 bits have groups of their own.
QuantScheme scheme_of(const Options& options) {
  QuantScheme scheme = options.scheme;
  for (const WeightType type : {WeightType::kMxFp4, WeightType::kNvFp4}) {
    if (options.data_type != word_of(type)) continue;
    scheme.type = type;
    scheme.bits = 4;
    scheme.group_size = group_size_of(type);
  }
  return scheme;
}

// One weight with what is tuned of it, away from its start.
class Layer {
 public:
  Layer(const Shape& shape, const QuantScheme& scheme, const torch::Device& device)
      : scheme_(scheme), groups_(shape.rows * scheme.groups(shape.columns)) {
    torch::manual_seed(1);
    weight_ = torch::randn({shape.rows, shape.columns}).to(torch::kBFloat16).to(device);
    gradient_ = torch::randn({shape.rows, shape.columns}).to(device);
    scheme_ = with_global_scale(scheme, {weight_});
    parameters_ = make_rounding_parameters(weight_, scheme_);
    parameters_.v.uniform_(-0.5, 0.5);
    result_ = torch::empty_like(weight_);
  }

  nlohmann::json run(const std::string& kernel) {
    if (kernel == "fake_quantize") {
      return measure(kernel, 8, 16, [&] { fake_quantize(weight_, parameters_, scheme_, result_); });
    }
    if (kernel == "sign_step") {
      // The steps are so small that many of them leave the parameters where they are.
      const StepSize size{1e-9f, 1e-9f};
      return measure(kernel, 14, 24, [&] { sign_step(weight_, parameters_, scheme_, gradient_, size); });
    }
    if (kernel == "rounding_gradients") {
      return measure(kernel, 14, 24, [&] { rounding_gradients(weight_, parameters_, scheme_, gradient_); });
    }
    if (kernel == "search_scales") {
      RoundingParameters searched = make_rounding_parameters(weight_, scheme_);
      const torch::Tensor importance = torch::ones({weight_.size(1)}, gradient_.options());
      return measure(kernel, 2, 16, [&] { search_scales(weight_, searched, scheme_, importance); });
    }
    return measure(kernel, 7, 21, [&] { quantize(weight_, parameters_, scheme_); });
  }

 private:
  nlohmann::json measure(const std::string& kernel, std::int64_t bytes_a_weight, std::int64_t bytes_a_group,
                         const std::function<void()>& call) const {
    const std::int64_t bytes = bytes_a_weight * weight_.numel() + bytes_a_group * groups_;
    const double seconds = seconds_a_call(call, weight_.device());
    const double copy = seconds_to_copy(bytes, weight_.device());
    const auto rate = [bytes](double taken) { return static_cast<double>(bytes) / taken / 1e9; };
    const bool is_int = scheme_.type == WeightType::kInt;
    const std::string name = is_int ? kernel : fmt::format("{} {}", kernel, word_of(scheme_.type));
    return {{"kernel", name},           {"rows", weight_.size(0)},         {"columns", weight_.size(1)},
            {"bytes", bytes},           {"seconds", seconds},              {"gb_per_s", rate(seconds)},
            {"copy_gb_per_s", rate(copy)}, {"share_of_copy", copy / seconds}};
  }

  QuantScheme scheme_;
  std::int64_t groups_;
  torch::Tensor weight_, gradient_, result_;
  RoundingParameters parameters_;
};

void print_row(const nlohmann::json& row) {
  fmt::print("{:25} {:>5}x{:<6} {:10.1f} us {:8.1f} GB/s, a copy {:8.1f} GB/s: {:3.0f} %\n",
             row["kernel"].get<std::string>(), row["rows"].get<std::int64_t>(), row["columns"].get<std::int64_t>(),
             1e6 * row["seconds"].get<double>(), row["gb_per_s"].get<double>(), row["copy_gb_per_s"].get<double>(),
             100 * row["share_of_copy"].get<double>());
}

void run(const Options& options) {
  if (options.device == "cuda" && !torch::cuda::is_available()) {
    throw machine_error("--device cuda", "no CUDA device is found, or this build has no CUDA", "use --device cpu");
  }
  const torch::Device device(options.device);
  if (options.threads > 0) torch::set_num_threads(options.threads);
  std::vector<Shape> shapes;
  for (const std::string& text : options.shapes) shapes.push_back(parse_shape(text));
  nlohmann::json rows = nlohmann::json::array();
  for (const Shape& shape : shapes) {
    Layer layer(shape, scheme_of(options), device);
    for (const std::string& kernel : options.kernels) {
      const nlohmann::json row = layer.run(kernel);
      if (!options.json) print_row(row);
      rows.push_back(row);
    }
  }
  if (options.json) {
    const nlohmann::json all = {{"device", options.device}, {"threads", torch::get_num_threads()}, {"kernels", rows}};
    fmt::print("{}\n", all.dump());
  }
}

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  roundtable::Options options;
  CLI::App app("Bytes a second of the fake quantization kernels, beside a plain copy.");
  app.add_option("--device", options.device, "where the tensors are")->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--kernels", options.kernels, "what is measured")
      ->delimiter(',')
      ->check(CLI::IsMember({"fake_quantize", "sign_step", "rounding_gradients", "quantize", "search_scales"}))
      ->capture_default_str();
  app.add_option("--data-type", options.data_type, "what a weight becomes: int, or floats of 4 bits")
      ->check(CLI::IsMember({"int", "mx_fp", "nv_fp"}))
      ->capture_default_str();
  app.add_option("--shapes", options.shapes, "weights, OUTxIN each")->delimiter(',')->capture_default_str();
  app.add_option("--bits", options.scheme.bits, "bits a weight")
      ->check(CLI::IsMember({2, 3, 4, 8}))
      ->capture_default_str();
  app.add_option("--group-size", options.scheme.group_size, "weights that share a scale")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag_callback("--asym", [&] { options.scheme.symmetric = false; }, "asymmetric integers");
  app.add_option("--threads", options.threads, "threads; 0: LibTorch's own choice")->check(CLI::NonNegativeNumber);
  app.add_flag("--json", options.json, "one JSON object on stdout, nothing else");
  CLI11_PARSE(app, argc, argv);
  try {
    roundtable::run(options);
  } catch (const roundtable::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
