// plan and eval, and what all commands share.
#include "pipeline/commands.h"

#include <torch/torch.h>

#include "base/error.h"
#include "pipeline/progress.h"
#include "pipeline/setup.h"
#include "pipeline/streaming_pass.h"

namespace roundtable {

Config load_config_everywhere(MpiCommunicator& world, const std::string& path,
                              const std::vector<std::string>& overrides) {
  // The file itself may be on rank 0's node alone; its resolved form travels.
  const std::string yaml = run_on_root(world, [&] { return to_yaml(load_config(path, overrides)); });
  return parse_config(yaml, path);
}

nlohmann::json run_plan(MpiCommunicator& world, const Config& config) {
  const World ranks = world_of(world);
  const std::string text = run_on_root(world, [&] {
    require_keys(config, {"calibration.tokens", "output.path"});
    return describe(make_plan(config, ranks), config);
  });
  if (world.rank() == 0) fmt::print("{}", text);
  const Plan plan = lay_out(config, ranks);
  return {{"groups", plan.groups},
          {"shards", plan.shards},
          {"stages", plan.stages.size()},
          {"bytes_a_rank", plan.bytes_a_rank},
          {"boundary_bytes", plan.boundary_bytes},
          {"output_bytes", plan.output_bytes},
          {"reduced_bytes_a_step", plan.reduced_bytes_a_step},
          {"layers_in_16_bits", plan.float_reasons}};
}

nlohmann::json run_eval(MpiCommunicator& world, const Config& config) {
  Plan plan;
  run_on_all(world, [&] {
    require_keys(config, {"run.eval_tokens"});
    plan.model = load_model_config(config.model.path);
    plan.world = world_of(world);
    if (!config.run.logits.empty() && world.size() > 1) {
      throw bad_input("run.logits", "is written by one rank", "start eval on a single rank");
    }
    const TokenRows tokens = load_tokens(config.run.eval_tokens, 0, 0, plan.model.vocab_size);
    check_length(plan.model, tokens.seqlen, config.run.eval_tokens);
  });
  Environment env = make_environment(config, plan, world);
  Progress progress(display_stream(world));
  progress.begin_phase("evaluate", plan.model.n_blocks);
  const Perplexity result = measure_perplexity(env, config.model.path, config.run.eval_tokens, config.run.logits,
                                               [&] { progress.advance(1); });
  progress.end_phase();
  if (world.rank() == 0) {
    fmt::print("perplexity {:.4f} over {} tokens of {}\n", result.value, result.tokens, config.run.eval_tokens);
  }
  return {{"perplexity", result.value}, {"tokens", result.tokens}};
}

}  // namespace roundtable
