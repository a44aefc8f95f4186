// cuGetProcAddress, for clients that do not link to the driver.
#include <dlfcn.h>

#include "driver.h"

CU_API cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* status) {
  Dl_info self;
  *function = nullptr;
  if (dladdr(reinterpret_cast<void*>(&cuGetProcAddress_v2), &self)) {
    if (void* library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD)) {
      std::string newest[] = {std::string(name) + "_v4", std::string(name) + "_v3", std::string(name) + "_v2", name};
      for (const std::string& candidate : newest) {
        if (!*function) *function = dlsym(library, candidate.c_str());
      }
      dlclose(library);
    }
  }
  if (status) *status = *function ? 0 : 1;
  return *function ? fornax::kSuccess : fornax::kNotFound;
}
