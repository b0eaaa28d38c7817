// Looking for graphs, exporting them, and handing them to the ranks.
#include "graph/obtain.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/activity.h"
#include "device/child_process.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/stop_signal.h"
#include "comm/agree.h"
#include "data/sha256.h"
#include "graph/format/read_manifest.h"
#include "io/file.h"
#include "io/json_file.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// To be raised when an older export must not be used any more.
constexpr int kExportVersion = 1;
constexpr std::uint64_t kMaxConfig = 16 << 20;

std::string dtype_word(c10::ScalarType dtype) { return dtype == c10::ScalarType::BFloat16 ? "bfloat16" : "float32"; }

std::string size_name(const GraphRequest& request) {
  return fmt::format("{}-{}", request.seqlen, dtype_word(request.dtype));
}

bool is_graph(const std::string& folder) {
  std::error_code ignored;
  return fs::exists(folder + "/model.json", ignored);
}

// A checkpoint of ours has the model's config.json with one key more, which graphs do not depend on.
bool is_quantized(const json& config) { return config.contains("quantization_config"); }

std::string digest_of(json config) {
  config.erase("quantization_config");
  config.erase("compression_config");
  Hasher hasher;
  hasher.update(fmt::format("{} {}", kExportVersion, config.dump()));
  return hasher.digest();
}

std::string where_graphs_are_kept() {
  for (const auto& [variable, below] : {std::pair{"XDG_CACHE_HOME", ""}, {"HOME", "/.cache"}}) {
    const char* value = std::getenv(variable);
    if (value != nullptr && *value != '\0') return fmt::format("{}{}/roundtable/graphs", value, below);
  }
  throw bad_input("model.graph", "is not set, and neither are XDG_CACHE_HOME and HOME, so graphs have no place",
                  "set model.graph to a folder");
}

// Next to an installed program, or in the source tree.
std::string export_tool() {
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path installed = program.parent_path().parent_path() / "share/roundtable/launch/export_model.py";
  return fs::exists(installed, ignored) ? installed.string() : ROUNDTABLE_EXPORT_TOOL;
}

std::string python() {
  const char* named = std::getenv("ROUNDTABLE_PYTHON");
  return named != nullptr && *named != '\0' ? named : ROUNDTABLE_PYTHON_PROGRAM;
}

std::string command_text(const std::vector<std::string>& command) {
  std::string text;
  for (const std::string& word : command) text += (text.empty() ? "" : " ") + word;
  return text;
}

// The tool's own message without "error: "; the last line of whatever else it says.
std::string message_of(const std::string& error) {
  constexpr std::string_view kPrefix = "error: ";
  std::string text = error;
  while (text.ends_with('\n')) text.pop_back();
  text = text.substr(text.rfind('\n') + 1);
  return text.starts_with(kPrefix) ? text.substr(kPrefix.size()) : text;
}

void export_graphs(const GraphRequest& request, const std::string& folder) {
  std::vector<std::string> command = {python(),    export_tool(), request.model,
                                      "--out",     folder,        "--seqlen",
                                      std::to_string(request.seqlen), "--dtype", dtype_word(request.dtype)};
  if (request.trust_remote_code) command.push_back("--trust-remote-code");
  log_info(fmt::format("{}: its blocks are exported from the model's code to {} (launch/export_model.py)",
                       request.model, folder));
  std::error_code failed;
  const fs::path above = fs::path(folder).parent_path();
  fs::create_directories(above, failed);
  if (failed) {
    throw machine_error(above.string(), "cannot be made: " + failed.message(), "set model.graph or XDG_CACHE_HOME");
  }
  // The tool needs no GPU, and a GPU would give it memory that this program wants.
  const ChildResult result = run_child(command, {"CUDA_VISIBLE_DEVICES="}, [](const std::string&) {}, [] {
    note_progress();
    if (!stop_reason().empty()) throw Error(ExitCode::kStartAgain, "asked to leave");
  });
  if (result.exit_code == 0) return;
  if (result.exit_code == 2) {
    throw Error(ExitCode::kBadInput, message_of(result.error));
  }
  throw machine_error(command_text(command), fmt::format("ended with code {}: {}", result.exit_code, message_of(result.error)),
                      "see whether this command runs by itself; model.graph names graphs that were made elsewhere");
}

