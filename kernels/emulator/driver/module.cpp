// Modules, functions and launches.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "driver.h"

namespace fornax {
namespace {

// Registers per thread and bytes of static shared memory of a kernel on sm_90.
struct KernelResources {
  const char* name;
  unsigned registers, shared;
};

constexpr KernelResources kKernelResources[] = {
#include "kernel_resources.h"
};

// Kernels of generated and of other sources are assumed to have the registers of a median kernel, and to use no static shared memory unless
// they are alone in their source.
KernelResources resources_of(const fornax_device::Kernel& kernel, const SharedObject& object) {
  for (const KernelResources& known : kKernelResources) {
    if (strcmp(known.name, kernel.name) == 0) return known;
  }
  return {kernel.name, 40, object.count == 1 ? unsigned(object.static_shared) : 0};
}

struct Function {
  const fornax_device::Kernel* kernel;
  std::shared_ptr<SharedObject> object;
  KernelResources resources;
  unsigned max_dynamic_shared;  // until cuFuncSetAttribute: the default limit less the static shared memory
};

struct Module {
  std::shared_ptr<SharedObject> object;
  std::map<std::string, std::unique_ptr<Function>> functions;
};

// Offset of a parameter in the argument buffer.
size_t parameter_offset(const fornax_device::Kernel& kernel, size_t index) {
  size_t offset = 0;
  for (size_t i = 0;; i++) {
    offset = (offset + kernel.alignments[i] - 1) / kernel.alignments[i] * kernel.alignments[i];
    if (i == index) return offset;
    offset += kernel.sizes[i];
  }
}

size_t parameter_bytes(const fornax_device::Kernel& kernel) {
  if (kernel.parameters == 0) return 0;
  return parameter_offset(kernel, kernel.parameters - 1) + kernel.sizes[kernel.parameters - 1];
}

std::string triple(const Dim& d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

Result check_launch(const Function& function, const Dim& grid, const Dim& block, unsigned shared) {
  std::string name = "launch of " + std::string(function.kernel->name) + ": ";
  uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > kMaxBlockThreads || block.z > 64) {
    return reject(kInvalidValue, name + "invalid block of " + triple(block) + " threads; a block has at most " +
                                     std::to_string(kMaxBlockThreads));
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return reject(kInvalidValue, name + "invalid grid of " + triple(grid) + " blocks");
  }
  if (threads > function.kernel->max_threads) {
    return reject(kLaunchOutOfResources, name + std::to_string(threads) + " threads per block, but its launch bound is " +
                                             std::to_string(function.kernel->max_threads));
  }
  if (shared > function.max_dynamic_shared) {
    return reject(kInvalidValue, name + std::to_string(shared) + " bytes of dynamic shared memory, but its limit is " +
                                     std::to_string(function.max_dynamic_shared));
  }
  return kSuccess;
}

// Copy of a launch's arguments.
struct Arguments {
  std::vector<std::vector<unsigned char>> values;
  std::vector<void*> pointers;
};

std::shared_ptr<Arguments> copy_arguments(const fornax_device::Kernel& kernel, void** parameters, const unsigned char* buffer) {
  auto copy = std::make_shared<Arguments>();
  for (unsigned i = 0; i < kernel.parameters; i++) {
    const auto* from = buffer ? buffer + parameter_offset(kernel, i) : static_cast<const unsigned char*>(parameters[i]);
    copy->values.emplace_back(from, from + kernel.sizes[i]);
  }
  for (auto& value : copy->values) copy->pointers.push_back(value.data());
  return copy;
}

// Finds the argument buffer in `extra` (key, value, …, null). Its size must be that of the parameters.
Result read_argument_buffer(const fornax_device::Kernel& kernel, void** extra, const unsigned char** buffer) {
  size_t bytes = 0;
  for (; *extra; extra += 2) {
    if (extra[0] == reinterpret_cast<void*>(1)) *buffer = static_cast<const unsigned char*>(extra[1]);
    if (extra[0] == reinterpret_cast<void*>(2)) bytes = *static_cast<size_t*>(extra[1]);
  }
  if (*buffer && bytes == parameter_bytes(kernel)) return kSuccess;
  return reject(kInvalidValue, "launch of " + std::string(kernel.name) + ": " + std::to_string(bytes) +
                                   " bytes of arguments, but its parameters take " + std::to_string(parameter_bytes(kernel)));
}

Result load(Module** module, const ProgramSource& source) {
  std::string log;
  std::shared_ptr<SharedObject> object = load_object(source, &log);
  if (!object) return reject(kInvalidImage, "module " + source.name + " cannot be loaded: " + log);
  for (unsigned i = 0; i < object->count; i++) {
    size_t bytes = parameter_bytes(object->kernels[i]);
    if (bytes <= kMaxParameterBytes) continue;
    return reject(kInvalidPtx, "module " + source.name + " cannot be loaded: kernel " + object->kernels[i].name + " has " +
                                   std::to_string(bytes) + " bytes of parameters, but at most " +
                                   std::to_string(kMaxParameterBytes) + " are possible");
  }
  *module = new Module{object, {}};
  return kSuccess;
}

// Blocks of sm_90 that are resident at once. A warp's registers are allocated in units of 256 from one of four register files, shared
// memory in units of 128 bytes with 1 KiB more per block.
unsigned blocks_per_multiprocessor(const Function& function, int threads, size_t shared) {
  if (threads <= 0 || threads > int(kMaxBlockThreads) || shared > function.max_dynamic_shared) return 0;
  const unsigned warps = (unsigned(threads) + 31) / 32;
  const unsigned warp_registers = (function.resources.registers * 32 + 255) / 256 * 256;
  const unsigned by_registers = 4 * (16384 / warp_registers) / warps;
  const size_t block_shared = (function.resources.shared + shared + 127) / 128 * 128 + (1 << 10);
  return std::min<unsigned>({32u, 64u / warps, by_registers, unsigned((228 << 10) / block_shared)});
}

}  // namespace
}  // namespace fornax

