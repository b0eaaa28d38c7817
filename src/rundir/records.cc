// Records to JSON and back.
#include "rundir/records.h"

#include "base/error.h"
#include "base/version.h"
#include "io/json_fields.h"

namespace roundtable {

nlohmann::json to_json(const Record& record) { return tagged_json(record, "type"); }

Record record_from_json(const nlohmann::json& object, const std::string& version, const std::string& place) {
  const std::string writer = version.empty() ? "another version of this program" : "roundtable " + version;
  const auto refuse = [&](const std::string& problem) {
    return bad_input(place, problem,
                     fmt::format("it was written by {}, and this is roundtable {}: use the version that wrote it",
                                 writer, program_version()));
  };
  try {
    if (std::optional<Record> record = read_tagged<Record>(object, "type", "the record")) return *std::move(record);
  } catch (const Error& error) {
    throw refuse(fmt::format("type '{}' cannot be read ({})", object["type"].get<std::string>(), error.what()));
  }
  if (!object.is_object() || !object.contains("type") || !object["type"].is_string()) {
    throw bad_input(place, "is not a record of this program");
  }
  throw refuse(fmt::format("a record of type '{}' is unknown", object["type"].get<std::string>()));
}

}  // namespace roundtable
