// libcudnn.so.9 of the emulated device: the backend graph API for convolutions and operations fused with them, with cuDNN's
// argument checks, computed on the host when the stream runs. Other graphs can be described but have no engine.
#include "descriptor.h"
#include "runtime.h"
#include <algorithm>

namespace cudnn {
namespace {

thread_local std::string last_error;

struct Handle {
  CUstream stream;
  int device;
};

// Device pointers of a variant pack, by tensor.
struct Bindings {
  char *image = nullptr, *weight = nullptr, *output = nullptr, *workspace = nullptr;
  char *sum = nullptr, *sqsum = nullptr;
};

DescriptorRef& descriptor(void* raw) { return *static_cast<DescriptorRef*>(raw); }

bool bind(const Descriptor& pack, const Tensor& tensor, char*& pointer) {
  for (int64_t i = 0; i < pack.attributes.at(a_pack_ids).count; i++)
    if (pack.value<int64_t>(a_pack_ids, i) == tensor.id) pointer = pack.value<char*>(a_pack_pointers, i);
  return pointer && reinterpret_cast<uintptr_t>(pointer) % tensor.alignment == 0;
}

// Reads an attribute that finalisation or the heuristics computed.
Status get_computed_attribute(const Descriptor& d, int name, int tag, int64_t capacity, int64_t* count, void* to) {
  const std::string what = "attribute " + std::to_string(name);
  auto copy_values = [&](int expected, const auto& values) {
    if (tag != expected) return fail(bad_type, what + ": wrong type tag " + std::to_string(tag));
    *count = int64_t(values.size());
    for (int64_t i = 0; to && i < std::min(capacity, *count); i++)
      memcpy(static_cast<char*>(to) + i * sizeof values[0], &values[i], sizeof values[0]);
    return success;
  };
  if (name == a_config_workspace || name == a_plan_workspace)
    return copy_values(t_int64, std::vector<int64_t>{d.engine->workspace});
  if (name == a_plan_json && d.kind == k_execution_plan) {
    const std::string text = plan_json(*d.conv_graph, *d.engine);
    return copy_values(t_char, std::vector<char>(text.begin(), text.end()));
  }
  if (name == a_engine_index) return copy_values(t_int64, std::vector<int64_t>{d.engine->index});
  if (name == a_engine_notes) return copy_values(t_numerical_note, d.engine->notes);
  return fail(bad_param, what + " cannot be read");
}

// Fills descriptors of the caller: engine configurations from heuristics, or an engine from a configuration.
Status fill_descriptors(const Descriptor& d, int64_t capacity, int64_t* count, void* to) {
  void** targets = static_cast<void**>(to);
  if (d.kind == k_engine_config) {
    *count = 1;
    if (!to || capacity < 1 || descriptor(targets[0])->kind != k_engine)
      return fail(bad_param, "one engine descriptor is needed");
    descriptor(targets[0])->engine = d.engine;
    descriptor(targets[0])->finalized = true;
    return success;
  }
  const int fallback_mode = 2;
  std::vector<Engine> engines;
  if (d.conv_graph) engines = find_engines(*d.conv_graph, d.value<int>(a_heur_mode) == fallback_mode);
  if (!to) {
    // cuDNN's count includes candidates that its engines reject, which are missing from the list.
    *count = int64_t(engines.size()) + 1;
    return success;
  }
  *count = std::min(capacity, int64_t(engines.size()));
  for (int64_t i = 0; i < *count; i++) {
    Descriptor& configuration = *descriptor(targets[i]);
    if (configuration.kind != k_engine_config || configuration.finalized)
      return fail(bad_param, "results need engine configurations that are not finalised");
    configuration.conv_graph = d.conv_graph;
    configuration.engine = std::make_shared<Engine>(engines[i]);
    configuration.finalized = true;
  }
  return success;
}

// Queues a plan on the handle's stream.
Status execute(const Handle& handle, const Descriptor& plan, const Descriptor& pack) {
  const ConvGraph& p = *plan.conv_graph;
  const Geometry g = p.geometry;
  Bindings pointers;
  bool is_bound = bind(pack, p.image, pointers.image) && bind(pack, p.weight, pointers.weight) &&
                  bind(pack, p.output, pointers.output);
  if (p.has_genstats) is_bound = is_bound && bind(pack, p.sum, pointers.sum) && bind(pack, p.sqsum, pointers.sqsum);
  if (!is_bound)
    return fail(bad_param,
                "a tensor of the plan is missing from the variant pack, null, or less aligned than its descriptor states");
  pointers.workspace = pack.value<char*>(a_pack_workspace);
  const int64_t workspace = plan.engine->workspace, element = int64_t(host::size_of(g.type));
  if (workspace && !pointers.workspace)
    return fail(bad_param, "the plan needs a workspace of " + std::to_string(workspace) + " bytes");
  const int64_t engine = plan.engine->index;
  const PlantedBehaviour planted = planted_behaviour(*plan.engine);
  if (planted.fault == PlantedFault::unsupported_at_execution)
    return fail(not_supported, "engine " + std::to_string(engine) + " does not support its tensors");
  if (planted.fault == PlantedFault::execution_fails)
    return fail(execution_failed, "engine " + std::to_string(engine) + " could not be launched");
  const Precision precision = plan.engine->precision;
  const bool accumulates_sums = plan.engine->accumulates_sums;
  const bool has_genstats = p.has_genstats, accumulates = p.accumulates;
  const char* name = g.kind == ConvKind::forward         ? "a cuDNN convolution"
                     : g.kind == ConvKind::data_gradient ? "a cuDNN data gradient"
                                                         : "a cuDNN weight gradient";
  const bool queued = fornax::enqueue(handle.stream, name, [=] {
    fornax::advance_clock(planted.milliseconds / 1e3);
    if (planted.fault == PlantedFault::illegal_address)
      fornax::fail_work("engine " + std::to_string(engine) + " accessed an illegal address");
    auto conv_tensor = [&](char* pointer, int64_t elements, ConvKind written_by) {
      const fornax::Access written = accumulates ? fornax::Access::ReadWrite : fornax::Access::Write;
      const fornax::Access access = g.kind == written_by ? written : fornax::Access::Read;
      return fornax::device_range(pointer, size_t(element * elements), access);
    };
    void* image = conv_tensor(pointers.image, g.image_elements(), ConvKind::data_gradient);
    void* weight = conv_tensor(pointers.weight, g.weight_elements(), ConvKind::weight_gradient);
    void* output = conv_tensor(pointers.output, g.output_elements(), ConvKind::forward);
    // A convolution overwrites its workspace, as on a GPU.
    if (workspace)
      memset(fornax::device_range(pointers.workspace, size_t(workspace), fornax::Access::Scratch), 0xa5,
             size_t(workspace));
    convolve(g, precision, accumulates, image, weight, output);
    if (has_genstats) {
      auto vector = [&](char* pointer) {
        const fornax::Access access = accumulates_sums ? fornax::Access::ReadWrite : fornax::Access::Write;
        return static_cast<float*>(fornax::device_range(pointer, sizeof(float) * size_t(g.k), access));
      };
      channel_sums(g, output, accumulates_sums, vector(pointers.sum), vector(pointers.sqsum));
    }
  });
  if (queued) return success;
  return fail(execution_failed, "the stream rejected the work: its device has an error, or its capture is invalid");
}

}  // namespace

Status fail(Status status, const std::string& why) {
  last_error = why;
  return status;
}

}  // namespace dnn

