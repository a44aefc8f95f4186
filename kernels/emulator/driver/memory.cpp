// Device memory and pinned host memory.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

#include "driver.h"

namespace fornax {
namespace {

std::map<uintptr_t, size_t> pinned;      // pinned host memory: address, bytes
std::map<uintptr_t, bool> pinned_owned;  // true for memory of cuMemHostAlloc, not of cuMemHostRegister

struct MemoryPool {
  int device;
  uint64_t attributes[9] = {};
};
MemoryPool* default_pool(int device) {
  static std::map<int, MemoryPool> pools;
  return &pools.emplace(device, MemoryPool{device}).first->second;
}

Result allocate_on(CUdeviceptr* pointer, int device, size_t bytes) {
  *pointer = 0;
  memory_calls().allocations++;
  if (bytes == 0) return reject(kInvalidValue, "allocation of 0 bytes");
  *pointer = allocate(device, bytes);
  if (*pointer) return kSuccess;
  return reject(kOutOfMemory, "out of memory on device " + std::to_string(device) + ": " + std::to_string(bytes) +
                                  " bytes requested, " + std::to_string(driver_bytes(device)) + " of " +
                                  std::to_string(settings().device_memory) + " in use");
}

Result allocate_async(CUdeviceptr* pointer, size_t bytes, CUstream stream) {
  if (!stream_exists(stream)) return reject(kInvalidHandle, "cuMemAllocAsync: not a stream");
  if (Result result = allocate_on(pointer, device_of(stream), bytes)) return result;
  CUdeviceptr base = *pointer;
  if (is_capturing(stream)) {
    memory_calls().graph_nodes++;
    add_graph_allocation(stream, base);
  }
  // A write that does not wait for the allocation's stream is lost.
  return submit(stream, {"cuMemAllocAsync", [base] {
    if (Allocation* allocation = find_driver_allocation(base)) poison(*allocation);
  }});
}

}  // namespace

bool is_pinned(const void* pointer, size_t bytes) {
  auto next = pinned.upper_bound(uintptr_t(pointer));
  if (next == pinned.begin()) return false;
  --next;
  return uintptr_t(pointer) + bytes <= next->first + next->second;
}

}  // namespace fornax

using namespace fornax;

CU_API cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
  ON_DEVICE(device);
  if (Result result = reject_in_capture("cuMemAlloc")) return result;
  return allocate_on(pointer, device, bytes);
}

// Synchronises the device and frees.
CU_API cuMemFree_v2(CUdeviceptr pointer) {
  auto guard = lock();
  if (pointer == 0) return kSuccess;
  memory_calls().frees++;
  if (Result result = reject_in_capture("cuMemFree")) return result;
  Allocation* allocation = find_driver_allocation(pointer);
  if (!allocation || allocation->base != pointer || allocation->freed) {
    return reject(kInvalidValue, "cuMemFree: not the start of a device buffer");
  }
  Result state = synchronize_device(allocation->device);
  free_memory(pointer);
  return state;
}

CU_API cuMemAllocAsync(CUdeviceptr* pointer, size_t bytes, CUstream stream) {
  ON_DEVICE(device);
  return allocate_async(pointer, bytes, stream);
}
CU_API cuMemAllocFromPoolAsync(CUdeviceptr* pointer, size_t bytes, MemoryPool*, CUstream stream) {
  return cuMemAllocAsync(pointer, bytes, stream);
}

CU_API cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
  auto guard = lock();
  if (pointer == 0) return kSuccess;
  memory_calls().frees++;
  Allocation* allocation = find_driver_allocation(pointer);
  if (!allocation || allocation->base != pointer || allocation->freed) {
    return reject(kInvalidValue, "cuMemFreeAsync: not the start of a device buffer");
  }
  if (is_capturing(stream)) {
    if (!is_graph_allocation(stream, *allocation)) {
      invalidate_capture(stream, "cuMemFreeAsync");
      return reject(kInvalidValue, "cuMemFreeAsync: device buffer number " + std::to_string(allocation->number) +
                                       " was not allocated in the capture, and a graph can free only its own memory");
    }
    memory_calls().graph_nodes++;
    return submit(stream, {"cuMemFreeAsync", [pointer] { poison(*find_driver_allocation(pointer)); }});
  }
  allocation->freed = true;
  return submit(stream, {"cuMemFreeAsync", [pointer] { free_memory(pointer); }, true});
}

CU_API cuMemGetInfo_v2(size_t* free, size_t* total) {
  ON_DEVICE(device);
  *total = settings().device_memory;
  *free = *total - std::min(*total, driver_bytes(device));
  return kSuccess;
}

