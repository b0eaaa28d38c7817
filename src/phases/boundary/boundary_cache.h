// Boundaries that several runs share (calibration.cache): other schemes of one model, on the same samples.
//
//   calibration.cache/<digest of states_fingerprint()>/
//     about.json                    the parts of that fingerprint, for people
//     tensors.json                  the digests of the model's tensors (phases/model_check.h)
//     boundary-00012.h5             the float model's hidden states that enter block 12
//     boundary-00016.h5.tmp-<run>   being written by that run, or left by a start of it that was killed
//
// A file gets its name when it is complete and on disk, so the journal does not mention it. A run compares it with its
// checksums before it uses the file, and once more when it tunes. There are no locks: runs that start together each
// make the boundaries, under temporary names of their own, and from equal fingerprints come equal states. A run removes
// nothing here but its own temporary files.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cache/boundary_file.h"
#include "run/run_context.h"

namespace roundtable {

// What determines the float model's hidden states to the bit, on machines of one kind, and nothing else: an object of
// named parts. `print` is the run's fingerprint, `devices` what each rank of the world computes on.
nlohmann::json states_fingerprint(const nlohmann::json& print, const Config& config, const Model& model,
                                  const std::vector<std::string>& devices);

// Where this run's boundaries are: in `directory`, the run's own, or in a folder of calibration.cache. `print` (on rank
// 0) is the run's fingerprint. Collective over the world.
BoundaryPlace place_boundaries(const RankContext& ranks, const Config& config, const Model& model,
                               const std::string& directory, const nlohmann::json& print);

// A boundary that calibrate makes.
struct BoundaryToMake {
  std::int64_t block = 0;
  bool replace = true;  // a file of this name, if there is one by then
};

// Those of `needed` (first blocks of stages, the same on every rank) that have no complete file in context.boundaries,
// a shared place. Logs how many have one, and warns of files that cannot be used. Collective over the world. Throws
// AgreedError where the folder cannot be made or written to, and (kStartAgain) when a rank is asked to leave.
std::vector<BoundaryToMake> shared_boundaries_to_make(const RunContext& context,
                                                      const std::vector<std::int64_t>& needed);

}  // namespace roundtable
