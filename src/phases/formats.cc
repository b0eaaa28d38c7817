// One conversion per format.
#include "phases/formats.h"

#include <string>

#include "config/byte_size.h"
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
    convert_checkpoint(context.ranks.world,
                       {.source = context.paths.tuned,
                        .format = format,
                        .output = context.paths.format(context.config, name),
                        .record = context.paths.format_record(name),
                        .max_shard_size = parse_byte_size(context.config.output.max_shard_size).value()},
                       {});
  }
}

}  // namespace roundtable
