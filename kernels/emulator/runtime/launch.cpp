// Execution of a kernel: its blocks run one after the other or in parallel on host threads; faults become CUDA errors.
#include <signal.h>
#include <sys/mman.h>
#if defined(__APPLE__)
#include <sys/ucontext.h>
#else
#include <ucontext.h>
#endif
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "block.h"
#include "checker.h"

namespace fornax {
namespace {

// With fewer CUDA threads, all blocks run on the calling host thread.
constexpr uint64_t kMinParallelThreads = 8192;

unsigned char* map_shared_memory() {
  size_t page = size_t(sysconf(_SC_PAGESIZE)), length = (kMaxShared + page - 1) / page * page;
  void* map = mmap(nullptr, length + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) abort();
  auto* guard = static_cast<unsigned char*>(map) + length;
  if (mprotect(guard, page, PROT_NONE) != 0) abort();
  return guard - kMaxShared;
}

// Worker of the host thread that holds `lock()`, or of a helper thread.
Worker& worker_for_thread(bool helper) {
  static Worker first;
  static thread_local Worker* mine = nullptr;
  if (!helper) {
    if (!first.shared) first.shared = map_shared_memory();
    return first;
  }
  if (!mine) {
    mine = new Worker;
    mine->shared = map_shared_memory();
  }
  return *mine;
}

void prepare_worker(Worker& w, int device, const Launch& launch, void** arguments) {
  Block& block = w.block;
  block.launch = &launch;
  block.arguments = arguments;
  block.device = device;
  block.order = settings().order;
  block.failed = false;
  const Dim& size = launch.block;
  unsigned count = size.x * size.y * size.z;
  bool same_count = block.thread_count == count;
  block.thread_count = count;
  if (!same_count) {
    block.threads.clear();
    block.threads.resize(count);
    block.warps.assign((count + 31) / 32, Warp{});
  }
  for (unsigned i = 0; i < count; i++) {
    CudaThread& thread = block.threads[i];
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.linear_index = i;
    thread.lane = i % 32;
    block.warps[i / 32].lanes |= 1u << (i % 32);
  }
  if (block.order > 1) {
    uint64_t random = block.order;
    block.permutation.resize(count);
    for (unsigned i = 0; i < count; i++) block.permutation[i] = i;
    for (unsigned i = count - 1; i > 0; i--) std::swap(block.permutation[i], block.permutation[next_random(random) % (i + 1)]);
  }
  fornax_device::registers.block_dim = {size.x, size.y, size.z};
  fornax_device::registers.grid_dim = {launch.grid.x, launch.grid.y, launch.grid.z};
  // The requested bytes, rounded up to a multiple of 128, end at the guard page.
  fornax_device::registers.dynamic_shared = w.shared + kMaxShared - (launch.shared + 127) / 128 * 128;
}

void run_block_at(Worker& w, uint64_t number) {
  Block& block = w.block;
  const Dim& grid = block.launch->grid;
  block.linear_index = unsigned(number);
  block.random = block.order + number;
  fornax_device::registers.block = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y),
                                    unsigned(number / grid.x / grid.y)};
  if (block.launch->shared) memset(fornax_device::registers.dynamic_shared, 0xff, block.launch->shared);
  if (block.launch->checked) begin_block(w);
  run_block(w);
}

void report_fault(Worker& w) {
  std::string where = source_line(w.fault_pc) + ", " + describe_current_thread();
  if (w.fault_signal == SIGFPE) {
    set_sticky_error(w.block.device, kLaunchFailed, "integer division by zero or overflow at " + where);
  } else if (w.fault_address >= uintptr_t(w.shared) && w.fault_address < uintptr_t(w.shared) + kMaxShared + 65536) {
    set_sticky_error(w.block.device, kIllegalAddress, "out-of-bounds access to dynamic shared memory at " + where);
  } else {
    set_sticky_error(w.block.device, kIllegalAddress,
          "out-of-bounds access: " + describe_address(w.fault_address, 1) + " (or a stack overflow) at " + where);
  }
  w.fault_signal = 0;
}

