// Settings of the emulated device, and the C functions that Rust calls to read and write them.
#include <cstring>

#include "checker.h"
#include "internal.h"

namespace fornax {

Settings& settings() {
  static Settings instance;
  return instance;
}

int library_cuda_version() {
  auto guard = lock();
  return settings().library_version;
}

}  // namespace fornax

extern "C" {

FORNAX_API void fornax_emulator_configure(int devices, const char* cache_folder, const char* include_folder,
                                          const char* compiler) {
  auto guard = fornax::lock();
  fornax::Settings& settings = fornax::settings();
  settings.devices = devices;
  settings.cache_folder = cache_folder;
  settings.include_folder = include_folder;
  settings.compiler = compiler;
}

FORNAX_API void fornax_emulator_set_order(uint64_t order) {
  auto guard = fornax::lock();
  fornax::settings().order = order;
}

FORNAX_API void fornax_emulator_set_checked(int checked) {
  auto guard = fornax::lock();
  fornax::settings().checked = checked != 0;
}

FORNAX_API void fornax_emulator_set_device_memory(size_t bytes) {
  auto guard = fornax::lock();
  fornax::settings().device_memory = bytes;
}

FORNAX_API void fornax_emulator_memory_calls(uint64_t* allocations, uint64_t* frees, uint64_t* host_allocations,
                                             uint64_t* graph_nodes) {
  auto guard = fornax::lock();
  const fornax::MemoryCalls& calls = fornax::memory_calls();
  *allocations = calls.allocations;
  *frees = calls.frees;
  *host_allocations = calls.host_allocations;
  *graph_nodes = calls.graph_nodes;
}

FORNAX_API void fornax_emulator_set_counted(int counted) {
  auto guard = fornax::lock();
  for (int device = 0; device < fornax::settings().devices; device++) fornax::synchronize_device(device);
  fornax::settings().counted = counted != 0;
}

FORNAX_API void fornax_emulator_set_empty_kernels(int empty) {
  auto guard = fornax::lock();
  for (int device = 0; device < fornax::settings().devices; device++) fornax::synchronize_device(device);
  fornax::settings().empty_kernels = empty != 0;
}

FORNAX_API void fornax_emulator_set_cuda_versions(int driver, int libraries) {
  auto guard = fornax::lock();
  fornax::settings().driver_version = driver;
  fornax::settings().library_version = libraries;
}

FORNAX_API void fornax_emulator_set_compute_capability(int major, int minor) {
  auto guard = fornax::lock();
  fornax::settings().capability_major = major;
  fornax::settings().capability_minor = minor;
}

FORNAX_API size_t fornax_emulator_live_bytes() {
  auto guard = fornax::lock();
  size_t bytes = 0;
  for (int device = 0; device < fornax::settings().devices; device++) {
    fornax::synchronize_device(device);  // runs queued frees
    bytes += fornax::live_bytes(device);
  }
  return bytes;
}

// Bytes that the kernel has read from and written to device memory in checked mode; false if it never ran in checked mode.
FORNAX_API int fornax_emulator_bytes(const char* kernel, uint64_t* loads, uint64_t* stores) {
  auto guard = fornax::lock();
  for (int device = 0; device < fornax::settings().devices; device++) fornax::synchronize_device(device);
  return fornax::traffic(kernel, loads, stores);
}

}  // extern "C"
