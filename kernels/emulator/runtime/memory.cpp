// Device memory: each allocation of the driver is a separate mapping between two guard pages and ends at the second one.
//
// A program that divides an allocation itself registers the parts, so that bounds and initialised bytes are checked for each. Parts
// begin and end in stream order: `suballocations` is what work that runs now may access, `allocated_at_call` what calls may name.
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
std::map<uintptr_t, Allocation> suballocations;          // by base
std::map<uintptr_t, Allocation> allocated_at_call;       // suballocations by base, without shadow memory
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

Allocation* find_in(std::map<uintptr_t, Allocation>& map, uintptr_t address) {
  auto next = map.upper_bound(address);
  if (next == map.begin()) return nullptr;
  Allocation& allocation = (--next)->second;
  return address < allocation.base + (allocation.size ? allocation.size : 1) ? &allocation : nullptr;
}

// The first of a map's allocations that overlaps the range; null if there is none.
Allocation* find_overlap(std::map<uintptr_t, Allocation>& map, uintptr_t address, size_t bytes) {
  auto next = map.lower_bound(address + bytes);
  if (next == map.begin()) return nullptr;
  Allocation& allocation = (--next)->second;
  return allocation.base + allocation.padded > address ? &allocation : nullptr;
}

void check_padding(const Allocation& allocation) {
  const auto* bytes = reinterpret_cast<unsigned char*>(allocation.base);
  for (size_t i = allocation.size; i < allocation.padded; i++) {
    if (bytes[i] == kPoison) continue;
    set_sticky_error(allocation.device, kIllegalAddress,
          "out-of-bounds write past the end of device buffer number " + std::to_string(allocation.number) + " of " +
              std::to_string(allocation.size) + " bytes");
    return;
  }
}

// Begins a suballocation, for work that runs from now on. A replay of a graph begins those of its capture again.
void begin_suballocation(const Allocation& part) {
  forget_last_allocation();
  while (Allocation* stale = find_overlap(suballocations, part.base, part.padded)) suballocations.erase(stale->base);
  poison(suballocations.emplace(part.base, part.without_shadow()).first->second);
}

void end_suballocation(uintptr_t base) {
  auto found = suballocations.find(base);
  if (found == suballocations.end()) return;
  check_padding(found->second);
  memset(reinterpret_cast<void*>(base), kPoison, found->second.padded);
  forget_last_allocation();
  suballocations.erase(found);
}

}  // namespace

Allocation::Allocation() = default;
Allocation::Allocation(Allocation&&) = default;
Allocation::~Allocation() = default;

Allocation Allocation::without_shadow() const {
  Allocation copy;
  copy.base = base;
  copy.size = size;
  copy.padded = padded;
  copy.device = device;
  copy.number = number;
  return copy;
}

uintptr_t allocate(int device, size_t bytes) {
  size_t total = settings().device_memory;
  auto is_full = [&] { return bytes > total || live[device] + bytes > total; };
  if (is_full()) synchronize_device(device);  // runs queued frees
  if (is_full()) return 0;
  Allocation allocation;
  size_t padded = round_up(bytes ? bytes : 1, kAlignment);
  allocation.mapping_bytes = round_up(padded, page()) + 2 * page();
  allocation.mapping = take_mapping(allocation.mapping_bytes);
  if (allocation.mapping == 0) return 0;
  allocation.base = allocation.mapping + allocation.mapping_bytes - page() - padded;
  allocation.size = bytes;
  allocation.padded = padded;
  allocation.device = device;
  allocation.number = ++allocation_count;
  poison(allocation);
  live[device] += bytes;
  uintptr_t base = allocation.base;
  allocations.emplace(base, std::move(allocation));
  return base;
}

void poison(Allocation& allocation) {
  memset(reinterpret_cast<void*>(allocation.base), kPoison, allocation.padded);
  allocation.shadow = settings().checked ? make_shadow(allocation.size, false) : nullptr;
}

