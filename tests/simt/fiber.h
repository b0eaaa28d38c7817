// A fiber: code on a stack of its own, which gives its turn back in the middle of its work and continues there later.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(), which never returns: its last act is yield(). What the fiber did before is left.
  void start(void (*entry)());

  // Runs the fiber until it yields. Not to be called on a fiber.
  void resume();

  // Called on the fiber itself.
  void yield();

 private:
  char* stack_;  // its lowest page is not accessible: a stack that grows beyond its room is a crash
#if defined(__x86_64__)
  void* own_ = nullptr;     // stack pointers
  void* caller_ = nullptr;
#else
  ucontext_t own_;
  ucontext_t caller_;
#endif
};

}  // namespace simt
