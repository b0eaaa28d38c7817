// Compares exported graphs with what their model computes: outputs and gradients, in both ways that the program runs
// them: node by node, and as a block with fused nodes whose weights' gradients are handed over.
//
//   graph_check GRAPH_DIR SAMPLES.safetensors [--output 1e-4] [--gradient 1e-3]
//
// SAMPLES holds tensors for one or more parts of the graph folder. PART is "embed", "head", or "kinds.0", "kinds.1",
// ...
//
//   PART/hidden, PART/tokens, PART/carried/NAME   what enters the part; NAME is the part's own
//   PART/parameters/NAME                          all of the part's parameters, in their shapes and dtypes
//   PART/output                                   wanted: the hidden states, or the logits of the head
//   PART/outputs/NAME                             wanted: a carried tensor, by the part's own name; optional
//   PART/upstream                                 dL/d output; without it no gradients are compared
//   PART/gradients/hidden                         wanted: dL/d hidden
//   PART/gradients/parameters/NAME                wanted: dL/d parameter; optional, each
//
// A difference is the largest one of all elements, relative to the largest element that is wanted; a gradient is
// relative to at least 1e-4 of the part's largest (a bias whose true gradient is zero has noise). Prints one line per
// part. Exit code: 0 if all differences are within the limits, 1 if not, 2 if the folder or the file cannot be used.
#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>

#include "base/error.h"
#include "graph/block.h"
#include "graph/format/read_manifest.h"
#include "graph/model.h"
#include "io/safetensors.h"

namespace roundtable {
namespace {

using torch::Tensor;

struct Limits {
  double output = 1e-4;
  double gradient = 1e-3;
};

// The tensors below a prefix, by what follows it.
TensorsByName below(const TensorsByName& all, const std::string& prefix) {
  TensorsByName found;
  for (auto at = all.lower_bound(prefix); at != all.end() && at->first.starts_with(prefix); ++at) {
    found[at->first.substr(prefix.size())] = at->second;
  }
  return found;
}

double largest(const Tensor& x) { return x.numel() == 0 ? 0 : x.to(torch::kFloat64).abs().max().item<double>(); }

double difference(const Tensor& found, const Tensor& wanted, double least) {
  if (found.sizes() != wanted.sizes()) return std::numeric_limits<double>::infinity();
  const double off = largest(found.detach().to(torch::kFloat64) - wanted.to(torch::kFloat64));
  return off == 0 ? 0 : off / std::max(largest(wanted), least);
}

// The largest differences of one way to run a part.
struct Differences {
  double output = 0;
  double gradient = 0;
  std::string worst;  // whose gradient it is

  void add_gradient(const std::string& name, double off) {
    if (!(off > gradient)) return;
    gradient = off;
    worst = name;
  }
  std::string text() const {
    return fmt::format("output {:.1e}, gradients {:.1e}{}", output, gradient, worst.empty() ? "" : " (" + worst + ")");
  }
  bool within(const Limits& limits) const { return output <= limits.output && gradient <= limits.gradient; }
};

class PartCheck {
 public:
  PartCheck(const GraphManifest& manifest, const GraphPart& part, const TensorsByName& constants,
            const TensorsByName& samples)
      : manifest_(manifest),
        part_(part),
        constants_(constants),
        samples_(samples),
        wanted_gradients_(below(samples, "gradients/")) {
    for (const auto& [name, gradient] : wanted_gradients_) least_ = std::max(least_, 1e-4 * largest(gradient));
  }

  // Node by node: every parameter has a gradient.
  Differences plain() const {
    TensorsByName parameters = below(samples_, "parameters/");
    for (auto& [name, tensor] : parameters) tensor = leaf(tensor);
    GraphTensors in = inputs();
    const GraphTensors out = Program(part_, constants_, torch::kCPU, manifest_.batch).forward(in, parameters);
    Differences found = outputs(out.hidden, out.carried);
    if (!backward(out.hidden)) return found;
    for (const auto& [name, wanted] : wanted_gradients_) {
      const Tensor& from = name == "hidden" ? in.hidden : parameters.at(name.substr(std::strlen("parameters/")));
      found.add_gradient(name,
                         from.grad().defined() ? difference(from.grad(), wanted, least_) : largest(wanted) / least_);
    }
    return found;
  }

  // As a block: the layers of linears() have gradients.
  Differences as_block(std::size_t kind) const {
    const GraphBlock& entry = first_of(kind);
    GraphTensors in = inputs();
    SideTensors side{in.tokens, {}};
    for (const auto& [name, tensor] : in.carried) side.carried[entry.takes.at(name)] = tensor;
    const auto shared = std::make_shared<BlockKind>(manifest_, kind, constants_, torch::kCPU);
    const TensorsByName parameters = below(samples_, "parameters/");
    const Model model(manifest_, constants_, nlohmann::json::object());
    const KindTable& table = model.kind(kind);
    std::vector<Tensor> weights;
    for (std::size_t i = 0; i < table.linears.size(); ++i) {
      const PlacedTensor& placed = table.placed[i];
      weights.push_back(parameters.at(placed.param).as_strided(placed.spec.shape, placed.stride, placed.offset));
    }
    Block block(shared, entry, parameters, weights);
    TensorsByName taken;
    std::mutex mutex;
    for (Linear& linear : block.linears()) {
      linear.weight = leaf(linear.weight);
      linear.take_gradient = [&taken, &mutex, &linear](const Tensor& gradient) {
        const std::scoped_lock lock(mutex);
        taken[linear.name] = gradient.clone();
      };
    }
    const Tensor out = block.forward(in.hidden, side);
    TensorsByName carried;
    for (const auto& [name, flowing] : entry.gives) carried[name] = side.carried.at(flowing);
    Differences found = outputs(out, carried);
    if (!backward(out)) return found;
    if (wanted_gradients_.contains("hidden")) {
      found.add_gradient("hidden", difference(in.hidden.grad(), wanted_gradients_.at("hidden"), least_));
    }
    for (const auto& [node, product] : products_of(part_)) compare_matrices(product, taken, found);
    return found;
  }

