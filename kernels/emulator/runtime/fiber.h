// Fibers: switches between stacks, in a few instructions on x86-64 and aarch64, and by ucontext elsewhere.
#pragma once
#include <cstddef>

#if defined(__x86_64__) || defined(__aarch64__)

// Saves the registers that a call preserves on the stack, stores the stack pointer, and restores both from `load` (block.cpp).
extern "C" void fornax_switch(void** save, void* load) asm("fornax_switch");

namespace fornax {

struct FiberContext {
  void* stack_pointer = nullptr;
};

inline void switch_fiber(FiberContext& from, const FiberContext& to) { fornax_switch(&from.stack_pointer, to.stack_pointer); }

// `entry` never returns; `top` is a multiple of 16.
inline void start_fiber(FiberContext& context, unsigned char* bottom, unsigned char* top, void (*entry)()) {
  (void)bottom;
  void** stack = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
  *--stack = nullptr;  // the return address of `entry`
  *--stack = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; saved++) *--stack = nullptr;
#else
  for (int saved = 0; saved < 8; saved++) *--stack = nullptr;  // d8 to d15
  *--stack = reinterpret_cast<void*>(entry);                   // the link register, x30
  for (int saved = 0; saved < 11; saved++) *--stack = nullptr;  // x29 to x19
#endif
  context.stack_pointer = stack;
}

}  // namespace fornax

#else
#include <ucontext.h>

namespace fornax {

struct FiberContext {
  ucontext_t saved;
};

inline void switch_fiber(FiberContext& from, const FiberContext& to) { swapcontext(&from.saved, &to.saved); }

inline void start_fiber(FiberContext& context, unsigned char* bottom, unsigned char* top, void (*entry)()) {
  getcontext(&context.saved);
  context.saved.uc_stack.ss_sp = bottom;
  context.saved.uc_stack.ss_size = size_t(top - bottom);
  context.saved.uc_link = nullptr;
  makecontext(&context.saved, entry, 0);
}

}  // namespace fornax
#endif
