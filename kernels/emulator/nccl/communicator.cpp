#include "communicator.h"

#include <chrono>
#include <thread>

#include "reduce.h"

namespace nccl {
namespace {

std::mutex text_mutex;
std::string& text() {
  static auto* instance = new std::string;
  return *instance;
}

}  // namespace

void set_error_text(const std::string& what) {
  std::lock_guard<std::mutex> guard(text_mutex);
  text() = what;
}

const char* error_text() {
  static thread_local std::string copy;
  std::lock_guard<std::mutex> guard(text_mutex);
  copy = text();
  return copy.c_str();
}

Communicator::Communicator(int ranks, int rank, int device, bool blocking)
    : ranks(ranks), rank(rank), device(device), blocking(blocking) {}

void Communicator::join(const std::string& hub) {
  std::thread([self = shared_from_this(), hub] {
    sockaddr_un address;
    const socklen_t length = hub_address(hub, &address);
    const int socket = make_socket();
    const bool connected = socket >= 0 && connect(socket, reinterpret_cast<sockaddr*>(&address), length) == 0;
    Message hello{MessageKind::Hello, self->rank, 0, {}, ""};
    hello.operation.count = uint64_t(self->ranks);
    hello.operation.root = self->device;
    {
      std::lock_guard<std::mutex> guard(self->mutex_);
      self->socket_ = socket;
      if (self->is_aborted_ && socket >= 0) shutdown(socket, SHUT_RDWR);
    }
    if (!connected || !send_message(socket, hello)) {
      self->set_status(system_error, "no process listens under the address of the unique id");
      return;
    }
    self->read_messages();
  }).detach();
}

int Communicator::finish() {
  std::unique_lock<std::mutex> guard(mutex_);
  if (blocking) changed_.wait(guard, [&] { return status_ != in_progress; });
  return status_;
}

int Communicator::poll() {
  std::vector<std::function<int()>> put_off;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (put_off_.empty()) return status_;
    put_off.swap(put_off_);
  }
  int status = success;
  for (auto& call : put_off) {
    if (status == success) status = call();
  }
  std::lock_guard<std::mutex> guard(mutex_);
  if (status_ == in_progress) status_ = status;
  return status_;
}

int Communicator::queue(CUstream stream, const char* name, const Operation& operation, const void* from, void* to, bool in_group) {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    const bool joins_put_off = in_group && !put_off_.empty();
    if (status_ == in_progress && !joins_put_off) {
      set_error_text(std::string(name) + ": the communicator is used before its last call has succeeded");
      return invalid_argument;
    }
    if (status_ != success && !joins_put_off) return status_;
    if (!blocking) {
      status_ = in_progress;
      put_off_.push_back([=] { return start(stream, name, operation, from, to); });
      return in_progress;
    }
  }
  return start(stream, name, operation, from, to);
}

int Communicator::start(CUstream stream, const char* name, const Operation& operation, const void* from, void* to) {
  auto graph_reference = fornax::is_capturing(stream) ? graph_reference_ : nullptr;
  auto advance = [self = shared_from_this(), operation, from, to, graph_reference] { return self->advance(operation, from, to); };
  return fornax::enqueue_with_peers(stream, name, peers_, advance) ? success : unhandled_cuda_error;
}

// Contributes this rank's input when the operation's turn has come, and writes the output when the hub has sent it.
bool Communicator::advance(const Operation& operation, const void* from, void* to) {
  std::unique_lock<std::mutex> guard(mutex_);
  if (is_aborted_) return true;
  if (has_left_) fornax::fail_work("its communicator is destroyed");
  const size_t part = operation.count * size_of(operation.type);
  const size_t in_parts = operation.kind == OperationKind::ReduceScatter ? size_t(ranks) : 1;
  const size_t out_parts = operation.kind == OperationKind::AllGather ? size_t(ranks) : 1;
  if (!in_flight_) {
    if (status_ != success && status_ != in_progress) return false;  // hangs until it is aborted
    const bool sends = operation.kind != OperationKind::Broadcast || operation.root == rank;
    const size_t bytes = sends ? in_parts * part : 0;
    Message message{MessageKind::Contribute, rank, next_, operation, ""};
    if (bytes) message.payload.assign(static_cast<const char*>(fornax::device_range(from, bytes, fornax::Access::Read)), bytes);
    in_flight_ = true;
    update_awaited();
    guard.unlock();  // the reader thread empties the socket meanwhile
    send_message(socket_, message);
    guard.lock();
  }
  auto result = results_.find(next_);
  if (result == results_.end()) return false;
  if (size_t bytes = out_parts * part) memcpy(fornax::device_range(to, bytes, fornax::Access::Write), result->second.data(), bytes);
  results_.erase(result);
  next_++;
  in_flight_ = false;
  update_awaited();
  return true;
}

void Communicator::update_awaited() { peers_->awaited = awaited_ > next_ + in_flight_; }

void Communicator::read_messages() {
  Message message;
  while (receive_message(socket_, &message)) {
    switch (message.kind) {
      case MessageKind::Ready: set_status(success, ""); break;
      case MessageKind::Failed: set_status(invalid_usage, message.payload); break;
      case MessageKind::Mismatch: set_error_text(message.payload); break;
      case MessageKind::Lost: set_status(remote_error, "rank " + std::to_string(message.rank) + " has closed its connection"); break;
      default: {
        std::lock_guard<std::mutex> guard(mutex_);
        if (message.kind == MessageKind::Result) results_[message.sequence] = std::move(message.payload);
        if (message.kind == MessageKind::Awaited) awaited_ = message.sequence + 1;
        update_awaited();
      }
    }
    fornax::notify_change();
  }
  bool has_left;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    has_left = has_left_ || is_aborted_;
  }
  if (!has_left) set_status(remote_error, "the process that made the unique id has closed its connection");
  fornax::notify_change();
}

// Sets the asynchronous status. An error stays, with its text.
void Communicator::set_status(int status, const std::string& what) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (status_ != in_progress && status_ != success) return;
  if (!what.empty()) set_error_text(what);
  status_ = status;
  changed_.notify_all();
}

int Communicator::finalize() {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (has_left_ || is_aborted_ || status_ != success) return status_;
    status_ = in_progress;
  }
  if (blocking) {
    leave();
  } else {
    std::thread([self = shared_from_this()] { self->leave(); }).detach();
  }
  return finish();
}

void Communicator::leave() {
  fornax::wait_for_work(*peers_);
  wait_for_graphs();
  std::lock_guard<std::mutex> guard(mutex_);
  if (is_aborted_) return;
  has_left_ = true;
  send_message(socket_, {MessageKind::Goodbye, rank, 0, {}, ""});
  if (status_ == in_progress) status_ = success;
  changed_.notify_all();
}

void Communicator::abort() {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    is_aborted_ = true;
    put_off_.clear();
    if (socket_ >= 0) shutdown(socket_, SHUT_RDWR);
  }
  fornax::notify_change();
  wait_for_graphs();
}

void Communicator::wait_for_graphs() {
  while (graph_reference_.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace nccl
