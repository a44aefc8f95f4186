// libnvrtc-builtins of the emulated device: a library that NVRTC finds by its name alone when it compiles, and that is not loaded with it.
#include "../runtime/internal.h"

extern "C" FORNAX_API int fornax_emulator_builtins() { return 1; }
