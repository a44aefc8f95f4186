// Checked mode: memory checker and race detector. Blocks run one after the other on one host thread. A race is a pair of
// conflicting accesses that no barrier, warp operation, or fence with an atomic orders, in whichever order this run makes them.
#include "checker.h"

#if defined(__linux__)
#include <link.h>
#endif

#include <cstring>
#include <map>
#include <unordered_map>

#include "block.h"
#include "shadow.h"
#include "traffic.h"

namespace fornax {
namespace {

struct KernelTraffic {
  uint64_t loads = 0, stores = 0;
};
std::map<std::string, KernelTraffic> traffic_by_kernel;

// A __threadfence followed by an atomic is a release of the thread's earlier accesses and, across a barrier, of its block's.
struct Release {
  uint32_t block, thread, epoch;
};
struct Acquire {
  const std::vector<Release>* releases;
  size_t count;
  uint32_t thread, epoch;
};

struct AddressRange {
  uintptr_t low = 0, high = 0;
  bool contains(uintptr_t address) const { return address >= low && address < high; }
};

// State of the current launch.
struct CheckedLaunch {
  uint64_t stamp = 0, block_stamp = 0;
  KernelTraffic* traffic = nullptr;
  AddressRange object, static_shared;
  std::unique_ptr<Shadow> static_shadow, dynamic_shadow;
  std::unordered_map<uintptr_t, std::vector<Release>> releases;
  std::vector<Acquire> acquires;
  Allocation* last_allocation = nullptr;
} checked_launch;

uint64_t last_stamp = 0;

// A compiled source in memory. Its static shared memory is thread-local.
struct LoadedObject {
  uintptr_t address;
  AddressRange image, shared;
  size_t tls_module = 0, tls_bytes = 0;
};

#if defined(__linux__)
struct TlsIndex {
  size_t module, offset;
};
extern "C" void* __tls_get_addr(TlsIndex*);

int find_object(dl_phdr_info* info, size_t, void* data) {
  auto& object = *static_cast<LoadedObject*>(data);
  AddressRange image{~uintptr_t(0), 0};
  size_t tls = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type == PT_TLS) tls = header.p_memsz;
    if (header.p_type != PT_LOAD) continue;
    image.low = std::min<uintptr_t>(image.low, info->dlpi_addr + header.p_vaddr);
    image.high = std::max<uintptr_t>(image.high, info->dlpi_addr + header.p_vaddr + header.p_memsz);
  }
  if (!image.contains(object.address)) return 0;
  object.image = image;
  object.tls_bytes = tls;
  object.tls_module = info->dlpi_tls_modid;
  return 1;
}

LoadedObject loaded_object(uintptr_t address) {
  LoadedObject object{address, {}, {}};
  dl_iterate_phdr(find_object, &object);
  if (object.tls_bytes > 0) {
    TlsIndex index{object.tls_module, 0};
    uintptr_t start = uintptr_t(__tls_get_addr(&index));
    object.shared = {start, start + object.tls_bytes};
  }
  return object;
}
#else
// Not called: checked mode is refused on other systems.
LoadedObject loaded_object(uintptr_t address) { return {address, {}, {}}; }
#endif

// True if the earlier access happens before the current thread's next one.
bool happens_before(const MemoryAccess& before) {
  const Block& block = worker->block;
  const CudaThread& self = *worker->current;
  if (before.block == block.linear_index) {
    if (before.thread == self.linear_index || before.epoch != block.epoch) return true;
    if (before.thread / 32 != self.linear_index / 32) return false;
    const Warp& warp = block.warps[self.linear_index / 32];
    if (warp.last_full_sync > before.sync_count) return true;
    return !warp.last_pair_sync.empty() && warp.last_pair_sync[self.lane * 32 + before.thread % 32] > before.sync_count;
  }
  for (const Acquire& acquire : checked_launch.acquires) {
    if (acquire.thread != self.linear_index && acquire.epoch >= block.epoch) continue;
    for (size_t i = 0; i < acquire.count; i++) {
      const Release& release = (*acquire.releases)[i];
      if (release.block == before.block && (release.thread == before.thread || before.epoch < release.epoch)) return true;
    }
  }
  return false;
}

[[noreturn]] void report_race(const char* space, const char* now, const char* then, const MemoryAccess& other, uintptr_t pc) {
  fail_thread(kLaunchFailed, std::string("data race on ") + space + " memory: this " + now + " and the " + then + " at " +
                                 source_line(other.pc) + " by block " + std::to_string(other.block) + " thread " +
                                 std::to_string(other.thread) + " are not synchronised", source_line(pc));
}

