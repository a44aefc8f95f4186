// Interface of the emulated device's runtime for the stand-ins of CUDA's libraries (cuBLASLt, cuDNN).
//
// A device pointer is an address of this process. A stand-in checks its arguments at the call, as the real library does, and
// queues the computation on the stream with `enqueue`; it runs when something synchronises with it. The computation accesses
// device memory through `device_range`, which checks bounds and, in checked mode, detects reads of uninitialised memory.
//
//   extern "C" int exampleScale(float* x, int64_t n, float by, CUstream stream) {
//     return fornax::enqueue(stream, "exampleScale", [=] {
//       float* values = static_cast<float*>(fornax::device_range(x, n * sizeof(float), fornax::Access::ReadWrite));
//       for (int64_t i = 0; i < n; i++) values[i] *= by;
//     }) ? 0 : 1;
//   }
//
// The .cpp files of a library are compiled as one translation unit, so file-local names must differ. There are no CUDA headers:
// a stand-in declares the types and values that it uses.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#define FORNAX_API __attribute__((visibility("default")))  // libraries are built with -fvisibility=hidden

typedef struct CUstream_st* CUstream;
typedef unsigned long long CUdeviceptr;

namespace fornax {

// Scratch is a write whose values are not used, such as that of a workspace; its bytes are not counted in counted mode.
enum class Access { Read, Write, ReadWrite, Scratch };

// Queues `work` on a stream (null: the legacy default stream of the current context). On a capturing stream the work becomes a
// node of the graph and runs at each replay, so the closure must own its data.
// False if the stream is invalid, its device has a sticky error, or its capture is invalidated.
FORNAX_API bool enqueue(CUstream stream, const std::string& name, std::function<void()> work);

// True if the stream is being captured.
FORNAX_API bool is_capturing(CUstream stream);

// Other ranks of a communicator, in this process or in others.
struct StreamOperation;
struct Peers {
  std::atomic<bool> awaited{false};       // a peer waits for this rank's next operation: it runs although nothing on this rank waits
  std::shared_ptr<StreamOperation> last;  // the last operation that was queued; belongs to the runtime
};

// Queues work that waits for other ranks, after earlier work with the same peers on any stream. `advance` starts it when its turn has come,
// and is called again after `notify_change`, until it returns true. It must not wait.
FORNAX_API bool enqueue_with_peers(CUstream stream, const std::string& name, std::shared_ptr<Peers> peers, std::function<bool()> advance);

// Calls `advance` again of work that waits, and runs work that peers await. Any thread may call it, with or without work that waits.
FORNAX_API void notify_change();

// Waits until all work with these peers is done.
FORNAX_API void wait_for_work(const Peers& peers);

// Device memory from `pointer`, `bytes` long, for queued work, on the thread that runs it. Ends the work with an error (does
// not return) if the range is out of bounds or freed or, for reads in checked mode, uninitialised. A range of zero bytes may be
// null.
FORNAX_API void* device_range(const void* pointer, size_t bytes, Access access);

// True if the range lies in live device memory; for argument checks.
FORNAX_API bool is_device_range(const void* pointer, size_t bytes);

// Sets the device's sticky error and ends the queued work that calls it; does not return.
[[noreturn]] FORNAX_API void fail_work(const std::string& message);

// Sets the message of the last error, for a rejected call; the device stays usable.
FORNAX_API void set_last_error(const std::string& message);

// Calls body(0) … body(count - 1) on several host threads. The calls must write to disjoint memory, so that the result depends
// on `count` alone. `body` must not call functions of this header.
FORNAX_API void parallel(int64_t count, const std::function<void(int64_t)>& body);

// Adds to the emulated time of the stream, on the thread that runs queued work. Without it every operation takes 10 us.
FORNAX_API void advance_clock(double seconds);

// CUDA version of the libraries, as 1000 major + 10 minor.
FORNAX_API int library_cuda_version();

// Device of the calling thread's current context, or of the stream; 0 if there is none.
FORNAX_API int current_device();
FORNAX_API int device_of(CUstream stream);

}  // namespace fornax