using namespace fornax;

CU_API cuModuleLoadData(Module** module, const void* image) {
  ON_DEVICE(device);
  if (Result result = reject_in_capture("cuModuleLoadData")) return result;
  ProgramSource source;
  if (!from_image(image, &source)) {
    return reject(kInvalidImage, "the emulated device loads only images compiled by its own NVRTC");
  }
  return load(module, source);
}
CU_API cuModuleLoadDataEx(Module** module, const void* image, unsigned, void*, void**) { return cuModuleLoadData(module, image); }
CU_API cuModuleLoadFatBinary(Module** module, const void* image) { return cuModuleLoadData(module, image); }

CU_API cuModuleLoad(Module** module, const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return reject(kFileNotFound, std::string("no file ") + path);
  std::ostringstream image;
  image << file.rdbuf();
  return cuModuleLoadData(module, image.str().c_str());
}

CU_API cuModuleUnload(Module* module) {
  auto guard = lock();
  if (Result result = reject_in_capture("cuModuleUnload")) return result;
  delete module;  // queued launches own its object
  return kSuccess;
}

// With lazy loading, the driver's default, this loads the kernel.
CU_API cuModuleGetFunction(Function** function, Module* module, const char* name) {
  auto guard = lock();
  if (Result result = reject_in_capture("cuModuleGetFunction")) return result;
  const SharedObject& object = *module->object;
  for (unsigned i = 0; i < object.count; i++) {
    if (strcmp(object.kernels[i].name, name) != 0) continue;
    auto& known = module->functions[name];
    if (!known) {
      const KernelResources resources = resources_of(object.kernels[i], object);
      known.reset(new Function{&object.kernels[i], module->object, resources, kDefaultShared - resources.shared});
    }
    *function = known.get();
    return kSuccess;
  }
  return reject(kNotFound, std::string("the module has no kernel ") + name);
}

CU_API cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, Module*, const char* name) {
  return reject(kNotFound, std::string("modules of the emulated device have no global ") + name);
}

CU_API cuModuleGetFunctionCount(unsigned* count, Module* module) {
  *count = module->object->count;
  return kSuccess;
}

CU_API cuFuncGetName(const char** name, Function* function) {
  *name = function->kernel->name;
  return kSuccess;
}

