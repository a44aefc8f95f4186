// Running a block: fibers and the barrier of the block.
//
// A thread starts on whatever stack is in use. If it returns without waiting, the next one starts on the same stack: a kernel
// without barriers is a plain loop. If it waits, it keeps the stack, and the next thread starts on another one.
#include "block.h"

#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "checker.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl fornax_switch
.hidden fornax_switch
.type fornax_switch,@function
fornax_switch:
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
.size fornax_switch, .-fornax_switch
)");
#endif

namespace fornax_device {
__thread Registers registers;
}

namespace fornax {

__thread Worker* worker;

namespace {

constexpr size_t kStackBytes = 128 << 10;

Stack new_stack(unsigned number) {
  size_t guard = size_t(sysconf(_SC_PAGESIZE)), length = kStackBytes + guard;
  void* map = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) abort();
  mprotect(map, guard, PROT_NONE);
  auto* bottom = static_cast<unsigned char*>(map) + guard;
  // Tops at different distances from a page's end: else all stacks compete for the same few lines of the cache.
  return {bottom, bottom + kStackBytes - (number * 7 % 64) * 64};
}

Stack take_stack(Worker& w) {
  if (w.stacks.empty()) return new_stack(w.stacks_made++);
  Stack stack = w.stacks.back();
  w.stacks.pop_back();
  return stack;
}

Thread* next_ready(Block& block) {
  if (block.order > 1) {
    size_t pick = next_random(block.random) % block.ready.size();
    Thread* thread = block.ready[pick];
    block.ready[pick] = block.ready.back();
    block.ready.pop_back();
    return thread;
  }
  Thread* thread = block.ready[block.ready_head++];
  if (block.ready_head == block.ready.size()) {
    block.ready.clear();
    block.ready_head = 0;
  }
  return thread;
}

Thread* next_new(Block& block) {
  unsigned position = block.started++;
  if (block.order == 0) return &block.threads[position];
  if (block.order == 1) return &block.threads[block.count - 1 - position];
  return &block.threads[block.permutation[(position + block.number) % block.count]];
}

// Ascending: ready threads go first, so that a warp runs on while its stacks are warm. Descending: all threads start first.
Thread* next_thread(Block& block) {
  bool any_ready = block.ready_head < block.ready.size(), any_new = block.started < block.count;
  if (!any_ready && !any_new) return nullptr;
  if (!any_ready) return next_new(block);
  if (!any_new) return next_ready(block);
  bool ready_first = block.order == 0 || (block.order > 1 && (next_random(block.random) & 1));
  return ready_first ? next_ready(block) : next_new(block);
}

// Becomes the current thread.
void enter(Worker& w, Thread& thread) {
  w.current = &thread;
  fornax_device::registers.thread = thread.index;
}

[[noreturn]] void leave(Worker& w) {
  Context unused;
  switch_context(unused, w.main);
  abort();
}

// What a stack does: starts threads until it meets one that waits on another stack.
[[noreturn]] void stack_main() {
  Worker& w = *worker;
  Block& block = w.block;
  Thread* thread = w.current;
  for (;;) {
    block.launch->kernel->call(block.arguments);
    thread = w.current;
    thread->state = State::Done;
    block.done++;
    block.warps[thread->flat / 32].exited |= 1u << thread->lane;
    Thread* next = next_thread(block);
    if (!next) leave(w);
    enter(w, *next);
    if (next->state == State::New) continue;
    // Nobody takes this stack before the switch has left it.
    w.stacks.push_back(w.stack);
    w.stack = next->stack;
    Context unused;
    switch_context(unused, next->context);
    abort();
  }
}

}  // namespace

void make_ready(Block& block, Thread& thread) {
  thread.state = State::Ready;
  block.ready.push_back(&thread);
}

void suspend(State state, const Site& site) {
  Worker& w = *worker;
  Thread& self = *w.current;
  self.state = state;
  self.site = site;
  Thread* next = next_thread(w.block);
  if (!next) leave(w);  // run_block sees that nobody can go on
  self.stack = w.stack;
  if (next->state == State::New) {
    w.stack = take_stack(w);
    start_context(next->context, w.stack.bottom, w.stack.top, stack_main);
  } else {
    w.stack = next->stack;
  }
  enter(w, *next);
  switch_context(self.context, next->context);
}

