// Shadow memory of the checker: which bytes are initialised, and the last accesses of each cell.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fornax {

struct MemoryAccess {
  uintptr_t pc;
  uint32_t block, epoch, sync_count;  // barriers of the block and operations of the warp so far
  uint16_t thread;
  bool valid, atomic;
};

struct ShadowCell {
  uint64_t stamp;  // of the launch (in shared memory: of the block) that made the accesses
  MemoryAccess writer;
  // Two unordered readers suffice to detect a race: a later writer is a different thread from at least one of them.
  MemoryAccess readers[2];
};

// Shadow memory of an allocation or of a block's shared memory. Cells cover 4 bytes each until a smaller access splits them.
struct Shadow {
  size_t bytes;
  unsigned granule = 4;
  std::vector<ShadowCell> cells;  // empty until the first kernel access
  std::vector<uint8_t> initialised;

  Shadow(size_t bytes, bool initialised) : bytes(bytes), initialised(bytes, initialised) {}

  void refine(size_t offset, size_t length) {
    if (cells.empty()) cells.resize((bytes + granule - 1) / granule);
    while (granule > 1 && (offset % granule || length % granule)) {
      std::vector<ShadowCell> finer(cells.size() * 2);
      for (size_t i = 0; i < cells.size(); i++) finer[2 * i] = finer[2 * i + 1] = cells[i];
      cells.swap(finer);
      granule /= 2;
    }
  }
};

}  // namespace fornax
