// One conversion per format.
#include "phases/formats.h"

#include <map>
#include <string>

#include "comm/agree.h"
#include "convert/convert.h"

namespace roundtable {

std::vector<const CheckpointFormat*> formats_to_make(const Plan& plan) {
  std::vector<const CheckpointFormat*> others;
  for (const CheckpointFormat* format : plan.formats) {
    if (format != plan.tuned || !plan.tuned_in_place) others.push_back(format);
  }
  return others;
}

void make_formats(const RunContext& context) {
  for (const CheckpointFormat* format : formats_to_make(context.plan)) {
    const std::string name(format->name());
    const std::string folder = context.paths.format(context.config, name);
    const Converted made = convert_checkpoint(context.ranks.world,
                                              {.source = context.paths.tuned,
                                               .format = format,
                                               .model = context.plan.model,
                                               .output = folder,
                                               .record = context.paths.format_record(name),
                                               .max_shard_size = context.config.output.max_shard_size.bytes(),
                                               .card = false});  // it is written when the run ends
    run_on_root(context.ranks.world, [&] {
      std::map<std::string, std::string> digests;
      for (const auto& [file, digest] : made.digests) digests[folder + "/" + file] = digest;
      context.state->record_output_files(digests);
    });
  }
}

}  // namespace roundtable
