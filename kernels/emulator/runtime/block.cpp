// Execution of a block: fibers and the block's barrier.
//
// A CUDA thread starts on the current stack. If it returns without waiting, the next thread starts on the same stack: a kernel
// without barriers is a plain loop. If it waits, it keeps the stack, and the next thread starts on another one.
#include "block.h"

#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "checker.h"

// A function that other libraries do not see.
#if defined(__APPLE__)
#define FORNAX_ASM_FUNCTION(NAME) ".text\n.globl " NAME "\n.private_extern " NAME "\n.p2align 4\n" NAME ":\n"
#else
#define FORNAX_ASM_FUNCTION(NAME) \
  ".text\n.globl " NAME "\n.hidden " NAME "\n.type " NAME ",@function\n.p2align 4\n" NAME ":\n"
#endif

#if defined(__x86_64__)
asm(FORNAX_ASM_FUNCTION("fornax_switch") R"(
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
#elif defined(__aarch64__)
asm(FORNAX_ASM_FUNCTION("fornax_switch") R"(
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#endif

namespace fornax_device {
__thread SpecialRegisters registers;
}

namespace fornax {

__thread Worker* worker;

namespace {

constexpr size_t kStackBytes = 128 << 10;

FiberStack map_stack(unsigned number) {
  size_t guard = size_t(sysconf(_SC_PAGESIZE)), length = kStackBytes + guard;
  void* map = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) abort();
  mprotect(map, guard, PROT_NONE);
  auto* bottom = static_cast<unsigned char*>(map) + guard;
  // Tops differ in their distance from a page's end; otherwise all stacks compete for the same cache sets.
  return {bottom, bottom + kStackBytes - (number * 7 % 64) * 64};
}

FiberStack acquire_stack(Worker& w) {
  if (w.free_stacks.empty()) return map_stack(w.stacks_mapped++);
  FiberStack stack = w.free_stacks.back();
  w.free_stacks.pop_back();
  return stack;
}

CudaThread* next_ready(Block& block) {
  if (block.order > 1) {
    size_t pick = next_random(block.random) % block.ready.size();
    CudaThread* thread = block.ready[pick];
    block.ready[pick] = block.ready.back();
    block.ready.pop_back();
    return thread;
  }
  CudaThread* thread = block.ready[block.ready_head++];
  if (block.ready_head == block.ready.size()) {
    block.ready.clear();
    block.ready_head = 0;
  }
  return thread;
}

CudaThread* next_unstarted(Block& block) {
  unsigned position = block.started++;
  if (block.order == 0) return &block.threads[position];
  if (block.order == 1) return &block.threads[block.thread_count - 1 - position];
  return &block.threads[block.permutation[(position + block.linear_index) % block.thread_count]];
}

// Ascending: ready threads run first, while their stacks are in the cache. Descending: all threads start first.
CudaThread* next_thread(Block& block) {
  bool any_ready = block.ready_head < block.ready.size(), any_new = block.started < block.thread_count;
  if (!any_ready && !any_new) return nullptr;
  if (!any_ready) return next_unstarted(block);
  if (!any_new) return next_ready(block);
  bool ready_first = block.order == 0 || (block.order > 1 && (next_random(block.random) & 1));
  return ready_first ? next_ready(block) : next_unstarted(block);
}

// Makes `thread` the current thread.
void set_current(Worker& w, CudaThread& thread) {
  w.current = &thread;
  fornax_device::registers.thread = thread.index;
}

[[noreturn]] void switch_to_main(Worker& w) {
  FiberContext unused;
  switch_fiber(unused, w.main);
  abort();
}

// Entry point of a stack: starts threads until the next one to run is suspended on another stack.
[[noreturn]] void fiber_main() {
  Worker& w = *worker;
  Block& block = w.block;
  CudaThread* thread = w.current;
  for (;;) {
    block.launch->kernel->call(block.arguments);
    thread = w.current;
    thread->state = ThreadState::Done;
    block.done++;
    block.warps[thread->linear_index / 32].exited |= 1u << thread->lane;
    CudaThread* next = next_thread(block);
    if (!next) switch_to_main(w);
    set_current(w, *next);
    if (next->state == ThreadState::New) continue;
    // The host thread runs no other fiber before the switch, so the stack is not reused too early.
    w.free_stacks.push_back(w.stack);
    w.stack = next->stack;
    FiberContext unused;
    switch_fiber(unused, next->context);
    abort();
  }
}

}  // namespace

void make_ready(Block& block, CudaThread& thread) {
  thread.state = ThreadState::Ready;
  block.ready.push_back(&thread);
}

void suspend(ThreadState state, const SourceLocation& location) {
  Worker& w = *worker;
  CudaThread& self = *w.current;
  self.state = state;
  self.location = location;
  CudaThread* next = next_thread(w.block);
  if (!next) switch_to_main(w);  // run_block reports the deadlock
  self.stack = w.stack;
  if (next->state == ThreadState::New) {
    w.stack = acquire_stack(w);
    start_fiber(next->context, w.stack.bottom, w.stack.top, fiber_main);
  } else {
    w.stack = next->stack;
  }
  set_current(w, *next);
  switch_fiber(self.context, next->context);
}

void abort_kernel() {
  worker->block.failed = true;
  switch_to_main(*worker);
}

void run_block(Worker& w) {
  Block& block = w.block;
  block.started = block.done = block.arrived = 0;
  block.epoch = 1;
  block.ready.clear();
  block.ready_head = 0;
  for (CudaThread& thread : block.threads) {
    thread.state = ThreadState::New;
    thread.fenced = false;
  }
  for (Warp& warp : block.warps) {
    warp.exited = 0;
    warp.waiting.clear();
    warp.sync_count = 1;
    warp.last_full_sync = 0;
    warp.last_pair_sync.clear();
  }
  w.stack = acquire_stack(w);
  CudaThread* first = next_thread(block);
  FiberContext start;
  start_fiber(start, w.stack.bottom, w.stack.top, fiber_main);
  set_current(w, *first);
  switch_fiber(w.main, start);
  // The current stack, and the stacks of threads that never resume.
  w.free_stacks.push_back(w.stack);
  for (CudaThread& thread : block.threads) {
    bool suspended = thread.state == ThreadState::AtWarpOperation || thread.state == ThreadState::AtBarrier ||
                     thread.state == ThreadState::Ready;
    if (suspended && thread.stack.top && thread.stack.top != w.stack.top) w.free_stacks.push_back(thread.stack);
    thread.stack = {};
  }
  if (!block.failed && block.done < block.thread_count) {
    set_sticky_error(block.device, kLaunchFailed,
          "deadlock (barrier divergence) in kernel " + std::string(block.launch->kernel->name) + ", " + describe_waiting(block));
    block.failed = true;
  }
  w.current = nullptr;
}

std::string to_string(const SourceLocation& location) { return std::string(location.file) + ":" + std::to_string(location.line); }

std::string describe_current_thread() {
  const auto& r = fornax_device::registers;
  auto triple = [](const fornax_device::Index& i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
  };
  return "kernel " + std::string(worker->block.launch->kernel->name) + ", block " + triple(r.block) + ", thread " +
         triple(r.thread);
}

std::string describe_waiting(const Block& block) {
  std::map<std::string, unsigned> waiting;
  for (const CudaThread& thread : block.threads) {
    if (thread.state == ThreadState::AtWarpOperation) waiting["the warp operation in " + to_string(thread.location)]++;
    if (thread.state == ThreadState::AtBarrier) waiting["the barrier in " + to_string(thread.location)]++;
  }
  std::string text = "block " + std::to_string(block.linear_index) + ":";
  for (const auto& [call, threads] : waiting) text += " " + std::to_string(threads) + " threads wait at " + call + ";";
  return text + " " + std::to_string(block.done) + " have returned";
}

void fail_thread(Result code, const std::string& what, const std::string& where) {
  set_sticky_error(worker->block.device, code, what + " at " + where + ", " + describe_current_thread());
  abort_kernel();
}

}  // namespace fornax

namespace fornax_device {

using namespace fornax;

int block_barrier(int predicate, Barrier kind, const char* file, int line) {
  Block& block = worker->block;
  SourceLocation location{file, line};
  if (block.arrived == 0) {
    block.location = location;
    block.accumulated = kind == Barrier::And;
  } else if (block.location.line != line) {
    fail_thread(kLaunchFailed, "barrier divergence: threads of one block wait at different barriers, " +
                                   to_string(block.location) + " and this one", to_string(location));
  }
  if (block.done > 0) {
    fail_thread(kLaunchFailed, "barrier divergence: " + std::to_string(block.done) +
                                   " threads of the block have returned without reaching this barrier", to_string(location));
  }
  switch (kind) {
    case Barrier::Plain: break;
    case Barrier::Count: block.accumulated += predicate != 0; break;
    case Barrier::And: block.accumulated = block.accumulated && predicate; break;
    case Barrier::Or: block.accumulated = block.accumulated || predicate; break;
  }
  if (++block.arrived < block.thread_count) {
    suspend(ThreadState::AtBarrier, location);
    return block.result;
  }
  block.result = block.accumulated;
  block.arrived = 0;
  block.epoch++;
  CudaThread* self = worker->current;
  for (unsigned i = 0; i < block.thread_count; i++) {
    CudaThread& thread = block.threads[block.order == 1 ? block.thread_count - 1 - i : i];
    if (&thread != self) make_ready(block, thread);
  }
  return block.result;
}

}  // namespace fornax_device
