// What the files of a run directory contain, one struct per kind of entry: the records of the journal and the events of
// the event log.
// This is their only schema. Restart, `roundtable status` and the run itself use these structs; launch/report_record.py
// reads the same names, and tests/launch/records_test.py compares the two.
//
// On disk each entry is a JSON object of the struct's fields with its kind in the key "type" (journal) or "event"
// (events). The first record of a journal names the version of the program that wrote it.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "rundir/block_figures.h"
#include "rundir/run_summary.h"

namespace roundtable {

// Blocks [first, last) of the model, tuned in order by one group.
struct BlockRange {
  std::int64_t first = 0;
  std::int64_t last = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("first", first);
    f("last", last);
  }
};

// A file of a tuned block.
struct BlockFile {
  std::string name;    // in the checkpoint
  std::string digest;  // of the whole file (base/hash.h)
  std::uint64_t bytes = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("name", name);
    f("digest", digest);
    f("bytes", bytes);
  }
};

namespace record {

// A run begins. `stages` and `output` are for `status`; a restart compares the fingerprint and the number of parts.
struct Run {
  static constexpr const char* kType = "run";
  std::string version;
  nlohmann::json fingerprint;
  std::vector<BlockRange> stages;
  std::string output;
  std::int64_t expert_parts = 1;  // into which a group divides the experts of a block: each has a file of its own

  template <class Fields>
  void fields(Fields& f) {
    f("version", version);
    f("fingerprint", fingerprint);
    f("stages", stages);
    f("output", output);
    f("expert_parts", expert_parts);
  }
};

// A conversion begins, or data-free rounding: the first record of its journal.
struct Conversion {
  static constexpr const char* kType = "convert";
  std::string version;
  nlohmann::json fingerprint;

  template <class Fields>
  void fields(Fields& f) {
    f("version", version);
    f("fingerprint", fingerprint);
  }
};

// What auto_scheme has chosen. It stays as it is for the rest of the run.
struct Scheme {
  static constexpr const char* kType = "scheme";
  std::string auto_scheme;                    // the setting that it was chosen for
  std::map<std::string, std::string> layers;  // the word of an option, by the first of the layers that share it

  template <class Fields>
  void fields(Fields& f) {
    f("auto_scheme", auto_scheme);
    f("layers", layers);
  }
};

// Tensors of the model were read for the first time: the digest of each, by its name in the checkpoint. A later start
// that reads one of them again compares it.
struct Tensors {
  static constexpr const char* kType = "tensors";
  std::map<std::string, std::string> digests;

  template <class Fields>
  void fields(Fields& f) {
    f("digests", digests);
  }
};

// The hidden states that enter block `block` are on disk, in a file of `bytes` bytes.
struct Boundary {
  static constexpr const char* kType = "boundary";
  std::int64_t block = 0;
  std::uint64_t bytes = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("block", block);
    f("bytes", bytes);
  }
};

// The files of a tuned block are on disk and were proven: all of them, or there is no record. A block that was tuned
// again has several records: the last one counts.
struct Block {
  static constexpr const char* kType = "block";
  std::int64_t stage = 0;
  std::int64_t block = 0;
  std::vector<BlockFile> files;  // one for each part of the experts
  double first_loss = 0;
  double best_loss = 0;
  std::int64_t best_iteration = 0;
  double seconds = 0;       // of tuning
  double save_seconds = 0;  // the files were written, brought to the disk, read back and compared
  std::vector<std::string> experts_without_tokens;
  std::optional<FewTokens> experts_with_few_tokens;  // none without tuning.min_expert_tokens, or without experts
  StepBytes bytes_per_step;

  template <class Fields>
  void fields(Fields& f) {
    f("stage", stage);
    f("block", block);
    f("files", files);
    f("first_loss", first_loss);
    f("best_loss", best_loss);
    f("best_iteration", best_iteration);
    f("seconds", seconds);
    f("save_seconds", save_seconds);
    f("experts_without_tokens", experts_without_tokens);
    f("experts_with_few_tokens", experts_with_few_tokens);
    f("bytes_per_step", bytes_per_step);
  }
};

// A file of what no block holds (embedding, norm, head) is on disk.
struct Outside {
  static constexpr const char* kType = "outside";
  std::string file;
  std::string digest;

  template <class Fields>
  void fields(Fields& f) {
    f("file", file);
    f("digest", digest);
  }
};

// A file of the output other than those of Block and Outside is on disk: configs, index, companions, model cards, and
// all files of further formats.
struct File {
  static constexpr const char* kType = "file";
  bool in_tuned = false;  // `file` is a path in the checkpoint that the groups wrote; else one in the output
  std::string file;
  std::string digest;

