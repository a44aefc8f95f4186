// Copies and memsets. As on CUDA, pinned host memory is accessed when the copy runs, pageable memory is read at the call, and a
// copy to pageable memory synchronises.
#include <cstring>

#include "driver.h"

namespace fornax {
namespace {

enum class MemorySpace { Host, Device };

struct Copy {
  MemorySpace to_space, from_space;
  uintptr_t to, from;
  size_t bytes;
};

Result check_device_range(const char* call, uintptr_t address, size_t bytes) {
  const Allocation* allocation = find_range_at_call(address, bytes);
  if (!allocation) return reject(kInvalidValue, std::string(call) + ": " + describe_address(address, bytes));
  if (allocation->freed) {
    return reject(kInvalidValue, std::string(call) + ": device buffer number " + std::to_string(allocation->number) + " was freed");
  }
  return kSuccess;
}

Result check_copy(const char* call, const Copy& copy) {
  if (copy.to_space == MemorySpace::Device) {
    if (Result result = check_device_range(call, copy.to, copy.bytes)) return result;
  }
  return copy.from_space == MemorySpace::Device ? check_device_range(call, copy.from, copy.bytes) : kSuccess;
}

void run_copy(const Copy& copy) {
  void* to = reinterpret_cast<void*>(copy.to);
  const void* from = reinterpret_cast<const void*>(copy.from);
  if (copy.to_space == MemorySpace::Device) device_range(to, copy.bytes, Access::Write);
  if (copy.from_space == MemorySpace::Device) {
    // A copy to the host must read initialised memory. A copy within the device may include padding and copies its initialised
    // bits.
    bool inside = find_range(copy.from, copy.bytes) != nullptr;
    if (copy.to_space == MemorySpace::Host || !inside) device_range(from, copy.bytes, Access::Read);
    if (copy.to_space == MemorySpace::Device) copy_initialised(copy.from, copy.to, copy.bytes);
  }
  memmove(to, from, copy.bytes);
}

Result copy_async(const char* call, Copy copy, CUstream stream) {
  if (copy.bytes == 0) return kSuccess;
  if (Result result = check_copy(call, copy)) return result;
  bool capturing = is_capturing(stream);
  if (copy.from_space == MemorySpace::Host && !capturing && !is_pinned(reinterpret_cast<void*>(copy.from), copy.bytes)) {
    auto* bytes = reinterpret_cast<const unsigned char*>(copy.from);
    auto snapshot = std::make_shared<std::vector<unsigned char>>(bytes, bytes + copy.bytes);
    return submit(stream, {call, [copy, snapshot]() mutable {
      copy.from = uintptr_t(snapshot->data());
      run_copy(copy);
    }});
  }
  Result result = submit(stream, {call, [copy] { run_copy(copy); }});
  bool waits = copy.to_space == MemorySpace::Host && !capturing && !is_pinned(reinterpret_cast<void*>(copy.to), copy.bytes);
  return result == kSuccess && waits ? synchronize_stream(stream) : result;
}

// Copies on the default stream and synchronises.
Result copy_sync(const char* call, Copy copy) {
  if (Result result = reject_in_capture(call)) return result;
  Result result = copy_async(call, copy, nullptr);
  return result == kSuccess ? synchronize_stream(nullptr) : result;
}

MemorySpace space_of(uintptr_t address) { return find_driver_allocation(address) ? MemorySpace::Device : MemorySpace::Host; }

Result fill(const char* call, CUdeviceptr to, uint32_t value, size_t width, size_t count, CUstream stream) {
  size_t bytes = width * count;
  if (bytes == 0) return kSuccess;
  if (to % width) return reject(kInvalidValue, std::string(call) + ": the address is not a multiple of the element size");
  if (Result result = check_device_range(call, to, bytes)) return result;
  return submit(stream, {call, [=] {
    auto* bytes_to = static_cast<unsigned char*>(device_range(reinterpret_cast<void*>(to), bytes, Access::Write));
    if (width == 1) {
      memset(bytes_to, int(value), bytes);
    } else {
      for (size_t i = 0; i < count; i++) memcpy(bytes_to + i * width, &value, width);
    }
  }});
}

}  // namespace
}  // namespace fornax

using namespace fornax;

CU_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  ON_DEVICE(device);
  return copy_async("cuMemcpyHtoDAsync", {MemorySpace::Device, MemorySpace::Host, to, uintptr_t(from), bytes}, stream);
}
CU_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ON_DEVICE(device);
  return copy_async("cuMemcpyDtoHAsync", {MemorySpace::Host, MemorySpace::Device, uintptr_t(to), from, bytes}, stream);
}
CU_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ON_DEVICE(device);
  return copy_async("cuMemcpyDtoDAsync", {MemorySpace::Device, MemorySpace::Device, to, from, bytes}, stream);
}
CU_API cuMemcpyPeerAsync(CUdeviceptr to, ContextHandle*, CUdeviceptr from, ContextHandle*, size_t bytes, CUstream stream) {
  ON_DEVICE(device);
  return copy_async("cuMemcpyPeerAsync", {MemorySpace::Device, MemorySpace::Device, to, from, bytes}, stream);
}
CU_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ON_DEVICE(device);
  return copy_async("cuMemcpyAsync", {space_of(to), space_of(from), to, from, bytes}, stream);
}
CU_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  ON_DEVICE(device);
  return copy_sync("cuMemcpyHtoD", {MemorySpace::Device, MemorySpace::Host, to, uintptr_t(from), bytes});
}
CU_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  ON_DEVICE(device);
  return copy_sync("cuMemcpyDtoH", {MemorySpace::Host, MemorySpace::Device, uintptr_t(to), from, bytes});
}
CU_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  ON_DEVICE(device);
  return copy_async("cuMemcpyDtoD", {MemorySpace::Device, MemorySpace::Device, to, from, bytes}, nullptr);
}
CU_API cuMemcpyPeer(CUdeviceptr to, ContextHandle*, CUdeviceptr from, ContextHandle*, size_t bytes) {
  ON_DEVICE(device);
  return copy_sync("cuMemcpyPeer", {MemorySpace::Device, MemorySpace::Device, to, from, bytes});
}
CU_API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  ON_DEVICE(device);
  return copy_sync("cuMemcpy", {space_of(to), space_of(from), to, from, bytes});
}

#define FILLS(NAME, T)                                                          \
  CU_API NAME##Async(CUdeviceptr to, T value, size_t count, CUstream stream) {  \
    ON_DEVICE(device);                                                          \
    return fill(#NAME "Async", to, value, sizeof(T), count, stream);            \
  }                                                                             \
  CU_API NAME##_v2(CUdeviceptr to, T value, size_t count) {                     \
    ON_DEVICE(device);                                                          \
    return fill(#NAME, to, value, sizeof(T), count, nullptr);                   \
  }
FILLS(cuMemsetD8, unsigned char)
FILLS(cuMemsetD16, unsigned short)
FILLS(cuMemsetD32, unsigned)
