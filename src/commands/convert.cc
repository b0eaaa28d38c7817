// `roundtable convert`: a quantized model in another format.
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "convert/convert.h"
#include "device/process.h"
#include "export/registry.h"

namespace roundtable {

nlohmann::json run_convert(MpiCommunicator& world, const ConvertOptions& options) {
  std::string record = options.output;
  while (record.size() > 1 && record.back() == '/') record.pop_back();
  Conversion conversion{options.source, nullptr, options.output, record + ".run", 0};
  run_on_all(world, [&] {
    if (std::find(kFormats.begin(), kFormats.end(), options.format) == kFormats.end()) {
      throw bad_input("--format", fmt::format("'{}' is no format", options.format),
                      fmt::format("formats: {}", fmt::join(kFormats, ", ")));
    }
    conversion.format = &format_named(options.format);
    const auto size = parse_byte_size(options.max_shard_size);
    if (!size) throw bad_input("--max-shard-size", fmt::format("'{}' is no size", options.max_shard_size), "such as 5GB");
    conversion.max_shard_size = *size;
  });
  const auto node = world.split_by_node();
  set_threads(0, node->rank(), node->size());
  const Converted converted = convert_checkpoint(world, conversion, {});
  if (world.rank() == 0) {
    fmt::print("{} in {}: {} in {} {}\n", options.format, options.output, human_bytes(converted.bytes), converted.files,
               converted.files == 1 ? "file" : "files");
  }
  return {{"output", options.output}, {"format", options.format}, {"files", converted.files}, {"bytes", converted.bytes}};
}

}  // namespace roundtable
