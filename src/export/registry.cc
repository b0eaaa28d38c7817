// Looking formats up in the table.
#include "export/registry.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace roundtable {
namespace {

struct Entry {
  std::string_view name;
  const CheckpointFormat& format;
};

#define ROUNDTABLE_FORMAT_ENTRY(name, format) {name, format()},
const std::vector<Entry>& table() {
  static const std::vector<Entry> entries = {ROUNDTABLE_FORMATS(ROUNDTABLE_FORMAT_ENTRY)};
  return entries;
}
#undef ROUNDTABLE_FORMAT_ENTRY

}  // namespace

std::string_view CheckpointFormat::name() const {
  for (const Entry& entry : table()) {
    if (&entry.format == this) return entry.name;
  }
  RT_UNREACHABLE("a format that is not in the table");
}

const std::vector<const CheckpointFormat*>& checkpoint_formats() {
  static const std::vector<const CheckpointFormat*> formats = [] {
    std::vector<const CheckpointFormat*> all;
    for (const Entry& entry : table()) all.push_back(&entry.format);
    return all;
  }();
  return formats;
}

std::vector<const PackedFormat*> packed_formats() {
  std::vector<const PackedFormat*> packed;
  for (const CheckpointFormat* format : checkpoint_formats()) {
    if (const PackedFormat* one = as_packed(*format)) packed.push_back(one);
  }
  return packed;
}

const CheckpointFormat& format_named(std::string_view name, std::string_view place) {
  std::vector<std::string> known;
  for (const Entry& entry : table()) {
    if (entry.name == name) return entry.format;
    known.emplace_back(entry.name);
  }
  throw bad_input(place, fmt::format("'{}' is not a format", printable(name)),
                  fmt::format("{}formats: {}", did_you_mean(nearest(name, known)), fmt::join(known, ", ")));
}

const SafetensorsFormat* as_safetensors(const CheckpointFormat& format) {
  return dynamic_cast<const SafetensorsFormat*>(&format);
}

const PackedFormat* as_packed(const CheckpointFormat& format) { return dynamic_cast<const PackedFormat*>(&format); }

const PackedFormat& home_of(WeightType type) {
  const std::vector<const PackedFormat*> packed = packed_formats();
  const auto home =
      std::find_if(packed.begin(), packed.end(), [&](const auto* format) { return format->is_home_of(type); });
  RT_CHECK(home != packed.end());
  return **home;
}

std::string names_of(const std::vector<const CheckpointFormat*>& formats) {
  std::vector<std::string_view> names;
  for (const CheckpointFormat* format : formats) names.push_back(format->name());
  return fmt::format("{}", fmt::join(names, ", "));
}

void refuse_obstacle(const std::string& place, const CheckpointFormat& format, const CheckpointModel& model,
                     const CheckpointScheme& checkpoint) {
  const std::optional<std::string> reason = obstacle(format, model, checkpoint);
  if (!reason) return;
  std::vector<const CheckpointFormat*> others;
  for (const CheckpointFormat* other : checkpoint_formats()) {
    if (!obstacle(*other, model, checkpoint)) others.push_back(other);
  }
  throw bad_input(place, fmt::format("{} cannot hold this: {}", format.name(), *reason),
                  "formats that can: " + names_of(others));
}

}  // namespace roundtable
