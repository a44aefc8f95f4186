// The lock, waiting for other threads and processes, and the thread that runs work which other ranks wait for.
#include <cstdlib>
#include <utility>

#include "internal.h"
#include "stream.h"

namespace fornax {

// Never destroyed: work may run while the process ends.
RuntimeMutex& runtime_mutex() {
  static auto* mutex = new RuntimeMutex;
  return *mutex;
}

Lock lock() { return Lock(runtime_mutex()); }

void RuntimeMutex::lock() {
  const std::thread::id me = std::this_thread::get_id();
  if (owner_.load(std::memory_order_relaxed) != me) {
    mutex_.lock();
    owner_.store(me, std::memory_order_relaxed);
  }
  depth_++;
}

void RuntimeMutex::unlock() {
  if (--depth_ > 0) return;
  owner_.store(std::thread::id(), std::memory_order_relaxed);
  mutex_.unlock();
}

uint64_t RuntimeMutex::changes() const { return changes_.load(); }

bool RuntimeMutex::has_waiting_threads() const { return waiting_threads_.load() > 0; }

void RuntimeMutex::notify() {
  {
    std::lock_guard<std::mutex> guard(change_mutex_);
    changes_++;
  }
  changed_.notify_all();
}

void RuntimeMutex::wait_for_change(uint64_t seen, bool needs_work_done) {
  waiting_threads_ += needs_work_done;
  const int depth = std::exchange(depth_, 0);
  owner_.store(std::thread::id(), std::memory_order_relaxed);
  mutex_.unlock();
  {
    std::unique_lock<std::mutex> guard(change_mutex_);
    changed_.wait(guard, [&] { return changes_.load() != seen; });
  }
  mutex_.lock();
  owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  depth_ = depth;
  waiting_threads_ -= needs_work_done;
}

namespace {

bool is_ending = false;  // the process exits: statics of the runtime are about to be destroyed

void run_awaited_work_forever() {
  auto guard = lock();
  while (!is_ending) {
    uint64_t seen = runtime_mutex().changes();
    if (!run_awaited_work()) runtime_mutex().wait_for_change(seen, false);
  }
}

}  // namespace

// A GPU makes progress without its host thread: a peer may wait for this rank while nothing on this rank waits.
void start_awaited_work_thread() {
  static bool started = false;
  if (std::exchange(started, true)) return;
  std::atexit([] {
    auto guard = lock();
    is_ending = true;
  });
  std::thread(run_awaited_work_forever).detach();
}

void notify_change() { runtime_mutex().notify(); }

}  // namespace fornax