// Where the graph folder is, made if it need be. On rank 0.
std::string find_or_export(const GraphRequest& request, const json& config) {
  if (!request.folder.empty()) {
    if (is_graph(request.folder)) return request.folder;
    const std::string inside = request.folder + "/" + size_name(request);
    if (is_graph(inside)) return inside;
    throw bad_input("model.graph", fmt::format("{} has no graphs for {} tokens in {}", request.folder, request.seqlen, dtype_word(request.dtype)),
                    fmt::format("make them with launch/export_model.py {} --out {} --seqlen {} --dtype {}", request.model,
                                inside, request.seqlen, dtype_word(request.dtype)));
  }
  const std::string folder = fmt::format("{}/{}/{}", where_graphs_are_kept(), digest_of(config), size_name(request));
  if (!is_graph(folder)) export_graphs(request, folder);
  return folder;
}

void check_request(const GraphManifest& manifest, const GraphRequest& request, const json& config) {
  const auto refuse = [&](const std::string& problem) { refuse_graph(manifest.path, problem); };
  if (manifest.seqlen != request.seqlen) {
    refuse(fmt::format("it is for {} tokens, and samples have {}", manifest.seqlen, request.seqlen));
  }
  if (manifest.dtype != request.dtype) {
    refuse(fmt::format("it computes in {}, and tuning.amp asks for {}", dtype_word(manifest.dtype),
                       dtype_word(request.dtype)));
  }
  if (manifest.model_type != config.value("model_type", json())) refuse("it is of another model_type than the model");
  // Graphs of a quantized checkpoint may have been made from the float model's config.json, and the other way round.
  if (request.folder.empty() || is_quantized(config)) return;
  if (manifest.config_sha256 != sha256(read_text_file(request.model + "/config.json", kMaxConfig))) {
    refuse(fmt::format("it was made from another config.json than {}/config.json", request.model));
  }
}

// The memory of a constant as bytes; shared with it.
torch::Tensor bytes_of(const torch::Tensor& tensor) {
  const torch::Tensor plain = tensor.is_complex() ? torch::view_as_real(tensor) : tensor;
  return plain.flatten().view(torch::kUInt8);
}

// What rank 0 tells of the graphs: the texts, and which constants follow.
json read_graphs(const GraphRequest& request, TensorsByName& constants) {
  const std::string path = request.model + "/config.json";
  const json config = load_json(path);
  if (!config.is_object()) throw bad_input(path, "must be a JSON object");
  const std::string folder = find_or_export(request, config);
  const json root = load_json(folder + "/model.json");
  const GraphManifest manifest = parse_manifest(root, folder + "/model.json");
  check_request(manifest, request, config);
  constants = read_constants(folder, manifest);
  json list = json::array();
  Hasher hasher;
  json computed = root;
  for (const char* key : {"check", "torch", "transformers", "config_sha256"}) computed.erase(key);
  hasher.update(computed.dump());
  for (const auto& [name, tensor] : constants) {
    list.push_back({name, static_cast<int>(tensor.scalar_type()), tensor.sizes().vec()});
    const torch::Tensor bytes = bytes_of(tensor);
    hasher.update(bytes.const_data_ptr(), static_cast<std::size_t>(bytes.numel()));
  }
  return {{"path", manifest.path}, {"root", root}, {"config", config}, {"constants", list}, {"digest", hasher.digest()}};
}

}  // namespace

Model obtain_model(HostCommunicator& world, const GraphRequest& request) {
  TensorsByName constants;
  const json told = run_on_root(world, [&] { return read_graphs(request, constants); });
  for (const json& one : told["constants"]) {
    const std::string name = one[0];
    const auto shape = one[2].get<std::vector<std::int64_t>>();
    if (world.rank() != 0) constants[name] = torch::empty(shape, static_cast<torch::ScalarType>(one[1].get<int>()));
    torch::Tensor bytes = bytes_of(constants.at(name));
    if (bytes.numel() > 0) world.broadcast(host_span(bytes), 0);
  }
  return {parse_manifest(told["root"], told["path"]), std::move(constants), told["config"], told["digest"]};
}

Model obtain_model(const GraphRequest& request) {
  SelfCommunicator alone;
  return obtain_model(alone, request);
}

}  // namespace roundtable
