// libnccl.so.2 of the emulated device: collective operations between emulated devices of one process or of several on one machine.
//
// Like NCCL it queues operations on streams, where they wait for the other ranks. Ranks that call different operations hang until the
// communicator is aborted; ncclGetLastError then says which operations differ.

#include <set>
#include <vector>

#include "communicator.h"
#include "hub.h"
#include "reduce.h"

namespace nccl {
namespace {

constexpr unsigned kConfigMagic = 0xcafebeef;

struct UniqueId {
  char bytes[128];
};

// First fields of ncclConfig_t.
struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

struct Handle {
  std::shared_ptr<Communicator> communicator;
};

std::mutex handles_mutex;
std::set<Handle*>& handles() {
  static auto* instance = new std::set<Handle*>;
  return *instance;
}

// Calls of a group, made at its end, and the communicators that they use.
thread_local int group_depth = 0;
thread_local std::vector<std::function<int()>> group_calls;
thread_local std::vector<std::shared_ptr<Communicator>> group_communicators;

int reject(const std::string& why) {
  set_error_text(why);
  return invalid_argument;
}

std::shared_ptr<Communicator> find(Handle* handle) {
  std::lock_guard<std::mutex> guard(handles_mutex);
  return handles().count(handle) ? handle->communicator : nullptr;
}

// Removes a handle. Null if it is not one.
std::shared_ptr<Communicator> take(Handle* handle) {
  std::lock_guard<std::mutex> guard(handles_mutex);
  if (!handles().erase(handle)) return nullptr;
  std::shared_ptr<Communicator> communicator = std::move(handle->communicator);
  delete handle;
  return communicator;
}

int collective(const char* name, Handle* handle, const Operation& operation, const void* from, void* to, CUstream stream) {
  auto communicator = find(handle);
  if (!communicator) return reject(std::string(name) + ": not a communicator");
  if (operation.type < 0 || operation.type >= data_types) return reject(std::string(name) + ": no data type " + std::to_string(operation.type));
  if (operation.reduction < 0 || operation.reduction >= reductions) return reject(std::string(name) + ": no reduction " + std::to_string(operation.reduction));
  if (operation.root < 0 || operation.root >= communicator->ranks) return reject(std::string(name) + ": no rank " + std::to_string(operation.root));
  if (operation.count > 0 && (!from || !to)) return reject(std::string(name) + ": a buffer is null");
  if (fornax::device_of(stream) != communicator->device) return reject(std::string(name) + ": the stream is of another device");
  if (group_depth == 0) return communicator->queue(stream, name, operation, from, to, false);
  group_calls.push_back([=] { return communicator->queue(stream, name, operation, from, to, true); });
  group_communicators.push_back(communicator);
  return success;
}

}  // namespace
}  // namespace nccl

using namespace nccl;

