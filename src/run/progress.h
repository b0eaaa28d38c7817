// What a run shows while it works: a display redrawn in place on a terminal, plain lines otherwise.
//
// The live display:
//
//   tune  [##########----------]  12/30 blocks  41 %  elapsed 0:08:10  left 0:12:30
//     group 0  stage 1  block 12  iteration 134/200  loss 1.234e-03 -> 8.700e-04
//     group 1  stage 2  block 20  iteration 130/200  loss 2.100e-03 -> 1.950e-03
//
// The same as plain lines, one a finished block and at most one every two seconds inside a long phase:
//
//   tune: 30 blocks
//   tune 12/30 blocks  group 0  block 11  loss 1.234e-03 -> 8.700e-04  41.2 s  left 0:12:30
//   tune: done in 1240.5 s
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace roundtable {

// Where and how to draw; injected by tests.
struct Screen {
  struct Size {
    int columns = 80;
    int rows = 24;
  };
  std::ostream* out = nullptr;    // outlives the Progress
  bool live = false;              // a terminal that understands cursor movement
  std::function<Size()> size;     // asked at each redraw, so that a resized window is followed
  std::function<double()> clock;  // seconds, from any origin
};

// stderr; live where it ends at a terminal, also through mpirun (which puts a pipe between). The environment variable
// ROUNDTABLE_PROGRESS=live or =plain decides instead.
Screen stderr_screen();

// Owned and used by one thread at a time. A Progress that ends inside a phase (an error) leaves a clean screen and no
// line. Calls that belong inside a phase do nothing outside one: a display must not end a run.
class Progress {
 public:
  explicit Progress(Screen screen);
  // std::cerr gets stderr_screen(), any other stream plain lines.
  explicit Progress(std::ostream& out);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Phases follow one another and do not nest; beginning one ends the one before. `total_units` 0: not known.
  void begin_phase(const std::string& name, std::int64_t total_units = 0, const std::string& unit = "blocks");
  void advance(std::int64_t units = 1);
  void end_phase();

  // Inside a phase whose units are blocks: how many groups tune. Ends with the phase.
  void set_groups(std::int64_t n_groups);
  // Blocks that this run tunes. The rest of the phase's units were done by an earlier run: they count as done, and
  // say nothing about the speed.
  void set_total_blocks(std::int64_t n_blocks);
  // To be called with iteration 0 when the group starts the block, and then as often as there is news. `iteration`
  // counts steps taken; losses may be NaN while not known.
  void update(std::int64_t group, std::int64_t stage, std::int64_t block, std::int64_t iteration,
              std::int64_t iterations, double first_loss, double best_loss);
  // Counts one unit.
  void block_done(std::int64_t group, std::int64_t stage, std::int64_t block, double first_loss, double best_loss,
                  double seconds);
  // The group has no more work in this phase; the time left is that of the others.
  void idle(std::int64_t group);

  // A line that stays, between the others.
  void note(const std::string& line);
  // Lets the elapsed time run on a live display while nothing else happens.
  void tick();

 private:
  struct Group {
    enum class State { kWaiting, kTuning, kIdle };
    State state = State::kWaiting;
    std::int64_t stage = 0;
    std::int64_t block = 0;
    std::int64_t iteration = 0;
    std::int64_t iterations = 0;
    double first_loss = 0;
    double best_loss = 0;
    double started = 0;  // of the block

    double fraction() const;
    std::string words() const;
  };

  double now() const { return screen_.clock(); }
  double fraction_done() const;
  std::optional<double> seconds_left() const;
  std::optional<double> tuning_seconds_left() const;
  double running_fraction() const;

  void print(const std::string& line);  // stays on the screen
  void print_plain_progress(const std::string& detail);
  void redraw();
  void draw(const std::string& above);
  void erase();
  std::vector<std::string> frame(Screen::Size size) const;
  std::string header(int columns) const;
  std::string hidden_groups(std::size_t first) const;

  Group* find_group(std::int64_t group);

  Screen screen_;
  bool in_phase_ = false;
  std::string name_;
  std::string unit_;
  std::int64_t total_ = 0;
  std::int64_t already_ = 0;
  std::int64_t done_ = 0;  // `already_` among them
  double started_ = 0;
  std::vector<Group> groups_;
  double block_seconds_ = 0;  // over the blocks finished in this phase
  bool drawn_ = false;        // a frame is on the screen
  double last_draw_ = 0;
  double last_line_ = 0;
};

}  // namespace roundtable
