// Pool of host threads for `parallel`, which also runs the blocks of a kernel.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <thread>

#include "internal.h"

namespace fornax {
namespace {

struct ParallelJob {
  std::function<void(int64_t)> body;
  int64_t count = 0;
  std::atomic<int64_t> next{0}, done{0};
};

// Never destroyed: its threads wait until the process ends.
struct WorkerPool {
  std::mutex mutex;
  std::condition_variable work, finished;
  std::shared_ptr<ParallelJob> job;
  uint64_t job_count = 0;
};

void run_items(WorkerPool& pool, ParallelJob& job) {
  for (int64_t i; (i = job.next.fetch_add(1)) < job.count;) {
    job.body(i);
    if (job.done.fetch_add(1) + 1 == job.count) {
      std::lock_guard<std::mutex> guard(pool.mutex);
      pool.finished.notify_all();
    }
  }
}

void worker_loop(WorkerPool& pool) {
  uint64_t last_job = 0;
  for (;;) {
    std::shared_ptr<ParallelJob> job;
    {
      std::unique_lock<std::mutex> guard(pool.mutex);
      pool.work.wait(guard, [&] { return pool.job_count != last_job; });
      last_job = pool.job_count;
      job = pool.job;
    }
    if (job) run_items(pool, *job);
  }
}

WorkerPool& pool() {
  static WorkerPool* instance = [] {
    auto* made = new WorkerPool;
    for (unsigned i = 1; i < std::thread::hardware_concurrency(); i++) std::thread(worker_loop, std::ref(*made)).detach();
    return made;
  }();
  return *instance;
}

}  // namespace

void parallel(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 1 || std::thread::hardware_concurrency() <= 1) {
    for (int64_t i = 0; i < count; i++) body(i);
    return;
  }
  WorkerPool& p = pool();
  auto job = std::make_shared<ParallelJob>();
  job->body = body;
  job->count = count;
  {
    std::lock_guard<std::mutex> guard(p.mutex);
    p.job = job;
    p.job_count++;
  }
  p.work.notify_all();
  run_items(p, *job);
  std::unique_lock<std::mutex> guard(p.mutex);
  p.finished.wait(guard, [&] { return job->done.load() == count; });
  p.job.reset();
}

}  // namespace fornax
