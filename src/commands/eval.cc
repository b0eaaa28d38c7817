// `roundtable eval`: the perplexity of one model.
#include <fmt/format.h>

#include "base/activity.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "commands/start.h"
#include "export/quantized_checkpoint.h"
#include "graph/stored_head.h"
#include "phases/forward_pass.h"
#include "plan/checks.h"
#include "plan/path_checks.h"
#include "plan/shape.h"
#include "run/progress.h"

namespace roundtable {

nlohmann::json run_eval(MpiCommunicator& world, const Config& config) {
  run_on_all(world, [&] {
    require_keys(config, {"run.eval_tokens"});
    if (!config.run.logits.empty() && world.size() > 1) {
      throw bad_input("run.logits", "is written by one rank", "start eval on a single rank");
    }
    if (!config.run.logits.empty()) check_logits_path(config.run.logits);
  });
  const Model model = model_for_tokens(world, config, config.run.eval_tokens);
  run_on_root(world, [&] {
    if (const std::string warning = check_tokenizer(config, config.run.eval_tokens); !warning.empty()) {
      log_warning(warning);
    }
  });
  const RankContext ranks = make_rank_context(config, /*shards=*/1, /*expert_parts=*/1, world);
  enter_phase("evaluate");
  Progress progress(display_stream(world));
  progress.begin_phase("evaluate", model.n_blocks());
  const ForwardPass forward(ranks, model, pass_width_of(config));
  const auto source = open_tensor_source(config.model.path);
  const Perplexity result = forward.measure_perplexity(*source, config.model.path, config.run.eval_tokens,
                                                       config.run.logits, [&] { progress.advance(1); });
  progress.end_phase();
  if (world.rank() == 0) {
    fmt::print("perplexity {:.4f} over {} tokens of {}\n", result.value, result.tokens, config.run.eval_tokens);
  }
  return {{"perplexity", result.value}, {"tokens", result.tokens}};
}

}  // namespace roundtable