 private:
  static Tensor leaf(const Tensor& x) {
    const Tensor copy = x.detach().clone();
    return copy.is_floating_point() ? copy.requires_grad_() : copy;
  }

  const GraphBlock& first_of(std::size_t kind) const {
    return *std::find_if(manifest_.blocks.begin(), manifest_.blocks.end(),
                         [&](const GraphBlock& block) { return block.kind == kind; });
  }

  GraphTensors inputs() const {
    GraphTensors in;
    const auto find = [&](const char* name) { return samples_.contains(name) ? samples_.at(name) : Tensor(); };
    if (samples_.contains("hidden")) in.hidden = leaf(samples_.at("hidden"));
    in.tokens = find("tokens");
    in.carried = below(samples_, "carried/");
    return in;
  }

  Differences outputs(const Tensor& hidden, const TensorsByName& carried) const {
    Differences found;
    found.output = difference(hidden, samples_.at("output"), 1e-30);
    for (const auto& [name, wanted] : below(samples_, "outputs/")) {
      if (carried.contains(name)) found.output = std::max(found.output, difference(carried.at(name), wanted, 1e-30));
    }
    return found;
  }

  bool backward(const Tensor& out) const {
    if (!samples_.contains("upstream")) return false;
    out.backward(samples_.at("upstream"));
    return true;
  }

  void compare_matrices(const Product& product, const TensorsByName& taken, Differences& found) const {
    const auto wanted = wanted_gradients_.find("parameters/" + product.weight);
    if (wanted == wanted_gradients_.end()) return;
    for (const MatrixPlace& matrix : product.matrices) {
      if (matrix.use != TensorUse::kLinear) continue;
      const Tensor slice = wanted->second.dim() == 3 ? wanted->second[matrix.expert] : wanted->second;
      const Tensor rows = (product.in_out ? slice.t() : slice)
                              .slice(0, matrix.first, matrix.first + (matrix.rows - 1) * matrix.step + 1, matrix.step);
      const auto mine = taken.find(matrix.name);
      found.add_gradient(matrix.name,
                         mine == taken.end() ? largest(rows) / least_ : difference(mine->second, rows, least_));
    }
  }

  const GraphManifest& manifest_;
  const GraphPart& part_;
  const TensorsByName& constants_;
  const TensorsByName& samples_;
  TensorsByName wanted_gradients_;
  double least_ = 1e-30;
};

bool report(const std::string& part, const char* way, std::size_t nodes, const Differences& found,
            const Limits& limits) {
  const bool good = found.within(limits);
  fmt::print("{} {} {} nodes {}: {}\n", good ? "ok  " : "FAIL", part, nodes, way, found.text());
  return good;
}

int check(const std::string& folder, const std::string& file, const Limits& limits) {
  const GraphManifest manifest = read_manifest(folder);
  const TensorsByName constants = read_constants(folder, manifest);
  const SafetensorsFile samples(file);
  TensorsByName all;
  for (const auto& [name, info] : samples.tensors()) all[name] = read_graph_tensor(samples, info);
  bool good = true;
  const auto check_part = [&](const std::string& name, const GraphPart& part, std::optional<std::size_t> kind) {
    const TensorsByName own = below(all, name + "/");
    if (own.empty()) return;
    const PartCheck check(manifest, part, constants, own);
    good = report(name, "plain", part.nodes.size(), check.plain(), limits) && good;
    if (!kind) return;
    const std::size_t fused = BlockKind(manifest, *kind, constants, torch::kCPU).part().nodes.size();
    good = report(name, "fused", fused, check.as_block(*kind), limits) && good;
  };
  check_part("embed", manifest.embed, std::nullopt);
  for (std::size_t i = 0; i < manifest.kinds.size(); ++i) check_part(fmt::format("kinds.{}", i), manifest.kinds[i], i);
  check_part("head", manifest.head, std::nullopt);
  return good ? 0 : 1;
}

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  CLI::App app("Compares exported graphs with what their model computes.");
  std::string folder, file;
  roundtable::Limits limits;
  app.add_option("GRAPH_DIR", folder, "the graph folder")->required();
  app.add_option("SAMPLES", file, "safetensors file of inputs and wanted results")->required();
  app.add_option("--output", limits.output, "largest difference of outputs")->capture_default_str();
  app.add_option("--gradient", limits.gradient, "largest difference of gradients")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  torch::set_num_threads(1);
  try {
    return roundtable::check(folder, file, limits);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
}
