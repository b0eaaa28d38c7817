// Measuring, and remembering what was measured.
#include "phases/evaluate.h"

#include <optional>
#include <string>

#include "base/hash.h"
#include "comm/agree.h"
#include "export/quantized_checkpoint.h"
#include "io/json_fields.h"
#include "phases/forward_pass.h"
#include "plan/shape.h"

namespace roundtable {
namespace {

// Of an earlier start of this run, on the same tokens. Collective.
std::optional<record::Perplexity> measured_before(RunContext& context, const std::string& which,
                                                  const std::string& token_digest) {
  const auto found = run_on_root(context.ranks.world, [&] {
    nlohmann::json found;
    for_each_record<record::Perplexity>(context.state->journal().records(), [&](const record::Perplexity& record) {
      if (record.which == which && record.digest == token_digest) found = json_of(record);
    });
    return found;
  });
  if (found.is_null()) return std::nullopt;
  return read_fields<record::Perplexity>(found, "perplexity");
}

record::Perplexity measure(RunContext& context, const std::string& which, const std::string& directory,
                           const std::string& token_digest) {
  if (const auto known = measured_before(context, which, token_digest)) {
    context.progress.advance(context.plan.model.n_blocks());
    return *known;
  }
  const ForwardPass forward(context.ranks, context.plan.eval_model, pass_width_of(context.config));
  const auto source = open_tensor_source(directory, which == kFloat ? context.tensors : nullptr);
  const Perplexity result = forward.measure_perplexity(*source, directory, context.config.run.eval_tokens, "",
                                                       [&] { context.progress.advance(1); });
  const record::Perplexity record{which, token_digest, result.value, result.tokens};
  run_on_root(context.ranks.world, [&] { context.state->journal().append(record); });
  return record;
}

}  // namespace

PerplexityPair evaluate(RunContext& context) {
  context.progress.begin_phase("evaluate", 2 * context.plan.model.n_blocks());
  const std::string digest =
      run_on_root(context.ranks.world, [&] { return hash_file(context.config.run.eval_tokens); });
  const record::Perplexity before = measure(context, kFloat, context.config.model.path, digest);
  const record::Perplexity after = measure(context, kQuantized, context.paths.tuned, digest);
  context.progress.end_phase();
  return {before.value, after.value, after.tokens};
}

}  // namespace roundtable
