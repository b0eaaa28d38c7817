// How the ranks are divided into groups x shards, the blocks into stages, and experts into parts. Pure decisions:
// plan/checks.h refuses those that cannot be carried out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "graph/model.h"
#include "plan/shape.h"
#include "tune/block_tuner.h"

namespace roundtable {

// Ranks per group: `wanted` if positive, else the largest number that divides the world, the ranks of a node and
// `units`: the strata, or what they and the experts have in common.
int choose_shards(std::int64_t wanted, const World& world, std::int64_t units);

// The number that the shards of a group must divide so that each rank has the same number of experts of each block: the
// largest that divides the experts of all blocks that have any; 0: none has.
std::int64_t experts_to_divide(const Model& model);

// Plan::expert_parts of a plan with `shards` and `stacks_apart`, by parallel.experts. What is asked for and not
// possible is 1 here: checks.h refuses it, and warnings.h says where it means nothing.
int choose_expert_parts(const Config& config, const Model& model, int shards, bool stacks_apart, const World& world);

// Why no number of ranks can divide the experts of a model that has some: "the experts of 'mixtral' are ..."; empty: it
// depends on the number alone.
std::string obstacle_to_dividing(const Model& model, bool stacks_apart);

// Divides `blocks` blocks into `stages` stages of nearly equal length, the longer ones first.
std::vector<Stage> cut_stages(std::int64_t blocks, std::int64_t stages);

// The layout with the least time on the described cluster whose memory fits a device; parallel.shards and
// parallel.stages are kept if they are set. If none fits, the one that needs least memory. Experts are divided as
// choose_expert_parts() says.
Layout choose_layout(const Config& config, const Model& model, const std::vector<BlockSchemes>& schemes,
                     bool stacks_apart, const World& world);

}  // namespace roundtable
