// Another program, run to its end.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace roundtable {

struct ChildResult {
  int exit_code = 0;      // 128 + signal where a signal ended it
  std::string error;      // its standard error, the last 64 KiB
};

// Starts `command` (the program first, found by PATH if it has no slash) with this process's environment and `extra`
// ("KEY=value") over it, and waits for its end. `on_line` gets each line of its standard output, `on_wait` is called
// some times a second; what it throws ends the program. Throws Error (kMachine) where it cannot be started.
ChildResult run_child(const std::vector<std::string>& command, const std::vector<std::string>& extra,
                      const std::function<void(const std::string&)>& on_line, const std::function<void()>& on_wait);

}  // namespace roundtable
