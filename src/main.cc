// The command line: parse, run, map an error to an exit code.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>
#include <string_view>
#include <system_error>

#include "base/activity.h"
#include "base/error.h"
#include "base/log.h"
#include "base/stop_signal.h"
#include "base/text.h"
#include "base/version.h"
#include "comm/mpi/communicator.h"
#include "comm/watchdog.h"
#include "commands/commands.h"
#include "commands/checks/launch_checks.h"
#include "commands/start.h"
#include "commands/status.h"
#include "config/config.h"
#include "config/user_path.h"
#include "device/faults.h"
#include "device/process.h"
#include "io/json_fields.h"
#include "rundir/events.h"

namespace roundtable {
namespace {

struct CommandLine {
  std::string command;
  std::string config;
  std::string cluster;
  std::string run_directory;
  std::string against;
  std::vector<std::string> overrides;
  ConvertOptions convert;
  bool json = false;
  bool trial = false;
};

// Under the help of each command that reads a CONFIG, and of the program.
std::string key_table() {
  return fmt::format("Keys of CONFIG (YAML), each also --set section.key=value:\n{}\nFormats (output.formats): {}\n",
                     describe_keys(), describe_formats());
}

std::string footer() {
  return fmt::format(
      "Start one rank per device:  mpirun -n 8 roundtable quantize CONFIG\n"
      "If a run is interrupted, run the same command again: it resumes.\n\n"
      "SIGUSR1, SIGTERM, Ctrl-C and run.max_time make a run stop early, with exit code 75.\n\n"
      "Exit codes: 0 done, 2 bad input, 3 machine (MPI, HDF5, disk, memory), 4 a number that is not finite,\n"
      "            75 stopped early (run the same command again: it resumes), 1 a bug of ours.\n\n"
      "{}",
      key_table());
}

// Reads only files: it needs no MPI and works from any machine.
void add_status(CLI::App& app, CommandLine& line) {
  CLI::App* command = app.add_subcommand("status", "say how far a run is, while it works or after it; needs no MPI");
  command->add_option("RUN_DIR", line.run_directory, "the run directory, or the output that it belongs to")->required();
  command->add_flag("--json", line.json, "print one JSON object on one line");
  command->callback([&line] { line.command = "status"; });
}

// What was printed is not lost unseen on a full disk.
void flush_stdout() {
  if (std::fflush(stdout) == 0) return;
  throw call_error("stdout", "cannot be written", errno);
}

int show_status(const CommandLine& line) {
  const std::string directory = path_from_user(line.run_directory, "RUN_DIR");
  const RunStatus status = read_status(directory, EventLog::wall_clock());
  fmt::print("{}", line.json ? json_of(status).dump() + "\n" : describe_status(status));
  flush_stdout();
  return static_cast<int>(ExitCode::kOk);
}

CLI::App* add_command(CLI::App& app, CommandLine& line, const char* name, const char* description) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("CONFIG", line.config, "YAML file with the run's settings")->required();
  command->add_option("--cluster", line.cluster, "YAML file with a cluster section, as in configs/clusters/");
  command->add_option("--set", line.overrides, "section.key=value, over what CONFIG says")->take_all();
  command->add_flag("--json", line.json, "end stdout with one JSON object on one line");
  command->footer(key_table);
  command->callback([&line, name] { line.command = name; });
  return command;
}

void add_convert(CLI::App& app, CommandLine& line) {
  CLI::App* command = app.add_subcommand("convert", "make a quantized model in another format, without tuning");
  command->add_option("SOURCE", line.convert.source, "quantized model directory")->required();
  command->add_option("--format", line.convert.format, "the new format, one of those that roundtable --help lists")
      ->required();
  command->add_option("--output", line.convert.output, "directory for the new one")->required();
  command->add_option("--max-shard-size", line.convert.max_shard_size, "largest file of weights")
      ->default_val(OutputSection().max_shard_size.text());
  command->add_option("--graph", line.convert.graph, "a folder that launch/export_model.py has written, for machines without Python");
  command->add_flag("--trust-remote-code", line.convert.trust_remote_code, "run the Python code that comes with the model");
  command->add_flag("--json", line.json, "end stdout with one JSON object on one line");
  command->callback([&line] { line.command = "convert"; });
}

nlohmann::json dispatch(MpiCommunicator& world, Watchdog& watchdog, const CommandLine& line) {
  if (line.command == "convert") {
    watchdog.set_time_limit(RunSection().time_limit.seconds());
    return run_convert(world, line.convert);
  }
  const Config config = load_config_everywhere(world, line.config, line.overrides, line.cluster);
  leave_after(config.run.max_time.seconds());
  watchdog.set_time_limit(config.run.time_limit.seconds());
  if (line.command == "plan") return run_plan(world, config, line.trial);
  if (line.command == "round") return run_round(world, config);
  if (line.command == "scheme") return run_scheme(world, config);
  if (line.command == "eval") return run_eval(world, config, line.against);
  return run_quantize(world, watchdog, config);
}

[[noreturn]] void end_at_once(int code) {
  std::fflush(nullptr);
  std::_Exit(code);
}

Error out_of_memory() {
  return machine_error(where(), "out of memory",
                       "lower tuning.micro_batch, raise parallel.shards, or raise the limit of memory (ulimit -v)");
}

// Inside a catch: the line and the exit code of an exception that says nothing of where it comes from.
Error error_of_present_exception() {
  try {
    throw;
  } catch (const LocatedError& error) {
    return error;
  } catch (const Error& error) {
    return {error.code(), fmt::format("{}: {}", where(), error.what())};
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::system_error& error) {
    // The standard library's and {fmt}'s: a print to a full disk, a folder that cannot be listed, a thread.
    const int number = error.code().value();
    const std::string problem = number == EAGAIN ? "a thread cannot be started: " : "";
    return machine_error(where(), problem + first_line(error.what()), fix_of_call(number));
  } catch (const std::exception& error) {
    const std::string text = first_line(error.what());
    if (const auto known = error_of_device(where())) return *known;
    // LibTorch's allocator of host memory, c10/core/impl/alloc_cpu.cpp.
    const bool memory = text.find("can't allocate memory") != std::string::npos;
    return memory ? out_of_memory() : Error(ExitCode::kInternal, fmt::format("{}: {}", where(), text));
  }
}

// An exception that nobody caught, on whatever thread: one line and its exit code, as everywhere. The launcher then
// ends the other ranks.
[[noreturn]] void end_uncaught() {
  int code = static_cast<int>(ExitCode::kMachine);
  try {
    if (!std::current_exception()) std::abort();
    const Error error = error_of_present_exception();
    code = static_cast<int>(error.code());
    set_log_prefix("");  // where() is in the line
    log_error(error.what());
  } catch (...) {  // no memory even for that line
    constexpr std::string_view kLine = "error: out of memory; raise the limit of memory (ulimit -v)\n";
    if (::write(STDERR_FILENO, kLine.data(), kLine.size()) < 0) std::_Exit(code);
  }
  std::_Exit(code);
}

void log_end(const Error& error) {
  if (error.code() == ExitCode::kStartAgain) {
    log_info(error.what());
  } else {
    log_error(error.what());
  }
}

// Commands that stop at safe points say at once that they will.
void prepare_to_stop(const CommandLine& line, bool is_root) {
  const bool resumes = line.command == "quantize" || line.command == "scheme" || line.command == "convert";
  if (!resumes && line.command != "eval") return;
  listen_for_ctrl_c();
  if (!is_root) return;
  set_stop_notice(std::string("info: asked to stop. It ends at the next safe point, or at once if it is asked again.") +
                  (resumes ? " Run the same command again: it resumes." : ""));
}

int run(MpiRuntime& mpi, const CommandLine& line) {
  MpiCommunicator& world = mpi.world();
  set_rank(world.rank());
  if (world.size() > 1) set_log_prefix(fmt::format("rank {}: ", world.rank()));
  prepare_to_stop(line, world.rank() == 0);
  set_memory_gauge([] { return MemoryUse{peak_resident_bytes(), 0}; });  // until a device is chosen
  const WatchedThread watched(Lane::kMain);
  std::optional<Watchdog> watchdog;
  try {
    watchdog.emplace(world);
    const nlohmann::json result = dispatch(world, *watchdog, line);
    if (line.json && world.rank() == 0) fmt::print("{}\n", result.dump());
    flush_stdout();
    return static_cast<int>(ExitCode::kOk);
  } catch (const AgreedError& error) {
    set_log_prefix("");
    if (world.rank() == 0) log_end(error);
    return static_cast<int>(error.code());
  } catch (...) {
    // The other ranks do not know of it: one line, and the end of all.
    const Error error = error_of_present_exception();
    if (world.size() > 1 && watchdog) watchdog->end_all(error.code(), error.what());
    set_log_prefix("");
    log_error(error.what());
    if (world.size() > 1) abort_all_ranks(static_cast<int>(error.code()));
    return static_cast<int>(error.code());
  }
}

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  using namespace roundtable;
  std::set_terminate(end_uncaught);
  listen_for_stop_signals();
  CLI::App app(
      "Roundtable quantizes the weights of large language models on many ranks (SignRound, arXiv 2309.05516).");
  app.set_version_flag("--version", fmt::format("roundtable {}", program_version()));
  app.require_subcommand(1);
  app.footer(footer);
  CommandLine line;
  add_command(app, line, "plan", "check everything and say what a run will take")
      ->add_flag("--trial", line.trial,
                 "also run a small part of everything on these ranks, and say what would be slow");
  add_command(app, line, "scheme", "choose each layer's scheme (quantization.auto_scheme), print the choice and stop");
  add_command(app, line, "quantize", "quantize model.path into output.path");
  add_command(app, line, "round",
              "round the weights of model.path to nearest into output.path: no samples, no tuning, any architecture");
  add_command(app, line, "eval", "perplexity of model.path on run.eval_tokens")
      ->add_option("--against", line.against,
                   "directory of the float model: also the KL divergence of its distribution of the next token to that "
                   "of model.path, and the share of equal most likely tokens");
  add_convert(app, line);
  add_status(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kBadInput);
  }
  int code = 0;
  try {
    if (line.command == "status") return show_status(line);
    MpiRuntime mpi(&argc, &argv);
    if (const auto fault = fault_of_launch(mpi.world().size())) {
      if (speaks_for_srun()) log_error(*fault);
      return static_cast<int>(ExitCode::kBadInput);
    }
    code = run(mpi, line);
    // MPI_Finalize would end HDF5, which flushes what is open; where a disk has failed it crashes in that.
    if (code == static_cast<int>(ExitCode::kMachine)) end_at_once(code);
  } catch (const Error& error) {  // not yet a rank's
    log_error(error.what());
    code = static_cast<int>(error.code());
  }
  return code;
}
