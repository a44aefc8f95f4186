// What the files of the driver stand-in share. Types have the sizes of those of cuda.h, which is not needed.
#pragma once
#include "../runtime/internal.h"

#define CU_API extern "C" FORNAX_API fornax::Result

// The beginning of a call that works on the current context's device: the lock, and the refusal when there is no context or
// the device is in the state of an error.
#define ON_DEVICE(device)                                                                            \
  auto guard = fornax::lock();                                                                       \
  int device = fornax::current_context_device();                                                     \
  if (device < 0) return fornax::refuse(fornax::kInvalidContext, "no context is current");           \
  if (fornax::Result state = fornax::sticky(device)) return state

namespace fornax {

// A context is the primary context of a device or one of those made by cuCtxCreate; they do not differ here.
struct ContextHandle {
  int device;
};
ContextHandle* context_of(int device);

// Whether the host range is pinned memory.
bool is_pinned(const void* pointer, size_t bytes);

}  // namespace fornax
