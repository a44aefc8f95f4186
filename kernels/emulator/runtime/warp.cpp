// Warp operations: the lanes of a mask wait for each other; the last one to come computes what every lane gets.
#include "block.h"

namespace fornax {
namespace {

bool has_lane(unsigned mask, unsigned lane) { return mask >> lane & 1; }

void note_meeting(Warp& warp, unsigned mask) {
  warp.generation++;
  if (mask == warp.lanes) {
    warp.all_met = warp.generation;
    return;
  }
  if (warp.met.empty()) warp.met.assign(32 * 32, 0);
  for (unsigned a = 0; a < 32; a++) {
    for (unsigned b = 0; has_lane(mask, a) && b < 32; b++) {
      if (has_lane(mask, b)) warp.met[a * 32 + b] = warp.generation;
    }
  }
}

// Gives every lane of the complete rendezvous its result and lets it go on.
void release(Block& block, Thread* first, Warp& warp, const Rendezvous& done, bool exchanges) {
  Thread* self = worker->current;
  for (unsigned i = 0; i < 32; i++) {
    unsigned lane = block.order == 1 ? 31 - i : i;
    if (!has_lane(done.mask, lane)) continue;
    Thread& thread = first[lane];
    if (!exchanges) {
      thread.result = done.ballot;
    } else {
      // From a lane that takes no part CUDA gives an undefined value: one that shows when it is used.
      thread.result = has_lane(done.mask, thread.source) ? first[thread.source].value : ~uint64_t(0);
    }
    if (&thread != self) make_ready(block, thread);
  }
  if (block.launch->checked) note_meeting(warp, done.mask);
}

uint64_t meet(unsigned mask, bool predicate, bool exchanges, Site site) {
  Block& block = worker->block;
  Thread& self = *worker->current;
  Warp& warp = block.warps[self.flat / 32];
  if (!has_lane(mask, self.lane)) fail_thread(kLaunchFailed, "warp operation: the mask lacks the calling lane", to_string(site));
  mask &= warp.lanes;
  if (mask & warp.exited) {
    fail_thread(kLaunchFailed, "warp divergence: the mask names lanes that have returned", to_string(site));
  }
  Rendezvous* place = nullptr;
  for (Rendezvous& waiting : warp.waiting) {
    if (waiting.mask == mask) place = &waiting;
  }
  if (!place) {
    warp.waiting.push_back({mask, 0, 0, site});
    place = &warp.waiting.back();
  } else if (place->site.line != site.line) {
    fail_thread(kLaunchFailed, "warp divergence: lanes of one mask meet at different calls, " + to_string(place->site) +
                                   " and here", to_string(site));
  }
  place->arrived |= 1u << self.lane;
  if (predicate) place->ballot |= 1u << self.lane;
  if (place->arrived != mask) {
    suspend(State::AtWarp, site);
    return self.result;
  }
  Rendezvous done = *place;
  *place = warp.waiting.back();
  warp.waiting.pop_back();
  release(block, &self - self.lane, warp, done, exchanges);
  return self.result;
}

}  // namespace
}  // namespace fornax

namespace fornax_device {

using namespace fornax;

void warp_barrier(unsigned mask, const char* file, int line) { meet(mask, false, false, {file, line}); }

unsigned ballot(unsigned mask, int predicate, const char* file, int line) {
  return unsigned(meet(mask, predicate != 0, false, {file, line}));
}

unsigned active_lanes() {
  Warp& warp = worker->block.warps[worker->current->flat / 32];
  return warp.lanes & ~warp.exited;
}

unsigned long long shuffle(unsigned mask, unsigned long long value, Shuffle kind, int argument, int width, const char* file,
                           int line) {
  Thread& self = *worker->current;
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
  return meet(mask, false, true, {file, line});
}

}  // namespace fornax_device
