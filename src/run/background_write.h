// Writing files in a thread while the next blocks are computed.
#pragma once

#include <functional>
#include <future>

namespace roundtable {

// One piece of work at a time, in a thread of its own that the watchdog knows as the writer. Its destructor waits.
class WriteBehind {
 public:
  // Starts `work`; finish() must have been called for the work before.
  void start(std::function<void()> work);

  // Throws the error of work that has failed by now on this rank, with the place at which start() was called. One that
  // all ranks agreed on waits for finish(), which they come to together.
  void check() const;

  // Waits for the work's end, where there is any, and throws its error: an AgreedError as it is, another one as
  // check().
  void finish();

 private:
  std::shared_future<void> work_;
};

}  // namespace roundtable
