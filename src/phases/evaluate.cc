// Measuring, and remembering what was measured.
#include "phases/evaluate.h"

#include <optional>
#include <string>

#include "base/hash.h"
#include "comm/agree.h"
#include "export/quantized_checkpoint.h"
#include "io/json_fields.h"
#include "phases/measure.h"
#include "plan/shape.h"

namespace roundtable {
namespace {

// By an earlier start of this run, on the same tokens. Collective.
std::optional<record::Evaluation> measured_before(RunContext& context, const std::string& token_digest) {
  const auto found = run_on_root(context.ranks.world, [&] {
    nlohmann::json found;
    for_each_record<record::Evaluation>(context.state->journal().records(), [&](const record::Evaluation& record) {
      if (record.digest == token_digest) found = json_of(record);
    });
    return found;
  });
  if (found.is_null()) return std::nullopt;
  return read_fields<record::Evaluation>(found, "evaluation");
}

record::Evaluation measure_both(RunContext& context, const std::string& token_digest) {
  const Model& model = context.plan.eval_model;
  const std::string &before = context.config.model.path, &after = context.paths.tuned;
  const auto float_source = open_tensor_source(before, context.tensors);
  const auto source = open_tensor_source(after);
  const Measures found = measure(context.ranks, {model, *source, after}, MeasuredModel{model, *float_source, before},
                                 {.tokens = context.config.run.eval_tokens,
                                  .width = pass_width_of(context.config),
                                  .on_block = [&] { context.progress.advance(1); }});
  return {token_digest, {*found.float_perplexity, found.perplexity, found.tokens}, *found.divergence};
}

}  // namespace

record::Evaluation evaluate(RunContext& context) {
  context.progress.begin_phase("evaluate", 2 * context.plan.model.n_blocks());
  const std::string digest =
      run_on_root(context.ranks.world, [&] { return hash_file(context.config.run.eval_tokens); });
  std::optional<record::Evaluation> result = measured_before(context, digest);
  if (result) {
    context.progress.advance(2 * context.plan.model.n_blocks());
  } else {
    result = measure_both(context, digest);
    run_on_root(context.ranks.world, [&] { context.state->journal().append(*result); });
  }
  context.progress.end_phase();
  return *result;
}

}  // namespace roundtable
