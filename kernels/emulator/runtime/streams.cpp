// Streams: queues of work that runs only when something waits for it.
//
// Order 0 runs nothing but what is waited for and what that depends on. Order 1 runs all other streams first, as far as their
// dependencies allow. Any other order mixes both by its seed. So work that another stream should have waited for runs too late
// in one order and too early in another, and its missing wait shows in the results.
#include <algorithm>
#include <chrono>

#include "stream.h"

namespace fornax {
namespace {

constexpr size_t kLongQueue = 1024;  // a driver's queue is finite, too: launching then waits

std::vector<CUstream> streams;  // in order of creation
CUstream_st* legacy[kMaxDevices];
CUstream_st* per_thread[kMaxDevices];
thread_local int context_device = -1;

struct Running {
  const Work* work = nullptr;
  int device = 0;
} running;

struct WorkFailed {};

bool is_blocked(const Operation& operation) {
  return std::any_of(operation.after.begin(), operation.after.end(), [](const OperationRef& o) { return !o->done; });
}

void run_front(CUstream stream) {
  OperationRef front = stream->queue.front();
  stream->queue.pop_front();
  run_work(stream->device, front->work);
  front->work.run = nullptr;
  front->after.clear();
  front->time = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  front->done = true;
}

bool can_run(CUstream stream) { return !stream->queue.empty() && !is_blocked(*stream->queue.front()); }

// Runs what the order lets run before the operation that is waited for.
void run_others(CUstream waited) {
  static uint64_t random = 0;
  uint64_t order = settings().order;
  if (order == 0) return;
  if (order == 1) {
    for (size_t i = streams.size(); i-- > 0;) {
      while (streams[i] != waited && can_run(streams[i])) run_front(streams[i]);
    }
    return;
  }
  uint64_t state = order + random++;
  while (next_random(state) % 2 == 0) {
    CUstream other = streams[next_random(state) % streams.size()];
    if (other != waited && can_run(other)) run_front(other);
  }
}

// Runs one operation that `target` needs, or itself.
void advance(const OperationRef& target) {
  OperationRef goal = target;
  for (;;) {
    const Operation& front = *goal->stream->queue.front();
    auto blocker = std::find_if(front.after.begin(), front.after.end(), [](const OperationRef& o) { return !o->done; });
    if (blocker == front.after.end()) break;
    goal = *blocker;
  }
  run_front(goal->stream);
}

void complete(const OperationRef& target) {
  while (!target->done) {
    run_others(target->stream);
    if (!target->done) advance(target);
  }
}

OperationRef push(CUstream stream, Work work) {
  auto operation = std::make_shared<Operation>();
  operation->work = std::move(work);
  operation->stream = stream;
  // The legacy default stream and the blocking ones wait for each other.
  for (CUstream other : streams) {
    if (other->device != stream->device || other == stream || other->queue.empty()) continue;
    bool waits = (stream->legacy && other->blocking) || (stream->blocking && other->legacy);
    if (waits) operation->after.push_back(other->queue.back());
  }
  stream->queue.push_back(operation);
  if (stream->queue.size() > kLongQueue) complete(stream->queue[kLongQueue / 2]);
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

void run_work(int device, const Work& work) {
  if (!work.run || (sticky(device) != kSuccess && !work.always)) return;
  Running before = running;
  running = {&work, device};
  try {
    work.run();
  } catch (const WorkFailed&) {
  }
  running = before;
}

int current_context_device() { return context_device; }
void set_current_context_device(int device) { context_device = device; }

CUstream resolve(CUstream handle) {
  if (uintptr_t(handle) <= 1) return default_stream(legacy, true);
  if (uintptr_t(handle) == 2) return default_stream(per_thread, false);
  return std::find(streams.begin(), streams.end(), handle) != streams.end() ? handle : nullptr;
}

bool stream_exists(CUstream stream) { return resolve(stream) != nullptr; }

CUstream create_stream(int device, StreamOptions options) {
  auto* stream = new CUstream_st;
  stream->device = device;
  stream->blocking = options.blocking;
  streams.push_back(stream);
  return stream;
}

Result destroy_stream(CUstream handle) {
  auto found = std::find(streams.begin(), streams.end(), handle);
  if (found == streams.end()) return refuse(kInvalidHandle, "cuStreamDestroy: not a stream");
  if (!handle->queue.empty()) complete(handle->queue.back());
  streams.erase(std::find(streams.begin(), streams.end(), handle));
  delete handle;
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
  CUstream stream = resolve(handle);
  if (!stream) return refuse(kInvalidHandle, work.name + ": not a stream");
  Result state = sticky(stream->device);
  if (state != kSuccess && !work.always) return state;
  if (stream->capture) return capture_work(stream, std::move(work));
  push(stream, std::move(work));
  return state;
}

Result wait_stream(CUstream handle) {
  CUstream stream = resolve(handle);
  if (!stream) return refuse(kInvalidHandle, "cuStreamSynchronize: not a stream");
  if (stream->capture) return invalidate_capture(stream, "cuStreamSynchronize");
  if (stream->legacy) push(stream, {"wait", nullptr});
  if (!stream->queue.empty()) complete(stream->queue.back());
  return sticky(stream->device);
}

Result wait_device(int device) {
  for (bool again = true; again;) {
    again = false;
    for (size_t i = 0; i < streams.size() && !again; i++) {
      if (streams[i]->device != device || streams[i]->queue.empty()) continue;
      complete(streams[i]->queue.back());
      again = true;  // work may change the list
    }
  }
  return sticky(device);
}

Result record_event(Event& event, CUstream handle) {
  CUstream stream = resolve(handle);
  if (!stream) return refuse(kInvalidHandle, "cuEventRecord: not a stream");
  event.capture = stream->capture;
  event.captured_after = stream->frontier;
  if (stream->capture) return kSuccess;
  event.recorded = push(stream, {"event", nullptr});
  return sticky(stream->device);
}

Result wait_event(Event& event) {
  if (event.capture) return refuse(kCaptureUnsupported, "cuEventSynchronize: the event was recorded in a capture");
  if (event.recorded) complete(event.recorded);
  return sticky(event.device);
}

bool event_done(const Event& event) {
  if (!event.recorded || event.recorded->done) return true;
  advance(event.recorded);  // who asks again and again sees progress
  return event.recorded->done;
}

double event_time(const Event& event) { return event.recorded ? event.recorded->time : 0; }

Result stream_wait_event(CUstream handle, Event& event) {
  CUstream stream = resolve(handle);
  if (!stream) return refuse(kInvalidHandle, "cuStreamWaitEvent: not a stream");
  if (stream->capture || event.capture) return capture_wait(stream, event);
  if (event.recorded && !event.recorded->done) push(stream, {"wait", nullptr})->after.push_back(event.recorded);
  return sticky(stream->device);
}

bool stream_done(CUstream handle) {
  CUstream stream = resolve(handle);
  if (!stream || stream->queue.empty()) return true;
  advance(stream->queue.back());
  return stream->queue.empty();
}

// ---- what the library stand-ins see
bool enqueue(CUstream stream, const std::string& name, std::function<void()> work) {
  auto guard = lock();
  return submit(stream, {name, std::move(work)}) == kSuccess;
}

void fail_work(const std::string& message) {
  raise(running.device, kIllegalAddress, running.work->name + ": " + message);
  throw WorkFailed{};
}

void* device_range(const void* pointer, size_t bytes, Access access) {
  if (bytes == 0) return const_cast<void*>(pointer);
  uintptr_t address = uintptr_t(pointer);
  if (!find_range(address, bytes)) {
    fail_work(std::string("out-of-bounds ") + (access == Access::Read ? "read: " : "write: ") + describe_address(address, bytes));
  }
  size_t at;
  if (access != Access::Write && reads_unwritten(address, bytes, &at)) {
    fail_work("read of uninitialised global memory, byte " + std::to_string(at) + " of a buffer");
  }
  if (access != Access::Read) note_written(address, bytes);
  return const_cast<void*>(pointer);
}

int current_device() { return context_device < 0 ? 0 : context_device; }

int device_of(CUstream handle) {
  auto guard = lock();
  CUstream stream = resolve(handle);
  return stream ? stream->device : 0;
}

}  // namespace fornax
