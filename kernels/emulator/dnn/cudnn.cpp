// libcudnn.so.9 of the emulated device: the backend graph API for a convolution and what it fuses with
// one, checked as cuDNN checks it, computed on the host when its stream gets there. Any other graph may be
// described but has no engine.
#include "descriptor.h"
#include "runtime.h"
#include <algorithm>

namespace dnn {
namespace {

thread_local std::string last_error;

struct Handle {
  CUstream stream;
  int device;
};

// A variant pack's tensors, found by their ids.
struct Bindings {
  char *image = nullptr, *weight = nullptr, *output = nullptr, *workspace = nullptr;
  char *scale = nullptr, *shift = nullptr, *sum = nullptr, *squares = nullptr;
};

Ref& descriptor(void* raw) { return *static_cast<Ref*>(raw); }

bool bind(const Descriptor& pack, const Tensor& tensor, char*& pointer) {
  for (int64_t i = 0; i < pack.attributes.at(a_pack_ids).count; i++)
    if (pack.value<int64_t>(a_pack_ids, i) == tensor.id) pointer = pack.value<char*>(a_pack_pointers, i);
  return pointer && reinterpret_cast<uintptr_t>(pointer) % tensor.alignment == 0;
}

// The attributes that are computed, not set.
Status read(const Descriptor& d, int name, int tag, int64_t wanted, int64_t* count, void* to) {
  const std::string what = "attribute " + std::to_string(name);
  auto give = [&](int expected, const auto& values) {
    if (tag != expected) return fail(bad_type, what + ": wrong type tag " + std::to_string(tag));
    *count = int64_t(values.size());
    for (int64_t i = 0; to && i < std::min(wanted, *count); i++)
      memcpy(static_cast<char*>(to) + i * sizeof values[0], &values[i], sizeof values[0]);
    return success;
  };
  if (name == a_config_workspace || name == a_plan_workspace)
    return give(t_int64, std::vector<int64_t>{d.engine->workspace});
  if (name == a_engine_index) return give(t_int64, std::vector<int64_t>{d.engine->index});
  if (name == a_engine_notes) return give(t_numerical_note, d.engine->notes);
  return fail(bad_param, what + " cannot be read");
}

// Fills configurations (of a heuristics' results) or an engine (of a configuration) that the caller created.
Status fill(const Descriptor& d, int64_t wanted, int64_t* count, void* to) {
  void** targets = static_cast<void**>(to);
  if (d.kind == k_configuration) {
    *count = 1;
    if (!to || wanted < 1 || descriptor(targets[0])->kind != k_engine)
      return fail(bad_param, "one engine descriptor is needed");
    descriptor(targets[0])->engine = d.engine;
    descriptor(targets[0])->finalized = true;
    return success;
  }
  const int fallback_mode = 2;
  std::vector<Engine> engines;
  if (d.problem) engines = engines_for(*d.problem, d.value<int>(a_heur_mode) == fallback_mode);
  if (!to) {
    // cuDNN announces candidates; those that its engines then refuse are missing from the list.
    *count = int64_t(engines.size()) + 1;
    return success;
  }
  *count = std::min(wanted, int64_t(engines.size()));
  for (int64_t i = 0; i < *count; i++) {
    Descriptor& configuration = *descriptor(targets[i]);
    if (configuration.kind != k_configuration || configuration.finalized)
      return fail(bad_param, "results go into fresh configurations");
    configuration.problem = d.problem;
    configuration.engine = std::make_shared<Engine>(engines[i]);
    configuration.finalized = true;
  }
  return success;
}

// Queues a plan on the handle's stream.
Status run(const Handle& handle, const Descriptor& plan, const Descriptor& pack) {
  const Problem& p = *plan.problem;
  const Geometry g = p.geometry;
  Bindings at;
  bool bound =
      bind(pack, p.image, at.image) && bind(pack, p.weight, at.weight) && bind(pack, p.output, at.output);
  if (p.normalizes) bound = bound && bind(pack, p.scale, at.scale) && bind(pack, p.shift, at.shift);
  if (p.sums) bound = bound && bind(pack, p.sum, at.sum) && bind(pack, p.squares, at.squares);
  if (!bound)
    return fail(bad_param,
                "a tensor of the plan is missing from the variant pack, null or not aligned as described");
  at.workspace = pack.value<char*>(a_pack_workspace);
  const int64_t workspace = plan.engine->workspace, element = int64_t(host::size_of(g.type));
  if (workspace && !at.workspace)
    return fail(bad_param, "the plan needs a workspace of " + std::to_string(workspace) + " bytes");
  const Precision precision = plan.engine->precision;
  const bool normalizes = p.normalizes, sums = p.sums;
  const int between = p.between, of_affine = p.scale.type;
  const bool queued = fornax::enqueue(handle.stream, "a cuDNN convolution", [=] {
    auto memory = [&](char* at, int64_t elements, ConvKind written_by) {
      const fornax::Access access = g.kind == written_by ? fornax::Access::Write : fornax::Access::Read;
      return fornax::device_range(at, size_t(element * elements), access);
    };
    void* image = memory(at.image, g.image_elements(), ConvKind::data_gradient);
    void* weight = memory(at.weight, g.weight_elements(), ConvKind::weight_gradient);
    void* output = memory(at.output, g.output_elements(), ConvKind::forward);
    // What lay in the workspace is lost, as on a device.
    if (workspace)
      memset(fornax::device_range(at.workspace, size_t(workspace), fornax::Access::Write), 0xa5,
             size_t(workspace));
    std::vector<char> read_as;
    if (normalizes) {
      const size_t bytes = bytes_of(of_affine) * size_t(g.c);
      const void* scale = fornax::device_range(at.scale, bytes, fornax::Access::Read);
      const void* shift = fornax::device_range(at.shift, bytes, fornax::Access::Read);
      read_as = normalized(g, image, scale, shift, host_type(of_affine), host_type(between));
      image = read_as.data();
    }
    convolve(g, precision, image, weight, output);
    if (sums) {
      auto vector = [&](char* at) {
        return static_cast<float*>(fornax::device_range(at, sizeof(float) * size_t(g.k), fornax::Access::Write));
      };
      sum_channels(g, output, vector(at.sum), vector(at.squares));
    }
  });
  return queued ? success : fail(execution_failed, "the stream refused the work");
}

}  // namespace

Status fail(Status status, const std::string& why) {
  last_error = why;
  return status;
}

}  // namespace dnn

