// Checked mode: instrumented accesses of kernels. gcc's -fsanitize=thread inserts the calls; the checker defines the hooks.
#pragma once
#include <memory>
#include <string>

#include "internal.h"

namespace fornax {

struct Worker;

// Shadow memory of a range, which is initialised or not.
std::unique_ptr<Shadow> make_shadow(size_t bytes, bool initialised);
// True if shadow memory was made since the last discard_shadows.
extern bool shadows_exist;
void mark_initialised(Shadow& shadow, size_t offset, size_t bytes);
bool is_initialised(const Shadow& shadow, size_t offset);
// Clears the checker's cache of the last allocation; call it after a free.
void forget_last_allocation();

void begin_launch(const Launch& launch);
void begin_block(Worker& worker);

// Source line of a call in a compiled kernel, given its return address, such as "kernels/cu/pool/pool.cu:77", with inlined callers.
std::string source_line(uintptr_t return_address);

// Bytes that the kernel of this name has read from and written to device memory; false if it never ran in checked mode.
bool traffic(const std::string& kernel, uint64_t* loads, uint64_t* stores);

}  // namespace fornax