void abandon() {
  worker->block.failed = true;
  leave(*worker);
}

void run_block(Worker& w) {
  Block& block = w.block;
  block.started = block.done = block.arrived = 0;
  block.epoch = 1;
  block.ready.clear();
  block.ready_head = 0;
  for (Thread& thread : block.threads) {
    thread.state = State::New;
    thread.fenced = false;
  }
  for (Warp& warp : block.warps) {
    warp.exited = 0;
    warp.waiting.clear();
    warp.generation = 1;
    warp.all_met = 0;
    warp.met.clear();
  }
  w.stack = take_stack(w);
  Thread* first = next_thread(block);
  Context start;
  start_context(start, w.stack.bottom, w.stack.top, stack_main);
  enter(w, *first);
  switch_context(w.main, start);
  // The stack that came back, and those of threads that will never go on.
  w.stacks.push_back(w.stack);
  for (Thread& thread : block.threads) {
    bool waits = thread.state == State::AtWarp || thread.state == State::AtBarrier || thread.state == State::Ready;
    if (waits && thread.stack.top && thread.stack.top != w.stack.top) w.stacks.push_back(thread.stack);
    thread.stack = {};
  }
  if (!block.failed && block.done < block.count) {
    raise(block.device, kLaunchFailed,
          "deadlock (barrier divergence) in kernel " + std::string(block.launch->kernel->name) + ", " + describe_waiting(block));
    block.failed = true;
  }
  w.current = nullptr;
}

std::string to_string(const Site& site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string describe_thread() {
  const auto& r = fornax_device::registers;
  auto triple = [](const fornax_device::Index& i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
  };
  return "kernel " + std::string(worker->block.launch->kernel->name) + ", block " + triple(r.block) + ", thread " +
         triple(r.thread);
}

std::string describe_waiting(const Block& block) {
  std::map<std::string, unsigned> places;
  for (const Thread& thread : block.threads) {
    if (thread.state == State::AtWarp) places["a warp operation at " + to_string(thread.site)]++;
    if (thread.state == State::AtBarrier) places["the barrier at " + to_string(thread.site)]++;
  }
  std::string text = "block " + std::to_string(block.number) + ":";
  for (const auto& place : places) text += " " + std::to_string(place.second) + " threads wait in " + place.first + ";";
  return text + " " + std::to_string(block.done) + " have returned";
}

void fail_thread(Result code, const std::string& what, const std::string& where) {
  raise(worker->block.device, code, what + " at " + where + ", " + describe_thread());
  abandon();
}

}  // namespace fornax

namespace fornax_device {

using namespace fornax;

int block_barrier(int predicate, Barrier kind, const char* file, int line) {
  Block& block = worker->block;
  Site site{file, line};
  if (block.arrived == 0) {
    block.site = site;
    block.accumulated = kind == Barrier::And;
  } else if (block.site.line != line) {
    fail_thread(kLaunchFailed, "barrier divergence: threads of one block meet at different barriers, " +
                                   to_string(block.site) + " and here", to_string(site));
  }
  if (block.done > 0) {
    fail_thread(kLaunchFailed, "barrier divergence: " + std::to_string(block.done) +
                                   " threads of the block have returned without this barrier", to_string(site));
  }
  switch (kind) {
    case Barrier::Plain: break;
    case Barrier::Count: block.accumulated += predicate != 0; break;
    case Barrier::And: block.accumulated = block.accumulated && predicate; break;
    case Barrier::Or: block.accumulated = block.accumulated || predicate; break;
  }
  if (++block.arrived < block.count) {
    suspend(State::AtBarrier, site);
    return block.result;
  }
  block.result = block.accumulated;
  block.arrived = 0;
  block.epoch++;
  Thread* self = worker->current;
  for (unsigned i = 0; i < block.count; i++) {
    Thread& thread = block.threads[block.order == 1 ? block.count - 1 - i : i];
    if (&thread != self) make_ready(block, thread);
  }
  return block.result;
}

}  // namespace fornax_device
