// What a run is refused for because of its places: folders that are somebody else's, that cannot be written, or that
// have not enough space, and files next to the model that cannot be read. Nothing here writes, and nothing is
// collective.
#pragma once

#include <string>

#include "config/config.h"
#include "plan/plan.h"

namespace roundtable {

// Throws Error (kBadInput) with the key, the path and the fix, before the first byte is written, if
// - output.path gives the run directory no name, or the run directory or calibration.cache lies in output.path;
// - the run directory or the output holds files that are not this run's own (rundir/ownership.h);
// - a folder of the output holds weights that are not the checkpoint's;
// - one of the folders cannot be made or written;
// - a run that is new needs more space (plan.forecast.disk) than its file systems have. A run that resumes has a part of
//   it on disk already, and finds out;
// - a file that goes along with the model (tokenizer, licence) cannot be read.
void check_places(const Config& config, const Plan& plan);

// Those of them that do not ask whose the folders are, for work that makes output.path without a run. `bytes` are
// written there (0: it resumes).
void check_output_place(const Config& config, std::int64_t bytes);

// The metadata {"format": ...} of a file of run.logits: by it a file is known that eval may overwrite.
inline constexpr const char* kLogitsFormat = "roundtable.logits";

// Throws Error (kBadInput) if the file of run.logits cannot be written, or if another file has its name.
void check_logits_path(const std::string& path);

}  // namespace roundtable
