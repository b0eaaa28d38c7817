// How a fiber gives its turn to another stack and takes it back.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

// There if the program is linked with AddressSanitizer. This file is not compiled for it, to be fast.
extern "C" __attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* first, std::size_t size);

#if defined(__x86_64__)
// void simt_switch(void** from, void* to): leaves the registers that a callee must keep on this stack, and takes them
// from the other one. swapcontext() makes a system call for the mask of signals, which takes ten times as long.
asm(R"(
.text
.globl simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
)");
extern "C" void simt_switch(void** from, void* to);
#endif

namespace simt {
namespace {

constexpr std::size_t kPage = 65536;  // a multiple of every machine's page
constexpr std::size_t kRoom = 65536;

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, kPage + kRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPage, PROT_NONE) != 0) throw std::bad_alloc();
  stack_ = static_cast<char*>(memory) + kPage;
}

Fiber::~Fiber() { munmap(stack_ - kPage, kPage + kRoom); }

void Fiber::start(void (*entry)()) {
  // A fault leaves the marks of the functions that it has ended.
  if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(stack_, kRoom);
#if defined(__x86_64__)
  // What simt_switch() takes from a stack: six registers and where it returns to, with the alignment of a call.
  auto* top = reinterpret_cast<std::uintptr_t*>(stack_ + kRoom);
  *--top = 0;
  *--top = reinterpret_cast<std::uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  own_ = top;
#else
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = kRoom;
  own_.uc_link = nullptr;
  makecontext(&own_, entry, 0);
#endif
}

#if defined(__x86_64__)
void Fiber::resume() { simt_switch(&caller_, own_); }
void Fiber::yield() { simt_switch(&own_, caller_); }
#else
void Fiber::resume() { swapcontext(&caller_, &own_); }
void Fiber::yield() { swapcontext(&own_, &caller_); }
#endif

}  // namespace simt
