// Streams, captures and graphs from the inside.
#pragma once
#include <deque>
#include <thread>

#include "internal.h"

namespace fornax {

struct Operation {
  Work work;
  CUstream stream;
  std::vector<OperationRef> after;  // operations of other streams
  bool done = false;
  double time = 0;  // when it ran, in seconds
};

struct Node {
  Work work;
  int device;
  std::vector<size_t> after;
};

struct Graph {
  std::vector<Node> nodes;
  std::vector<std::pair<uintptr_t, uint64_t>> memory;  // address and number of what was allocated while capturing
  ~Graph();
};

struct Capture {
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  CUstream origin = nullptr;
  CaptureMode mode;
  std::thread::id thread;  // that began it
  bool invalid = false, ended = false;
};

// The stream of a handle, the default streams included; null when there is none.
CUstream resolve(CUstream handle);
// Runs a piece of work now, unless its device is in the state of an error.
void run_work(int device, const Work& work);
// Streams that take part in a capture; all that exist.
std::vector<CUstream> streams_of(const Capture& capture);
const std::vector<CUstream>& all_streams();
Result capture_work(CUstream stream, Work work);
Result capture_wait(CUstream stream, const Event& event);

}  // namespace fornax

struct CUstream_st {
  int device = 0;
  bool blocking = false, legacy = false;
  std::deque<fornax::OperationRef> queue;
  std::shared_ptr<fornax::Capture> capture;
  std::vector<size_t> frontier;  // nodes of the capture that the next one comes after
};
