// What the checker remembers of memory: which bytes were written, and who accessed each piece last.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fornax {

struct Accessor {
  uintptr_t pc;
  uint32_t block, epoch, generation;  // epoch: barriers of the block so far; generation: rendezvous of the warp
  uint16_t thread;
  bool valid, atomic;
};

struct Cell {
  uint64_t stamp;  // of the launch (or, in shared memory, of the block) that the rest belongs to
  Accessor writer;
  // Two readers are enough: of two that no barrier orders, any later writer is a third thread to one of them.
  Accessor readers[2];
};

// One cell for four bytes, until a smaller access asks for smaller cells.
struct Shadow {
  size_t bytes;
  unsigned granule = 4;
  std::vector<Cell> cells;  // empty until a kernel comes
  std::vector<uint8_t> written;

  Shadow(size_t bytes, bool written) : bytes(bytes), written(bytes, written) {}

  void refine(size_t offset, size_t length) {
    if (cells.empty()) cells.resize((bytes + granule - 1) / granule);
    while (granule > 1 && (offset % granule || length % granule)) {
      std::vector<Cell> finer(cells.size() * 2);
      for (size_t i = 0; i < cells.size(); i++) finer[2 * i] = finer[2 * i + 1] = cells[i];
      cells.swap(finer);
      granule /= 2;
    }
  }
};

}  // namespace fornax