struct sigaction previous_actions[3];
constexpr int kSignals[3] = {SIGSEGV, SIGBUS, SIGFPE};

uintptr_t program_counter(void* context) {
#if defined(__APPLE__) && defined(__x86_64__)
  return uintptr_t(static_cast<ucontext_t*>(context)->uc_mcontext->__ss.__rip);
#elif defined(__APPLE__)
  return uintptr_t(static_cast<ucontext_t*>(context)->uc_mcontext->__ss.__pc);
#elif defined(__x86_64__)
  return uintptr_t(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return uintptr_t(static_cast<ucontext_t*>(context)->uc_mcontext.pc);
#else
  (void)context;
  return 0;
#endif
}

void handle_fault(int signal, siginfo_t* info, void* context) {
  Worker* w = worker;
  if (w && w->current) {
    w->fault_signal = signal;
    w->fault_address = uintptr_t(info->si_addr);
    w->fault_pc = program_counter(context) + 1;
    abort_kernel();  // the fiber never resumes
  }
  for (int i = 0; i < 3; i++) {
    if (kSignals[i] == signal) sigaction(signal, &previous_actions[i], nullptr);  // the signal recurs and reaches that handler
  }
}

void install_fault_handlers() {
  static const bool once = [] {
    struct sigaction action{};
    action.sa_sigaction = handle_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    for (int i = 0; i < 3; i++) sigaction(kSignals[i], &action, &previous_actions[i]);
    return true;
  }();
  (void)once;
  static thread_local bool has_stack = [] {
    stack_t present{};
    sigaltstack(nullptr, &present);
    if (!(present.ss_flags & SS_DISABLE)) return true;
    constexpr size_t size = 64 << 10;
    void* map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return false;
    stack_t own{};
    own.ss_sp = map;
    own.ss_size = size;
    return sigaltstack(&own, nullptr) == 0;
  }();
  (void)has_stack;
}

// Execution order of blocks: ascending, descending, or a random permutation by the seed.
struct BlockOrder {
  uint64_t order, blocks, step = 1, offset = 0;
  BlockOrder(uint64_t order, uint64_t blocks) : order(order), blocks(blocks) {
    if (order < 2) return;
    uint64_t random = order;
    offset = next_random(random) % blocks;
    auto gcd = [](uint64_t a, uint64_t b) {
      while (b) a = std::exchange(b, a % b);
      return a;
    };
    do step = next_random(random) % blocks + 1;
    while (gcd(step, blocks) != 1);
  }
  uint64_t operator()(uint64_t position) const {
    if (order == 0) return position;
    if (order == 1) return blocks - 1 - position;
    return uint64_t((static_cast<unsigned __int128>(position) * step + offset) % blocks);
  }
};

}  // namespace

void run_kernel(int device, const Launch& launch, void** arguments) {
  if (settings().empty_kernels && device != kHost) return;
  install_fault_handlers();
  uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  uint64_t threads = blocks * launch.block.x * launch.block.y * launch.block.z;
  BlockOrder order(settings().order, blocks);
  if (launch.checked) {
    begin_launch(launch);
  } else {
    discard_shadows();  // the checker does not see its writes
  }
  std::atomic<bool> failed{false};
  auto run_range = [&](bool helper, uint64_t first, uint64_t last) {
    Worker& w = worker_for_thread(helper);
    worker = &w;
    prepare_worker(w, device, launch, arguments);
    for (uint64_t position = first; position < last && !failed; position++) {
      run_block_at(w, order(position));
      if (w.fault_signal) report_fault(w);
      if (w.block.failed) failed = true;
    }
    worker = nullptr;
  };
  if (launch.checked || blocks == 1 || threads < kMinParallelThreads) {
    run_range(false, 0, blocks);
    return;
  }
  std::thread::id caller = std::this_thread::get_id();
  uint64_t chunks = std::min<uint64_t>(blocks, 64);
  parallel(int64_t(chunks), [&](int64_t chunk) {
    if (std::this_thread::get_id() != caller) install_fault_handlers();
    run_range(std::this_thread::get_id() != caller, blocks * chunk / chunks, blocks * (chunk + 1) / chunks);
  });
}

}  // namespace fornax
