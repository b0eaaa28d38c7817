// The cost model.
#include "plan/forecast.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "graph/cost.h"
#include "model/attention/attention.h"
#include "plan/forecast_terms.h"
#include "plan/tune_settings.h"
#include "tune/gradients/gradient_sum.h"

namespace roundtable {
namespace {

constexpr double kGiga = 1e9;
// LibTorch with its libraries, MPI and HDF5, and what of them the first products bring in: measured (VmHWM of the plan
// phase, and 85 MB of pages after it).
constexpr std::int64_t kProgramBytes = 500'000'000;
// On a CUDA device: its context and modules, workspaces of cuBLAS and cuDNN, buffers of NCCL. Not measured: between 1.5
// and 2.5 GB by what NVIDIA's and PyTorch's users report for an H100.
constexpr std::int64_t kDeviceProgramBytes = 2'000'000'000;
// The allocator keeps what was freed, and batches are copied once more than counted.
constexpr double kSlack = 1.08;
constexpr const char* kSamples = "samples";  // items of memory that follow the number of samples
constexpr const char* kActivations = "activations";

// One block's work: of the mean block, or of the one that needs most of each.
struct BlockCost : KindCost {
  double groups = 0;        // of weights that share a scale
  double packed_bytes = 0;  // in the checkpoint
};

// What the quantized layers of a block take.
void count_schemes(const Model& model, std::int64_t block, const BlockSchemes& schemes, BlockCost& cost) {
  const std::vector<LinearSpec>& linears = model.linears(block);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const auto n = static_cast<double>(linears[i].out * linears[i].in);
    const double groups = schemes[i] ? static_cast<double>(schemes[i]->groups(linears[i].in) * linears[i].out) : 0;
    cost.groups += groups;
    cost.packed_bytes += schemes[i] ? n * schemes[i]->bits / 8 + groups * (2 + schemes[i]->bits / 8.0) : 2 * n;
  }
  cost.packed_bytes += 2 * cost.other_parameters;
}

struct BlockCosts {
  BlockCost mean;
  BlockCost most;
};

// Calls body(number of a, number of b) for each number that is summed.
template <class Body>
void for_each_number(BlockCost& a, const BlockCost& b, const Body& body) {
  for (double BlockCost::*number :
       {&BlockCost::groups, &BlockCost::packed_bytes}) body(a.*number, b.*number);
  for (double KindCost::*number :
       {&KindCost::parameters, &KindCost::largest, &KindCost::active, &KindCost::input_parameters,
        &KindCost::expert_parameters, &KindCost::routed, &KindCost::other_flops, &KindCost::attention_flops, &KindCost::kept, &KindCost::spare,
        &KindCost::other_parameters}) body(a.*number, b.*number);
}

BlockCosts count_blocks(const Model& model, const std::vector<BlockSchemes>& schemes) {
  std::vector<KindCost> kinds;
  for (std::size_t kind = 0; kind < model.kinds(); ++kind) kinds.push_back(count_kind(model, kind));
  BlockCosts costs;
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    BlockCost one{kinds[model.kind_of(block)]};
    count_schemes(model, block, schemes[static_cast<std::size_t>(block)], one);
    for_each_number(costs.mean, one, [](double& sum, double number) { sum += number; });
    for_each_number(costs.most, one, [](double& most, double number) { most = std::max(most, number); });
    costs.most.plain_attention = costs.most.plain_attention || one.plain_attention;
    costs.most.window = block == 0 ? one.window : std::min(costs.most.window, one.window);  // 0, the widest, wins
  }
  const double blocks = static_cast<double>(model.n_blocks());
  for_each_number(costs.mean, costs.most, [&](double& sum, double) { sum /= blocks; });
  return costs;
}

// Attention heads, for what attention keeps of its scores; 1 where config.json does not say it in a known way.
std::int64_t count_heads(const Model& model) {
  for (const char* key : {"num_attention_heads", "n_head", "n_heads", "num_heads"}) {
    const auto found = model.text_config().find(key);
    if (found != model.text_config().end() && found->is_number_integer()) return found->get<std::int64_t>();
  }
  return 1;
}

