// `roundtable convert`: a quantized model in another format.
#include "convert/convert.h"

#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "config/user_path.h"
#include "device/process.h"
#include "export/registry.h"
#include "graph/obtain.h"

namespace roundtable {

namespace {
constexpr std::int64_t kTokens = 32;  // of the graphs that say which tensors the model has
}  // namespace

std::string describe_formats() { return names_of(checkpoint_formats()); }

nlohmann::json run_convert(MpiCommunicator& world, const ConvertOptions& options) {
  Conversion conversion;
  run_on_all(world, [&] {
    conversion.source = path_from_user(options.source, "SOURCE");
    conversion.output = path_from_user(options.output, "--output");
    conversion.record = conversion.output + ".run";
    conversion.format = &format_named(options.format, "--format");
    const std::optional<ByteSize> size = ByteSize::parse(options.max_shard_size);
    if (!size || size->empty()) {
      throw bad_input("--max-shard-size", fmt::format("'{}' is not a size", options.max_shard_size),
                      "write a size such as 5GB");
    }
    conversion.max_shard_size = size->bytes();
  });
  // What is converted does not depend on the number of tokens.
  conversion.model = obtain_model(world, {.model = conversion.source,
                                          .folder = options.graph,
                                          .seqlen = kTokens,
                                          .dtype = torch::kFloat32,
                                          .trust_remote_code = options.trust_remote_code});
  const auto node = world.split_by_node();
  set_threads(0, node->rank(), node->size());
  const Converted converted = convert_checkpoint(world, conversion);
  if (world.rank() == 0) {
    fmt::print("{} in {}: {} in {} {}\n", options.format, conversion.output, human_bytes(converted.bytes),
               converted.files, converted.files == 1 ? "file" : "files");
  }
  return {{"output", conversion.output},
          {"format", options.format},
          {"files", converted.files},
          {"bytes", converted.bytes}};
}

}  // namespace roundtable