bool free_memory(uintptr_t base) {
  auto found = allocations.find(base);
  if (found == allocations.end()) return false;
  Allocation& allocation = found->second;
  for (auto* parts : {&suballocations, &allocated_at_call}) {
    while (Allocation* part = find_overlap(*parts, base, allocation.padded)) parts->erase(part->base);
  }
  check_padding(allocation);
  memset(reinterpret_cast<void*>(base), kPoison, allocation.padded);
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

Allocation* find_driver_allocation(uintptr_t address) { return find_in(allocations, address); }

Allocation* find_allocation(uintptr_t address) {
  Allocation* allocation = find_driver_allocation(address);
  return allocation && allocation->divided ? find_in(suballocations, address) : allocation;
}

Allocation* find_range(uintptr_t address, size_t bytes) {
  Allocation* allocation = find_allocation(address);
  return allocation && bytes <= allocation->base + allocation->size - address ? allocation : nullptr;
}

const Allocation* find_range_at_call(uintptr_t address, size_t bytes) {
  Allocation* allocation = find_driver_allocation(address);
  if (allocation && allocation->divided) allocation = find_in(allocated_at_call, address);
  return allocation && bytes <= allocation->base + allocation->size - address ? allocation : nullptr;
}

bool is_device_range(const void* pointer, size_t bytes) {
  auto guard = lock();
  return bytes == 0 || find_range_at_call(reinterpret_cast<uintptr_t>(pointer), bytes) != nullptr;
}

std::string describe_address(uintptr_t address, size_t bytes) {
  std::string range = std::to_string(bytes) + " byte" + (bytes == 1 ? "" : "s");
  if (address < page()) return range + " at the null pointer";
  auto describe = [&](const Allocation& buffer) {
    return range + " at byte " + std::to_string(int64_t(address - buffer.base)) + " of a buffer of " +
           std::to_string(buffer.size) + " bytes (number " + std::to_string(buffer.number) + ")";
  };
  auto next = allocations.upper_bound(address);
  for (int step = 0; step < 2; step++) {
    if (next != allocations.end()) {
      const Allocation& candidate = next->second;
      if (address >= candidate.mapping && address < candidate.mapping + candidate.mapping_bytes) {
        // In a divided allocation, the last buffer that begins before the address.
        Allocation* part = candidate.divided ? find_overlap(suballocations, candidate.base, address + 1 - candidate.base) : nullptr;
        return describe(part ? *part : candidate);
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
  for (auto& entry : suballocations) entry.second.shadow.reset();
  shadows_exist = false;
}

size_t driver_bytes(int device) { return live[device]; }

size_t live_bytes(int device) {
  size_t bytes = 0;
  for (const auto& entry : allocations) bytes += entry.second.device == device && !entry.second.divided ? entry.second.size : 0;
  for (const auto& entry : allocated_at_call) bytes += entry.second.device == device ? entry.second.size : 0;
  return bytes;
}

MemoryCalls& memory_calls() {
  static MemoryCalls calls{};
  return calls;
}

}  // namespace fornax

// Registers a suballocation, for work queued on the stream from now on: `bytes` at an address inside a live allocation, followed by
// padding up to `padded` bytes, which nothing may write. Returns 0 and sets the last error if it overlaps another or is in no allocation.
extern "C" FORNAX_API int fornax_emulator_add_suballocation(uint64_t address, size_t bytes, size_t padded, CUstream stream) {
  auto guard = fornax::lock();
  fornax::Allocation* whole = fornax::find_driver_allocation(address);
  std::string range = std::to_string(bytes) + " bytes";
  if (!whole || padded > whole->base + whole->padded - address) {
    fornax::set_last_error("a suballocation of " + range + " is in no device buffer");
    return 0;
  }
  if (const fornax::Allocation* other = fornax::find_overlap(fornax::allocated_at_call, address, padded)) {
    fornax::set_last_error("a suballocation of " + range + " overlaps device buffer number " + std::to_string(other->number));
    return 0;
  }
  whole->divided = true;
  whole->shadow.reset();
  fornax::forget_last_allocation();
  fornax::Allocation part;
  part.base = address;
  part.size = bytes;
  part.padded = padded;
  part.device = whole->device;
  part.number = ++fornax::allocation_count;
  auto queued = std::make_shared<fornax::Allocation>(part.without_shadow());
  fornax::allocated_at_call.emplace(address, std::move(part));
  fornax::submit(stream, {"suballocation", [queued] { fornax::begin_suballocation(*queued); }, true, false});
  return 1;
}

// Ends a suballocation, after the work queued on the stream so far. Returns 0 and sets the last error if there is none at the address.
extern "C" FORNAX_API int fornax_emulator_remove_suballocation(uint64_t address, CUstream stream) {
  auto guard = fornax::lock();
  if (!fornax::allocated_at_call.erase(address)) {
    fornax::set_last_error("no suballocation begins at this address");
    return 0;
  }
  fornax::submit(stream, {"suballocation", [address] { fornax::end_suballocation(address); }, true, false});
  return 1;
}

// Describes the live allocations: "2 device buffers are allocated, 96 bytes: number 3 (64 bytes), number 7 (32 bytes)"; empty if
// there are none.
extern "C" FORNAX_API size_t fornax_emulator_leaks(char* text, size_t size) {
  auto guard = fornax::lock();
  size_t buffers = 0, bytes = 0;
  std::string list;
  for (int device = 0; device < fornax::settings().devices; device++) fornax::synchronize_device(device);
  for (const auto* map : {&fornax::allocations, &fornax::allocated_at_call}) {
    for (const auto& entry : *map) {
      const fornax::Allocation& allocation = entry.second;
      if (allocation.divided) continue;
      bytes += allocation.size;
      if (++buffers > 8) continue;
      list += (buffers == 1 ? ": number " : ", number ") + std::to_string(allocation.number) + " (" +
              std::to_string(allocation.size) + " bytes)";
    }
  }
  std::string message;
  if (buffers > 0) {
    message = std::to_string(buffers) + (buffers == 1 ? " device buffer is" : " device buffers are") + " allocated, " +
              std::to_string(bytes) + " bytes" + list + (buffers > 8 ? ", …" : "");
  }
  if (size > 0) snprintf(text, size, "%s", message.c_str());
  return message.size();
}
