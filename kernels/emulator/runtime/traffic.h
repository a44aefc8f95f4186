// Counted mode: executions of each kernel and library call, and the distinct bytes of device memory that they read and write.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace fornax {

// Counts one execution, unless counted mode is off, and returns the entry that was counted before; `end_counted_work` restores it, and
// takes the execution back if the work is not done.
void* begin_counted_work(const std::string& name);
void end_counted_work(void* before, bool done);

// Adds bytes of the current work, each of which counts once per execution (count_access), or which are known to be distinct.
void count_access(uintptr_t address, size_t bytes, bool reads, bool writes);
void count_range(size_t bytes, bool reads, bool writes);

}  // namespace fornax
