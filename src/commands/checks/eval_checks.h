// What `roundtable eval` decides and refuses before it reads weights. A run's own evaluation follows its plan instead.
// Nothing here is collective.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "graph/model.h"
#include "plan/shape.h"

namespace roundtable {

// Ranks per group, which divide the experts of each block among them, one part per rank; 1: each rank holds whole blocks.
// parallel.shards if it divides the ranks and the experts of all `models`, else the largest number that does: the more
// parts, the less memory per rank. With parallel.experts 'replicated', without experts and where experts cannot be
// divided (KindTable::undivided) it is 1. Throws Error (kBadInput) if parallel.experts is 'divided' and that, or the
// parallel.shards that are set, or this number of ranks, makes it impossible.
int choose_eval_parts(const Config& config, const std::vector<const Model*>& models, const World& world);

// `float_dir` is what --against names. Throws Error (kBadInput) if it has no config.json, or is quantized itself, other
// than by its publisher.
void check_is_float(const std::string& float_dir);

// Throws Error (kBadInput) if the distributions of the two models cannot be compared: their vocabularies have different
// sizes, or their tokenizer.json differ. With calibration.check_tokenizer false the latter is returned as a warning.
std::string check_same_tokens(const Config& config, const Model& model, const std::string& float_dir,
                              const Model& float_model);

}  // namespace roundtable
