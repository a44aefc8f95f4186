// Kernels on host memory, without a device: the CPU runs the text of a CUDA kernel. Nothing is queued, and the driver is not involved.
#include <cstring>

#include "internal.h"

namespace fornax {
namespace {

struct HostKernel {
  std::shared_ptr<SharedObject> object;
  const fornax_device::Kernel* kernel;
};

}  // namespace
}  // namespace fornax

extern "C" {

// Compiles a source, or finds it in the cache, and returns its kernel of that name, which is never unloaded. Null and a message of the last
// error if that fails.
FORNAX_API void* fornax_emulator_load_host_kernel(const char* file, const char* text, int count, const char* const* names,
                                                  const char* const* headers, const char* kernel) {
  fornax::ProgramSource source;
  source.name = file;
  source.text = text;
  for (int i = 0; i < count; i++) source.headers.emplace_back(names[i], headers[i]);
  source.options = {"-DNDEBUG"};
  std::string log;
  std::shared_ptr<fornax::SharedObject> object = fornax::load_object(source, false, &log);
  if (!object) {
    fornax::set_last_error(log);
    return nullptr;
  }
  for (unsigned i = 0; i < object->count; i++) {
    if (strcmp(object->kernels[i].name, kernel) == 0) return new fornax::HostKernel{object, &object->kernels[i]};
  }
  fornax::set_last_error("the source has no kernel " + std::string(kernel));
  return nullptr;
}

// Runs a kernel to its end. Returns 0 and sets the message of the last error if the arguments differ from the parameters in number or size,
// or if the kernel fails.
FORNAX_API int fornax_emulator_run_host_kernel(void* handle, const unsigned* grid, const unsigned* block, unsigned shared, unsigned count,
                                               const unsigned* sizes, void** arguments) {
  const auto& loaded = *static_cast<fornax::HostKernel*>(handle);
  const fornax_device::Kernel& kernel = *loaded.kernel;
  bool fits = count == kernel.parameters && memcmp(sizes, kernel.sizes, count * sizeof(unsigned)) == 0;
  if (!fits) {
    fornax::set_last_error("the kernel has " + std::to_string(kernel.parameters) + " parameters, and the launch " +
                           std::to_string(count) + " arguments, or their sizes differ");
    return 0;
  }
  if (block[0] * block[1] * block[2] > kernel.max_threads) {
    fornax::set_last_error("the kernel has a launch bound of " + std::to_string(kernel.max_threads) + " threads per block");
    return 0;
  }
  auto guard = fornax::lock();
  fornax::Launch launch{loaded.kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared, false,
                        uintptr_t(kernel.call)};
  fornax::run_kernel(fornax::kHost, launch, arguments);
  return fornax::sticky_error(fornax::kHost) == fornax::kSuccess;
}

}  // extern "C"
