// Shared declarations of the driver stand-in. Types have the sizes of cuda.h's, which is not included.
#pragma once
#include "../runtime/internal.h"

#define CU_API extern "C" FORNAX_API fornax::Result

// Begins a call on the current context's device: takes the lock, and returns an error without a context or with a sticky error.
#define ON_DEVICE(device)                                                                               \
  auto guard = fornax::lock();                                                                          \
  int device = fornax::current_context_device();                                                        \
  if (device < 0) return fornax::reject(fornax::kInvalidContext, "the thread has no current context");  \
  if (fornax::Result state = fornax::sticky_error(device)) return state

// Ends a call of a function that the emulated driver is too old to have. Without the function a program finds no symbol.
#define SINCE_CUDA(version, name)                                                                        \
  if (fornax::settings().driver_version < version)                                                       \
  return fornax::reject(fornax::kNotFound, name " does not exist in a driver for CUDA " +                \
                                               std::to_string(fornax::settings().driver_version / 1000) + "." + \
                                               std::to_string(fornax::settings().driver_version % 1000 / 10))

namespace fornax {

// Context of a device; cuCtxCreate's contexts and the primary context are the same.
struct ContextHandle {
  int device;
};
ContextHandle* context_of(int device);

// True if the host range is pinned memory.
bool is_pinned(const void* pointer, size_t bytes);

}  // namespace fornax
