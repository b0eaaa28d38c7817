// `roundtable status RUN_DIR`: how far a run is, from the files of its run directory alone. Without MPI, from any
// machine that sees the directory, while the job works or after it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace roundtable {

// The object that `status --json` prints. What is not known is null there.
struct RunStatus {
  struct Blocks {
    std::int64_t done = 0;
    std::int64_t all = 0;

    template <class Fields>
    void fields(Fields& f) {
      f("done", done);
      f("all", all);
    }
  };
  struct Stage {
    std::int64_t stage = 0;
    std::int64_t first = 0;  // its blocks are [first, last)
    std::int64_t last = 0;
    std::int64_t done = 0;
    std::string state;                  // "done", "running" or "waiting"
    std::optional<std::int64_t> group;  // that tunes it now

    template <class Fields>
    void fields(Fields& f) {
      f("stage", stage);
      f("first", first);
      f("last", last);
      f("done", done);
      f("state", state);
      f("group", group);
    }
  };
  struct Loss {
    std::int64_t block = 0;
    double first = 0;  // rounded to nearest
    double best = 0;

    template <class Fields>
    void fields(Fields& f) {
      f("block", block);
      f("first", first);
      f("best", best);
    }
  };
  struct Rank {
    std::int64_t rank = 0;
    std::string host;
    std::string phase;
    std::int64_t block = -1;  // -1: none
    double seconds_ago = 0;   // since it was last heard of
    double idle = 0;          // seconds that it had been without a step then
    std::string waiting_in;   // the call in which it waited for other ranks; empty: it worked
    std::int64_t peak_bytes = 0;         // of host memory, since the phase began
    std::int64_t peak_device_bytes = 0;  // 0: it works on a CPU

    template <class Fields>
    void fields(Fields& f) {
      f("rank", rank);
      f("host", host);
      f("phase", phase);
      f("block", block);
      f("seconds_ago", seconds_ago);
      f("idle", idle);
      f("waiting_in", waiting_in);
      f("peak_bytes", peak_bytes);
      f("peak_device_bytes", peak_device_bytes);
    }
  };

  std::string directory;
  std::optional<std::string> output;
  std::string state;  // "at work", "stopped early", "finished" or "interrupted"
  std::optional<std::string> phase;
  std::optional<double> phase_seconds;
  Blocks blocks;
  std::vector<Stage> stages;
  std::vector<Loss> losses;
  std::optional<double> seconds_left;
  std::vector<Rank> ranks;

  template <class Fields>
  void fields(Fields& f) {
    f("directory", directory);
    f("output", output);
    f("state", state);
    f("phase", phase);
    f("phase_seconds", phase_seconds);
    f("blocks", blocks);
    f("stages", stages);
    f("losses", losses);
    f("seconds_left", seconds_left);
    f("ranks", ranks);
  }
};

// Reads the journal, events.jsonl and ranks.json of `directory`, the run directory or the output that it belongs to;
// nothing is written. `now`: seconds since 1970. Throws Error (kBadInput) where no run is, or where another version
// wrote it.
RunStatus read_status(const std::string& directory, double now);

// For people.
std::string describe_status(const RunStatus& status);

}  // namespace roundtable
