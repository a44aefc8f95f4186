// Interface between a compiled kernel and the runtime. Includes no standard headers, since kernels include this file.
#pragma once

// Thread-local variables of the runtime at a fixed offset, so that an access takes one instruction.
#if defined(__APPLE__)
#define FORNAX_STATIC_TLS  // Mach-O has one model of thread-local variables
#else
#define FORNAX_STATIC_TLS __attribute__((tls_model("initial-exec")))
#endif

namespace fornax_device {

struct Index {
  unsigned x, y, z;
};

// Special registers of the CUDA thread that runs on this host thread.
struct SpecialRegisters {
  Index thread, block, block_dim, grid_dim;
  unsigned char* dynamic_shared;
};

// A __global__ function. `call` takes an array of pointers to the arguments, like cuLaunchKernel.
struct Kernel {
  const char* name;
  void (*call)(void** arguments);
  const unsigned* sizes;
  const unsigned* alignments;
  unsigned parameters;
  unsigned max_threads;  // __launch_bounds__, or 1024
};

enum class Barrier { Plain, Count, And, Or };
enum class Shuffle { Index, Up, Down, Xor };

#pragma GCC visibility push(default)
extern __thread SpecialRegisters registers FORNAX_STATIC_TLS;

int block_barrier(int predicate, Barrier kind, const char* file, int line);
void warp_barrier(unsigned mask, const char* file, int line);
unsigned ballot(unsigned mask, int predicate, const char* file, int line);
unsigned active_lanes();
// Exchanges up to 8 bytes with another lane.
unsigned long long shuffle(unsigned mask, unsigned long long value, Shuffle kind, int argument, int width, const char* file,
                           int line);
void thread_fence();
void atomic_access(void* pointer, unsigned size, const char* file, int line);
#pragma GCC visibility pop

}  // namespace fornax_device