  template <class Fields>
  void fields(Fields& f) {
    f("in_tuned", in_tuned);
    f("file", file);
    f("digest", digest);
  }
};

// The checkpoint is complete: configs and index are written.
struct Assembled {
  static constexpr const char* kType = "assembled";

  template <class Fields>
  void fields(Fields&) {}
};

// Both models were measured, so that a restart need not measure them again.
struct Evaluation {
  static constexpr const char* kType = "evaluation";
  std::string digest;  // of the token set
  PerplexityPair perplexity;
  Divergence divergence;

  template <class Fields>
  void fields(Fields& f) {
    f("digest", digest);
    f("perplexity", perplexity);
    f("divergence", divergence);
  }
};

// The run is finished. The last record.
struct Summary {
  static constexpr const char* kType = "summary";
  RunSummary summary;

  template <class Fields>
  void fields(Fields& f) {
    f("summary", summary);
  }
};

}  // namespace record

using Record = std::variant<record::Run, record::Conversion, record::Scheme, record::Tensors, record::Boundary, record::Block,
                            record::Outside, record::File, record::Assembled, record::Evaluation, record::Summary>;

nlohmann::json to_json(const Record& record);
// Throws Error (kBadInput), opened by `place`, for a record that this version does not know or cannot read; the line
// names the kind and `version`, the program that wrote the journal (empty: not known).
Record record_from_json(const nlohmann::json& object, const std::string& version, const std::string& place);

// What else is known of a tuned block: for people and plots. A restart does not need it.
struct BlockCurves {
  std::vector<float> losses;  // of each iteration, before its step
  std::map<std::string, LayerErrorPair> layer_errors;
  std::optional<ReductionTimes> reduction;  // none where a group is one rank

  template <class Fields>
  void fields(Fields& f) {
    f("losses", losses);
    f("layer_errors", layer_errors);
    f("reduction", reduction);
  }
};

namespace event {

// The program was started: how it lays out the work.
struct Start {
  static constexpr const char* kType = "start";
  std::string version;
  std::string devices;  // "8 x NVIDIA H100 80GB HBM3, NCCL 2.29.7"
  int ranks = 0;
  int groups = 0;
  int shards = 0;
  int expert_parts = 0;  // as in record::Run
  std::int64_t stages = 0;
  std::int64_t blocks = 0;           // of the model
  std::int64_t finished_blocks = 0;  // by earlier starts
  bool locked = false;               // the journal is held by a lock, by which `status` sees that the job works
  std::vector<std::string> warnings;
  std::vector<std::string> layers_in_16_bits;

  template <class Fields>
  void fields(Fields& f) {
    f("version", version);
    f("devices", devices);
    f("ranks", ranks);
    f("groups", groups);
    f("shards", shards);
    f("expert_parts", expert_parts);
    f("stages", stages);
    f("blocks", blocks);
    f("finished_blocks", finished_blocks);
    f("locked", locked);
    f("warnings", warnings);
    f("layers_in_16_bits", layers_in_16_bits);
  }
};

struct PhaseStart {
  static constexpr const char* kType = "phase_start";
  std::string phase;

  template <class Fields>
  void fields(Fields& f) {
    f("phase", phase);
  }
};

// A phase has ended.
struct Phase {
  static constexpr const char* kType = "phase";
  std::string phase;
  double seconds = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("phase", phase);
    f("seconds", seconds);
  }
};

// A group was given a stage.
struct StageStart {
  static constexpr const char* kType = "stage_start";
  std::int64_t stage = 0;
  std::int64_t group = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("stage", stage);
    f("group", group);
  }
};

struct StageEnd {
  static constexpr const char* kType = "stage_end";
  std::int64_t stage = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("stage", stage);
  }
};

// A block was tuned by `group`: its record, and its curves.
struct Block {
  static constexpr const char* kType = "block";
  std::int64_t group = 0;
  record::Block record;
  BlockCurves curves;

  template <class Fields>
  void fields(Fields& f) {
    f("group", group);
    record.fields(f);
    curves.fields(f);
  }
};

// The run was asked to stop early and did, with exit code 75.
struct Leave {
  static constexpr const char* kType = "leave";
  std::string reason;
  std::string phase;
  std::int64_t blocks = 0;  // on record by then

  template <class Fields>
  void fields(Fields& f) {
    f("reason", reason);
    f("phase", phase);
    f("blocks", blocks);
  }
};

// The run is finished.
struct Summary {
  static constexpr const char* kType = "summary";
  RunSummary summary;

  template <class Fields>
  void fields(Fields& f) {
    summary.fields(f);
  }
};

}  // namespace event

using Event = std::variant<event::Start, event::PhaseStart, event::Phase, event::StageStart, event::StageEnd,
                           event::Block, event::Leave, event::Summary>;

}  // namespace roundtable