using namespace dnn;

extern "C" {

FORNAX_API size_t cudnnGetVersion() { return 91900; }

FORNAX_API void cudnnGetLastErrorString(char* to, size_t size) {
  if (!to || !size) return;
  const size_t length = std::min(last_error.size(), size - 1);
  memcpy(to, last_error.data(), length);
  to[length] = 0;
  last_error.clear();
}

FORNAX_API int cudnnCreate(void** handle) {
  if (!handle) return fail(bad_null_pointer, "null pointer to a handle");
  *handle = new Handle{nullptr, fornax::current_device()};
  return success;
}

FORNAX_API int cudnnDestroy(void* handle) {
  delete static_cast<Handle*>(handle);
  return success;
}

FORNAX_API int cudnnSetStream(void* handle, CUstream stream) {
  if (!handle) return fail(bad_null_pointer, "null handle");
  Handle& h = *static_cast<Handle*>(handle);
  if (stream && fornax::device_of(stream) != h.device)
    return fail(bad_param, "the stream belongs to another device than the handle");
  h.stream = stream;
  return success;
}

FORNAX_API int cudnnBackendCreateDescriptor(int kind, void** to) {
  switch (kind) {
    case k_pointwise:
    case k_pointwise_operation:
    case k_statistics:
    case k_convolution:
    case k_engine:
    case k_configuration:
    case k_heuristics:
    case k_plan:
    case k_forward:
    case k_backward_filter:
    case k_backward_data:
    case k_graph:
    case k_pack:
    case k_tensor: break;
    default: return fail(unknown_descriptor, "unknown descriptor type " + std::to_string(kind));
  }
  if (!to) return fail(bad_null_pointer, "null pointer to a descriptor");
  *to = new Ref(std::make_shared<Descriptor>(kind));
  return success;
}

FORNAX_API int cudnnBackendDestroyDescriptor(void* raw) {
  delete static_cast<Ref*>(raw);
  return success;
}

FORNAX_API int cudnnBackendSetAttribute(void* raw, int name, int tag, int64_t count, const void* from) {
  if (!raw) return fail(bad_null_pointer, "null descriptor");
  return descriptor(raw)->set(name, tag, count, from);
}

FORNAX_API int cudnnBackendFinalize(void* raw) {
  if (!raw) return fail(bad_null_pointer, "null descriptor");
  return descriptor(raw)->finalize();
}

FORNAX_API int cudnnBackendGetAttribute(void* raw, int name, int tag, int64_t wanted, int64_t* count,
                                        void* to) {
  if (!raw) return fail(bad_null_pointer, "null descriptor");
  const Descriptor& d = *descriptor(raw);
  if (!d.finalized) return fail(not_initialized, "reading a descriptor that is not finalised");
  int64_t ignored = 0;
  if (!count) count = &ignored;
  const bool fills = (d.kind == k_heuristics && name == a_heur_results) ||
                     (d.kind == k_configuration && name == a_config_engine);
  if (!fills)
    return d.engine ? read(d, name, tag, wanted, count, to)
                    : fail(not_supported, "this stand-in does not read attributes back");
  if (tag != t_descriptor) return fail(bad_type, "a descriptor is needed");
  return fill(d, wanted, count, to);
}

FORNAX_API int cudnnBackendExecute(void* handle, void* plan, void* pack) {
  if (!handle || !plan || !pack) return fail(bad_null_pointer, "null handle, plan or variant pack");
  const Descriptor &p = *descriptor(plan), &v = *descriptor(pack);
  if (p.kind != k_plan || v.kind != k_pack || !p.finalized || !v.finalized)
    return fail(bad_param, "a plan and a variant pack are needed, finalised");
  if (p.value<void*>(a_plan_handle) != handle)
    return fail(bad_param, "the plan was made with another handle");
  return run(*static_cast<Handle*>(handle), p, v);
}

}  // extern "C"
