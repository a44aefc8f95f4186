// Fibers: switches between stacks, in a few instructions on x86-64 and by ucontext elsewhere.
#pragma once
#include <cstddef>

#if defined(__x86_64__)

extern "C" void fornax_switch(void** save, void* load);

namespace fornax {

struct FiberContext {
  void* stack_pointer = nullptr;
};

inline void switch_fiber(FiberContext& from, const FiberContext& to) { fornax_switch(&from.stack_pointer, to.stack_pointer); }

// `entry` never returns; `top` is a multiple of 16.
inline void start_fiber(FiberContext& context, unsigned char* bottom, unsigned char* top, void (*entry)()) {
  (void)bottom;
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // the return address of `entry`
  *--stack = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; saved++) *--stack = nullptr;
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
