// Messages between the ranks of a communicator and its hub, over Unix sockets.
#pragma once
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace nccl {

enum class MessageKind : int32_t {
  // To the hub.
  Hello,       // joins the communicator: `rank`, the number of ranks in `operation.count`, the device in `operation.root`
  Contribute,  // this rank's input of its next operation
  Goodbye,     // the communicator is destroyed
  // To a rank.
  Ready,     // all ranks have joined
  Failed,    // the communicator cannot be made; the payload says why
  Awaited,   // another rank waits for operation `sequence`
  Result,    // output of an operation
  Mismatch,  // the ranks call different operations, and hang; the payload says which
  Lost,      // `rank` has ended without destroying the communicator
};

enum class OperationKind : int32_t { AllReduce, Broadcast, AllGather, ReduceScatter };

struct Operation {
  OperationKind kind;
  int32_t type, reduction, root;
  uint64_t count;

  bool operator==(const Operation& o) const {
    return kind == o.kind && type == o.type && reduction == o.reduction && root == o.root && count == o.count;
  }
};

struct Message {
  MessageKind kind;
  int32_t rank = 0;
  uint64_t sequence = 0;
  Operation operation{};
  std::string payload;
};

struct MessageHeader {
  MessageKind kind;
  int32_t rank;
  uint64_t sequence;
  Operation operation;
  uint64_t bytes;
};

// Writes all bytes. False if the connection is closed.
inline bool write_all(int socket, const void* from, size_t bytes) {
#ifdef MSG_NOSIGNAL
  const int flags = MSG_NOSIGNAL;
#else
  const int flags = 0;  // SO_NOSIGPIPE is set
#endif
  const char* at = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t sent = send(socket, at, bytes, flags);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent, bytes -= size_t(sent);
  }
  return true;
}

inline bool read_all(int socket, void* to, size_t bytes) {
  char* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t received = recv(socket, at, bytes, 0);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) return false;
    at += received, bytes -= size_t(received);
  }
  return true;
}

inline bool send_message(int socket, const Message& message) {
  const MessageHeader header{message.kind, message.rank, message.sequence, message.operation, message.payload.size()};
  return write_all(socket, &header, sizeof header) && write_all(socket, message.payload.data(), message.payload.size());
}

inline bool receive_message(int socket, Message* message) {
  MessageHeader header;
  if (!read_all(socket, &header, sizeof header)) return false;
  message->kind = header.kind, message->rank = header.rank;
  message->sequence = header.sequence, message->operation = header.operation;
  message->payload.resize(header.bytes);
  return read_all(socket, &message->payload[0], header.bytes);
}

// Socket that child processes do not inherit; -1 if none can be made.
inline int make_socket() {
  const int made = socket(AF_UNIX, SOCK_STREAM, 0);
  if (made < 0) return -1;
  fcntl(made, F_SETFD, FD_CLOEXEC);
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(made, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  return made;
}

// Address of a hub: on Linux a name without a file, elsewhere a file in /tmp.
inline socklen_t hub_address(const std::string& name, sockaddr_un* address) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
#ifdef __linux__
  const std::string path = std::string(1, '\0') + name;
#else
  const std::string path = "/tmp/" + name;
#endif
  memcpy(address->sun_path, path.data(), path.size() < sizeof address->sun_path ? path.size() : sizeof address->sun_path - 1);
  return socklen_t(offsetof(sockaddr_un, sun_path) + path.size());
}

}  // namespace nccl