using namespace cudnn;

extern "C" {

FORNAX_API size_t cudnnGetVersion() { return 91900; }
FORNAX_API size_t cudnnGetCudartVersion() { return size_t(fornax::library_cuda_version()); }

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
    case k_genstats:
    case k_convolution:
    case k_engine:
    case k_engine_config:
    case k_engine_heur:
    case k_execution_plan:
    case k_conv_forward:
    case k_conv_backward_filter:
    case k_conv_backward_data:
    case k_operation_graph:
    case k_variant_pack:
    case k_tensor: break;
    default: return fail(unknown_descriptor, "unknown descriptor type " + std::to_string(kind));
  }
  if (!to) return fail(bad_null_pointer, "null pointer to a descriptor");
  *to = new DescriptorRef(std::make_shared<Descriptor>(kind));
  return success;
}

FORNAX_API int cudnnBackendDestroyDescriptor(void* raw) {
  delete static_cast<DescriptorRef*>(raw);
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

FORNAX_API int cudnnBackendGetAttribute(void* raw, int name, int tag, int64_t capacity, int64_t* count,
                                        void* to) {
  if (!raw) return fail(bad_null_pointer, "null descriptor");
  const Descriptor& d = *descriptor(raw);
  if (!d.finalized) return fail(not_initialized, "the descriptor is not finalised");
  int64_t ignored = 0;
  if (!count) count = &ignored;
  const bool returns_descriptors = (d.kind == k_engine_heur && name == a_heur_results) ||
                     (d.kind == k_engine_config && name == a_config_engine);
  if (!returns_descriptors)
    return d.engine ? get_computed_attribute(d, name, tag, capacity, count, to)
                    : fail(not_supported, "the emulated cuDNN cannot read this attribute");
  if (tag != t_descriptor)
    return fail(bad_type, "attribute " + std::to_string(name) + ": wrong type tag " + std::to_string(tag));
  return fill_descriptors(d, capacity, count, to);
}

FORNAX_API int cudnnBackendExecute(void* handle, void* plan, void* pack) {
  if (!handle || !plan || !pack) return fail(bad_null_pointer, "null handle, plan or variant pack");
  const Descriptor &p = *descriptor(plan), &v = *descriptor(pack);
  if (p.kind != k_execution_plan || v.kind != k_variant_pack || !p.finalized || !v.finalized)
    return fail(bad_param, "a finalised execution plan and a finalised variant pack are needed");
  if (p.value<void*>(a_plan_handle) != handle)
    return fail(bad_param, "the plan was created with another handle");
  return execute(*static_cast<Handle*>(handle), p, v);
}

}  // extern "C"