std::int64_t hidden_elements(const Model& model) {
  const std::vector<std::int64_t>& shape = model.graphs().boundary.at("hidden").shape;
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

// Numbers that all parts below use.
struct Sizes {
  double element;     // bytes of an activation
  double samples;     // a rank's calibration samples
  double tokens;      // of the calibration set
  double state;       // bytes of a sample's hidden states
  double boundaries;  // bytes of the samples' states at the start of each stage
  double on_disk;     // bytes of these in their files
  double in_step;     // samples of a rank in a step
  double in_pass;     // samples of a rank in a forward pass
  double table;       // bytes of what is outside the blocks: the embedding, and the head if it is not tied
};

// Weights of a block that a rank holds.
double held_parameters(const BlockCost& block, const Layout& layout) {
  return block.parameters - block.expert_parameters * (1 - 1.0 / layout.expert_parts);
}

// Weights of a block whose gradients a group sums: an expert's gradient is whole at the rank that holds it.
double shared_parameters(const BlockCost& block, const Layout& layout) {
  return layout.expert_parts > 1 ? block.parameters - block.expert_parameters : block.parameters;
}

double ceil_div(double a, double b) { return std::ceil(a / b); }

// Bytes of a sample in a boundary's file: the next one begins at a multiple of storage.alignment.
double aligned(const Config& config, double bytes) {
  const auto alignment = static_cast<double>(std::max<std::int64_t>(1, file_layout(config).alignment));
  return ceil_div(bytes, alignment) * alignment;
}

Sizes count_sizes(const Config& config, const Model& m, const Layout& layout) {
  Sizes s{};
  const auto seqlen = static_cast<double>(config.calibration.seqlen);
  const auto n = static_cast<double>(config.calibration.n_samples);
  s.element = config.tuning.amp ? 2 : 4;
  s.samples = ceil_div(n, layout.shards);
  s.tokens = n * seqlen;
  s.state = static_cast<double>(hidden_elements(m)) * s.element;
  s.boundaries = static_cast<double>(layout.stages) * n * s.state;
  s.on_disk = static_cast<double>(layout.stages) * n * aligned(config, s.state);
  s.in_step =
      ceil_div(static_cast<double>(config.tuning.batch_size * config.tuning.gradient_accumulate_steps), layout.shards);
  s.in_pass = std::min(static_cast<double>(micro_batch_of(config, layout.shards)), s.in_step);
  for (const ParameterSpec& spec : m.outside()) s.table += static_cast<double>(spec.elements()) * 2;
  return s;
}

// Bytes per weight that an optimizer keeps between steps in addition to v, and of the gradient of v, which it needs
// separately.
double optimizer_bytes(const TuningSection& tuning) {
  switch (tuning.optimizer) {
    case OptimizerKind::kAdamW:
      return 3 * 4;
    case OptimizerKind::kSignRound:
      return tuning.momentum > 0 ? 2 * 4 : 0;
  }
  RT_UNREACHABLE("an optimizer without a forecast of its memory");
}

// A described cluster has devices, unless MPI is asked for.
bool sums_in_host_memory(const Config& config) {
  switch (config.parallel.backend) {
    case Backend::kMpi:
      return true;
    case Backend::kNccl:
      return false;
    case Backend::kAuto:
      return config.cluster.nodes == 0;
  }
  RT_UNREACHABLE("a backend without a place of its sums");
}

// Bytes of the gradients of a block on a rank.
double gradient_bytes(const Config& config, const BlockCost& block, const Sizes& s, const Layout& layout) {
  const double held = held_parameters(block, layout);
  if (config.run.reproducible) {
    // Ranks that divide experts form the tree over the samples of all of them.
    const double samples = s.in_step * (layout.expert_parts > 1 ? layout.shards : 1);
    return held * 4.0 * static_cast<double>(tree_arenas(static_cast<std::size_t>(samples), layout.shards));
  }
  if (layout.shards == 1) return held * 4;
  const ElementType type = gradient_type(config);
  const auto sent = static_cast<double>(size_of(type));
  // fp32 is sent from its place. MPI keeps what it receives in a second buffer until it is added.
  const double buffers = (type == ElementType::kF32 ? 0 : sent) + (sums_in_host_memory(config) ? sent : 0);
  return held * 4 + shared_parameters(block, layout) * buffers;
}

std::vector<Forecast::Bytes> count_memory(const Config& config, const Model& m, const BlockCost& block,
                                          const Sizes& s, const Layout& layout) {
  const auto seqlen = static_cast<double>(config.calibration.seqlen);
  const double kept_scores =
      !block.plain_attention
          ? 0
          : static_cast<double>(kept_attention_bytes(static_cast<std::int64_t>(s.in_pass), count_heads(m),
                                                     config.calibration.seqlen, block.window,
                                                     static_cast<std::int64_t>(s.element)));
  const auto joint = static_cast<double>(std::min(config.tuning.n_blocks, m.n_blocks()));
  const auto bytes = [](double x) { return static_cast<std::int64_t>(x); };
  const double held = held_parameters(block, layout);
  const double groups = block.groups * held / std::max(1.0, block.parameters);
  // Rows of tokens as they arrive, before they are put in the order of the experts.
  const double arriving = layout.expert_parts > 1 ? block.routed : 0;
  return {
      {"program", sums_in_host_memory(config) ? kProgramBytes : kDeviceProgramBytes},
      // Original and fake-quantized weight.
      {"weights of a block", bytes(joint * held * 2 * s.element)},
      {"next block", bytes(m.n_blocks() > 1 ? held * 2 : 0)},  // read ahead, on one rank of a group
      // v in fp32; the best iterate's integers; ranges, scales, zeros.
      {"rounding", bytes(joint * (held * (4 + 1 + optimizer_bytes(config.tuning)) + groups * 24))},
      // And a layer's product before it is added to its sum.
      {"gradients", bytes(joint * gradient_bytes(config, block, s, layout) + block.largest * s.element)},
      // Float chain, quantized chain, target.
      {kSamples, bytes(3 * s.samples * s.state)},
      {kActivations,
       bytes(kSlack * joint * (s.in_pass * seqlen * (block.kept + block.spare + arriving) * s.element + kept_scores))}};
}

// Bytes that a rank sends in an all-reduce of `bytes`: a ring's 2 (n - 1) / n (Patarasuk and Yuan, 2009).
double ring_bytes(double bytes, int ranks) { return 2.0 * bytes * (ranks - 1) / ranks; }

class Clockwork {
 public:
  Clockwork(const Config& config, const Model& m, const BlockCost& block, const Sizes& s, const Layout& layout)
      : config_(config), m_(m), block_(block), s_(s), layout_(layout), cluster_(config.cluster) {}

  Forecast::Phase calibrate() const {
    Terms terms;
    const double blocks = static_cast<double>(m_.n_blocks());
    terms.add("file system", (blocks * block_.parameters * 2 + s_.table) / file_system());
    if (layout_.ranks > 1) terms.add(wire_name(world()), (blocks * held() * s_.element) / wire(world()));
    forward(terms, blocks * s_.tokens / layout_.ranks);
    terms.add("file system", s_.boundaries / file_system());
    return terms.phase("calibrate");
  }

  // Each option: forward, and back with one more forward pass and twice its products, on whole batches per rank.
  Forecast::Phase scheme() const {
    Terms terms;
    const AutoScheme& wanted = config_.quantization.auto_scheme;
    const double options = static_cast<double>(std::ranges::count(wanted.options, false, &SchemeOption::keeps_float));
    const double blocks = options * static_cast<double>(m_.n_blocks());
    const auto samples = static_cast<double>(std::min(wanted.nsamples, config_.calibration.n_samples));
    const auto batch = static_cast<double>(wanted.batch_size);
    const double of_rank = std::min(samples, ceil_div(ceil_div(samples, batch), layout_.ranks) * batch) * seqlen();
    terms.add("file system", 2 * blocks * (block_.parameters * 2 + samples * s_.state) / file_system());
    if (layout_.ranks > 1) terms.add(wire_name(world()), 2 * blocks * block_.parameters * s_.element / wire(world()));
    forward(terms, 4 * blocks * of_rank);
    terms.add("matrix products", options * of_rank * 4 * static_cast<double>(m_.head_elements()) / rate());
    return terms.phase("scheme");
  }

  Forecast::Phase tune() const {
    Terms terms;
    // The group with the most blocks ends last.
    const double longest = ceil_div(static_cast<double>(m_.n_blocks()), static_cast<double>(layout_.stages));
    const double blocks = longest * ceil_div(static_cast<double>(layout_.stages), layout_.groups());
    const double steps = blocks * static_cast<double>(config_.tuning.iters);
    step(terms, steps);
    // Target and quantized chain; weights in, checkpoint out, and read back for the proof; all groups at once.
    forward(terms, 2 * blocks * s_.samples * seqlen());
    terms.add("file system",
              blocks * layout_.groups() * (block_.parameters * 2 + 2 * block_.packed_bytes) / file_system());
    if (layout_.shards > 1) {
      terms.add(wire_name(group()), blocks * shared_parameters(block_, layout_) * s_.element / wire(group()));
    }
    return terms.phase("tune");
  }

  Forecast::Phase prove() const {
    Terms terms;
    terms.add("file system", static_cast<double>(m_.n_blocks()) * block_.packed_bytes / file_system());
    return terms.phase("prove");
  }

  Forecast::Phase evaluate(double tokens) const {
    Terms terms;
    const double blocks = static_cast<double>(m_.n_blocks());
    terms.add("file system", blocks * (block_.parameters * 2 + block_.packed_bytes) / file_system());
    forward(terms, 2 * blocks * tokens / layout_.ranks);
    const double head = 2.0 * static_cast<double>(m_.head_elements());
    terms.add("matrix products", 2 * tokens / layout_.ranks * head / rate());
    return terms.phase("evaluate");
  }

  std::vector<Forecast::Bytes> traffic() const {
    const auto bytes = [](double x) { return static_cast<std::int64_t>(x); };
    const double blocks = static_cast<double>(m_.n_blocks());
    const double steps = blocks * static_cast<double>(config_.tuning.iters);
    const double reduced = steps * reduced_bytes() * layout_.shards;
    const double weights = blocks * block_.parameters * 2;
    const double shared = blocks * shared_parameters(block_, layout_) * 2;
    // Of the experts, each part goes to the ranks of the other groups that hold it.
    const double parted = (weights - shared) * (layout_.groups() - 1);
    // Calibration, float chain and quantized chain forward; each step forward and back.
    const double passed = 3 * blocks * s_.tokens + 2 * steps * s_.in_step * layout_.shards * seqlen();
    std::vector<Forecast::Bytes> list = {
            {"all-reduce of gradients", bytes(reduced)},
            {"broadcast of weights", bytes(parted + shared * (layout_.ranks - 1) + shared * (layout_.shards - 1))},
            {"file system, read", bytes(2 * weights + s_.boundaries + 2 * blocks * block_.packed_bytes)},
            {"file system, written", bytes(s_.boundaries + blocks * block_.packed_bytes)}};
    if (layout_.expert_parts > 1) list.insert(list.begin(), {"all-to-all of tokens", bytes(passed * routed_bytes())});
    return list;
  }

 private:
  // What a rank sends in one reduction of the gradients: a ring's part, or the whole in each round of exchanges.
  double reduced_bytes() const {
    const double shared = shared_parameters(block_, layout_);
    if (config_.run.reproducible) return shared * 4 * std::bit_width(static_cast<unsigned>(layout_.shards - 1));
    return ring_bytes(shared * static_cast<double>(size_of(gradient_type(config_))), layout_.shards);
  }
  // What leaves a rank for the experts of others, and comes back, of a token in one pass.
  double routed_bytes() const {
    return block_.routed * s_.element * (layout_.expert_parts - 1) / layout_.expert_parts;
  }
  double held() const { return held_parameters(block_, layout_); }
  double seqlen() const { return static_cast<double>(config_.calibration.seqlen); }
  double rate() const { return cluster_.matrix_rate * 1e12; }
  double file_system() const { return cluster_.file_system_bandwidth * kGiga; }
  bool group() const { return layout_.shards > layout_.ranks_a_node; }  // crosses nodes
  bool world() const { return layout_.ranks > layout_.ranks_a_node; }
  double wire(bool crosses) const { return (crosses ? cluster_.network_bandwidth : cluster_.link_bandwidth) * kGiga; }
  static const char* wire_name(bool crosses) { return crosses ? "network" : "links"; }

  // Forward passes of one block over `tokens` tokens.
  void forward(Terms& terms, double tokens) const {
    terms.add("matrix products", tokens * (2 * block_.active + block_.other_flops + block_.attention_flops) / rate());
    terms.add("memory", tokens * 2 * (block_.kept + block_.spare) * s_.element / (cluster_.memory_bandwidth * kGiga));
    exchange(terms, tokens);
  }
  // Rows of `tokens` tokens to the ranks that hold their experts, and back.
  void exchange(Terms& terms, double tokens) const {
    if (layout_.expert_parts == 1) return;
    terms.add(fmt::format("all-to-all over {}", wire_name(group())), tokens * routed_bytes() / wire(group()));
  }

  // Steps: forward, gradient of each weight, gradient of each activation that asks for one; then the weights' passes:
  // fake quantization 8 bytes a weight, the arena 16, the sign step 20.
  void step(Terms& terms, double steps) const {
    const double tokens = steps * s_.in_step * seqlen();
    const double flops = 6 * block_.active - 2 * block_.input_parameters + 3 * (block_.attention_flops + block_.other_flops);
    terms.add("matrix products", tokens * flops / rate());
    const double activations = tokens * 5 * (block_.kept + block_.spare) * s_.element;
    terms.add("memory", (activations + steps * 44 * held()) / (cluster_.memory_bandwidth * kGiga));
    if (layout_.shards > 1) {
      terms.add(fmt::format("all-reduce over {}", wire_name(group())),
                steps * (reduced_bytes() / wire(group()) + cluster_.latency * 1e-6));
    }
    exchange(terms, 2 * tokens);
  }

  const Config& config_;
  const Model& m_;
  const BlockCost& block_;
  const Sizes& s_;
  const Layout& layout_;
  const ClusterSection& cluster_;
};

}  // namespace

