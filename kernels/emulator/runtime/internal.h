// Interface of the runtime for the driver stand-in and the NVRTC stand-in.
//
// `lock()` guards all state: every function of the driver holds it, and queued work runs under it on the host thread that
// synchronises. Only the blocks of a kernel and the iterations of `parallel` run on other host threads.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../include/device_abi.h"
#include "../include/runtime.h"

namespace fornax {
#pragma GCC visibility push(default)

// CUresult values that the emulated device returns.
enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kInvalidPtx = 218,
  kFileNotFound = 301,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kHostMemoryAlreadyRegistered = 712,
  kHostMemoryNotRegistered = 713,
  kMisalignedAddress = 716,
  kLaunchFailed = 719,
  kNotSupported = 801,
  kCaptureUnsupported = 900,
  kCaptureInvalidated = 901,
  kCaptureUnmatched = 903,
  kCaptureUnjoined = 904,
  kCaptureIsolation = 905,
  kCapturedEvent = 907,
};

// ---- the lock (waiting.cpp)
// Recursive mutex that a thread releases as a whole while it waits for other threads or processes.
class RuntimeMutex {
 public:
  void lock();
  void unlock();
  // Number of changes so far.
  uint64_t changes() const;
  // Releases the mutex until there are more changes than `seen`. `needs_work_done`: a change is also that work of the device is done.
  void wait_for_change(uint64_t seen, bool needs_work_done);
  // Wakes the threads that wait for a change. The caller need not hold the mutex.
  void notify();
  // True if a thread waits until work is done.
  bool has_waiting_threads() const;

 private:
  std::mutex mutex_, change_mutex_;
  std::condition_variable changed_;
  std::atomic<std::thread::id> owner_{};
  std::atomic<int> waiting_threads_{0};
  std::atomic<uint64_t> changes_{0};
  int depth_ = 0;
};
RuntimeMutex& runtime_mutex();

// ---- settings (settings.cpp)
struct Settings {
  int devices = 1;
  uint64_t order = 0;  // 0 ascending, 1 descending, otherwise random with this seed
  bool checked = false;
  size_t device_memory = size_t(8) << 30;
  bool counted = false;  // instrumented accesses are counted instead of checked
  int driver_version = 13000, library_version = 13000;  // CUDA of the driver and of the libraries, as 1000 major + 10 minor
  int capability_major = 9, capability_minor = 0;
  bool empty_kernels = false;  // kernels and library calls are queued, and compute nothing when they run
  std::string cache_folder, include_folder, compiler;
};
Settings& settings();
using Lock = std::unique_lock<RuntimeMutex>;
Lock lock();

// ---- errors (errors.cpp)
constexpr int kMaxDevices = 64;
constexpr int kHost = kMaxDevices;  // stands for a device in errors of kernels that run on host memory (host.cpp)
// Sets the sticky error of a device: every call returns `code` until the error is cleared. An earlier error stays.
void set_sticky_error(int device, Result code, const std::string& message);
Result sticky_error(int device);
// Sets the message of the last error and returns the code, for `return reject(kInvalidValue, "…")`.
Result reject(Result code, const std::string& message);

// ---- memory (memory.cpp)
// An allocation of the driver, or a suballocation of it by the program's own allocator. Once an allocation has a suballocation, only
// memory in suballocations counts as allocated.
struct Shadow;
struct Allocation {
  uintptr_t base = 0;
  size_t size = 0;
  size_t padded = 0;  // size with the padding that no kernel may write
  int device = 0;
  uint64_t number = 0;  // ordinal from 1 over all devices, for messages
  uintptr_t mapping = 0;
  size_t mapping_bytes = 0;
  bool freed = false;    // a free is queued
  bool divided = false;  // into suballocations
  std::unique_ptr<Shadow> shadow;  // checked mode only
  Allocation();
  Allocation(Allocation&&);
  ~Allocation();
  Allocation without_shadow() const;
};
// Allocates memory filled with 0xff, which is NaN in every float type, between two guard pages; 0 if the device is full.
uintptr_t allocate(int device, size_t bytes);
bool free_memory(uintptr_t base);
// The driver's allocation that contains the address.
Allocation* find_driver_allocation(uintptr_t address);
// The allocation, or suballocation of a divided one, that contains the address or range, for work that runs now.
Allocation* find_allocation(uintptr_t address);
Allocation* find_range(uintptr_t address, size_t bytes);
// The same for calls, which precede the work that they queue: null if the range is not allocated.
const Allocation* find_range_at_call(uintptr_t address, size_t bytes);
std::string describe_address(uintptr_t address, size_t bytes);  // "… at byte 12 of a buffer of 8 bytes", for messages
void poison(Allocation& allocation);                            // makes it uninitialised
void mark_range_initialised(uintptr_t address, size_t bytes);
void copy_initialised(uintptr_t from, uintptr_t to, size_t bytes);  // copies the initialised bits of a range
size_t driver_bytes(int device);  // allocated by the driver
size_t live_bytes(int device);    // of suballocations and undivided allocations
void discard_shadows();
// Finds the first uninitialised byte of a range inside one allocation; false if there is none.
bool find_uninitialised(uintptr_t address, size_t bytes, size_t* at);

