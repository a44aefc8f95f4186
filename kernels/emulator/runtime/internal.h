// What the parts of the emulated device share: the runtime itself, the driver stand-in and the NVRTC stand-in.
//
// One lock (`Lock`) guards everything: every function of the driver takes it, and queued work runs under it, on whichever
// thread of the process waits. Only the blocks of a kernel and the pieces of `parallel` spread over other cores.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../include/device_abi.h"
#include "../include/runtime.h"

namespace fornax {
#pragma GCC visibility push(default)

// Results of the driver API that the emulated device gives.
enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
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

// ---- settings (settings.cpp)
struct Settings {
  int devices = 1;
  uint64_t order = 0;  // 0 ascending, 1 descending, else random by this seed
  bool checked = false;
  std::string cache_folder, include_folder, compiler;
};
Settings& settings();
using Lock = std::unique_lock<std::recursive_mutex>;
Lock lock();

// ---- errors (errors.cpp)
constexpr int kMaxDevices = 64;
// Puts a device into the state of an error: it answers every call with `code` until the error is taken. The first one stays.
void raise(int device, Result code, const std::string& message);
Result sticky(int device);
// explain(message), then the code: for `return refuse(kInvalidValue, "…")`.
Result refuse(Result code, const std::string& message);

// ---- memory (memory.cpp)
struct Shadow;
struct Allocation {
  uintptr_t base = 0;
  size_t size = 0;
  int device = 0;
  uint64_t number = 0;  // counted from 1 over all devices
  uintptr_t map = 0;
  size_t mapped = 0;
  bool freed = false;  // a free is queued
  std::unique_ptr<Shadow> shadow;  // checked mode only
  Allocation();
  Allocation(Allocation&&);
  ~Allocation();
};
constexpr size_t kDeviceMemory = size_t(8) << 30;
// Memory filled with 0xff, which is NaN in every float type, between two guard pages; 0 when the device is full.
uintptr_t allocate(int device, size_t bytes);
bool free_memory(uintptr_t base);
Allocation* find_allocation(uintptr_t address);                   // the live allocation that holds this address
Allocation* find_range(uintptr_t address, size_t bytes);          // … and the whole range
std::string describe_address(uintptr_t address, size_t bytes);    // "… at byte 12 of a buffer of 8 bytes", for messages
void poison(Allocation& allocation);                              // as never written
void note_written(uintptr_t address, size_t bytes);
void copy_written(uintptr_t from, uintptr_t to, size_t bytes);     // `to` is as written as `from`
size_t live_bytes(int device);
void forget_shadows();
bool reads_unwritten(uintptr_t address, size_t bytes, size_t* at);  // of a range inside one allocation

// ---- streams (streams.cpp, capture.cpp)
struct Operation;
using OperationRef = std::shared_ptr<Operation>;
struct Graph;
struct Capture;
struct Event {
  int device = 0;
  OperationRef recorded;  // null: never recorded, which counts as done
  std::shared_ptr<Capture> capture;
  std::vector<size_t> captured_after;  // nodes of the capture that the event waits for
};
struct StreamOptions {
  bool blocking = false;  // waits for the legacy default stream and it for this one
};
int current_context_device();  // -1: none
void set_current_context_device(int device);
CUstream create_stream(int device, StreamOptions options);
Result destroy_stream(CUstream stream);
bool stream_exists(CUstream stream);
struct Work {
  std::string name;
  std::function<void()> run;
  bool always = false;  // runs on a device in the state of an error, too: frees
};
Result submit(CUstream stream, Work work);
Result wait_stream(CUstream stream);
Result wait_device(int device);
Result record_event(Event& event, CUstream stream);
Result wait_event(Event& event);
bool event_done(const Event& event);
bool stream_done(CUstream stream);
double event_time(const Event& event);  // seconds
Result stream_wait_event(CUstream stream, Event& event);

// ---- capture and graphs (capture.cpp)
bool is_capturing(CUstream stream);
enum class CaptureMode { Global, ThreadLocal, Relaxed };
Result begin_capture(CUstream stream, CaptureMode mode);
// Refuses calls that wait for a whole device, or allocate without a stream, while this thread captures.
Result refuse_in_capture(const char* call);
Result end_capture(CUstream stream, std::shared_ptr<Graph>* graph);
int capture_status(CUstream stream);
Result invalidate_capture(CUstream stream, const char* call);
Result launch_graph(const std::shared_ptr<Graph>& graph, CUstream stream);
size_t graph_nodes(const Graph& graph);
// Memory allocated inside a capture belongs to its graph.
void own_by_capture(CUstream stream, uintptr_t base);

// ---- kernels (launch.cpp)
struct Dim {
  unsigned x, y, z;
};
struct Launch {
  const fornax_device::Kernel* kernel;
  Dim grid, block;
  unsigned shared;
  bool checked;  // its object was compiled for the checker
  uintptr_t object;  // an address inside its shared object
};
constexpr unsigned kDefaultShared = 48 << 10, kMaxShared = 227 << 10;
// Runs a kernel to its end. Errors go to `raise`.
void run_kernel(int device, const Launch& launch, void** arguments);

// ---- compiled sources (objects.cpp)
struct Source {
  std::string name, text;
  std::vector<std::pair<std::string, std::string>> headers;
  std::vector<std::string> options, expressions;
};
struct Object {
  std::string path;
  const fornax_device::Kernel* kernels = nullptr;
  unsigned count = 0;
  bool checked = false;
};
// Compiles (or finds in the cache) and loads a source for the present mode. Null and a log when that fails.
std::shared_ptr<Object> load_object(const Source& source, std::string* log);
std::string to_image(const Source& source);
bool from_image(const void* image, Source* source);

// Unsigned 64-bit generator (SplitMix64), for orders drawn by a seed.
inline uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

#pragma GCC visibility pop
}  // namespace fornax
