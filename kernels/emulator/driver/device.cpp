// Devices and contexts: any number of devices with an H100's limits.
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace fornax {
namespace {

struct DeviceAttribute {
  int number, value;
};

// cuda.h's CU_DEVICE_ATTRIBUTE_…
constexpr DeviceAttribute kAttributes[] = {
    {1, kMaxBlockThreads},  // MAX_THREADS_PER_BLOCK
    {2, 1024},          // MAX_BLOCK_DIM_X
    {3, 1024},          // …_Y
    {4, 64},            // …_Z
    {5, 2147483647},    // MAX_GRID_DIM_X
    {6, 65535},         // …_Y
    {7, 65535},         // …_Z
    {8, 48 << 10},      // MAX_SHARED_MEMORY_PER_BLOCK
    {9, 64 << 10},      // TOTAL_CONSTANT_MEMORY
    {10, 32},           // WARP_SIZE
    {11, 2147483647},   // MAX_PITCH
    {12, 65536},        // MAX_REGISTERS_PER_BLOCK
    {13, 1980000},      // CLOCK_RATE
    {14, 512},          // TEXTURE_ALIGNMENT
    {15, 1},            // GPU_OVERLAP
    {16, 4},            // MULTIPROCESSOR_COUNT: small, so that small tests fill the device
    {19, 1},            // CAN_MAP_HOST_MEMORY
    {31, 1},            // CONCURRENT_KERNELS
    {36, 2619000},      // MEMORY_CLOCK_RATE
    {37, 5120},         // GLOBAL_MEMORY_BUS_WIDTH
    {38, 50 << 20},     // L2_CACHE_SIZE
    {39, 2048},         // MAX_THREADS_PER_MULTIPROCESSOR
    {40, 3},            // ASYNC_ENGINE_COUNT
    {41, 1},            // UNIFIED_ADDRESSING
    {78, 1},            // STREAM_PRIORITIES_SUPPORTED
    {79, 1},            // GLOBAL_L1_CACHE_SUPPORTED
    {80, 1},            // LOCAL_L1_CACHE_SUPPORTED
    {81, 228 << 10},    // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    {82, 65536},        // MAX_REGISTERS_PER_MULTIPROCESSOR
    {97, kMaxShared},   // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    {99, 1},            // HOST_REGISTER_SUPPORTED
    {106, 32},          // MAX_BLOCKS_PER_MULTIPROCESSOR
    {111, 1 << 10},     // RESERVED_SHARED_MEMORY_PER_BLOCK
    {115, 1},           // MEMORY_POOLS_SUPPORTED
};

bool initialised = false;

bool is_device(int device) { return device >= 0 && device < settings().devices; }

Result check_device(int device) {
  if (!initialised) return kNotInitialized;
  if (is_device(device)) return kSuccess;
  return reject(kInvalidDevice, "emulated device " + std::to_string(device) + " does not exist; there are " +
                                    std::to_string(settings().devices));
}

}  // namespace

ContextHandle* context_of(int device) {
  static ContextHandle contexts[kMaxDevices];
  contexts[device].device = device;
  return &contexts[device];
}

}  // namespace fornax

using namespace fornax;

CU_API cuInit(unsigned) {
  auto guard = lock();
  initialised = true;
  return kSuccess;
}

CU_API cuDriverGetVersion(int* version) {
  auto guard = lock();
  *version = settings().driver_version;
  return kSuccess;
}

CU_API cuDeviceGetCount(int* count) {
  auto guard = lock();
  *count = settings().devices;
  return initialised ? kSuccess : kNotInitialized;
}

CU_API cuDeviceGet(int* device, int ordinal) {
  auto guard = lock();
  *device = ordinal;
  return check_device(ordinal);
}

CU_API cuDeviceGetName(char* name, int size, int device) {
  auto guard = lock();
  snprintf(name, size_t(size), "Emulated CUDA device");
  return check_device(device);
}

CU_API cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  auto guard = lock();
  memcpy(uuid, "fornax emulated\0", 16);
  uuid[15] = static_cast<unsigned char>(device);
  return check_device(device);
}
CU_API cuDeviceGetUuid(unsigned char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

CU_API cuDeviceTotalMem_v2(size_t* bytes, int device) {
  auto guard = lock();
  *bytes = settings().device_memory;
  return check_device(device);
}

CU_API cuDeviceGetAttribute(int* value, int attribute, int device) {
  auto guard = lock();
  *value = 0;
  for (const DeviceAttribute& known : kAttributes) {
    if (known.number == attribute) *value = known.value;
  }
  if (attribute == 33) *value = device;  // PCI_BUS_ID
  if (attribute == 75) *value = settings().capability_major;  // COMPUTE_CAPABILITY_MAJOR
  if (attribute == 76) *value = settings().capability_minor;
  return check_device(device);
}

CU_API cuDeviceGetPCIBusId(char* id, int size, int device) {
  auto guard = lock();
  snprintf(id, size_t(size), "0000:%02x:00.0", device);
  return check_device(device);
}

CU_API cuDeviceCanAccessPeer(int* can, int device, int peer) {
  auto guard = lock();
  *can = is_device(device) && is_device(peer) && device != peer;
  return kSuccess;
}
CU_API cuCtxEnablePeerAccess(ContextHandle*, unsigned) { return kSuccess; }
CU_API cuCtxDisablePeerAccess(ContextHandle*) { return kSuccess; }

CU_API cuDevicePrimaryCtxRetain(ContextHandle** context, int device) {
  auto guard = lock();
  if (Result result = check_device(device)) return result;
  *context = context_of(device);
  return kSuccess;
}
CU_API cuDevicePrimaryCtxRelease_v2(int device) {
  auto guard = lock();
  return check_device(device);
}
CU_API cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  auto guard = lock();
  *flags = 0;
  *active = 1;
  return check_device(device);
}

CU_API cuCtxCreate_v4(ContextHandle** context, void*, unsigned, int device) {
  auto guard = lock();
  if (Result result = check_device(device)) return result;
  *context = context_of(device);
  set_current_context_device(device);
  return kSuccess;
}
CU_API cuCtxDestroy_v2(ContextHandle*) { return kSuccess; }

CU_API cuCtxSetCurrent(ContextHandle* context) {
  set_current_context_device(context ? context->device : -1);
  return kSuccess;
}

CU_API cuCtxGetCurrent(ContextHandle** context) {
  int device = current_context_device();
  *context = device < 0 ? nullptr : context_of(device);
  return kSuccess;
}

CU_API cuCtxGetDevice(int* device) {
  *device = current_context_device();
  return *device < 0 ? kInvalidContext : kSuccess;
}

CU_API cuCtxSynchronize() {
  ON_DEVICE(device);
  if (Result result = reject_in_capture("cuCtxSynchronize")) return result;
  return synchronize_device(device);
}

CU_API cuCtxSetFlags(unsigned) { return kSuccess; }
CU_API cuCtxGetFlags(unsigned* flags) {
  *flags = 0;
  return kSuccess;
}
CU_API cuCtxSetLimit(int, size_t) { return kSuccess; }
CU_API cuCtxGetLimit(size_t* value, int) {
  *value = 1024;
  return kSuccess;
}
CU_API cuCtxSetCacheConfig(int) { return kSuccess; }
CU_API cuCtxGetCacheConfig(int* config) {
  *config = 0;
  return kSuccess;
}
CU_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return kSuccess;
}
CU_API cuProfilerStart() { return kSuccess; }
CU_API cuProfilerStop() { return kSuccess; }
