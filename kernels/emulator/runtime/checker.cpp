// Checked mode. Blocks run one after the other on one processor thread; a race is a pair of accesses that no barrier, warp
// operation, or fence with an atomic puts in order, whether or not this run's order of threads shows it.
#include "checker.h"

#include <link.h>

#include <cstring>
#include <map>
#include <unordered_map>

#include "block.h"
#include "shadow.h"

namespace fornax {
namespace {

struct Traffic {
  uint64_t loads = 0, stores = 0;
};
std::map<std::string, Traffic> totals;

// A __threadfence and then an atomic publish what the thread (and, across a barrier, its block) did before.
struct Release {
  uint32_t block, thread, epoch;
};
struct Acquire {
  const std::vector<Release>* releases;
  size_t count;
  uint32_t thread, epoch;
};

struct Range {
  uintptr_t low = 0, high = 0;
  bool holds(uintptr_t address) const { return address >= low && address < high; }
};

// The state of the launch that is checked now.
struct Checking {
  uint64_t stamp = 0, block_stamp = 0;
  Traffic* traffic = nullptr;
  Range object, static_shared;
  std::unique_ptr<Shadow> static_shadow, dynamic_shadow;
  std::unordered_map<uintptr_t, std::vector<Release>> releases;
  std::vector<Acquire> acquires;
  Allocation* last = nullptr;
} checking;

uint64_t stamps = 0;

struct ObjectPlace {
  uintptr_t inside;
  Range image;
  size_t tls_module = 0, tls_bytes = 0;
};

int find_object(dl_phdr_info* info, size_t, void* data) {
  auto& place = *static_cast<ObjectPlace*>(data);
  Range image{~uintptr_t(0), 0};
  size_t tls = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type == PT_TLS) tls = header.p_memsz;
    if (header.p_type != PT_LOAD) continue;
    image.low = std::min<uintptr_t>(image.low, info->dlpi_addr + header.p_vaddr);
    image.high = std::max<uintptr_t>(image.high, info->dlpi_addr + header.p_vaddr + header.p_memsz);
  }
  if (!image.holds(place.inside)) return 0;
  place.image = image;
  place.tls_bytes = tls;
  place.tls_module = info->dlpi_tls_modid;
  return 1;
}

struct TlsIndex {
  size_t module, offset;
};
extern "C" void* __tls_get_addr(TlsIndex*);

// Whether an earlier access happens before one of the current thread.
bool ordered(const Accessor& before) {
  const Block& block = worker->block;
  const Thread& self = *worker->current;
  if (before.block == block.number) {
    if (before.thread == self.flat || before.epoch != block.epoch) return true;
    if (before.thread / 32 != self.flat / 32) return false;
    const Warp& warp = block.warps[self.flat / 32];
    if (warp.all_met > before.generation) return true;
    return !warp.met.empty() && warp.met[self.lane * 32 + before.thread % 32] > before.generation;
  }
  for (const Acquire& acquire : checking.acquires) {
    if (acquire.thread != self.flat && acquire.epoch >= block.epoch) continue;
    for (size_t i = 0; i < acquire.count; i++) {
      const Release& release = (*acquire.releases)[i];
      if (release.block == before.block && (release.thread == before.thread || before.epoch < release.epoch)) return true;
    }
  }
  return false;
}

[[noreturn]] void report_race(const char* space, const char* now, const char* then, const Accessor& other, uintptr_t pc) {
  fail_thread(kLaunchFailed, std::string("data race on ") + space + " memory: this " + now + " and the " + then + " at " +
                                 source_line(other.pc) + " by block " + std::to_string(other.block) + " thread " +
                                 std::to_string(other.thread) + " are not ordered by a barrier", source_line(pc));
}

void touch(Cell& cell, uint64_t stamp, bool write, bool atomic, const char* space, uintptr_t pc) {
  if (cell.stamp != stamp) {
    cell = {};
    cell.stamp = stamp;
  }
  const char* now = atomic ? "atomic" : write ? "write" : "read";
  if (cell.writer.valid && !(atomic && cell.writer.atomic) && !ordered(cell.writer)) {
    report_race(space, now, cell.writer.atomic ? "atomic" : "write", cell.writer, pc);
  }
  if (write) {
    for (const Accessor& reader : cell.readers) {
      if (reader.valid && !ordered(reader)) report_race(space, now, "read", reader, pc);
    }
  }
  const Block& block = worker->block;
  const Thread& self = *worker->current;
  Accessor me{pc, block.number, block.epoch, block.warps[self.flat / 32].generation, uint16_t(self.flat), true, atomic};
  if (write) {
    cell.writer = me;
    return;
  }
  Accessor& first = cell.readers[0];
  if (!first.valid || ordered(first)) {
    first = me;
  } else if (!cell.readers[1].valid || ordered(cell.readers[1])) {
    cell.readers[1] = me;
  }
}