extern "C" {

FORNAX_API int ncclGetVersion(int* version) {
  if (!version) return reject("ncclGetVersion: null");
  *version = 22803;
  return success;
}

FORNAX_API const char* ncclGetErrorString(int status) {
  static const char* texts[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error",
                                "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                "NCCL operation in progress"};
  return status >= 0 && status < 8 ? texts[status] : "unknown result code";
}

FORNAX_API const char* ncclGetLastError(Handle*) { return error_text(); }

FORNAX_API int ncclGetUniqueId(UniqueId* id) {
  if (!id) return reject("ncclGetUniqueId: null");
  const std::string hub = start_hub();
  if (hub.empty()) {
    set_error_text("ncclGetUniqueId: no Unix socket can be made");
    return system_error;
  }
  memset(id->bytes, 0, sizeof id->bytes);
  memcpy(id->bytes, hub.data(), hub.size());
  return success;
}

FORNAX_API int ncclCommInitRankConfig(Handle** handle, int ranks, UniqueId id, int rank, const Config* config) {
  if (!handle) return reject("ncclCommInitRank: null");
  *handle = nullptr;
  if (ranks < 1 || rank < 0 || rank >= ranks) return reject("ncclCommInitRank: no rank " + std::to_string(rank) + " of " + std::to_string(ranks));
  if (config && config->magic != kConfigMagic) return reject("ncclCommInitRankConfig: the configuration is not initialised");
  const std::string hub(id.bytes, strnlen(id.bytes, sizeof id.bytes));
  if (hub.rfind("fornax-nccl-", 0) != 0) return reject("ncclCommInitRank: the unique id is not of ncclGetUniqueId");
  const bool blocking = !config || config->blocking != 0;
  auto communicator = std::make_shared<Communicator>(ranks, rank, fornax::current_device(), blocking);
  *handle = new Handle{communicator};
  {
    std::lock_guard<std::mutex> guard(handles_mutex);
    handles().insert(*handle);
  }
  communicator->join(hub);
  if (group_depth == 0) return communicator->finish();
  group_communicators.push_back(communicator);
  return success;
}

FORNAX_API int ncclCommInitRank(Handle** handle, int ranks, UniqueId id, int rank) {
  return ncclCommInitRankConfig(handle, ranks, id, rank, nullptr);
}

FORNAX_API int ncclCommGetAsyncError(Handle* handle, int* status) {
  auto communicator = find(handle);
  if (!communicator || !status) return reject("ncclCommGetAsyncError: not a communicator");
  *status = communicator->poll();
  return success;
}

FORNAX_API int ncclCommFinalize(Handle* handle) {
  auto communicator = find(handle);
  if (!communicator) return reject("ncclCommFinalize: not a communicator");
  return communicator->finalize();
}

FORNAX_API int ncclCommDestroy(Handle* handle) {
  auto communicator = take(handle);
  if (!communicator) return reject("ncclCommDestroy: not a communicator");
  communicator->finalize();
  return success;
}

FORNAX_API int ncclCommAbort(Handle* handle) {
  auto communicator = take(handle);
  if (!communicator) return reject("ncclCommAbort: not a communicator");
  communicator->abort();
  return success;
}

FORNAX_API int ncclCommCount(Handle* handle, int* count) {
  auto communicator = find(handle);
  if (!communicator || !count) return reject("ncclCommCount: not a communicator");
  *count = communicator->ranks;
  return success;
}

FORNAX_API int ncclCommUserRank(Handle* handle, int* rank) {
  auto communicator = find(handle);
  if (!communicator || !rank) return reject("ncclCommUserRank: not a communicator");
  *rank = communicator->rank;
  return success;
}

FORNAX_API int ncclCommCuDevice(Handle* handle, int* device) {
  auto communicator = find(handle);
  if (!communicator || !device) return reject("ncclCommCuDevice: not a communicator");
  *device = communicator->device;
  return success;
}

FORNAX_API int ncclGroupStart() {
  group_depth++;
  return success;
}

FORNAX_API int ncclGroupEnd() {
  if (group_depth == 0) {
    set_error_text("ncclGroupEnd: no group has begun");
    return invalid_usage;
  }
  if (--group_depth > 0) return success;
  auto calls = std::move(group_calls);
  auto communicators = std::move(group_communicators);
  group_calls.clear(), group_communicators.clear();
  int status = success;
  auto keep = [&](int next) {
    if (status == success || (status == in_progress && next != success)) status = next;
  };
  for (auto& call : calls) keep(call());
  for (auto& communicator : communicators) keep(communicator->finish());
  return status;
}

FORNAX_API int ncclAllReduce(const void* from, void* to, size_t count, int type, int reduction, Handle* handle, CUstream stream) {
  return collective("ncclAllReduce", handle, {OperationKind::AllReduce, type, reduction, 0, count}, from, to, stream);
}

FORNAX_API int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Handle* handle, CUstream stream) {
  return collective("ncclBroadcast", handle, {OperationKind::Broadcast, type, 0, root, count}, from, to, stream);
}

FORNAX_API int ncclAllGather(const void* from, void* to, size_t count, int type, Handle* handle, CUstream stream) {
  return collective("ncclAllGather", handle, {OperationKind::AllGather, type, 0, 0, count}, from, to, stream);
}

FORNAX_API int ncclReduceScatter(const void* from, void* to, size_t count, int type, int reduction, Handle* handle, CUstream stream) {
  return collective("ncclReduceScatter", handle, {OperationKind::ReduceScatter, type, reduction, 0, count}, from, to, stream);
}

}  // extern "C"
