// Links between ranks that may break while nobody asks them: the watchdog's thread does (comm/watchdog.h).
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace roundtable {

// Registers `look`, as long as this lives. It returns what broke, in one line, or nothing; it runs on any thread, and
// must not block. What it throws counts as a fault too.
class LinkCheck {
 public:
  using Look = std::function<std::optional<std::string>()>;

  explicit LinkCheck(Look look);
  // Waits for a look that is under way.
  ~LinkCheck();
  LinkCheck(const LinkCheck&) = delete;
  LinkCheck& operator=(const LinkCheck&) = delete;

  // The first fault of all that live in this process; nothing if there is none. From any thread.
  static std::optional<std::string> find_fault();

 private:
  Look look_;
};

}  // namespace roundtable
