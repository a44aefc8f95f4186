// Internals of streams, captures and graphs.
#pragma once
#include <deque>
#include <thread>

#include "internal.h"

namespace fornax {

struct StreamOperation {
  Work work;
  CUstream stream;
  std::vector<StreamOperationRef> dependencies;  // on other streams
  bool done = false;
  double seconds = 0;  // emulated time that its work took so far
  double time = 0;     // emulated time of completion in seconds
};

struct GraphNode {
  Work work;
  int device;
  std::vector<size_t> dependencies;
};

// Replay of a graph in progress.
struct Replay {
  std::shared_ptr<Graph> graph;
  std::vector<bool> done;  // by node
  size_t remaining;
  uint64_t random;
};

struct Graph {
  std::vector<GraphNode> nodes;
  std::vector<std::pair<uintptr_t, uint64_t>> allocations;  // made during the capture: address and number
  ~Graph();
};

struct Capture {
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  CUstream origin = nullptr;
  CaptureMode mode;
  std::thread::id thread;  // the one that began the capture
  bool invalid = false, ended = false;
};

// Stream of a handle, including the default streams; null for an invalid handle.
CUstream resolve_stream(CUstream handle);
// Runs work now, unless its device has a sticky error. False if it waits for other ranks.
bool run_work(int device, const Work& work);
// Starts the thread that runs work which other ranks wait for.
void start_awaited_work_thread();
// Streams of a capture.
std::vector<CUstream> streams_of(const Capture& capture);
const std::vector<CUstream>& all_streams();
Result capture_work(CUstream stream, Work work);
Result capture_wait(CUstream stream, const Event& event);

}  // namespace fornax

struct CUstream_st {
  int device = 0;
  bool blocking = false, legacy = false;
  double clock = 0;  // emulated time at which its last operation was done
  std::deque<fornax::StreamOperationRef> queue;
  std::shared_ptr<fornax::Capture> capture;
  std::vector<size_t> capture_dependencies;  // of the next captured node
};
