// What a run is refused for before its first byte is written: parts of a config, a model and token sets that do not go
// together.
//
// Each check throws Error (kBadInput) with the key or file and the mend. None is collective.
#pragma once

#include <cstdint>
#include <string>

#include "config/config.h"
#include "model/description/model_config.h"
#include "plan/plan.h"

namespace roundtable {

// Throws where run.reproducible cannot be promised: parallel.shards that are no power of two, a sampler other than
// strata, gradients that are not summed in fp32.
void check_reproducible(const Config& config);

// Throws where groups of `shards` ranks are too large for parallel.gradient_dtype: a vote (sign) is counted in a byte.
void check_votes(const Config& config, int shards);

// Throws where calibration.n_samples are fewer than a step takes.
void check_samples(const Config& config, const Plan& plan);

// Throws where a tensor of a block, or one outside them, is missing from the model or has another shape than
// config.json calls for, and where the model holds one that we would drop unawares. Reads headers only.
void check_tensors(const Config& config, const Plan& plan);

// Throws where calibration.estimate, if given, is of another model or of a format that cannot be read; its tensors are
// checked when they are read. Warns in `plan` where it changes nothing.
void check_estimate(const Config& config, Plan& plan);

// Throws, opened by `place`, where the model has a learned position for fewer than `seqlen` tokens.
void check_length(const ModelConfig& model, std::int64_t seqlen, const std::string& place);

// Reads the token sets whole and returns the number of held-out tokens (run.eval_tokens), 0 without such a set. Throws
// where one is missing, broken, too small, longer than check_length() allows, or holds an id beyond the vocabulary.
// Warns in `plan` of samples beyond max_position_embeddings.
std::int64_t check_tokens(const Config& config, Plan& plan);

}  // namespace roundtable
