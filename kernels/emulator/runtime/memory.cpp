// Device memory: each allocation is a separate mapping between two guard pages and ends at the second one.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "checker.h"
#include "internal.h"
#include "shadow.h"
#include "traffic.h"

namespace fornax {
namespace {

constexpr size_t kAlignment = 256;
constexpr unsigned char kPoison = 0xff;

std::map<uintptr_t, Allocation> allocations;             // by base
std::map<size_t, std::vector<uintptr_t>> free_mappings;  // mappings for reuse, by length
size_t live[kMaxDevices];
uint64_t allocation_count = 0;

size_t page() {
  static const size_t size = size_t(sysconf(_SC_PAGESIZE));
  return size;
}

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

uintptr_t take_mapping(size_t length) {
  auto& spare = free_mappings[length];
  if (!spare.empty()) {
    uintptr_t map = spare.back();
    spare.pop_back();
    return map;
  }
  void* map = mmap(nullptr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return 0;
  uintptr_t start = reinterpret_cast<uintptr_t>(map);
  if (mprotect(reinterpret_cast<void*>(start + page()), length - 2 * page(), PROT_READ | PROT_WRITE) != 0) {
    munmap(map, length);
    return 0;
  }
  return start;
}

}  // namespace

Allocation::Allocation() = default;
Allocation::Allocation(Allocation&&) = default;
Allocation::~Allocation() = default;

uintptr_t allocate(int device, size_t bytes) {
  if (bytes > kDeviceMemory || live[device] + bytes > kDeviceMemory) synchronize_device(device);  // runs queued frees
  if (bytes > kDeviceMemory || live[device] + bytes > kDeviceMemory) return 0;
  Allocation allocation;
  size_t padded = round_up(bytes ? bytes : 1, kAlignment);
  allocation.mapping_bytes = round_up(padded, page()) + 2 * page();
  allocation.mapping = take_mapping(allocation.mapping_bytes);
  if (allocation.mapping == 0) return 0;
  allocation.base = allocation.mapping + allocation.mapping_bytes - page() - padded;
  allocation.size = bytes;
  allocation.device = device;
  allocation.number = ++allocation_count;
  poison(allocation);
  live[device] += bytes;
  uintptr_t base = allocation.base;
  allocations.emplace(base, std::move(allocation));
  return base;
}

void poison(Allocation& allocation) {
  size_t padded = round_up(allocation.size ? allocation.size : 1, kAlignment);
  memset(reinterpret_cast<void*>(allocation.base), kPoison, padded);
  allocation.shadow = settings().checked ? make_shadow(allocation.size, false) : nullptr;
}

bool free_memory(uintptr_t base) {
  auto found = allocations.find(base);
  if (found == allocations.end()) return false;
  Allocation& allocation = found->second;
  size_t padded = round_up(allocation.size ? allocation.size : 1, kAlignment);
  const auto* bytes = reinterpret_cast<unsigned char*>(base);
  for (size_t i = allocation.size; i < padded; i++) {
    if (bytes[i] == kPoison) continue;
    set_sticky_error(allocation.device, kIllegalAddress,
          "out-of-bounds write past the end of device buffer number " + std::to_string(allocation.number) + " of " +
              std::to_string(allocation.size) + " bytes");
    break;
  }
  memset(reinterpret_cast<void*>(base), kPoison, padded);
  live[allocation.device] -= allocation.size;
  if (allocation.mapping_bytes > (size_t(256) << 20)) {
    munmap(reinterpret_cast<void*>(allocation.mapping), allocation.mapping_bytes);
  } else {
    free_mappings[allocation.mapping_bytes].push_back(allocation.mapping);
  }
  forget_last_allocation();
  allocations.erase(found);
  return true;
}

Allocation* find_allocation(uintptr_t address) {
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) return nullptr;
  Allocation& allocation = (--next)->second;
  return address < allocation.base + (allocation.size ? allocation.size : 1) ? &allocation : nullptr;
}

Allocation* find_range(uintptr_t address, size_t bytes) {
  Allocation* allocation = find_allocation(address);
  return allocation && bytes <= allocation->base + allocation->size - address ? allocation : nullptr;
}

bool is_device_range(const void* pointer, size_t bytes) {
  auto guard = lock();
  return bytes == 0 || find_range(reinterpret_cast<uintptr_t>(pointer), bytes) != nullptr;
}

std::string describe_address(uintptr_t address, size_t bytes) {
  std::string range = std::to_string(bytes) + " byte" + (bytes == 1 ? "" : "s");
  if (address < page()) return range + " at the null pointer";
  auto next = allocations.upper_bound(address);
  for (int step = 0; step < 2; step++) {
    if (next != allocations.end()) {
      const Allocation& candidate = next->second;
      if (address >= candidate.mapping && address < candidate.mapping + candidate.mapping_bytes) {
        return range + " at byte " + std::to_string(int64_t(address - candidate.base)) + " of a buffer of " +
               std::to_string(candidate.size) + " bytes (number " + std::to_string(candidate.number) + ")";
      }
    }
    if (next == allocations.begin()) break;
    --next;
  }
  return range + " in no device buffer";
}

void mark_range_initialised(uintptr_t address, size_t bytes) {
  Allocation* allocation = find_range(address, bytes);
  if (allocation && allocation->shadow) mark_initialised(*allocation->shadow, address - allocation->base, bytes);
}

bool find_uninitialised(uintptr_t address, size_t bytes, size_t* at) {
  Allocation* allocation = find_range(address, bytes);
  if (!allocation || !allocation->shadow) return false;
  size_t offset = address - allocation->base;
  for (size_t i = 0; i < bytes; i++) {
    if (is_initialised(*allocation->shadow, offset + i)) continue;
    *at = offset + i;
    return true;
  }
  return false;
}

void copy_initialised(uintptr_t from, uintptr_t to, size_t bytes) {
  count_range(bytes, true, false);
  Allocation *source = find_range(from, bytes), *target = find_range(to, bytes);
  if (!source || !target || !source->shadow || !target->shadow) return;
  memmove(&target->shadow->initialised[to - target->base], &source->shadow->initialised[from - source->base], bytes);
}

void discard_shadows() {
  if (!shadows_exist) return;
  for (auto& entry : allocations) entry.second.shadow.reset();
  shadows_exist = false;
}

size_t live_bytes(int device) { return live[device]; }

}  // namespace fornax

// Describes the live allocations: "2 device buffers are allocated, 96 bytes: number 3 (64 bytes), number 7 (32 bytes)"; empty if
// there are none.
extern "C" FORNAX_API size_t fornax_emulator_leaks(char* text, size_t size) {
  auto guard = fornax::lock();
  size_t buffers = 0, bytes = 0;
  std::string list;
  for (int device = 0; device < fornax::settings().devices; device++) fornax::synchronize_device(device);
  for (const auto& entry : fornax::allocations) {
    const fornax::Allocation& allocation = entry.second;
    bytes += allocation.size;
    if (++buffers > 8) continue;
    list += (buffers == 1 ? ": number " : ", number ") + std::to_string(allocation.number) + " (" +
            std::to_string(allocation.size) + " bytes)";
  }
  std::string message;
  if (buffers > 0) {
    message = std::to_string(buffers) + (buffers == 1 ? " device buffer is" : " device buffers are") + " allocated, " +
              std::to_string(bytes) + " bytes" + list + (buffers > 8 ? ", …" : "");
  }
  if (size > 0) snprintf(text, size, "%s", message.c_str());
  return message.size();
}
