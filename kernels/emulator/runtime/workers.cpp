// The processor threads that help with the blocks of a kernel and with `parallel`.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <thread>

#include "internal.h"

namespace fornax {
namespace {

struct Job {
  std::function<void(int64_t)> body;
  int64_t count = 0;
  std::atomic<int64_t> next{0}, done{0};
};

// Never destroyed: its threads wait in it until the process ends.
struct Pool {
  std::mutex mutex;
  std::condition_variable work, finished;
  std::shared_ptr<Job> job;
  uint64_t jobs = 0;
};

void take_pieces(Pool& pool, Job& job) {
  for (int64_t i; (i = job.next.fetch_add(1)) < job.count;) {
    job.body(i);
    if (job.done.fetch_add(1) + 1 == job.count) {
      std::lock_guard<std::mutex> guard(pool.mutex);
      pool.finished.notify_all();
    }
  }
}

void help(Pool& pool) {
  uint64_t seen = 0;
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock<std::mutex> guard(pool.mutex);
      pool.work.wait(guard, [&] { return pool.jobs != seen; });
      seen = pool.jobs;
      job = pool.job;
    }
    if (job) take_pieces(pool, *job);
  }
}

Pool& pool() {
  static Pool* instance = [] {
    auto* made = new Pool;
    for (unsigned i = 1; i < std::thread::hardware_concurrency(); i++) std::thread(help, std::ref(*made)).detach();
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
  Pool& p = pool();
  auto job = std::make_shared<Job>();
  job->body = body;
  job->count = count;
  {
    std::lock_guard<std::mutex> guard(p.mutex);
    p.job = job;
    p.jobs++;
  }
  p.work.notify_all();
  take_pieces(p, *job);
  std::unique_lock<std::mutex> guard(p.mutex);
  p.finished.wait(guard, [&] { return job->done.load() == count; });
  p.job.reset();
}

}  // namespace fornax
