// What runs must have in common to share boundaries, and what they need not.
#include "phases/boundary/boundary_cache.h"

#include <gtest/gtest.h>

#include "tests/graph/tiny_models.h"

namespace roundtable {
namespace {

const std::vector<std::string> kOneRank = {"cpu, 2 threads"};
const std::vector<std::string> kTwoRanks = {"cpu, 2 threads", "cpu, 2 threads"};

// As fingerprint() has it: what states hang on, and something of what they do not.
nlohmann::json run_print() {
  return {{"model.path", "m"},
          {"calibration.tokens", "t"},
          {"calibration.n_samples", 128},
          {"calibration.seqlen", 256},
          {"tuning.amp", true},
          {"quantization.bits", 4},
          {"tuning.iters", 200},
          {"number of stages", 2},
          {"tuning.n_blocks", 1},
          {"version", 2},
          {"calibration.estimate", ""}};
}

nlohmann::json states_of(const nlohmann::json& print, const Config& config = {},
                         const std::vector<std::string>& devices = kOneRank,
                         const Model& model = testing::tiny_llama_model()) {
  return states_fingerprint(print, config, model, devices);
}

TEST(StatesFingerprint, HoldsTheModelAndTheSamplesAndNoScheme) {
  const nlohmann::json print = run_print();
  for (const auto& item : print.items()) {
    const std::string& part = item.key();
    nlohmann::json changed = print;
    changed[part] = "another";
    const bool counts = part == "model.path" || part.starts_with("calibration.") || part == "tuning.amp";
    EXPECT_EQ(states_of(changed) != states_of(print), counts) << part;
  }
}

TEST(StatesFingerprint, CountsRanksWhereTheyCutPasses) {
  Config config;
  EXPECT_NE(states_of(run_print(), config, kOneRank), states_of(run_print(), config, kTwoRanks));
  config.tuning.micro_batch = 4;
  EXPECT_NE(states_of(run_print(), config, kOneRank), states_of(run_print(), config, kTwoRanks));
  config.tuning.micro_batch = 1;
  EXPECT_EQ(states_of(run_print(), config, kOneRank), states_of(run_print(), config, kTwoRanks));
  const nlohmann::json one_a_pass = states_of(run_print(), config);
  config.tuning.micro_batch = 0;
  config.run.reproducible = true;
  EXPECT_EQ(states_of(run_print(), config, kTwoRanks), one_a_pass);
}

TEST(StatesFingerprint, CountsWhatTheGraphsCompute) {
  const Model tied = testing::tiny_llama_model({.tied = true});
  EXPECT_NE(states_of(run_print(), {}, kOneRank, tied), states_of(run_print(), {}, kOneRank, tied.with_stored_head()));
}

TEST(StatesFingerprint, CountsPassesAndDevices) {
  Config config;
  const nlohmann::json before = states_of(run_print(), config);
  config.tuning.micro_batch = 2;
  EXPECT_NE(states_of(run_print(), config), before);
  EXPECT_NE(states_of(run_print(), {}, {"cuda"}), before);
  EXPECT_NE(states_of(run_print(), {}, {"cpu, 2 threads", "cpu, 1 threads"}), states_of(run_print(), {}, kTwoRanks));
}

}  // namespace
}  // namespace roundtable
