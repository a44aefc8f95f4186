// Counted mode. A byte that a kernel reads several times counts once, as if all later reads were served by a cache: the counts are
// those of memory traffic on a device whose caches hold what threads share.
#include "traffic.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "internal.h"

namespace fornax {
namespace {

struct WorkCount {
  uint64_t executions = 0, loads = 0, stores = 0;
};
std::map<std::string, WorkCount> counts;
WorkCount* current = nullptr;

constexpr unsigned kPageBits = 12, kPageBytes = 1u << kPageBits, kWords = kPageBytes / 64;

// Bytes of a page that the current work has read and written.
struct PageTraffic {
  uint64_t read[kWords], written[kWords];
};
std::unordered_map<uintptr_t, PageTraffic*> pages;
std::vector<std::unique_ptr<PageTraffic>> page_pool;  // the first pages.size() are in use

// Direct-mapped cache of `pages`.
struct CachedPage {
  uintptr_t number;
  PageTraffic* page;
} recent[256];

void forget_pages() {
  pages.clear();
  memset(recent, 0, sizeof(recent));
}

PageTraffic& find_page(uintptr_t number) {
  CachedPage& cached = recent[number % 256];
  if (cached.page && cached.number == number) return *cached.page;
  PageTraffic*& page = pages[number];
  if (!page) {
    if (page_pool.size() < pages.size()) page_pool.emplace_back(new PageTraffic);
    page = page_pool[pages.size() - 1].get();
    memset(page, 0, sizeof(*page));
  }
  cached = {number, page};
  return *page;
}

uint64_t add_bits(uint64_t& bits, uint64_t mask) {
  const uint64_t added = mask & ~bits;
  bits |= mask;
  return uint64_t(__builtin_popcountll(added));
}

}  // namespace

void* begin_counted_work(const std::string& name) {
  if (!settings().counted) return nullptr;
  WorkCount* before = current;
  current = &counts[name];
  current->executions++;
  forget_pages();
  return before;
}

void end_counted_work(void* before, bool done) {
  if (current && !done) current->executions--;
  current = static_cast<WorkCount*>(before);
}

void count_range(size_t bytes, bool reads, bool writes) {
  if (!current) return;
  if (reads) current->loads += bytes;
  if (writes) current->stores += bytes;
}

void count_access(uintptr_t address, size_t bytes, bool reads, bool writes) {
  if (!current) return;
  while (bytes > 0) {
    PageTraffic& page = find_page(address >> kPageBits);
    const unsigned offset = address % kPageBytes, shift = offset % 64;
    const size_t part = std::min<size_t>(bytes, 64 - shift);
    const uint64_t mask = (part == 64 ? ~uint64_t(0) : (uint64_t(1) << part) - 1) << shift;
    if (reads) current->loads += add_bits(page.read[offset / 64], mask);
    if (writes) current->stores += add_bits(page.written[offset / 64], mask);
    address += part, bytes -= part;
  }
}

}  // namespace fornax

// One line per kernel and library call: name, executions, bytes read, bytes written, separated by tabs.
extern "C" FORNAX_API size_t fornax_emulator_counts(char* text, size_t size) {
  auto guard = fornax::lock();
  for (int device = 0; device < fornax::settings().devices; device++) fornax::synchronize_device(device);
  std::string lines;
  for (const auto& [name, count] : fornax::counts) {
    lines += name + "\t" + std::to_string(count.executions) + "\t" + std::to_string(count.loads) + "\t" +
             std::to_string(count.stores) + "\n";
  }
  if (size > 0) snprintf(text, size, "%s", lines.c_str());
  return lines.size();
}
