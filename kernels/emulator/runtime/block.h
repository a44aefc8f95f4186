// Execution of a block of CUDA threads on one host thread.
#pragma once
#include <string>
#include <vector>

#include "fiber.h"
#include "internal.h"

namespace fornax {

struct SourceLocation {
  const char* file;
  int line;
};
std::string to_string(const SourceLocation& location);

enum class ThreadState : unsigned char { New, Ready, AtWarpOperation, AtBarrier, Done };

struct FiberStack {
  unsigned char *bottom = nullptr, *top = nullptr;
};

struct CudaThread {
  fornax_device::Index index;
  unsigned linear_index = 0, lane = 0;
  ThreadState state = ThreadState::New;
  bool fenced = false;  // has called __threadfence since its last write
  FiberStack stack;
  FiberContext context;
  SourceLocation location{};  // of the call that the thread waits in
  // Operands and result of a warp operation; `source` is the lane that a shuffle reads from.
  unsigned source = 0;
  uint64_t value = 0, result = 0;
};

// A warp operation in progress: the lanes of `mask` wait for each other.
struct WarpSync {
  unsigned mask = 0, arrived = 0, ballot = 0;
  SourceLocation location{};
};

struct Warp {
  unsigned lanes = 0, exited = 0;  // masks: lanes that exist; lanes that have returned
  std::vector<WarpSync> waiting;
  // For the checker: the number of warp operations so far, plus 1; the last one of all lanes; the last one of each pair of lanes
  // that a partial mask contained.
  unsigned sync_count = 1, last_full_sync = 0;
  std::vector<unsigned> last_pair_sync;
};

struct Worker;

struct Block {
  const Launch* launch = nullptr;
  void** arguments = nullptr;
  int device = 0;
  std::vector<CudaThread> threads;
  std::vector<Warp> warps;
  unsigned thread_count = 0, linear_index = 0;  // the index is that of the block in the grid
  // Scheduling.
  uint64_t order = 0, random = 0;
  std::vector<unsigned> permutation;
  unsigned started = 0, done = 0;
  std::vector<CudaThread*> ready;
  size_t ready_head = 0;
  bool failed = false;
  // The block's barrier. `epoch` counts completed barriers, plus 1.
  unsigned arrived = 0, epoch = 1;
  int accumulated = 0, result = 0;
  SourceLocation location{};
};

// State of a host thread that runs blocks.
struct Worker {
  Block block;
  CudaThread* current = nullptr;
  FiberContext main;  // run_block's
  FiberStack stack;   // the current one
  std::vector<FiberStack> free_stacks;
  unsigned stacks_mapped = 0;
  unsigned char* shared = nullptr;  // kMaxShared bytes of dynamic shared memory before a guard page
  // Written by the signal handler.
  int fault_signal = 0;
  uintptr_t fault_address = 0, fault_pc = 0;
};

extern __thread Worker* worker FORNAX_STATIC_TLS;

// Runs the block that worker->block describes.
void run_block(Worker& worker);
// Suspends the current thread until it is made ready.
void suspend(ThreadState state, const SourceLocation& location);
void make_ready(Block& block, CudaThread& thread);
// Records an error of the current thread and ends the kernel.
[[noreturn]] void fail_thread(Result code, const std::string& what, const std::string& where);
// Ends the kernel without recording an error.
[[noreturn]] void abort_kernel();
std::string describe_current_thread();
std::string describe_waiting(const Block& block);

}  // namespace fornax