void check_cell(ShadowCell& cell, uint64_t stamp, bool write, bool atomic, const char* space, uintptr_t pc) {
  if (cell.stamp != stamp) {
    cell = {};
    cell.stamp = stamp;
  }
  const char* now = atomic ? "atomic" : write ? "write" : "read";
  if (cell.writer.valid && !(atomic && cell.writer.atomic) && !happens_before(cell.writer)) {
    report_race(space, now, cell.writer.atomic ? "atomic" : "write", cell.writer, pc);
  }
  if (write) {
    for (const MemoryAccess& reader : cell.readers) {
      if (reader.valid && !happens_before(reader)) report_race(space, now, "read", reader, pc);
    }
  }
  const Block& block = worker->block;
  const CudaThread& self = *worker->current;
  unsigned sync_count = block.warps[self.linear_index / 32].sync_count;
  MemoryAccess current{pc, block.linear_index, block.epoch, sync_count, uint16_t(self.linear_index), true, atomic};
  if (write) {
    cell.writer = current;
    return;
  }
  MemoryAccess& first = cell.readers[0];
  if (!first.valid || happens_before(first)) {
    first = current;
  } else if (!cell.readers[1].valid || happens_before(cell.readers[1])) {
    cell.readers[1] = current;
  }
}

void check_range(Shadow& shadow, size_t offset, size_t bytes, uint64_t stamp, bool write, bool atomic, const char* space,
                 uintptr_t pc) {
  if (!write || atomic) {
    for (size_t i = offset; i < offset + bytes; i++) {
      if (shadow.initialised[i]) continue;
      fail_thread(kIllegalAddress, std::string("read of uninitialised ") + space + " memory, byte " + std::to_string(i) +
                                       " of " + std::to_string(shadow.bytes), source_line(pc));
    }
  }
  shadow.refine(offset, bytes);
  for (size_t i = offset / shadow.granule; i * shadow.granule < offset + bytes; i++) {
    check_cell(shadow.cells[i], stamp, write, atomic, space, pc);
  }
  if (write) memset(&shadow.initialised[offset], 1, bytes);
}

void check_access(uintptr_t address, size_t bytes, bool write, bool atomic, size_t alignment, uintptr_t pc) {
  Worker* w = worker;
  if (!w || !w->current || !w->block.launch->checked || bytes == 0) return;
  if (address >= uintptr_t(w->stack.bottom) && address < uintptr_t(w->stack.top)) return;
  uintptr_t registers = uintptr_t(&fornax_device::registers);
  if (address >= registers && address < registers + sizeof(fornax_device::SpecialRegisters)) return;
  if (settings().counted) {
    bool is_shared = (address >= uintptr_t(w->shared) && address < uintptr_t(w->shared) + kMaxShared) ||
                     checked_launch.static_shared.contains(address);
    if (!is_shared && !checked_launch.object.contains(address)) count_access(address, bytes, !write || atomic, write);
    return;
  }
  const char* kind = atomic ? "atomic" : write ? "write" : "read";
  if (address % alignment) {
    fail_thread(kMisalignedAddress, "misaligned " + std::to_string(bytes) + "-byte " + kind, source_line(pc));
  }
  Allocation* allocation = checked_launch.last_allocation;
  if (!allocation || address < allocation->base || address >= allocation->base + allocation->size) {
    uintptr_t dynamic = uintptr_t(fornax_device::registers.dynamic_shared);
    if (address >= uintptr_t(w->shared) && address < uintptr_t(w->shared) + kMaxShared + 4096) {
      size_t size = w->block.launch->shared;
      if (address < dynamic || address + bytes > dynamic + size) {
        fail_thread(kIllegalAddress, std::string("out-of-bounds ") + kind + " of dynamic shared memory: " +
                                         std::to_string(bytes) + " bytes at byte " + std::to_string(int64_t(address - dynamic)) +
                                         " of " + std::to_string(size), source_line(pc));
      }
      check_range(*checked_launch.dynamic_shadow, address - dynamic, bytes, checked_launch.block_stamp, write, atomic, "shared",
                  pc);
      return;
    }
    if (checked_launch.static_shared.contains(address)) {
      check_range(*checked_launch.static_shadow, address - checked_launch.static_shared.low, bytes, checked_launch.block_stamp,
                  write, atomic, "shared", pc);
      return;
    }
    allocation = find_allocation(address);
    if (!allocation && !write && checked_launch.object.contains(address)) return;  // a constant of the source
  }
  if (!allocation || bytes > allocation->base + allocation->size - address) {
    fail_thread(kIllegalAddress, std::string("out-of-bounds ") + kind + ": " + describe_address(address, bytes),
                source_line(pc));
  }
  checked_launch.last_allocation = allocation;
  if (!allocation->shadow) allocation->shadow = make_shadow(allocation->size, true);
  check_range(*allocation->shadow, address - allocation->base, bytes, checked_launch.stamp, write, atomic, "global", pc);
  if (!write || atomic) checked_launch.traffic->loads += bytes;
  if (write) checked_launch.traffic->stores += bytes;
  if (write && !atomic) w->current->fenced = false;
}

}  // namespace

bool shadows_exist = false;

std::unique_ptr<Shadow> make_shadow(size_t bytes, bool initialised) {
  shadows_exist = true;
  return std::make_unique<Shadow>(bytes, initialised);
}

void mark_initialised(Shadow& shadow, size_t offset, size_t bytes) { memset(&shadow.initialised[offset], 1, bytes); }

