// ranks.json, written and read.
#include "rundir/rank_status.h"

#include "base/error.h"
#include "io/json_fields.h"
#include "io/json_file.h"

namespace roundtable {

void write_rank_status(const std::string& path, const RankStatus& status) { save_json(path, json_of(status)); }

std::optional<RankStatus> read_rank_status(const std::string& path) {
  try {
    return read_fields<RankStatus>(load_json(path), path);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace roundtable