std::int64_t Forecast::memory_bytes() const {
  return std::accumulate(memory.begin(), memory.end(), std::int64_t{0},
                         [](std::int64_t sum, const Bytes& item) { return sum + item.bytes; });
}

std::int64_t Forecast::block_bytes() const {
  std::int64_t total = 0;
  for (const Bytes& item : memory) {
    if (item.name != kSamples && item.name != kActivations) total += item.bytes;
  }
  return total;
}

double Forecast::seconds() const {
  return std::accumulate(phases.begin(), phases.end(), 0.0,
                         [](double sum, const Phase& phase) { return sum + phase.seconds; });
}

Forecast make_forecast(const Config& config, const Model& model, const std::vector<BlockSchemes>& schemes,
                       const Layout& layout, std::int64_t eval_tokens) {
  const BlockCosts costs = count_blocks(model, schemes);
  const Sizes sizes = count_sizes(config, model, layout);
  const Clockwork clockwork(config, model, costs.mean, sizes, layout);
  Forecast forecast;
  forecast.layout = layout;
  forecast.memory = count_memory(config, model, costs.most, sizes, layout);
  forecast.disk = {{"boundaries", static_cast<std::int64_t>(sizes.on_disk)}};
  forecast.traffic = clockwork.traffic();
  if (config.cluster.nodes == 0) return forecast;
  forecast.phases = {clockwork.calibrate(), clockwork.tune(), clockwork.prove()};
  if (config.quantization.auto_scheme.is_on()) forecast.phases.insert(forecast.phases.begin(), clockwork.scheme());
  if (eval_tokens > 0) forecast.phases.push_back(clockwork.evaluate(static_cast<double>(eval_tokens)));
  return forecast;
}

}  // namespace roundtable
