// One rank of a communicator.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime.h"
#include "wire.h"

namespace nccl {

// Values of ncclResult_t.
enum Status {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7
};

// Message of the last failed call or communicator of the process, for ncclGetLastError.
void set_error_text(const std::string& text);
const char* error_text();

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(int ranks, int rank, int device, bool blocking);

  const int ranks, rank, device;
  const bool blocking;

  // Starts to join the other ranks at the hub of that name.
  void join(const std::string& hub);
  // Waits for the call in progress if the communicator blocks, and returns the status.
  int finish();
  // The asynchronous status. Operations that were put off are queued by this call.
  int poll();
  // Queues an operation on a stream of the device. Without blocking, a call or group is put off until `poll`, as NCCL then queues its kernels in
  // another thread: a program that does not poll misses the operation.
  int queue(CUstream stream, const char* name, const Operation& operation, const void* from, void* to, bool in_group);
  // Leaves the communicator after the queued operations and the graphs with its operations; without blocking, in another thread.
  int finalize();
  // Ends the queued operations, whose results are undefined, and waits for the graphs, as NCCL does.
  void abort();

 private:
  bool advance(const Operation& operation, const void* from, void* to);
  void read_messages();
  void set_status(int status, const std::string& text);
  int start(CUstream stream, const char* name, const Operation& operation, const void* from, void* to);
  void update_awaited();
  void leave();
  void wait_for_graphs();

  std::mutex mutex_;
  std::condition_variable changed_;
  int status_ = in_progress;
  int socket_ = -1;
  bool has_left_ = false, is_aborted_ = false;
  std::vector<std::function<int()>> put_off_;
  uint64_t next_ = 0;             // sequence number of the next operation to run
  bool in_flight_ = false;        // this rank has contributed to it
  uint64_t awaited_ = 0;          // number of operations that another rank has begun
  std::map<uint64_t, std::string> results_;
  std::shared_ptr<bool> graph_reference_ = std::make_shared<bool>();  // copied into captured operations
  std::shared_ptr<fornax::Peers> peers_ = std::make_shared<fornax::Peers>();
};

}  // namespace nccl
