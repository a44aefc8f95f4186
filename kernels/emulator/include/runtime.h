// The runtime of the emulated device, as the stand-ins for CUDA's libraries (cuBLASLt, cuDNN) see it.
//
// A device pointer is an ordinary address of this process. A stand-in checks its arguments when it is called, as the real
// library does, and puts the computation on the stream with `enqueue`: it runs late, when something waits for it. Only then
// may it look at device memory, through `device_range`, which checks bounds and, in checked mode, that what is read was
// written before.
//
//   extern "C" int exampleScale(float* x, int64_t n, float by, CUstream stream) {
//     return fornax::enqueue(stream, "exampleScale", [=] {
//       float* values = static_cast<float*>(fornax::device_range(x, n * sizeof(float), fornax::Access::ReadWrite));
//       for (int64_t i = 0; i < n; i++) values[i] *= by;
//     }) ? 0 : 1;
//   }
//
// The .cpp files of one library are compiled as one unit: what is private to a file goes into a namespace of its name.
// There are no CUDA headers: a stand-in declares the types and values that it needs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#define FORNAX_API __attribute__((visibility("default")))  // libraries are built with -fvisibility=hidden

typedef struct CUstream_st* CUstream;
typedef unsigned long long CUdeviceptr;

namespace fornax {

enum class Access { Read, Write, ReadWrite };

// Queues `work` on a stream (null: the legacy default stream of the current context); while the stream is captured the work
// becomes a node of the graph instead and runs at each replay, so copy what it needs into the closure.
// False when the stream refuses it: not a stream, a device in the state of an error, an invalidated capture.
FORNAX_API bool enqueue(CUstream stream, const std::string& name, std::function<void()> work);

// Inside queued work only: `bytes` bytes of device memory from `pointer`. Out of bounds, freed, or (checked mode, reading)
// never written: the error is recorded with the name of the work, and the work ends here (this does not return).
// A range of zero bytes may be null. Not from a thread other than the one that runs the work.
FORNAX_API void* device_range(const void* pointer, size_t bytes, Access access);

// Whether the range lies in live device memory: for checks when a function is called.
FORNAX_API bool is_device_range(const void* pointer, size_t bytes);

// Inside queued work only: records an error (the first one stays) and ends the work; does not return.
[[noreturn]] FORNAX_API void fail_work(const std::string& message);

// Tells why a call was refused, for whoever asks for the last error; the device stays usable.
FORNAX_API void explain(const std::string& message);

// Calls body(0) … body(count - 1), spread over the machine's cores. The pieces must write to separate places, so that the
// result depends on nothing but `count`. `body` must not call into this header.
FORNAX_API void parallel(int64_t count, const std::function<void(int64_t)>& body);

// The device of the calling thread's current context, or of the stream; 0 when there is none.
FORNAX_API int current_device();
FORNAX_API int device_of(CUstream stream);

}  // namespace fornax