void check_range(Shadow& shadow, size_t offset, size_t bytes, uint64_t stamp, bool write, bool atomic, const char* space,
                 uintptr_t pc) {
  if (!write || atomic) {
    for (size_t i = offset; i < offset + bytes; i++) {
      if (shadow.written[i]) continue;
      fail_thread(kIllegalAddress, std::string("read of uninitialised ") + space + " memory, byte " + std::to_string(i) +
                                       " of " + std::to_string(shadow.bytes), source_line(pc));
    }
  }
  shadow.refine(offset, bytes);
  for (size_t i = offset / shadow.granule; i * shadow.granule < offset + bytes; i++) {
    touch(shadow.cells[i], stamp, write, atomic, space, pc);
  }
  if (write) memset(&shadow.written[offset], 1, bytes);
}

void access(uintptr_t address, size_t bytes, bool write, bool atomic, size_t alignment, uintptr_t pc) {
  Worker* w = worker;
  if (!w || !w->current || !w->block.launch->checked || bytes == 0) return;
  if (address >= uintptr_t(w->stack.bottom) && address < uintptr_t(w->stack.top)) return;
  uintptr_t registers = uintptr_t(&fornax_device::registers);
  if (address >= registers && address < registers + sizeof(fornax_device::Registers)) return;
  const char* kind = atomic ? "atomic" : write ? "write" : "read";
  if (address % alignment) {
    fail_thread(kMisalignedAddress, "misaligned " + std::to_string(bytes) + "-byte " + kind, source_line(pc));
  }
  Allocation* allocation = checking.last;
  if (!allocation || address < allocation->base || address >= allocation->base + allocation->size) {
    uintptr_t dynamic = uintptr_t(fornax_device::registers.dynamic_shared);
    if (address >= uintptr_t(w->shared) && address < uintptr_t(w->shared) + kMaxShared + 4096) {
      size_t size = w->block.launch->shared;
      if (address < dynamic || address + bytes > dynamic + size) {
        fail_thread(kIllegalAddress, std::string("out-of-bounds ") + kind + " of dynamic shared memory: " +
                                         std::to_string(bytes) + " bytes at byte " + std::to_string(int64_t(address - dynamic)) +
                                         " of " + std::to_string(size), source_line(pc));
      }
      check_range(*checking.dynamic_shadow, address - dynamic, bytes, checking.block_stamp, write, atomic, "shared", pc);
      return;
    }
    if (checking.static_shared.holds(address)) {
      check_range(*checking.static_shadow, address - checking.static_shared.low, bytes, checking.block_stamp, write, atomic,
                  "shared", pc);
      return;
    }
    allocation = find_allocation(address);
    if (!allocation && !write && checking.object.holds(address)) return;  // a constant of the source
  }
  if (!allocation || bytes > allocation->base + allocation->size - address) {
    fail_thread(kIllegalAddress, std::string("out-of-bounds ") + kind + ": " + describe_address(address, bytes),
                source_line(pc));
  }
  checking.last = allocation;
  if (!allocation->shadow) allocation->shadow = new_shadow(allocation->size, true);
  check_range(*allocation->shadow, address - allocation->base, bytes, checking.stamp, write, atomic, "global", pc);
  if (!write || atomic) checking.traffic->loads += bytes;
  if (write) checking.traffic->stores += bytes;
  if (write && !atomic) w->current->fenced = false;
}

}  // namespace

bool shadows_made = false;

std::unique_ptr<Shadow> new_shadow(size_t bytes, bool written) {
  shadows_made = true;
  return std::make_unique<Shadow>(bytes, written);
}

void mark_written(Shadow& shadow, size_t offset, size_t bytes) { memset(&shadow.written[offset], 1, bytes); }

bool is_written(const Shadow& shadow, size_t offset) { return shadow.written[offset]; }

void forget_last_allocation() { checking.last = nullptr; }

void begin_launch(const Launch& launch) {
  checking.stamp = ++stamps;
  checking.traffic = &totals[launch.kernel->name];
  checking.releases.clear();
  checking.last = nullptr;
  ObjectPlace place{launch.object, {}};
  dl_iterate_phdr(find_object, &place);
  checking.object = place.image;
  checking.static_shared = {};
  if (place.tls_bytes > 0) {
    TlsIndex index{place.tls_module, 0};
    uintptr_t start = uintptr_t(__tls_get_addr(&index));
    checking.static_shared = {start, start + place.tls_bytes};
  }
  checking.static_shadow = new_shadow(place.tls_bytes, false);
  checking.dynamic_shadow = new_shadow(launch.shared, false);
}

