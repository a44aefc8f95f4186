// Warp operations: the lanes of a mask wait for each other; the last one to arrive computes every lane's result.
#include "block.h"

namespace fornax {
namespace {

bool has_lane(unsigned mask, unsigned lane) { return mask >> lane & 1; }

void record_sync(Warp& warp, unsigned mask) {
  warp.sync_count++;
  if (mask == warp.lanes) {
    warp.last_full_sync = warp.sync_count;
    return;
  }
  if (warp.last_pair_sync.empty()) warp.last_pair_sync.assign(32 * 32, 0);
  for (unsigned a = 0; a < 32; a++) {
    for (unsigned b = 0; has_lane(mask, a) && b < 32; b++) {
      if (has_lane(mask, b)) warp.last_pair_sync[a * 32 + b] = warp.sync_count;
    }
  }
}

// Sets the result of every lane of a complete warp operation and makes the lanes ready.
void resume_lanes(Block& block, CudaThread* first, Warp& warp, const WarpSync& done, bool exchanges) {
  CudaThread* self = worker->current;
  for (unsigned i = 0; i < 32; i++) {
    unsigned lane = block.order == 1 ? 31 - i : i;
    if (!has_lane(done.mask, lane)) continue;
    CudaThread& thread = first[lane];
    if (!exchanges) {
      thread.result = done.ballot;
    } else {
      // CUDA's result is undefined if the source lane is not in the mask: all bits set, so that a use is visible.
      thread.result = has_lane(done.mask, thread.source) ? first[thread.source].value : ~uint64_t(0);
    }
    if (&thread != self) make_ready(block, thread);
  }
  if (block.launch->checked) record_sync(warp, done.mask);
}

uint64_t synchronize_lanes(unsigned mask, bool predicate, bool exchanges, SourceLocation location) {
  Block& block = worker->block;
  CudaThread& self = *worker->current;
  Warp& warp = block.warps[self.linear_index / 32];
  if (!has_lane(mask, self.lane)) {
    fail_thread(kLaunchFailed, "warp operation: the mask does not contain the calling lane", to_string(location));
  }
  mask &= warp.lanes;
  if (mask & warp.exited) {
    fail_thread(kLaunchFailed, "warp divergence: the mask contains lanes that have returned", to_string(location));
  }
  WarpSync* pending = nullptr;
  for (WarpSync& waiting : warp.waiting) {
    if (waiting.mask == mask) pending = &waiting;
  }
  if (!pending) {
    warp.waiting.push_back({mask, 0, 0, location});
    pending = &warp.waiting.back();
  } else if (pending->location.line != location.line) {
    fail_thread(kLaunchFailed, "warp divergence: lanes of one mask wait at different calls, " + to_string(pending->location) +
                                   " and this one", to_string(location));
  }
  pending->arrived |= 1u << self.lane;
  if (predicate) pending->ballot |= 1u << self.lane;
  if (pending->arrived != mask) {
    suspend(ThreadState::AtWarpOperation, location);
    return self.result;
  }
  WarpSync done = *pending;
  *pending = warp.waiting.back();
  warp.waiting.pop_back();
  resume_lanes(block, &self - self.lane, warp, done, exchanges);
  return self.result;
}

}  // namespace
}  // namespace fornax

namespace fornax_device {

using namespace fornax;

void warp_barrier(unsigned mask, const char* file, int line) { synchronize_lanes(mask, false, false, {file, line}); }

unsigned ballot(unsigned mask, int predicate, const char* file, int line) {
  return unsigned(synchronize_lanes(mask, predicate != 0, false, {file, line}));
}

unsigned active_lanes() {
  Warp& warp = worker->block.warps[worker->current->linear_index / 32];
  return warp.lanes & ~warp.exited;
}

unsigned long long shuffle(unsigned mask, unsigned long long value, Shuffle kind, int argument, int width, const char* file,
                           int line) {
  CudaThread& self = *worker->current;
  int lane = int(self.lane), low = lane & ~(width - 1), high = low + width, source = lane;
  switch (kind) {
    case Shuffle::Index: source = low + (argument & (width - 1)); break;
    case Shuffle::Up: source = lane - argument; break;
    case Shuffle::Down: source = lane + argument; break;
    case Shuffle::Xor: source = lane ^ argument; break;
  }
  if (source < low && kind != Shuffle::Xor) source = lane;
  if (source >= high) source = lane;
  self.value = value;
  self.source = unsigned(source);
  return synchronize_lanes(mask, false, true, {file, line});
}

}  // namespace fornax_device
