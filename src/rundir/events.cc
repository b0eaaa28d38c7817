// Appending lines by write(2), so that a kill loses none that was written.
#include "rundir/events.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <optional>
#include <utility>

#include "base/error.h"
#include "io/json_fields.h"
#include "io/posix.h"

namespace roundtable {

double EventLog::wall_clock() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

EventLog::EventLog(const std::string& path, std::function<double()> clock)
    : path_(path),
      clock_(std::move(clock)),
      file_(::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
  if (!file_.is_open()) throw call_error(path, "cannot be opened", errno);
  struct stat status;
  if (::fstat(file_.get(), &status) == 0 && S_ISREG(status.st_mode)) {
    regular_ = true;
    size_ = status.st_size;
    drop_torn_tail();
  }
}

void EventLog::drop_torn_tail() {
  std::int64_t whole = size_;
  char piece[4096];
  while (whole > 0) {
    const std::int64_t start = std::max<std::int64_t>(0, whole - static_cast<std::int64_t>(sizeof(piece)));
    const ssize_t got = ::pread(file_.get(), piece, whole - start, start);
    if (got != whole - start) return;  // cannot tell: better to keep what is there
    const auto* line_end = static_cast<const char*>(::memrchr(piece, '\n', got));
    if (line_end) {
      whole = start + (line_end - piece) + 1;
      break;
    }
    whole = start;
  }
  if (whole < size_ && ::ftruncate(file_.get(), whole) == 0) size_ = whole;
}

void EventLog::append(const Event& event) {
  nlohmann::json fields = tagged_json(event, "event");
  // Time and kind first, for whoever reads the file by eye.
  nlohmann::ordered_json record = {{"time", clock_()}, {"event", fields["event"]}};
  fields.erase("event");
  record.update(nlohmann::ordered_json(fields));
  // A path in another encoding must not end the run: its bad bytes are replaced.
  const std::string line = record.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (const int cause = write_whole(file_.get(), line.data(), line.size())) {
    const bool undone = regular_ && ::ftruncate(file_.get(), size_) == 0;
    throw call_error(path_, undone ? "cannot be written" : "cannot be written and ends with half a line", cause);
  }
  size_ += line.size();
}

std::vector<TimedEvent> events_of_last_start(const std::string& path) {
  std::vector<TimedEvent> events;
  std::string version = "another version of this program";
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object() || !object.contains("event") || !object.contains("time") || !object["time"].is_number())
      continue;
    if (object["event"] == event::Start::kType) {
      events.clear();
      if (object.contains("version")) version = "roundtable " + object["version"].dump();
    }
    const std::string place = fmt::format("{}: event '{}' of {}", path, object["event"].dump(), version);
    std::optional<Event> event = read_tagged<Event>(object, "event", place);
    if (!event) throw bad_input(place, "is unknown to this version", "use the version that wrote it");
    events.push_back({object["time"].get<double>(), *std::move(event)});
  }
  return events;
}

}  // namespace roundtable
