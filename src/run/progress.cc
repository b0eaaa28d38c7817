// Drawing, and the estimate of the time left.
//
// How the live display shares the screen: between two redraws the cursor rests on an empty line above the frame. A line
// that something else prints (a warning, MPI itself) therefore lands there, whole, and the next redraw starts below it.
#include "run/progress.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "config/units.h"

namespace roundtable {
namespace {

constexpr double kRedrawSeconds = 0.2;
constexpr double kLineSeconds = 2;          // between plain lines in a young phase
constexpr double kLongestLineSeconds = 60;  // and in an old one: a job of a day must not fill its log
constexpr int kMostGroups = 12;
constexpr int kOtherRows = 5;  // of a screen: the frame's other lines and some context above it
constexpr int kLongestBar = 40;
constexpr int kShortestBar = 8;
// Less work than this says nothing about the speed yet.
constexpr double kLeastWork = 0.01;  // blocks
constexpr double kLeastSeconds = 1;

// ---- the terminal ----------------------------------------------------------------------------------------------

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// The terminal that our stderr ends at; -1 for none.
int find_terminal() {
  if (::isatty(STDERR_FILENO)) return STDERR_FILENO;
  // Open MPI's mpirun reads its ranks' stderr from pipes and copies it to its own, so there the launcher's counts.
  // With --tag-output it cuts and marks the lines, which no display survives.
  struct stat status;
  const bool piped = ::fstat(STDERR_FILENO, &status) == 0 && S_ISFIFO(status.st_mode);
  const auto tagged = environment("OMPI_MCA_orte_tag_output");
  if (!piped || environment("OMPI_COMM_WORLD_RANK").empty() || (!tagged.empty() && tagged != "0")) return -1;
  const int launcher = ::open(fmt::format("/proc/{}/fd/2", ::getppid()).c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (launcher >= 0 && ::isatty(launcher)) return launcher;
  if (launcher >= 0) ::close(launcher);
  return -1;
}

Screen::Size size_of_terminal(int terminal) {
  Screen::Size size;
  winsize window;
  if (terminal >= 0 && ::ioctl(terminal, TIOCGWINSZ, &window) == 0) {
    if (window.ws_col > 0) size.columns = window.ws_col;
    if (window.ws_row > 0) size.rows = window.ws_row;
  }
  return size;
}

// ---- words -----------------------------------------------------------------------------------------------------

std::string left_words(const std::optional<double>& seconds) {
  return fmt::format("left {}", seconds ? clock_time(*seconds) : "-:--:--");
}

std::string loss_words(double first, double best) {
  if (std::isnan(first)) return "";
  if (std::isnan(best)) return fmt::format("  loss {:.3e}", first);
  return fmt::format("  loss {:.3e} -> {:.3e}", first, best);
}

// The first `columns` characters of UTF-8 text: a line that wraps would break the count of lines to go up.
std::string cut(const std::string& line, int columns) {
  int seen = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const bool starts_character = (line[i] & 0xC0) != 0x80;
    if (starts_character && seen++ == columns) return line.substr(0, i);
  }
  return line;
}

Screen screen_for(std::ostream& out) {
  Screen screen = stderr_screen();
  if (&out == &std::cerr) return screen;
  screen.out = &out;
  screen.live = false;
  return screen;
}

}  // namespace

Screen stderr_screen() {
  // Shared by the copies of `size`; the launcher's terminal is ours to close.
  const std::shared_ptr<int> terminal(new int(find_terminal()), [](int* file) {
    if (*file > STDERR_FILENO) ::close(*file);
    delete file;
  });
  const auto wish = environment("ROUNDTABLE_PROGRESS");
  const auto kind = environment("TERM");
  Screen screen;
  screen.out = &std::cerr;
  screen.live = wish == "live" || (wish != "plain" && *terminal >= 0 && !kind.empty() && kind != "dumb");
  screen.size = [terminal] { return size_of_terminal(*terminal); };
  screen.clock = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  return screen;
}

double Progress::Group::fraction() const {
  if (state != State::kTuning || iterations <= 0) return 0;
  return std::clamp(static_cast<double>(iteration) / static_cast<double>(iterations), 0.0, 1.0);
}

std::string Progress::Group::words() const {
  if (state == State::kIdle) return "no more work";
  if (state == State::kWaiting) return "waiting";
  std::string words = fmt::format("stage {}  block {}", stage, block);
  if (iterations > 0) words += fmt::format("  iteration {}/{}", iteration, iterations);
  return words + loss_words(first_loss, best_loss);
}

Progress::Progress(Screen screen) : screen_(std::move(screen)) { last_draw_ = now() - kRedrawSeconds; }

Progress::Progress(std::ostream& out) : Progress(screen_for(out)) {}

Progress::~Progress() {
  try {
    erase();
  } catch (...) {  // a stream that throws must not end a program that is ending already
  }
}

// ---- phases ----------------------------------------------------------------------------------------------------

void Progress::begin_phase(const std::string& name, std::int64_t total_units, const std::string& unit) {
  end_phase();
  in_phase_ = true;
  name_ = name;
  unit_ = unit;
  total_ = total_units;
  already_ = done_ = 0;
  started_ = last_line_ = now();
  groups_.clear();
  block_seconds_ = 0;
  if (screen_.live) return redraw();
  print(total_ > 0 ? fmt::format("{}: {} {}", name_, total_, unit_) : name_);
}

void Progress::advance(std::int64_t units) {
  if (!in_phase_) return;
  done_ += units;
  if (screen_.live) return redraw();
  if (done_ != total_) print_plain_progress("");
}

void Progress::end_phase() {
  if (!in_phase_) return;
  erase();
  in_phase_ = false;
  print(fmt::format("{}: done in {:.1f} s", name_, now() - started_));
}

// ---- groups ----------------------------------------------------------------------------------------------------

Progress::Group* Progress::find_group(std::int64_t group) {
  if (!in_phase_) return nullptr;
  RT_CHECK(group >= 0 && group < std::ssize(groups_));
  return &groups_[group];
}

void Progress::set_groups(std::int64_t n_groups) {
  if (!in_phase_) return;
  groups_.assign(n_groups, Group());
  redraw();
}

void Progress::set_total_blocks(std::int64_t n_blocks) {
  if (!in_phase_) return;
  total_ = std::max(total_, n_blocks);
  already_ = done_ = total_ - n_blocks;
  if (screen_.live) return redraw();
  if (already_ > 0) print(fmt::format("{}: an earlier start has finished {} of them", name_, already_));
}

void Progress::update(std::int64_t group, std::int64_t stage, std::int64_t block, std::int64_t iteration,
                      std::int64_t iterations, double first_loss, double best_loss) {
  Group* it = find_group(group);
  if (!it) return;
  const bool same = it->state == Group::State::kTuning && it->stage == stage && it->block == block;
  *it = {Group::State::kTuning, stage, block, iteration, iterations, first_loss, best_loss, same ? it->started : now()};
  if (screen_.live) return redraw();
  print_plain_progress(fmt::format("  group {}  {}", group, it->words()));
}

void Progress::block_done(std::int64_t group, std::int64_t, std::int64_t block, double first_loss, double best_loss,
                          double seconds) {
  Group* it = find_group(group);
  if (!it) return;
  it->state = Group::State::kWaiting;
  block_seconds_ += seconds;
  ++done_;
  if (screen_.live) return redraw();
  print(fmt::format("{} {}/{} {}  group {}  block {}{}  {:.1f} s  {}", name_, done_, total_, unit_, group, block,
                    loss_words(first_loss, best_loss), seconds, left_words(seconds_left())));
}

void Progress::idle(std::int64_t group) {
  Group* it = find_group(group);
  if (!it) return;
  it->state = Group::State::kIdle;
  redraw();
}

// ---- estimates -------------------------------------------------------------------------------------------------

double Progress::running_fraction() const {
  double sum = 0;
  for (const auto& group : groups_) sum += group.fraction();
  return sum;
}

double Progress::fraction_done() const {
  if (total_ <= 0) return 0;
  return std::clamp((static_cast<double>(done_) + running_fraction()) / static_cast<double>(total_), 0.0, 1.0);
}

std::optional<double> Progress::seconds_left() const {
  if (total_ <= 0) return {};
  if (done_ >= total_) return 0;
  if (!groups_.empty()) return tuning_seconds_left();
  const double elapsed = now() - started_;
  const auto done_here = done_ - already_;
  if (done_here <= 0 || elapsed < kLeastSeconds) return {};
  return elapsed * static_cast<double>(total_ - done_) / static_cast<double>(done_here);
}

// Seconds that groups spent a block of work, finished or in hand, times the blocks left, over the groups at work.
// From the first iterations on this is the running rate; with more blocks it becomes their mean.
std::optional<double> Progress::tuning_seconds_left() const {
  double spent = block_seconds_;
  double work = static_cast<double>(done_ - already_);
  std::int64_t at_work = 0;
  for (const auto& group : groups_) {
    at_work += group.state != Group::State::kIdle;
    if (group.fraction() == 0) continue;
    spent += now() - group.started;
    work += group.fraction();
  }
  if (work < kLeastWork || spent < kLeastSeconds) return {};
  const double left = static_cast<double>(total_ - done_) - running_fraction();
  return spent / work * std::max(0.0, left) / static_cast<double>(std::max<std::int64_t>(1, at_work));
}

// ---- output ----------------------------------------------------------------------------------------------------

void Progress::note(const std::string& line) {
  if (screen_.live && in_phase_) return draw(line);
  print(line);
}

void Progress::tick() { redraw(); }

void Progress::print(const std::string& line) {
  *screen_.out << line + "\n" << std::flush;  // one piece, so that other writers do not fall in between
  last_line_ = now();
}

void Progress::print_plain_progress(const std::string& detail) {
  const double spacing = std::clamp((now() - started_) / 20, kLineSeconds, kLongestLineSeconds);
  if (now() - last_line_ < spacing) return;
  std::string line = name_;
  if (total_ > 0) {
    line += fmt::format(" {}/{} {}", done_, total_, unit_);
  } else if (done_ > 0) {
    line += fmt::format(" {} {}", done_, unit_);
  }
  line += detail;
  if (detail.empty()) line += fmt::format("  elapsed {}", clock_time(now() - started_));
  if (total_ > 0) line += "  " + left_words(seconds_left());
  print(line);
}

void Progress::redraw() {
  if (screen_.live && in_phase_ && now() - last_draw_ >= kRedrawSeconds) draw("");
}

// `above`: text that stays, above the frame; may be empty.
void Progress::draw(const std::string& above) {
  const auto lines = frame(screen_.size());
  std::string bytes = "\r";
  if (!above.empty()) bytes += "\x1b[J" + above + "\n";
  bytes += "\x1b[K";  // the empty line where the cursor rests
  for (const auto& line : lines) bytes += "\n" + line + "\x1b[K";
  bytes += fmt::format("\x1b[J\x1b[{}A\r", lines.size());
  *screen_.out << bytes << std::flush;
  drawn_ = true;
  last_draw_ = now();
}

void Progress::erase() {
  if (!drawn_) return;
  *screen_.out << "\r\x1b[J" << std::flush;
  drawn_ = false;
}

std::vector<std::string> Progress::frame(Screen::Size size) const {
  const int columns = std::max(1, size.columns - 1);
  std::vector<std::string> lines = {header(columns)};
  const std::size_t fit = std::clamp(size.rows - kOtherRows, 1, kMostGroups);
  for (std::size_t i = 0; i < groups_.size() && i < fit; ++i) {
    lines.push_back(fmt::format("  group {}  {}", i, groups_[i].words()));
  }
  if (groups_.size() > fit) lines.push_back("  " + hidden_groups(fit));
  for (auto& line : lines) line = cut(line, columns);
  return lines;
}

std::string Progress::header(int columns) const {
  std::string tail;
  if (total_ > 0) {
    tail = fmt::format("{}/{} {}  {:.0f} %  ", done_, total_, unit_, std::floor(100 * fraction_done()));
  } else if (done_ > 0) {
    tail = fmt::format("{} {}  ", done_, unit_);
  }
  tail += fmt::format("elapsed {}", clock_time(now() - started_));
  if (total_ > 0) tail += "  " + left_words(seconds_left());
  const int around = static_cast<int>(name_.size() + tail.size()) + 6;  // two gaps and the brackets
  const int bar = std::min(kLongestBar, columns - around);
  if (total_ <= 0 || bar < kShortestBar) return fmt::format("{}  {}", name_, tail);
  const int full = static_cast<int>(fraction_done() * bar);
  return fmt::format("{}  [{}{}]  {}", name_, std::string(full, '#'), std::string(bar - full, '-'), tail);
}

// One line for the groups from `first` on.
std::string Progress::hidden_groups(std::size_t first) const {
  std::int64_t tuning = 0, lowest = std::numeric_limits<std::int64_t>::max(), highest = 0;
  for (std::size_t i = first; i < groups_.size(); ++i) {
    if (groups_[i].state != Group::State::kTuning) continue;
    ++tuning;
    lowest = std::min(lowest, groups_[i].block);
    highest = std::max(highest, groups_[i].block);
  }
  const auto hidden = groups_.size() - first;
  std::string words = fmt::format("and {} more group{}: {} tuning", hidden, hidden == 1 ? "" : "s", tuning);
  if (tuning > 0) words += fmt::format(", blocks {} to {}", lowest, highest);
  return words;
}

}  // namespace roundtable