void begin_block(Worker&) {
  checking.block_stamp = ++stamps;
  checking.acquires.clear();
  for (Shadow* shadow : {checking.static_shadow.get(), checking.dynamic_shadow.get()}) {
    std::fill(shadow->written.begin(), shadow->written.end(), 0);
  }
  const Range& shared = checking.static_shared;
  if (shared.high > shared.low) memset(reinterpret_cast<void*>(shared.low), 0xff, shared.high - shared.low);
}

bool traffic(const std::string& kernel, uint64_t* loads, uint64_t* stores) {
  auto found = totals.find(kernel);
  if (found == totals.end()) return false;
  *loads = found->second.loads;
  *stores = found->second.stores;
  return true;
}

}  // namespace fornax

namespace fornax_device {

using namespace fornax;

void fence() { worker->current->fenced = true; }

void atomic_access(void* pointer, unsigned size, const char*, int) {
  Worker* w = worker;
  if (!w || !w->block.launch->checked) return;
  access(uintptr_t(pointer), size, true, true, size, uintptr_t(__builtin_return_address(0)));
  const Block& block = w->block;
  const Thread& self = *w->current;
  auto& releases = checking.releases[uintptr_t(pointer)];
  if (!releases.empty()) checking.acquires.push_back({&releases, releases.size(), self.flat, block.epoch});
  if (self.fenced) releases.push_back({block.number, self.flat, block.epoch});
}

}  // namespace fornax_device

// What gcc calls under -fsanitize=alignment where a pointer is not a multiple of its type's alignment. (The size of an access is
// not enough: one of a struct may have been split into its members.)
struct TypeMismatch {
  const char* file;
  unsigned line, column;
  const void* type;
  unsigned char log_alignment, kind;
};

extern "C" FORNAX_API void __ubsan_handle_type_mismatch_v1(const TypeMismatch* at, void* pointer) {
  if (!fornax::worker || !fornax::worker->current) return;
  unsigned alignment = 1u << at->log_alignment;
  fornax::fail_thread(fornax::kMisalignedAddress,
                      "misaligned access: " + std::to_string(uintptr_t(pointer) % alignment) + " bytes behind a multiple of " +
                          std::to_string(alignment), fornax::to_string({at->file, int(at->line)}));
}

// What gcc calls before each access under -fsanitize=thread.
#define FORNAX_CALL_OUTS(N)                                                                                                \
  FORNAX_API void __tsan_read##N(void* p) {                                                                                \
    fornax::access(uintptr_t(p), N, false, false, N, uintptr_t(__builtin_return_address(0)));                              \
  }                                                                                                                        \
  FORNAX_API void __tsan_write##N(void* p) {                                                                               \
    fornax::access(uintptr_t(p), N, true, false, N, uintptr_t(__builtin_return_address(0)));                               \
  }                                                                                                                        \
  FORNAX_API void __tsan_volatile_read##N(void* p) {                                                                       \
    fornax::access(uintptr_t(p), N, false, false, N, uintptr_t(__builtin_return_address(0)));                              \
  }                                                                                                                        \
  FORNAX_API void __tsan_volatile_write##N(void* p) {                                                                      \
    fornax::access(uintptr_t(p), N, true, false, N, uintptr_t(__builtin_return_address(0)));                               \
  }                                                                                                                        \
  FORNAX_API void __tsan_unaligned_read##N(void* p) {                                                                      \
    fornax::access(uintptr_t(p), N, false, false, 1, uintptr_t(__builtin_return_address(0)));                              \
  }                                                                                                                        \
  FORNAX_API void __tsan_unaligned_write##N(void* p) {                                                                     \
    fornax::access(uintptr_t(p), N, true, false, 1, uintptr_t(__builtin_return_address(0)));                               \
  }

extern "C" {
FORNAX_CALL_OUTS(1)
FORNAX_CALL_OUTS(2)
FORNAX_CALL_OUTS(4)
FORNAX_CALL_OUTS(8)
FORNAX_CALL_OUTS(16)
FORNAX_API void __tsan_read_range(void* p, size_t bytes) {
  fornax::access(uintptr_t(p), bytes, false, false, 1, uintptr_t(__builtin_return_address(0)));
}
FORNAX_API void __tsan_write_range(void* p, size_t bytes) {
  fornax::access(uintptr_t(p), bytes, true, false, 1, uintptr_t(__builtin_return_address(0)));
}
FORNAX_API void __tsan_func_entry(void*) {}
FORNAX_API void __tsan_func_exit() {}
FORNAX_API void __tsan_init() {}
}