CU_API cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr pointer) {
  auto guard = lock();
  Allocation* allocation = find_driver_allocation(pointer);
  if (!allocation) return kNotFound;
  if (base) *base = allocation->base;
  if (bytes) *bytes = allocation->size;
  return kSuccess;
}

CU_API cuPointerGetAttribute(void* data, int attribute, CUdeviceptr pointer) {
  auto guard = lock();
  Allocation* allocation = find_driver_allocation(pointer);
  bool host = is_pinned(reinterpret_cast<void*>(pointer), 1);
  if (!allocation && !host) return reject(kInvalidValue, "cuPointerGetAttribute: neither device nor pinned memory");
  switch (attribute) {
    case 2: *static_cast<unsigned*>(data) = allocation ? 2 : 1; return kSuccess;                       // MEMORY_TYPE
    case 9: *static_cast<int*>(data) = allocation ? allocation->device : 0; return kSuccess;           // DEVICE_ORDINAL
    default: return kNotSupported;
  }
}

// ---- memory pools: one per device; attributes are stored and have no effect
CU_API cuDeviceGetDefaultMemPool(MemoryPool** pool, int device) {
  auto guard = lock();
  *pool = default_pool(device);
  return kSuccess;
}
CU_API cuDeviceGetMemPool(MemoryPool** pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }
CU_API cuDeviceSetMemPool(int, MemoryPool*) { return kSuccess; }
CU_API cuMemPoolSetAttribute(MemoryPool* pool, int attribute, const void* value) {
  auto guard = lock();
  if (attribute < 1 || attribute > 8) return kInvalidValue;
  memcpy(&pool->attributes[attribute], value, attribute < 4 ? 4 : 8);
  return kSuccess;
}
CU_API cuMemPoolGetAttribute(MemoryPool* pool, int attribute, void* value) {
  auto guard = lock();
  if (attribute < 1 || attribute > 8) return kInvalidValue;
  if (attribute == 5 || attribute == 7) pool->attributes[attribute] = driver_bytes(pool->device);
  memcpy(value, &pool->attributes[attribute], attribute < 4 ? 4 : 8);
  return kSuccess;
}
CU_API cuMemPoolTrimTo(MemoryPool* pool, size_t) {
  auto guard = lock();
  return synchronize_device(pool->device);
}

// ---- pinned host memory
CU_API cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  ON_DEVICE(device);
  memory_calls().host_allocations++;
  if (Result result = reject_in_capture("cuMemHostAlloc")) return result;
  *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!*pointer) return reject(kOutOfMemory, "cuMemHostAlloc: out of host memory, " + std::to_string(bytes) + " bytes requested");
  pinned[uintptr_t(*pointer)] = bytes;
  pinned_owned[uintptr_t(*pointer)] = true;
  return kSuccess;
}
CU_API cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }

CU_API cuMemFreeHost(void* pointer) {
  auto guard = lock();
  if (Result result = reject_in_capture("cuMemFreeHost")) return result;
  if (!pinned_owned[uintptr_t(pointer)]) return reject(kInvalidValue, "cuMemFreeHost: not memory of cuMemHostAlloc");
  Result state = kSuccess;
  for (int device = 0; device < settings().devices; device++) {  // synchronises, as the driver does
    if (Result result = synchronize_device(device)) state = result;
  }
  pinned.erase(uintptr_t(pointer));
  pinned_owned.erase(uintptr_t(pointer));
  free(pointer);
  return state;
}

CU_API cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned) {
  auto guard = lock();
  if (Result result = reject_in_capture("cuMemHostRegister")) return result;
  if (is_pinned(pointer, 1)) return reject(kHostMemoryAlreadyRegistered, "cuMemHostRegister: the range is already pinned");
  pinned[uintptr_t(pointer)] = bytes;
  return kSuccess;
}

CU_API cuMemHostUnregister(void* pointer) {
  auto guard = lock();
  if (Result result = reject_in_capture("cuMemHostUnregister")) return result;
  for (int device = 0; device < settings().devices; device++) synchronize_device(device);
  if (pinned.erase(uintptr_t(pointer))) return kSuccess;
  return reject(kHostMemoryNotRegistered, "cuMemHostUnregister: not a registered range");
}

CU_API cuMemHostGetDevicePointer_v2(CUdeviceptr*, void*, unsigned) {
  return reject(kNotSupported, "the emulated device cannot access host memory from kernels");
}
