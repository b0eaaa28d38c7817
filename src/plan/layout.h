// How the ranks are divided into groups x shards, and the blocks into stages. Pure decisions: plan/checks.h refuses
// those that cannot be carried out.
#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"
#include "graph/model.h"
#include "plan/shape.h"
#include "tune/block_tuner.h"

namespace roundtable {

// Ranks per group: `wanted` if positive, else the largest number that divides the world, the ranks of a node and the
// strata.
int choose_shards(std::int64_t wanted, const World& world, std::int64_t strata);

// Divides `blocks` blocks into `stages` stages of nearly equal length, the longer ones first.
std::vector<Stage> cut_stages(std::int64_t blocks, std::int64_t stages);

// The layout with the least time on the described cluster whose memory fits a device; parallel.shards and
// parallel.stages are kept if they are set. If none fits, the one that needs least memory.
Layout choose_layout(const Config& config, const Model& model, const std::vector<BlockSchemes>& schemes,
                     const World& world);

}  // namespace roundtable
