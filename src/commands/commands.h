// What a user types: one function per command. Each runs on all ranks of the world.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "comm/mpi/communicator.h"
#include "comm/watchdog.h"
#include "config/config.h"

namespace roundtable {

// Each returns the object that --json prints (meaningful on rank 0) and writes what people read to stdout on rank 0.
// Collective over the world. Errors of input are thrown on all ranks as AgreedError; what breaks later on one rank
// alone is thrown there as Error, and the caller then ends all ranks.

// Checks, and says what a run would take; with `trial`, also what a small part of it takes on these ranks.
nlohmann::json run_plan(MpiCommunicator& world, const Config& config, bool trial);

// Scores each layer with each option of auto_scheme, or takes the scores that are there; says what the budget makes of
// them.
nlohmann::json run_scheme(MpiCommunicator& world, const Config& config);

// plan -> scheme -> calibrate -> tune -> assemble -> prove -> formats -> evaluate. The same command starts a run and resumes it.
nlohmann::json run_quantize(MpiCommunicator& world, Watchdog& watchdog, const Config& config);

// Rounds every matrix of the blocks of model.path to nearest, whatever its architecture, and writes output.formats. Uses
// the sections model, quantization and output, and tuning.init_scale. The same command starts and resumes it.
nlohmann::json run_round(MpiCommunicator& world, const Config& config);

// Perplexity of model.path (float, or quantized in a layout that we read) on run.eval_tokens. If `against` is not empty,
// it is the directory of the float model, as a user wrote it, and model.path's distribution of the next token is compared
// with that model's.
nlohmann::json run_eval(MpiCommunicator& world, const Config& config, const std::string& against);

// The names that output.formats and --format take, for --help: "auto_round:auto_gptq, auto_round, ...".
std::string describe_formats();

struct ConvertOptions {
  std::string source;
  std::string format;
  std::string output;
  std::string max_shard_size;
  std::string graph;  // as model.graph of a config
  bool trust_remote_code = false;
};

// Makes `options.output` from the quantized model `options.source`, in another format. The same command starts a
// conversion and resumes it.
nlohmann::json run_convert(MpiCommunicator& world, const ConvertOptions& options);

}  // namespace roundtable