// Counts of the driver's memory functions, on all devices.
struct MemoryCalls {
  uint64_t allocations, frees, host_allocations, graph_nodes;
};
MemoryCalls& memory_calls();

// ---- streams (streams.cpp, capture.cpp)
struct StreamOperation;
using StreamOperationRef = std::shared_ptr<StreamOperation>;
struct Graph;
struct Capture;
struct Event {
  int device = 0;
  StreamOperationRef recorded;  // null: not recorded yet, which counts as complete
  std::shared_ptr<Capture> capture;
  std::vector<size_t> capture_dependencies;  // captured nodes that a wait for the event depends on
};
struct StreamOptions {
  bool blocking = false;  // synchronises with the legacy default stream
};
int current_context_device();  // -1: none
void set_current_context_device(int device);
CUstream create_stream(int device, StreamOptions options);
Result destroy_stream(CUstream stream);
bool stream_exists(CUstream stream);
struct Work {
  std::string name;
  std::function<void()> run;
  bool run_after_error = false;  // runs in spite of a sticky error, for frees
  bool is_node = true;           // counts as a node of a captured graph
  // Replaces `run` for work that waits for other ranks: called until it returns true.
  std::function<bool()> advance = nullptr;
  std::vector<std::shared_ptr<Peers>> peers = {};  // ranks that the work waits for
};
Result submit(CUstream stream, Work work);
Result synchronize_stream(CUstream stream);
Result synchronize_device(int device);
Result record_event(Event& event, CUstream stream);
Result synchronize_event(Event& event);
bool query_event(const Event& event);
bool query_stream(CUstream stream);
double event_time(const Event& event);  // seconds
Result stream_wait_event(CUstream stream, Event& event);

// Runs work that other ranks wait for, as far as it can run without waiting. False if none could run.
bool run_awaited_work();

// ---- capture and graphs (capture.cpp)
enum class CaptureMode { Global, ThreadLocal, Relaxed };
Result begin_capture(CUstream stream, CaptureMode mode);
// Rejects a call that synchronises a device, or allocates without a stream, while a capture forbids that to this thread.
Result reject_in_capture(const char* call);
CaptureMode exchange_capture_mode(CaptureMode mode);
Result end_capture(CUstream stream, std::shared_ptr<Graph>* graph);
int capture_status(CUstream stream);
Result invalidate_capture(CUstream stream, const char* call);
Result launch_graph(const std::shared_ptr<Graph>& graph, CUstream stream);
size_t node_count(const Graph& graph);
// Passes memory allocated during a capture to the graph, which frees it.
void add_graph_allocation(CUstream stream, uintptr_t base);
bool is_graph_allocation(CUstream stream, const Allocation& allocation);

// ---- kernels (launch.cpp)
struct Dim {
  unsigned x, y, z;
};
struct Launch {
  const fornax_device::Kernel* kernel;
  Dim grid, block;
  unsigned shared;
  bool checked;      // the object is instrumented for the checker
  uintptr_t object;  // an address inside the kernel's shared object
};
constexpr unsigned kDefaultShared = 48 << 10, kMaxShared = 227 << 10;
constexpr unsigned kMaxBlockThreads = 1024, kMaxParameterBytes = 32764;
// Runs a kernel to its end. Errors become the device's sticky error.
void run_kernel(int device, const Launch& launch, void** arguments);

// ---- compiled sources (objects.cpp)
struct ProgramSource {
  std::string name, text;
  std::vector<std::pair<std::string, std::string>> headers;
  std::vector<std::string> options, expressions;
};
struct SharedObject {
  std::string path;
  const fornax_device::Kernel* kernels = nullptr;
  unsigned count = 0;
  bool checked = false;
  size_t static_shared = 0;  // bytes of static shared memory of all kernels; 0 on systems other than Linux
};
// Compiles a source for the current mode, or finds it in the cache, and loads it. Null and a log if that fails.
std::shared_ptr<SharedObject> load_object(const ProgramSource& source, std::string* log);
// The same for instrumented code, or for code without instrumentation.
std::shared_ptr<SharedObject> load_object(const ProgramSource& source, bool checked, std::string* log);
std::string to_image(const ProgramSource& source);
bool from_image(const void* image, ProgramSource* source);

// SplitMix64 generator, for random execution orders.
inline uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

#pragma GCC visibility pop
}  // namespace fornax