CU_API cuFuncGetAttribute(int* value, int attribute, Function* function) {
  switch (attribute) {
    case 0: *value = int(function->kernel->max_threads); break;  // MAX_THREADS_PER_BLOCK
    case 1: *value = int(function->resources.shared); break;     // SHARED_SIZE_BYTES
    case 4: *value = int(function->resources.registers); break;  // NUM_REGS
    case 5: case 6: *value = 90; break;                          // PTX_VERSION, BINARY_VERSION
    case 8: *value = int(function->max_dynamic_shared); break;   // MAX_DYNAMIC_SHARED_SIZE_BYTES
    default: *value = 0;
  }
  return kSuccess;
}

CU_API cuFuncSetAttribute(Function* function, int attribute, int value) {
  auto guard = lock();
  if (attribute != 8) return kSuccess;
  const unsigned limit = kMaxShared - function->resources.shared;
  if (value < 0 || unsigned(value) > limit) {
    return reject(kInvalidValue, std::to_string(value) + " bytes of dynamic shared memory, but a block has at most " +
                                     std::to_string(limit) + " in addition to its static shared memory");
  }
  function->max_dynamic_shared = unsigned(value);
  return kSuccess;
}
CU_API cuFuncSetCacheConfig(Function*, int) { return kSuccess; }

CU_API cuFuncGetParamInfo(Function* function, size_t index, size_t* offset, size_t* size) {
  SINCE_CUDA(12040, "cuFuncGetParamInfo");
  const fornax_device::Kernel& kernel = *function->kernel;
  if (index >= kernel.parameters) return kInvalidValue;
  if (offset) *offset = parameter_offset(kernel, index);
  if (size) *size = kernel.sizes[index];
  return kSuccess;
}

CU_API cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                      unsigned block_z, unsigned shared, CUstream stream, void** parameters, void** extra) {
  ON_DEVICE(device);
  const fornax_device::Kernel& kernel = *function->kernel;
  Launch launch{&kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, function->object->checked,
                uintptr_t(kernel.call)};
  if (Result result = check_launch(*function, launch.grid, launch.block, shared)) return result;
  const unsigned char* buffer = nullptr;
  if (!parameters && extra) {
    if (Result result = read_argument_buffer(kernel, extra, &buffer)) return result;
  } else if (!parameters && kernel.parameters > 0) {
    return reject(kInvalidValue, "launch of " + std::string(kernel.name) + ": no arguments");
  }
  int on = device_of(stream);
  std::shared_ptr<Arguments> arguments = copy_arguments(kernel, parameters, buffer);
  std::shared_ptr<SharedObject> object = function->object;
  // Fornax's convolution takes the time of cuDNN's stand-ins, so that few runs are timed.
  const double seconds = strncmp(kernel.name, "pointwise_data_gradient", 23) == 0 ? 24e-5 : 0;
  return submit(stream, {kernel.name, [=] {
                           run_kernel(on, launch, arguments->pointers.data());
                           advance_clock(seconds);
                           (void)object;
                         }});
}

CU_API cuLaunchCooperativeKernel(Function* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                                 void**) {
  return reject(kNotSupported, std::string("cooperative launch of ") + function->kernel->name);
}

// ---- occupancy
CU_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int threads, size_t shared) {
  *blocks = int(blocks_per_multiprocessor(*function, threads, shared));
  return kSuccess;
}
CU_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, Function* function, int threads, size_t shared, unsigned) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}
CU_API cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, Function* function, int blocks, int) {
  *bytes = std::min<size_t>(function->max_dynamic_shared, (228 << 10) / size_t(std::max(blocks, 1)) - (1 << 10));
  return kSuccess;
}
CU_API cuOccupancyMaxPotentialBlockSize(int* grid, int* block, Function* function, size_t (*shared_of)(int), size_t shared, int limit) {
  int most = int(function->kernel->max_threads);
  *block = limit > 0 ? std::min(limit, most) : most;
  *grid = 4 * int(blocks_per_multiprocessor(*function, *block, shared_of ? shared_of(*block) : shared));
  return kSuccess;
}
CU_API cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, Function* function, size_t (*shared_of)(int), size_t shared,
                                                 int limit, unsigned) {
  return cuOccupancyMaxPotentialBlockSize(grid, block, function, shared_of, shared, limit);
}
