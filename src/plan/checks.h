// What a run is refused for before its first byte is written: parts of a config, a model and token sets that do not fit
// together. Each refusal is an Error (kBadInput) with the key or file and the fix. Nothing here is collective.
#pragma once

#include <cstdint>
#include <string>

#include "config/config.h"
#include "graph/model.h"
#include "plan/plan.h"

namespace roundtable {

// All refusals that follow from the config, config.json and the decisions of `plan`:
// - run.reproducible cannot be promised: parallel.shards that are no power of two, a sampler other than strata,
// gradients
//   that are not summed in fp32;
// - an output format cannot hold the schemes or the model;
// - parallel.shards does not divide the ranks and the strata; no layout fits the memory of a described device;
// - parallel.experts is 'divided' and the experts cannot be, or not by the ranks of a group;
// - a group is too large for parallel.gradient_dtype: a vote (sign) is counted in a byte;
// - there are more stages than blocks, fewer samples than a step takes, or a momentum that the optimizer has no use
// for.
void check_settings(const Config& config, const Plan& plan);

// All refusals that need files. Reads the headers of the model's files and the token sets whole:
// - config.json says that the model is quantized;
// - a tensor that is loaded or copied is missing, has another shape than config.json asks for, or a type that no float
//   weights have; or the model has one that would be dropped silently, or that its index does not name;
// - calibration.estimate is of another model, or of a format that cannot be read (its tensors are checked when they are
//   read);
// - the model's folder lacks what an output format needs;
// - a token set is missing, broken, too small, or has an id outside the vocabulary.
// Returns the number of held-out tokens (run.eval_tokens), 0 without such a set.
std::int64_t check_files(const Config& config, const Plan& plan);

// The refusals of check_files() that speak of the model alone, whatever its architecture: it says that it is quantized
// in a way that we do not read, or has a tensor that its index does not name.
void check_not_quantized(const Config& config);
void check_strays(const Config& config);

// The SHA-256 of a model's tokenizer.json; empty without one. Throws Error where it cannot be read.
std::string tokenizer_digest(const std::string& directory);

// Compares the tokenizer that made the token set `tokens` with the model's tokenizer.json. Throws Error (kBadInput)
// where they differ; if calibration.check_tokenizer is false, returns a warning. Also returns one where the model has
// no tokenizer.json to compare with. Empty where they are the same, or the token set does not name its tokenizer.
std::string check_tokenizer(const Config& config, const std::string& tokens);

}  // namespace roundtable
