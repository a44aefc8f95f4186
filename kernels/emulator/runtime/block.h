// A block of CUDA threads on one processor thread.
#pragma once
#include <string>
#include <vector>

#include "context.h"
#include "internal.h"

namespace fornax {

struct Site {
  const char* file;
  int line;
};
std::string to_string(const Site& site);

enum class State : unsigned char { New, Ready, AtWarp, AtBarrier, Done };

struct Stack {
  unsigned char *bottom = nullptr, *top = nullptr;
};

struct Thread {
  fornax_device::Index index;
  unsigned flat = 0, lane = 0;
  State state = State::New;
  bool fenced = false;  // has called __threadfence since its last write
  Stack stack;
  Context context;
  Site site{};  // where it waits
  // What it gives to and takes from a warp operation.
  unsigned source = 0;
  uint64_t value = 0, result = 0;
};

// Lanes of a warp that wait for each other: one for each mask in flight.
struct Rendezvous {
  unsigned mask = 0, arrived = 0, ballot = 0;
  Site site{};
};

struct Warp {
  unsigned lanes = 0, exited = 0;  // lanes that exist; those that have returned
  std::vector<Rendezvous> waiting;
  // For the checker: the number of rendezvous so far, the last of all lanes, and the last of each pair in smaller groups.
  unsigned generation = 1, all_met = 0;
  std::vector<unsigned> met;
};

struct Worker;

struct Block {
  const Launch* launch = nullptr;
  void** arguments = nullptr;
  int device = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned count = 0, number = 0;  // threads; index of the block in the grid
  // Scheduling.
  uint64_t order = 0, random = 0;
  std::vector<unsigned> permutation;
  unsigned started = 0, done = 0;
  std::vector<Thread*> ready;
  size_t ready_head = 0;
  bool failed = false;
  // The barrier of the block.
  unsigned arrived = 0, epoch = 1;
  int accumulated = 0, result = 0;
  Site site{};
};

// What a processor thread that runs blocks owns.
struct Worker {
  Block block;
  Thread* current = nullptr;
  Context main;
  Stack stack;  // the one in use
  std::vector<Stack> stacks;  // free ones
  unsigned stacks_made = 0;
  unsigned char* shared = nullptr;  // kMaxShared bytes of dynamic shared memory before a guard page
  // Written by the signal handler.
  int fault_signal = 0;
  uintptr_t fault_address = 0, fault_pc = 0;
};

extern __thread Worker* worker __attribute__((tls_model("initial-exec")));

// Runs the block that worker->block describes.
void run_block(Worker& worker);
// The waiting of the current thread, until it is made ready.
void suspend(State state, const Site& site);
void make_ready(Block& block, Thread& thread);
// Records an error of the current thread and ends the kernel.
[[noreturn]] void fail_thread(Result code, const std::string& what, const std::string& where);
// Ends the kernel without an error of its own.
[[noreturn]] void abandon();
std::string describe_thread();
std::string describe_waiting(const Block& block);

}  // namespace fornax