bool is_initialised(const Shadow& shadow, size_t offset) { return shadow.initialised[offset]; }

void forget_last_allocation() { checked_launch.last_allocation = nullptr; }

void begin_launch(const Launch& launch) {
  checked_launch.stamp = ++last_stamp;
  checked_launch.traffic = &traffic_by_kernel[launch.kernel->name];
  checked_launch.releases.clear();
  checked_launch.last_allocation = nullptr;
  LoadedObject object = loaded_object(launch.object);
  checked_launch.object = object.image;
  checked_launch.static_shared = object.shared;
  checked_launch.static_shadow = make_shadow(object.shared.high - object.shared.low, false);
  checked_launch.dynamic_shadow = make_shadow(launch.shared, false);
}

void begin_block(Worker&) {
  checked_launch.block_stamp = ++last_stamp;
  checked_launch.acquires.clear();
  for (Shadow* shadow : {checked_launch.static_shadow.get(), checked_launch.dynamic_shadow.get()}) {
    std::fill(shadow->initialised.begin(), shadow->initialised.end(), 0);
  }
  const AddressRange& shared = checked_launch.static_shared;
  if (shared.high > shared.low) memset(reinterpret_cast<void*>(shared.low), 0xff, shared.high - shared.low);
}

bool traffic(const std::string& kernel, uint64_t* loads, uint64_t* stores) {
  auto found = traffic_by_kernel.find(kernel);
  if (found == traffic_by_kernel.end()) return false;
  *loads = found->second.loads;
  *stores = found->second.stores;
  return true;
}

}  // namespace fornax

namespace fornax_device {

using namespace fornax;

void thread_fence() { worker->current->fenced = true; }

void atomic_access(void* pointer, unsigned size, const char*, int) {
  Worker* w = worker;
  if (!w || !w->block.launch->checked) return;
  check_access(uintptr_t(pointer), size, true, true, size, uintptr_t(__builtin_return_address(0)));
  const Block& block = w->block;
  const CudaThread& self = *w->current;
  auto& releases = checked_launch.releases[uintptr_t(pointer)];
  if (!releases.empty()) checked_launch.acquires.push_back({&releases, releases.size(), self.linear_index, block.epoch});
  if (self.fenced) releases.push_back({block.linear_index, self.linear_index, block.epoch});
}

}  // namespace fornax_device

// Hook of gcc's -fsanitize=alignment for a misaligned pointer. (The size of an access does not give its alignment: gcc may split
// the access of a struct into its members.)
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
                      "misaligned access: " + std::to_string(uintptr_t(pointer) % alignment) + " bytes past a multiple of " +
                          std::to_string(alignment), fornax::to_string({at->file, int(at->line)}));
}

// Hooks that gcc's -fsanitize=thread calls before each access.
#define FORNAX_TSAN_HOOKS(N)                                                                         \
  FORNAX_API void __tsan_read##N(void* p) {                                                          \
    fornax::check_access(uintptr_t(p), N, false, false, N, uintptr_t(__builtin_return_address(0)));  \
  }                                                                                                  \
  FORNAX_API void __tsan_write##N(void* p) {                                                         \
    fornax::check_access(uintptr_t(p), N, true, false, N, uintptr_t(__builtin_return_address(0)));   \
  }                                                                                                  \
  FORNAX_API void __tsan_volatile_read##N(void* p) {                                                 \
    fornax::check_access(uintptr_t(p), N, false, false, N, uintptr_t(__builtin_return_address(0)));  \
  }                                                                                                  \
  FORNAX_API void __tsan_volatile_write##N(void* p) {                                                \
    fornax::check_access(uintptr_t(p), N, true, false, N, uintptr_t(__builtin_return_address(0)));   \
  }                                                                                                  \
  FORNAX_API void __tsan_unaligned_read##N(void* p) {                                                \
    fornax::check_access(uintptr_t(p), N, false, false, 1, uintptr_t(__builtin_return_address(0)));  \
  }                                                                                                  \
  FORNAX_API void __tsan_unaligned_write##N(void* p) {                                               \
    fornax::check_access(uintptr_t(p), N, true, false, 1, uintptr_t(__builtin_return_address(0)));   \
  }

extern "C" {
FORNAX_TSAN_HOOKS(1)
FORNAX_TSAN_HOOKS(2)
FORNAX_TSAN_HOOKS(4)
FORNAX_TSAN_HOOKS(8)
FORNAX_TSAN_HOOKS(16)
FORNAX_API void __tsan_read_range(void* p, size_t bytes) {
  fornax::check_access(uintptr_t(p), bytes, false, false, 1, uintptr_t(__builtin_return_address(0)));
}
FORNAX_API void __tsan_write_range(void* p, size_t bytes) {
  fornax::check_access(uintptr_t(p), bytes, true, false, 1, uintptr_t(__builtin_return_address(0)));
}
FORNAX_API void __tsan_func_entry(void*) {}
FORNAX_API void __tsan_func_exit() {}
FORNAX_API void __tsan_init() {}
}
