// Streams: queues of work that runs only when something synchronises with it.
//
// Order 0 runs only the operation that is waited for and its dependencies. Order 1 first runs all other streams, as far as their
// dependencies allow. Any other order mixes both at random, with the order as its seed. If a stream misses a wait for another
// stream's work, that work runs too late in one order and too early in another, and the results differ.
#include <algorithm>

#include "stream.h"
#include "traffic.h"

namespace fornax {
namespace {

constexpr size_t kMaxQueueLength = 1024;  // a launch on a full queue waits, as on a driver

// Emulated time, so that timings, and choices made by them, are the same in every run. An operation begins when the one before it on its
// stream and those that it waits for are done.
constexpr double kSecondsPerOperation = 1e-5;
double work_seconds = 0;  // of the work that runs now, besides the time of its operation

std::vector<CUstream> streams;    // in order of creation
std::vector<CUstream> destroyed;  // never freed, so that no new stream has the handle of a destroyed one
CUstream_st* legacy[kMaxDevices];
CUstream_st* per_thread[kMaxDevices];
thread_local int context_device = -1;

struct CurrentWork {
  const Work* work = nullptr;
  int device = 0;
} current_work;

struct WorkFailed {};

bool has_pending_dependency(const StreamOperation& operation) {
  const auto& dependencies = operation.dependencies;
  return std::any_of(dependencies.begin(), dependencies.end(), [](const StreamOperationRef& o) { return !o->done; });
}

// Runs the first operation of a stream. False if it waits for other ranks.
bool run_front(CUstream stream) {
  StreamOperationRef front = stream->queue.front();
  stream->queue.pop_front();
  work_seconds = 0;
  const bool done = run_work(stream->device, front->work);
  front->seconds += work_seconds;
  if (!done) {
    stream->queue.push_front(front);
    return false;
  }
  for (const StreamOperationRef& before : front->dependencies) stream->clock = std::max(stream->clock, before->time);
  front->time = stream->clock += front->seconds + kSecondsPerOperation;
  front->work.run = nullptr;
  front->work.advance = nullptr;
  front->work.peers.clear();
  front->dependencies.clear();
  front->done = true;
  if (runtime_mutex().has_waiting_threads()) runtime_mutex().notify();
  return true;
}

bool can_run(CUstream stream) { return !stream->queue.empty() && !has_pending_dependency(*stream->queue.front()); }

// Runs operations of other streams that the order puts before the one that is waited for.
void run_other_streams(CUstream waited) {
  static uint64_t random = 0;
  uint64_t order = settings().order;
  if (order == 0) return;
  if (order == 1) {
    for (size_t i = streams.size(); i-- > 0;) {
      while (streams[i] != waited && can_run(streams[i]) && run_front(streams[i])) {
      }
    }
    return;
  }
  uint64_t state = order + random++;
  while (next_random(state) % 2 == 0) {
    CUstream other = streams[next_random(state) % streams.size()];
    if (other != waited && can_run(other)) run_front(other);
  }
}

// Runs `target`, or one operation that it depends on. False if that waits for other ranks.
bool run_toward(const StreamOperationRef& target) {
  StreamOperationRef goal = target;
  for (;;) {
    const StreamOperation& front = *goal->stream->queue.front();
    const auto& dependencies = front.dependencies;
    auto pending = std::find_if(dependencies.begin(), dependencies.end(), [](const StreamOperationRef& o) { return !o->done; });
    if (pending == dependencies.end()) break;
    goal = *pending;
  }
  return run_front(goal->stream);
}

// Takes a reference of its own: the caller's may be in the queue, and other threads use the queue during a wait.
void run_until_done(StreamOperationRef target) {
  while (!target->done) {
    uint64_t seen = runtime_mutex().changes();
    run_other_streams(target->stream);
    if (!target->done && !run_toward(target)) runtime_mutex().wait_for_change(seen, true);
  }
}

StreamOperationRef push_operation(CUstream stream, Work work) {
  auto operation = std::make_shared<StreamOperation>();
  operation->work = std::move(work);
  operation->stream = stream;
  // The legacy default stream and blocking streams wait for each other.
  for (CUstream other : streams) {
    if (other->device != stream->device || other == stream || other->queue.empty()) continue;
    bool waits = (stream->legacy && other->blocking) || (stream->blocking && other->legacy);
    if (waits) operation->dependencies.push_back(other->queue.back());
  }
  // The operations of a communicator run in the order of the calls, on whichever streams.
  bool awaited = false;
  for (const auto& peers : operation->work.peers) {
    if (peers->last && !peers->last->done) operation->dependencies.push_back(peers->last);
    peers->last = operation;
    awaited = awaited || peers->awaited;
  }
  stream->queue.push_back(operation);
  if (awaited) notify_change();
  if (stream->queue.size() > kMaxQueueLength) run_until_done(stream->queue[kMaxQueueLength / 2]);
  return operation;
}

CUstream default_stream(CUstream_st** of_device, bool is_legacy) {
  if (context_device < 0) return nullptr;
  CUstream_st*& stream = of_device[context_device];
  if (!stream) {
    stream = new CUstream_st;
    stream->device = context_device;
    stream->legacy = is_legacy;
    stream->blocking = !is_legacy;
    streams.push_back(stream);
  }
  return stream;
}

}  // namespace

bool run_work(int device, const Work& work) {
  const bool is_empty = !work.run && !work.advance;
  if (is_empty || (sticky_error(device) != kSuccess && !work.run_after_error)) return true;
  CurrentWork before = current_work;
  current_work = {&work, device};
  void* counted_before = begin_counted_work(work.name);
  bool done = true;
  try {
    if (work.advance) {
      done = work.advance();
    } else {
      work.run();
    }
  } catch (const WorkFailed&) {
  }
  end_counted_work(counted_before, done);
  current_work = before;
  return done;
}

bool run_awaited_work() {
  for (CUstream stream : streams) {
    for (const StreamOperationRef& operation : stream->queue) {
      const auto& peers = operation->work.peers;
      if (std::none_of(peers.begin(), peers.end(), [](const auto& p) { return p->awaited.load(); })) continue;
      if (run_toward(StreamOperationRef(operation))) return true;
      break;
    }
  }
  return false;
}

int current_context_device() { return context_device; }
void set_current_context_device(int device) { context_device = device; }

CUstream resolve_stream(CUstream handle) {
  if (uintptr_t(handle) <= 1) return default_stream(legacy, true);
  if (uintptr_t(handle) == 2) return default_stream(per_thread, false);
  return std::find(streams.begin(), streams.end(), handle) != streams.end() ? handle : nullptr;
}

bool stream_exists(CUstream stream) { return resolve_stream(stream) != nullptr; }

CUstream create_stream(int device, StreamOptions options) {
  auto* stream = new CUstream_st;
  stream->device = device;
  stream->blocking = options.blocking;
  streams.push_back(stream);
  return stream;
}

Result destroy_stream(CUstream handle) {
  auto found = std::find(streams.begin(), streams.end(), handle);
  if (found == streams.end()) return reject(kInvalidHandle, "cuStreamDestroy: not a stream");
  if (!handle->queue.empty()) run_until_done(handle->queue.back());
  streams.erase(std::find(streams.begin(), streams.end(), handle));
  destroyed.push_back(handle);
  return kSuccess;
}

const std::vector<CUstream>& all_streams() { return streams; }

std::vector<CUstream> streams_of(const Capture& capture) {
  std::vector<CUstream> found;
  for (CUstream stream : streams) {
    if (stream->capture.get() == &capture) found.push_back(stream);
  }
  return found;
}

Result submit(CUstream handle, Work work) {
  CUstream stream = resolve_stream(handle);
  if (!stream) return reject(kInvalidHandle, work.name + ": not a stream");
  Result state = sticky_error(stream->device);
  if (state != kSuccess && !work.run_after_error) return state;
  if (stream->capture) return capture_work(stream, std::move(work));
  push_operation(stream, std::move(work));
  return state;
}

Result synchronize_stream(CUstream handle) {
  CUstream stream = resolve_stream(handle);
  if (!stream) return reject(kInvalidHandle, "cuStreamSynchronize: not a stream");
  if (stream->capture) return invalidate_capture(stream, "cuStreamSynchronize");
  if (stream->legacy) push_operation(stream, {"wait", nullptr});
  if (!stream->queue.empty()) run_until_done(stream->queue.back());
  return sticky_error(stream->device);
}

Result synchronize_device(int device) {
  for (bool again = true; again;) {
    again = false;
    for (size_t i = 0; i < streams.size() && !again; i++) {
      if (streams[i]->device != device || streams[i]->queue.empty()) continue;
      run_until_done(streams[i]->queue.back());
      again = true;  // work may change the list
    }
  }
  return sticky_error(device);
}

Result record_event(Event& event, CUstream handle) {
  CUstream stream = resolve_stream(handle);
  if (!stream) return reject(kInvalidHandle, "cuEventRecord: not a stream");
  event.capture = stream->capture;
  event.capture_dependencies = stream->capture_dependencies;
  if (stream->capture) return kSuccess;
  event.recorded = push_operation(stream, {"event", nullptr});
  return sticky_error(stream->device);
}

Result synchronize_event(Event& event) {
  if (event.capture) return reject(kCaptureUnsupported, "cuEventSynchronize: the event was recorded in a capture");
  if (event.recorded) run_until_done(event.recorded);
  return sticky_error(event.device);
}

bool query_event(const Event& event) {
  if (!event.recorded || event.recorded->done) return true;
  run_toward(event.recorded);  // a polling caller makes progress
  return event.recorded->done;
}

double event_time(const Event& event) { return event.recorded ? event.recorded->time : 0; }

Result stream_wait_event(CUstream handle, Event& event) {
  CUstream stream = resolve_stream(handle);
  if (!stream) return reject(kInvalidHandle, "cuStreamWaitEvent: not a stream");
  if (stream->capture || event.capture) return capture_wait(stream, event);
  if (event.recorded && event.recorded->done) stream->clock = std::max(stream->clock, event.recorded->time);
  if (event.recorded && !event.recorded->done) push_operation(stream, {"wait", nullptr})->dependencies.push_back(event.recorded);
  return sticky_error(stream->device);
}

bool query_stream(CUstream handle) {
  CUstream stream = resolve_stream(handle);
  if (!stream || stream->queue.empty()) return true;
  run_toward(stream->queue.back());
  return stream->queue.empty();
}

// ---- interface for the library stand-ins (runtime.h)
bool enqueue(CUstream stream, const std::string& name, std::function<void()> work) {
  auto guard = lock();
  auto run = [work = std::move(work)] {
    if (!settings().empty_kernels) work();
  };
  return submit(stream, {name, std::move(run)}) == kSuccess;
}

bool enqueue_with_peers(CUstream stream, const std::string& name, std::shared_ptr<Peers> peers, std::function<bool()> advance) {
  auto guard = lock();
  start_awaited_work_thread();
  Work work{name, nullptr};
  work.advance = [advance = std::move(advance)] { return settings().empty_kernels || advance(); };
  work.peers = {std::move(peers)};
  return submit(stream, std::move(work)) == kSuccess;
}

void wait_for_work(const Peers& peers) {
  auto guard = lock();
  if (peers.last) run_until_done(peers.last);
}

void fail_work(const std::string& message) {
  set_sticky_error(current_work.device, kIllegalAddress, current_work.work->name + ": " + message);
  throw WorkFailed{};
}

void* device_range(const void* pointer, size_t bytes, Access access) {
  if (bytes == 0) return const_cast<void*>(pointer);
  uintptr_t address = uintptr_t(pointer);
  if (!find_range(address, bytes)) {
    fail_work(std::string("out-of-bounds ") + (access == Access::Read ? "read: " : "write: ") + describe_address(address, bytes));
  }
  size_t at;
  const bool reads = access == Access::Read || access == Access::ReadWrite;
  if (access != Access::Scratch) count_range(bytes, reads, access != Access::Read);
  if (reads && find_uninitialised(address, bytes, &at)) {
    fail_work("read of uninitialised global memory, byte " + std::to_string(at) + " of a buffer");
  }
  if (access != Access::Read) mark_range_initialised(address, bytes);
  return const_cast<void*>(pointer);
}

void advance_clock(double seconds) { work_seconds += seconds; }

int current_device() { return context_device < 0 ? 0 : context_device; }

int device_of(CUstream handle) {
  auto guard = lock();
  CUstream stream = resolve_stream(handle);
  return stream ? stream->device : 0;
}

}  // namespace fornax
