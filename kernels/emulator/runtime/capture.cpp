// Stream capture: work becomes nodes of a graph with the dependencies that streams and events define; a graph launch runs them.
#include <algorithm>
#include <utility>

#include "stream.h"

namespace fornax {
namespace {

thread_local CaptureMode thread_capture_mode = CaptureMode::Global;

void add_unique(std::vector<size_t>& list, const std::vector<size_t>& more) {
  for (size_t node : more) {
    if (std::find(list.begin(), list.end(), node) == list.end()) list.push_back(node);
  }
}

// True if every node in `ends` is in `frontier` or precedes a node in it.
bool reaches(const Graph& graph, const std::vector<size_t>& frontier, const std::vector<size_t>& ends) {
  std::vector<bool> before(graph.nodes.size(), false);
  std::vector<size_t> pending = frontier;
  while (!pending.empty()) {
    size_t node = pending.back();
    pending.pop_back();
    if (before[node]) continue;
    before[node] = true;
    add_unique(pending, graph.nodes[node].dependencies);
  }
  return std::all_of(ends.begin(), ends.end(), [&](size_t node) { return before[node]; });
}

// Runs the nodes in an order that their dependencies allow: as captured, latest first, or random by the seed. A node that waits for other
// ranks does not delay nodes that are independent of it. False if all remaining nodes wait.
bool run_nodes(Replay& replay) {
  const std::vector<GraphNode>& nodes = replay.graph->nodes;
  const uint64_t order = settings().order;
  std::vector<bool> waits(nodes.size(), false);
  std::vector<size_t> ready;
  while (replay.remaining > 0) {
    ready.clear();
    for (size_t i = 0; i < nodes.size() && (order > 0 || ready.empty()); i++) {
      const auto& dependencies = nodes[i].dependencies;
      bool is_ready = std::all_of(dependencies.begin(), dependencies.end(), [&](size_t node) { return replay.done[node]; });
      if (!replay.done[i] && !waits[i] && is_ready) ready.push_back(i);
    }
    if (ready.empty()) return false;
    size_t pick = order == 0 ? ready.front() : order == 1 ? ready.back() : ready[next_random(replay.random) % ready.size()];
    if (run_work(nodes[pick].device, nodes[pick].work)) {
      replay.done[pick] = true;
      replay.remaining--;
    } else {
      waits[pick] = true;
    }
  }
  return true;
}

}  // namespace

Graph::~Graph() {
  for (const auto& owned : allocations) {
    Allocation* allocation = find_driver_allocation(owned.first);
    if (allocation && allocation->number == owned.second) free_memory(owned.first);
  }
}

bool is_capturing(CUstream handle) {
  auto guard = lock();
  CUstream stream = resolve_stream(handle);
  return stream && stream->capture;
}

int capture_status(CUstream handle) {
  CUstream stream = resolve_stream(handle);
  return !stream || !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
}

Result invalidate_capture(CUstream handle, const char* call) {
  CUstream stream = resolve_stream(handle);
  if (stream && stream->capture) stream->capture->invalid = true;
  return reject(kCaptureUnsupported, std::string(call) + ": not allowed while a stream is being captured");
}

// As documented at cuThreadExchangeStreamCaptureMode: a thread in relaxed mode is never rejected; any other is rejected during its own
// captures that are not relaxed; and one in global mode also during other threads' global captures.
Result reject_in_capture(const char* call) {
  if (thread_capture_mode == CaptureMode::Relaxed) return kSuccess;
  for (CUstream stream : all_streams()) {
    Capture* capture = stream->capture.get();
    if (!capture || capture->mode == CaptureMode::Relaxed) continue;
    bool ours = capture->thread == std::this_thread::get_id();
    bool global = thread_capture_mode == CaptureMode::Global && capture->mode == CaptureMode::Global;
    if (ours || global) return invalidate_capture(stream, call);
  }
  return kSuccess;
}

CaptureMode exchange_capture_mode(CaptureMode mode) { return std::exchange(thread_capture_mode, mode); }

Result begin_capture(CUstream handle, CaptureMode mode) {
  CUstream stream = resolve_stream(handle);
  if (!stream) return reject(kInvalidHandle, "cuStreamBeginCapture: not a stream");
  if (stream->legacy) return reject(kCaptureUnsupported, "cuStreamBeginCapture: the default stream cannot be captured");
  if (stream->capture) return reject(kInvalidValue, "cuStreamBeginCapture: the stream is being captured already");
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->mode = mode;
  stream->capture->thread = std::this_thread::get_id();
  stream->capture_dependencies.clear();
  return sticky_error(stream->device);
}

Result end_capture(CUstream handle, std::shared_ptr<Graph>* graph) {
  CUstream stream = resolve_stream(handle);
  if (!stream || !stream->capture) return reject(kInvalidValue, "cuStreamEndCapture: the stream is not being captured");
  std::shared_ptr<Capture> capture = stream->capture;
  if (capture->origin != stream) {
    return reject(kCaptureUnmatched, "cuStreamEndCapture: the capture began on another stream");
  }
  bool joined = true;
  for (CUstream other : streams_of(*capture)) {
    joined = joined && reaches(*capture->graph, stream->capture_dependencies, other->capture_dependencies);
  }
  capture->ended = true;
  for (CUstream other : streams_of(*capture)) {
    other->capture.reset();
    other->capture_dependencies.clear();
  }
  if (capture->invalid) return reject(kCaptureInvalidated, "cuStreamEndCapture: an earlier call invalidated the capture");
  if (!joined) {
    return reject(kCaptureUnjoined, "cuStreamEndCapture: the origin stream does not wait for the work of another captured stream");
  }
  *graph = capture->graph;
  return kSuccess;
}

Result capture_work(CUstream stream, Work work) {
  if (stream->capture->invalid) return reject(kCaptureInvalidated, work.name + ": the capture is invalidated");
  auto& nodes = stream->capture->graph->nodes;
  // The operations of a communicator run in the order of the calls, on whichever streams.
  auto same_peers = [&](const GraphNode& node) { return !work.peers.empty() && node.work.peers == work.peers; };
  auto previous = std::find_if(nodes.rbegin(), nodes.rend(), same_peers);
  if (previous != nodes.rend()) add_unique(stream->capture_dependencies, {size_t(nodes.rend() - previous) - 1});
  nodes.push_back({std::move(work), stream->device, stream->capture_dependencies});
  stream->capture_dependencies = {nodes.size() - 1};
  return kSuccess;
}

Result capture_wait(CUstream stream, const Event& event) {
  if (event.capture && event.capture->ended) {
    return reject(kCapturedEvent, "cuStreamWaitEvent: the event was recorded in a capture that has ended");
  }
  if (!event.capture) {
    if (!event.recorded) return kSuccess;
    stream->capture->invalid = true;
    return reject(kCaptureIsolation, "cuStreamWaitEvent: the event was recorded outside of the stream's capture");
  }
  if (!stream->capture) {
    stream->capture = event.capture;
    stream->capture_dependencies = event.capture_dependencies;
    return kSuccess;
  }
  if (stream->capture != event.capture) {
    stream->capture->invalid = true;
    return reject(kCaptureIsolation, "cuStreamWaitEvent: the event belongs to another capture");
  }
  add_unique(stream->capture_dependencies, event.capture_dependencies);
  return kSuccess;
}

Result launch_graph(const std::shared_ptr<Graph>& graph, CUstream stream) {
  Work work{"graph", nullptr};
  for (const GraphNode& node : graph->nodes) {
    for (const auto& peers : node.work.peers) {
      if (std::find(work.peers.begin(), work.peers.end(), peers) == work.peers.end()) work.peers.push_back(peers);
    }
  }
  auto replay = std::make_shared<Replay>(Replay{graph, std::vector<bool>(graph->nodes.size(), false), graph->nodes.size(), settings().order});
  work.advance = [replay] { return run_nodes(*replay); };
  return submit(stream, std::move(work));
}

size_t node_count(const Graph& graph) {
  return size_t(std::count_if(graph.nodes.begin(), graph.nodes.end(), [](const GraphNode& node) { return node.work.is_node; }));
}

void add_graph_allocation(CUstream handle, uintptr_t base) {
  CUstream stream = resolve_stream(handle);
  stream->capture->graph->allocations.emplace_back(base, find_driver_allocation(base)->number);
}

bool is_graph_allocation(CUstream handle, const Allocation& allocation) {
  CUstream stream = resolve_stream(handle);
  const auto& owned = stream->capture->graph->allocations;
  return std::find(owned.begin(), owned.end(), std::make_pair(allocation.base, allocation.number)) != owned.end();
}

}  // namespace fornax
