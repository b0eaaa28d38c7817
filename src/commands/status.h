// `roundtable status RUN_DIR`: how far a run is, from the files of its run directory alone. Without MPI, from any
// machine that sees the directory, while the job works or after it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace roundtable {

// Reads the journal, events.jsonl and ranks.json of `directory`, the run directory or the output beside which it
// lies; nothing is written. Throws Error (kBadInput) where no run is.
//
// The object: {"directory", "output", "state", "phase", "phase_seconds", "blocks": {"done", "all"},
//   "stages": [{"stage", "first", "last", "done", "state", "group"}], "losses": [{"block", "first", "best"}],
//   "seconds_left", "ranks": [{"rank", "host", "phase", "block", "seconds_ago", ...}]}; what is not known is null.
// state: "at work", "left in time", "finished" or "interrupted"; of a stage: "done", "running" or "waiting".
// `now`: seconds since 1970.
nlohmann::json read_status(const std::string& directory, double now);

// For people.
std::string describe_status(const nlohmann::json& status);

}  // namespace roundtable
