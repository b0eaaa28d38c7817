// The cost model against figures computed by hand, and its choice of a layout.
#include "plan/forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "plan/layout.h"
#include "tests/graph/tiny_models.h"

namespace roundtable {
namespace {

// SmolLM2-135M's shapes: a block of 3 538 944 weights.
const Model& smollm2() {
  static const Model model = testing::tiny_llama_model({.hidden = 576,
                                                        .intermediate = 1536,
                                                        .heads = 9,
                                                        .kv_heads = 3,
                                                        .head_dim = 64,
                                                        .vocab = 49152,
                                                        .blocks = 30,
                                                        .tied = true},
                                                       256, torch::kBFloat16);
  return model;
}

Config config_of(std::int64_t nodes, std::int64_t devices) {
  Config c;
  c.calibration.n_samples = 128;
  c.calibration.seqlen = 256;
  c.tuning.batch_size = 8;
  c.quantization.group_size = 64;
  c.cluster.nodes = nodes;
  c.cluster.devices_a_node = devices;
  c.cluster.device_memory = 1000;
  return c;
}

std::vector<BlockSchemes> schemes_of(const Model& m, int bits = 4) {
  QuantScheme scheme;
  scheme.bits = bits;
  scheme.group_size = 64;
  return {static_cast<std::size_t>(m.n_blocks()), BlockSchemes(m.linears(0).size(), scheme)};
}

std::int64_t item(const std::vector<Forecast::Bytes>& items, const std::string& name) {
  for (const auto& one : items) {
    if (one.name == name) return one.bytes;
  }
  ADD_FAILURE() << "no item " << name;
  return 0;
}

double phase(const Forecast& forecast, const std::string& name) {
  for (const auto& one : forecast.phases) {
    if (one.name == name) return one.seconds;
  }
  ADD_FAILURE() << "no phase " << name;
  return 0;
}

TEST(Forecast, CountsWeightsDiskAndTrafficByHand) {
  const Model& m = smollm2();
  constexpr std::int64_t kWeights = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576;
  ASSERT_EQ(count_block_parameters(m, 0), kWeights);
  const Forecast f = make_forecast(config_of(0, 1), m, schemes_of(m), {4, 4, 2, 2}, 0);
  EXPECT_EQ(item(f.memory, "weights of a block"), kWeights * 4);
  EXPECT_EQ(item(f.memory, "next block"), kWeights * 2);
  EXPECT_EQ(item(f.memory, "rounding"), kWeights * 5 + kWeights / 64 * 24);
  // The sums, what MPI receives, and the largest layer's product in bf16.
  EXPECT_EQ(item(f.memory, "gradients"), kWeights * (4 + 4) + 1536 * 576 * 2);
  // 64 of 128 samples on each of two shards, three tensors in bf16.
  EXPECT_EQ(item(f.memory, "samples"), 3 * 64 * 256 * 576 * 2);
  EXPECT_EQ(item(f.disk, "boundaries"), 2 * 128 * 256 * 576 * 2);
  // A ring of two sends each of two ranks' fp32 gradients once, 200 times a block.
  EXPECT_EQ(item(f.traffic, "all-reduce of gradients"), 30 * 200 * kWeights * 4 * 2);
  EXPECT_TRUE(f.phases.empty());  // no cluster, no time
}

TEST(Forecast, AlignedSamplesTakeMoreDiskAndNoMoreTraffic) {
  const Model& m = smollm2();
  Config c = config_of(0, 1);
  const auto forecast = [&] { return make_forecast(c, m, schemes_of(m), {4, 4, 2, 2}, 0); };
  const Forecast packed = forecast();
  const std::int64_t sample = 256 * 576 * 2;  // 288 KiB
  ASSERT_EQ(item(packed.disk, "boundaries"), 2 * 128 * sample);
  c.storage.alignment = ByteSize("32KiB");  // which divides it
  EXPECT_EQ(item(forecast().disk, "boundaries"), 2 * 128 * sample);
  c.storage.alignment = ByteSize("256KiB");
  EXPECT_EQ(item(forecast().disk, "boundaries"), 2 * 128 * (512 << 10));
  EXPECT_EQ(item(forecast().traffic, "file system, written"), item(packed.traffic, "file system, written"));
}

TEST(Forecast, ScoringTakesTimeForEachOptionOnWholeBatches) {
  const Model& m = smollm2();
  Config c = config_of(1, 2);
  c.cluster.memory_bandwidth = c.cluster.link_bandwidth = c.cluster.file_system_bandwidth = 1e9;
  const auto seconds = [&](int ranks) {
    return phase(make_forecast(c, m, schemes_of(m), {ranks, ranks, ranks, 1}, 0), "scheme");
  };
  c.quantization.auto_scheme = {3, {{2, 64}, {4, 64}, {}}, 64, 8};
  const double two = seconds(2);
  EXPECT_NEAR(seconds(4), two / 2, 1e-3 * two);
  c.quantization.auto_scheme.options.push_back({8, 64});
  EXPECT_NEAR(seconds(2), 1.5 * two, 1e-3 * two);
  c.quantization.auto_scheme.batch_size = 64;  // one batch for one rank
  EXPECT_NEAR(seconds(4), 3 * two, 3e-3 * two);
}

TEST(Forecast, TimeFollowsTheRateThatBoundsIt) {
  const Model& m = smollm2();
  Config c = config_of(1, 2);
  const Layout layout{2, 2, 2, 1};
  c.cluster.memory_bandwidth = c.cluster.link_bandwidth = c.cluster.file_system_bandwidth = 1e9;
  c.cluster.latency = 0;
  const double once = phase(make_forecast(c, m, schemes_of(m), layout, 0), "tune");
  c.cluster.matrix_rate /= 2;
  const Forecast slow = make_forecast(c, m, schemes_of(m), layout, 0);
  EXPECT_NEAR(phase(slow, "tune"), 2 * once, 1e-3 * once);
  EXPECT_EQ(slow.phases[1].bound_by, "matrix products");
  c.cluster.link_bandwidth = 1e-3;
  EXPECT_EQ(make_forecast(c, m, schemes_of(m), layout, 0).phases[1].bound_by, "all-reduce over links");
  // Across nodes the network carries it.
  EXPECT_NE(make_forecast(c, m, schemes_of(m), {2, 1, 2, 1}, 0).phases[1].bound_by, "all-reduce over links");
}

// A Mixtral whose tokens choose 2 of 8 experts, 1024 wide and with 4096 inside.
TEST(Forecast, DividedExpertsByHand) {
  const Model m = testing::tiny_mixtral_model(
      {.llama = {.hidden = 1024, .intermediate = 4096, .heads = 16, .kv_heads = 4, .head_dim = 64, .blocks = 2},
       .experts = 8, .chosen = 2}, 16, torch::kBFloat16);
  constexpr std::int64_t kAttention = 2 * 1024 * 1024 + 2 * 256 * 1024, kExperts = 8 * 3 * 1024 * 4096;
  ASSERT_EQ(count_block_parameters(m, 0), kAttention + kExperts);
  Config c = config_of(1, 4);
  c.calibration.seqlen = 16;
  const Forecast all = make_forecast(c, m, schemes_of(m), {4, 4, 4, 1, 1}, 0);
  const Forecast one = make_forecast(c, m, schemes_of(m), {4, 4, 4, 1, 4}, 0);
  EXPECT_EQ(item(all.memory, "weights of a block"), (kAttention + kExperts) * 4);
  EXPECT_EQ(item(one.memory, "weights of a block"), (kAttention + kExperts / 4) * 4);
  EXPECT_EQ(item(one.memory, "rounding"), (kAttention + kExperts / 4) * 5 + (kAttention + kExperts / 4) / 64 * 24);
  // Gradients of attention alone are summed: a ring of four sends 3/4 twice.
  EXPECT_EQ(item(one.traffic, "all-reduce of gradients"), 2 * 200 * (kAttention * 4 * 2 / 4 * 3) * 4);
  // Two rows of 1024 go and come back, three of four to other ranks, in bf16: three forward passes over 128 * 16 tokens,
  // and in each of 200 steps one forward and one back over 8 * 16.
  constexpr std::int64_t kPasses = 3 * 128 * 16 + 2 * 200 * 8 * 16;
  EXPECT_EQ(item(one.traffic, "all-to-all of tokens"), 2 * kPasses * (2 * 2 * 1024 * 2 / 4 * 3));
  EXPECT_LT(phase(one, "tune"), phase(all, "tune"));
}

TEST(ChooseLayout, ManyGroupsWhereMemoryAllowsThemAndMoreShardsWhereNot) {
  const Model& m = smollm2();
  Config c = config_of(1, 4);
  const Layout rich = choose_layout(c, m, schemes_of(m), true, {4, 4});
  EXPECT_EQ(rich.shards, 1);
  EXPECT_EQ(rich.stages, 4);
  const auto need = [&](int shards) {
    return static_cast<double>(make_forecast(c, m, schemes_of(m), {4, 4, shards, 4 / shards}, 0).memory_bytes()) / 1e9;
  };
  c.cluster.device_memory = (need(1) + need(2)) / 2;
  EXPECT_EQ(choose_layout(c, m, schemes_of(m), true, {4, 4}).shards, 2);
  c.cluster.device_memory = need(4) / 2;
  EXPECT_EQ(choose_layout(c, m, schemes_of(m), true, {4, 4}).shards, 4) << "the one that needs least";
}

TEST(ChooseLayout, KeepsWhatIsSetAndTheLeastStage) {
  const Model& m = smollm2();
  Config c = config_of(8, 8);
  c.parallel.shards = 2;
  const Layout layout = choose_layout(c, m, schemes_of(m), true, {64, 8});
  EXPECT_EQ(layout.shards, 2);
  EXPECT_EQ(layout.stages, 30 / kLeastStage);
  c.parallel.stages = 15;
  EXPECT_EQ(choose_layout(c, m, schemes_of(m), true, {64, 8}).stages, 15);
}

}  // namespace
}  // namespace roundtable
