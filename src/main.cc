// The command line: parse, run, map an error to an exit code.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <new>

#include "base/error.h"
#include "base/log.h"
#include "comm/mpi_communicator.h"
#include "config/config.h"
#include "pipeline/commands.h"

namespace roundtable {
namespace {

struct CommandLine {
  std::string command;
  std::string config;
  std::string cluster;
  std::vector<std::string> overrides;
  ConvertOptions convert;
  bool json = false;
};

std::string footer() {
  return fmt::format(
      "Start one rank a device:  mpirun -n 8 roundtable quantize CONFIG\n"
      "The same command starts a run and goes on with one that was interrupted.\n\n"
      "Exit codes: 0 done, 2 bad input, 3 machine (MPI, HDF5, disk, memory), 4 numbers that are not finite,\n"
      "            1 a bug of ours.\n\n"
      "Keys of CONFIG (YAML), each also --set section.key=value:\n{}",
      describe_keys());
}

void add_command(CLI::App& app, CommandLine& line, const char* name, const char* description) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("CONFIG", line.config, "YAML file with the run's settings")->required();
  command->add_option("--cluster", line.cluster, "YAML file with a cluster section, as in configs/clusters/");
  command->add_option("--set", line.overrides, "section.key=value, over what CONFIG says")->take_all();
  command->add_flag("--json", line.json, "end stdout with one JSON object on one line");
  command->callback([&line, name] { line.command = name; });
}

void add_convert(CLI::App& app, CommandLine& line) {
  CLI::App* command = app.add_subcommand("convert", "make a quantized model in another format, without tuning");
  command->add_option("SOURCE", line.convert.source, "quantized model directory")->required();
  command->add_option("--format", line.convert.format, "as output.formats names it")->required();
  command->add_option("--output", line.convert.output, "directory for the new one")->required();
  command->add_option("--max-shard-size", line.convert.max_shard_size, "largest file of weights")
      ->default_val(OutputSection().max_shard_size);
  command->add_flag("--json", line.json, "end stdout with one JSON object on one line");
  command->callback([&line] { line.command = "convert"; });
}

nlohmann::json dispatch(MpiCommunicator& world, const CommandLine& line) {
  if (line.command == "convert") return run_convert(world, line.convert);
  const Config config = load_config_everywhere(world, line.config, line.overrides, line.cluster);
  if (line.command == "plan") return run_plan(world, config);
  if (line.command == "eval") return run_eval(world, config);
  return run_quantize(world, config);
}

// What a rank does about an error that the others do not know of: one line, and the end of all ranks.
int end_all(const MpiCommunicator& world, ExitCode code, const std::string& line) {
  log_error(line);
  if (world.size() > 1) abort_all_ranks(static_cast<int>(code));
  return static_cast<int>(code);
}

// LibTorch puts a stack trace behind the message.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

int run(MpiRuntime& mpi, const CommandLine& line) {
  MpiCommunicator& world = mpi.world();
  if (world.size() > 1) set_log_prefix(fmt::format("rank {}: ", world.rank()));
  try {
    const nlohmann::json result = dispatch(world, line);
    if (line.json && world.rank() == 0) fmt::print("{}\n", result.dump());
    return static_cast<int>(ExitCode::kOk);
  } catch (const AgreedError& error) {
    set_log_prefix("");
    if (world.rank() == 0) log_error(error.what());
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    return end_all(world, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return end_all(world, ExitCode::kMachine, "out of memory; lower tuning.micro_batch or raise parallel.shards");
  } catch (const std::exception& error) {
    return end_all(world, ExitCode::kInternal, first_line(error.what()));
  }
}

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  using namespace roundtable;
  CLI::App app("Roundtable quantizes the weights of large language models on many ranks (SignRound, arXiv 2309.05516).");
  app.set_version_flag("--version", std::string("roundtable ") + ROUNDTABLE_VERSION);
  app.require_subcommand(1);
  app.footer(footer);
  CommandLine line;
  add_command(app, line, "plan", "check everything and say what a run will take");
  add_command(app, line, "quantize", "quantize model.path into output.path");
  add_command(app, line, "eval", "perplexity of model.path on run.eval_tokens");
  add_convert(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kBadInput);
  }
  try {
    MpiRuntime mpi(&argc, &argv);
    return run(mpi, line);
  } catch (const Error& error) {
    log_error(error.what());
    return static_cast<int>(error.code());
  }
}
