#include "hub.h"

#include <poll.h>

#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "reduce.h"
#include "wire.h"

namespace nccl {
namespace {

std::string describe(const Operation& operation) {
  static const char* kinds[] = {"all-reduce", "broadcast", "all-gather", "reduce-scatter"};
  return std::string(kinds[int(operation.kind)]) + " of " + std::to_string(operation.count) + " elements of type " + std::to_string(operation.type) +
         " (reduction " + std::to_string(operation.reduction) + ", root " + std::to_string(operation.root) + ")";
}

class Hub {
 public:
  explicit Hub(int listening) : listening_(listening) {}

  void run() {
    if (!accept_ranks()) return;
    for (auto& rank : ranks_) send_message(rank.socket, {MessageKind::Ready, 0, 0, {}, ""});
    while (receive_any()) {
    }
  }

 private:
  struct Rank {
    int socket = -1;
    int device = 0;
    bool connected = false;
    bool has_contributed = false;
    Operation operation{};
    std::string input;
  };

  // Waits until every rank has joined. False if that is impossible.
  bool accept_ranks() {
    size_t joined = 0;
    do {
      const int socket = accept(listening_, nullptr, nullptr);
      if (socket < 0) continue;
      fcntl(socket, F_SETFD, FD_CLOEXEC);
      Message hello;
      if (!receive_message(socket, &hello)) {
        close(socket);
        continue;
      }
      if (ranks_.empty()) ranks_.resize(hello.operation.count);
      const std::string why = reason_to_refuse(hello);
      if (!why.empty()) {
        send_message(socket, {MessageKind::Failed, 0, 0, {}, why});
        send_to_others(ranks_.size(), {MessageKind::Failed, 0, 0, {}, why});
        close(socket);
        stop_listening();
        return false;
      }
      Rank& rank = ranks_[size_t(hello.rank)];
      rank.socket = socket;
      rank.device = hello.operation.root;
      rank.connected = true;
      joined++;
    } while (ranks_.empty() || joined < ranks_.size());
    stop_listening();
    return true;
  }

  // Why a rank cannot join; empty if it can. All ranks run on this machine, so that a device number is one device.
  std::string reason_to_refuse(const Message& hello) const {
    const std::string name = "rank " + std::to_string(hello.rank);
    if (hello.operation.count != ranks_.size() || size_t(hello.rank) >= ranks_.size()) {
      return name + " of " + std::to_string(hello.operation.count) + " joins a communicator of " + std::to_string(ranks_.size()) + " ranks";
    }
    if (ranks_[size_t(hello.rank)].connected) return name + " of " + std::to_string(hello.operation.count) + " has joined twice";
    for (size_t other = 0; other < ranks_.size(); other++) {
      if (!ranks_[other].connected || ranks_[other].device != hello.operation.root) continue;
      return "Duplicate GPU detected : " + name + " and rank " + std::to_string(other) + " both on CUDA device " + std::to_string(hello.operation.root);
    }
    return "";
  }

  void stop_listening() {
#ifndef __linux__
    sockaddr_un address;
    socklen_t length = sizeof address;
    if (getsockname(listening_, reinterpret_cast<sockaddr*>(&address), &length) == 0) unlink(address.sun_path);
#endif
    close(listening_);
  }

  // Receives messages of ranks that have sent one. False if no rank is left.
  bool receive_any() {
    std::vector<pollfd> polled;
    std::vector<size_t> ranks;
    for (size_t rank = 0; rank < ranks_.size(); rank++) {
      if (!ranks_[rank].connected) continue;
      polled.push_back({ranks_[rank].socket, POLLIN, 0});
      ranks.push_back(rank);
    }
    if (polled.empty()) return false;
    poll(polled.data(), nfds_t(polled.size()), -1);
    for (size_t i = 0; i < polled.size(); i++) {
      if (polled[i].revents && ranks_[ranks[i]].connected) receive(ranks[i]);
    }
    return true;
  }

  void receive(size_t rank) {
    Message message;
    if (!receive_message(ranks_[rank].socket, &message)) {
      disconnect(rank);
      send_to_others(rank, {MessageKind::Lost, int32_t(rank), 0, {}, ""});
    } else if (message.kind == MessageKind::Goodbye) {
      disconnect(rank);
    } else {
      contribute(rank, message);
    }
  }

  void disconnect(size_t rank) {
    close(ranks_[rank].socket);
    ranks_[rank].connected = false;
  }

  void send_to_others(size_t rank, const Message& message) {
    for (size_t other = 0; other < ranks_.size(); other++) {
      if (other != rank && ranks_[other].connected) send_message(ranks_[other].socket, message);
    }
  }

  void contribute(size_t rank, Message& message) {
    ranks_[rank].has_contributed = true;
    ranks_[rank].operation = message.operation;
    ranks_[rank].input = std::move(message.payload);
    size_t contributions = 0;
    for (auto& other : ranks_) contributions += other.has_contributed;
    if (contributions == 1) send_to_others(rank, {MessageKind::Awaited, 0, message.sequence, {}, ""});
    if (contributions < ranks_.size()) return;
    for (size_t other = 1; other < ranks_.size(); other++) {
      if (ranks_[other].operation == ranks_[0].operation) continue;
      const std::string what = "the ranks call different operations: rank 0 " + describe(ranks_[0].operation) + ", rank " + std::to_string(other) + " " +
                               describe(ranks_[other].operation);
      send_to_others(ranks_.size(), {MessageKind::Mismatch, 0, message.sequence, {}, what});
      return;  // the operation never ends
    }
    send_results(message.sequence);
  }

  void send_results(uint64_t sequence) {
    const Operation operation = ranks_[0].operation;
    std::vector<std::string> inputs;
    for (auto& rank : ranks_) {
      inputs.push_back(std::move(rank.input));
      rank.has_contributed = false;
    }
    const size_t part = operation.count * size_of(operation.type);
    std::string output;
    switch (operation.kind) {
      case OperationKind::Broadcast: output = std::move(inputs[size_t(operation.root)]); break;
      case OperationKind::AllGather:
        for (const std::string& input : inputs) output += input;
        break;
      case OperationKind::AllReduce: output = reduce(inputs, operation.count, operation.type, operation.reduction); break;
      case OperationKind::ReduceScatter:
        output = reduce(inputs, operation.count * inputs.size(), operation.type, operation.reduction);
        break;
    }
    const bool scatters = operation.kind == OperationKind::ReduceScatter;
    for (size_t rank = 0; rank < ranks_.size(); rank++) {
      if (!ranks_[rank].connected) continue;
      send_message(ranks_[rank].socket, {MessageKind::Result, 0, sequence, {}, scatters ? output.substr(rank * part, part) : output});
    }
  }

  int listening_;
  std::vector<Rank> ranks_;
};

}  // namespace

std::string start_hub() {
  std::random_device random;
  char name[64];
  snprintf(name, sizeof name, "fornax-nccl-%d-%08x%08x", int(getpid()), unsigned(random()), unsigned(random()));
  sockaddr_un address;
  const socklen_t length = hub_address(name, &address);
  const int listening = make_socket();
  if (listening < 0) return "";
  if (bind(listening, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listening, 128) != 0) {
    close(listening);
    return "";
  }
  std::thread([listening] { Hub(listening).run(); }).detach();
  return name;
}

}  // namespace nccl
