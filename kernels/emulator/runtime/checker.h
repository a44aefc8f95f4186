// Checked mode: every access of a kernel passes here (gcc's -fsanitize=thread calls, answered by functions of ours).
#pragma once
#include <memory>
#include <string>

#include "internal.h"

namespace fornax {

struct Worker;

// What the checker knows about a range of memory. `written`: as if it had been written before.
std::unique_ptr<Shadow> new_shadow(size_t bytes, bool written);
// Whether any was made since forget_shadows.
extern bool shadows_made;
void mark_written(Shadow& shadow, size_t offset, size_t bytes);
bool is_written(const Shadow& shadow, size_t offset);
// The checker remembers the allocation it saw last; one has gone.
void forget_last_allocation();

void begin_launch(const Launch& launch);
void begin_block(Worker& worker);

// "kernels/cu/pool.cu:77" for an address of a compiled kernel (a return address: the call before it), with the inlined callers.
std::string source_line(uintptr_t return_address);

// Bytes read from and written to device memory by a kernel of this name.
bool traffic(const std::string& kernel, uint64_t* loads, uint64_t* stores);

}  // namespace fornax
