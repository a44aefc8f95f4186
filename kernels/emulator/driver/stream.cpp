// Streams, events, captures and graphs.
#include <algorithm>
#include <set>

#include "driver.h"

namespace fornax {
namespace {

std::set<Event*> events;

struct GraphHandle {
  std::shared_ptr<Graph> graph;
};
struct GraphExec {
  std::shared_ptr<Graph> graph;
};

Result check_event(const char* call, Event* event) {
  return events.count(event) ? kSuccess : reject(kInvalidHandle, std::string(call) + ": not an event");
}

}  // namespace
}  // namespace fornax

using namespace fornax;

CU_API cuStreamCreate(CUstream* stream, unsigned flags) {
  ON_DEVICE(device);
  *stream = create_stream(device, {(flags & 1) == 0});
  return kSuccess;
}
CU_API cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

CU_API cuStreamDestroy_v2(CUstream stream) {
  auto guard = lock();
  return destroy_stream(stream);
}

CU_API cuStreamSynchronize(CUstream stream) {
  ON_DEVICE(device);
  if (Result result = reject_in_capture("cuStreamSynchronize")) return result;
  return synchronize_stream(stream);
}

CU_API cuStreamQuery(CUstream stream) {
  ON_DEVICE(device);
  if (Result result = reject_in_capture("cuStreamQuery")) return result;
  if (is_capturing(stream)) return invalidate_capture(stream, "cuStreamQuery");
  return query_stream(stream) ? sticky_error(device) : kNotReady;
}

CU_API cuStreamWaitEvent(CUstream stream, Event* event, unsigned) {
  ON_DEVICE(device);
  if (Result result = check_event("cuStreamWaitEvent", event)) return result;
  return stream_wait_event(stream, *event);
}

CU_API cuStreamGetPriority(CUstream, int* priority) {
  *priority = 0;
  return kSuccess;
}
CU_API cuStreamGetFlags(CUstream, unsigned* flags) {
  *flags = 1;
  return kSuccess;
}
CU_API cuStreamGetDevice(CUstream stream, int* device) {
  *device = device_of(stream);
  return kSuccess;
}
CU_API cuStreamGetCtx(CUstream stream, ContextHandle** context) {
  *context = context_of(device_of(stream));
  return kSuccess;
}

CU_API cuLaunchHostFunc(CUstream stream, void (*function)(void*), void* data) {
  ON_DEVICE(device);
  return submit(stream, {"cuLaunchHostFunc", [=] { function(data); }});
}

// ---- events
CU_API cuEventCreate(Event** event, unsigned) {
  ON_DEVICE(device);
  *event = new Event;
  (*event)->device = device;
  events.insert(*event);
  return kSuccess;
}

CU_API cuEventDestroy_v2(Event* event) {
  auto guard = lock();
  if (Result result = check_event("cuEventDestroy", event)) return result;
  events.erase(event);
  delete event;  // pending waits stay valid
  return kSuccess;
}

CU_API cuEventRecord(Event* event, CUstream stream) {
  ON_DEVICE(device);
  if (Result result = check_event("cuEventRecord", event)) return result;
  return record_event(*event, stream);
}
CU_API cuEventRecordWithFlags(Event* event, CUstream stream, unsigned) { return cuEventRecord(event, stream); }

CU_API cuEventSynchronize(Event* event) {
  ON_DEVICE(device);
  if (Result result = check_event("cuEventSynchronize", event)) return result;
  if (Result result = reject_in_capture("cuEventSynchronize")) return result;
  return synchronize_event(*event);
}

CU_API cuEventQuery(Event* event) {
  ON_DEVICE(device);
  if (Result result = check_event("cuEventQuery", event)) return result;
  if (Result result = reject_in_capture("cuEventQuery")) return result;
  if (event->capture) return reject(kCapturedEvent, "cuEventQuery: the event was recorded in a capture");
  return query_event(*event) ? sticky_error(device) : kNotReady;
}

CU_API cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  ON_DEVICE(device);
  if (Result result = check_event("cuEventElapsedTime", start)) return result;
  if (Result result = check_event("cuEventElapsedTime", end)) return result;
  if (event_time(*start) == 0 || event_time(*end) == 0) return kNotReady;
  *milliseconds = float((event_time(*end) - event_time(*start)) * 1e3);
  return kSuccess;
}
CU_API cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
  SINCE_CUDA(12080, "cuEventElapsedTime_v2");
  return cuEventElapsedTime(milliseconds, start, end);
}

// ---- capture and graphs
CU_API cuStreamBeginCapture_v2(CUstream stream, int mode) {
  ON_DEVICE(device);
  return begin_capture(stream, CaptureMode(mode));
}

CU_API cuThreadExchangeStreamCaptureMode(int* mode) {
  auto guard = lock();
  if (*mode < 0 || *mode > 2) return reject(kInvalidValue, "cuThreadExchangeStreamCaptureMode: no mode " + std::to_string(*mode));
  *mode = int(exchange_capture_mode(CaptureMode(*mode)));
  return kSuccess;
}

CU_API cuStreamEndCapture(CUstream stream, GraphHandle** handle) {
  ON_DEVICE(device);
  std::shared_ptr<Graph> graph;
  *handle = nullptr;
  if (Result result = end_capture(stream, &graph)) return result;
  *handle = new GraphHandle{graph};
  return kSuccess;
}

CU_API cuStreamIsCapturing(CUstream stream, int* status) {
  auto guard = lock();
  *status = capture_status(stream);
  return kSuccess;
}

CU_API cuStreamGetCaptureInfo_v3(CUstream stream, int* status, uint64_t* id, GraphHandle** graph, void* nodes, void* edges,
                                 size_t* count) {
  auto guard = lock();
  *status = capture_status(stream);
  if (id) *id = uint64_t(uintptr_t(stream));
  if (graph || nodes || edges || count) return reject(kNotSupported, "cuStreamGetCaptureInfo: only status and id are supported");
  return kSuccess;
}

CU_API cuGraphInstantiateWithFlags(GraphExec** exec, GraphHandle* graph, unsigned long long flags) {
  auto guard = lock();
  *exec = nullptr;
  // AUTO_FREE_ON_LAUNCH 1, UPLOAD 2, DEVICE_LAUNCH 4, USE_NODE_PRIORITY 8
  if (flags & ~15ull || (flags & 5) == 5) {
    return reject(kInvalidValue, "cuGraphInstantiate: invalid flags " + std::to_string(flags));
  }
  *exec = new GraphExec{graph->graph};
  return kSuccess;
}

CU_API cuGraphLaunch(GraphExec* exec, CUstream stream) {
  ON_DEVICE(device);
  return launch_graph(exec->graph, stream);
}

CU_API cuGraphUpload(GraphExec*, CUstream) { return kSuccess; }

CU_API cuGraphGetNodes(GraphHandle* graph, void* nodes, size_t* count) {
  auto guard = lock();
  if (nodes) return reject(kNotSupported, "cuGraphGetNodes: only the count is supported");
  *count = node_count(*graph->graph);
  return kSuccess;
}

CU_API cuGraphDestroy(GraphHandle* graph) {
  auto guard = lock();
  delete graph;
  return kSuccess;
}

CU_API cuGraphExecDestroy(GraphExec* exec) {
  auto guard = lock();
  delete exec;
  return kSuccess;
}
