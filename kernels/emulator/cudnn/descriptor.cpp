// Attributes of backend descriptors, and cuDNN's checks of them.
#include "descriptor.h"

namespace cudnn {

namespace {

struct AttributeRule {
  int kind, name, tag;
  int64_t min_count, max_count;  // elements
  bool required;
};

constexpr int64_t unlimited = INT64_MAX;
const AttributeRule attribute_rules[] = {
    {k_tensor, a_tensor_type, t_data_type, 1, 1, true},
    {k_tensor, a_tensor_dims, t_int64, 4, 4, true},
    {k_tensor, a_tensor_strides, t_int64, 4, 4, true},
    {k_tensor, a_tensor_id, t_int64, 1, 1, true},
    {k_tensor, a_tensor_alignment, t_int64, 1, 1, true},
    {k_tensor, a_tensor_virtual, t_boolean, 1, 1, false},
    {k_tensor, a_tensor_by_value, t_boolean, 1, 1, false},
    {k_convolution, a_conv_compute_type, t_data_type, 1, 1, true},
    {k_convolution, a_conv_mode, t_convolution_mode, 1, 1, true},
    {k_convolution, a_conv_spatial_dims, t_int64, 1, 1, true},
    {k_convolution, a_conv_pre_padding, t_int64, 1, 3, true},
    {k_convolution, a_conv_post_padding, t_int64, 1, 3, true},
    {k_convolution, a_conv_strides, t_int64, 1, 3, true},
    {k_convolution, a_conv_dilations, t_int64, 1, 3, true},
    {k_conv_forward, a_forward_x, t_descriptor, 1, 1, true},
    {k_conv_forward, a_forward_w, t_descriptor, 1, 1, true},
    {k_conv_forward, a_forward_y, t_descriptor, 1, 1, true},
    {k_conv_forward, a_forward_conv, t_descriptor, 1, 1, true},
    {k_conv_forward, a_forward_alpha, t_float, 1, 1, true},
    {k_conv_forward, a_forward_beta, t_float, 1, 1, true},
    {k_conv_backward_data, a_data_dx, t_descriptor, 1, 1, true},
    {k_conv_backward_data, a_data_w, t_descriptor, 1, 1, true},
    {k_conv_backward_data, a_data_dy, t_descriptor, 1, 1, true},
    {k_conv_backward_data, a_data_conv, t_descriptor, 1, 1, true},
    {k_conv_backward_data, a_data_alpha, t_float, 1, 1, true},
    {k_conv_backward_data, a_data_beta, t_float, 1, 1, true},
    {k_conv_backward_filter, a_filter_x, t_descriptor, 1, 1, true},
    {k_conv_backward_filter, a_filter_dw, t_descriptor, 1, 1, true},
    {k_conv_backward_filter, a_filter_dy, t_descriptor, 1, 1, true},
    {k_conv_backward_filter, a_filter_conv, t_descriptor, 1, 1, true},
    {k_conv_backward_filter, a_filter_alpha, t_float, 1, 1, true},
    {k_conv_backward_filter, a_filter_beta, t_float, 1, 1, true},
    {k_genstats, a_genstats_mode, t_genstats_mode, 1, 1, true},
    {k_genstats, a_genstats_math, t_data_type, 1, 1, true},
    {k_genstats, a_genstats_x, t_descriptor, 1, 1, true},
    {k_genstats, a_genstats_sum, t_descriptor, 1, 1, true},
    {k_genstats, a_genstats_sqsum, t_descriptor, 1, 1, true},
    {k_operation_graph, a_graph_operations, t_descriptor, 1, unlimited, true},
    {k_operation_graph, a_graph_handle, t_handle, 1, 1, false},
    {k_engine_heur, a_heur_graph, t_descriptor, 1, 1, true},
    {k_engine_heur, a_heur_mode, t_heuristic_mode, 1, 1, true},
    {k_execution_plan, a_plan_config, t_descriptor, 1, 1, false},
    {k_execution_plan, a_plan_json, t_char, 1, unlimited, false},
    {k_execution_plan, a_plan_handle, t_handle, 1, 1, true},
    {k_variant_pack, a_pack_ids, t_int64, 1, unlimited, true},
    {k_variant_pack, a_pack_pointers, t_void_pointer, 1, unlimited, true},
    {k_variant_pack, a_pack_workspace, t_void_pointer, 1, 1, true},
};

const AttributeRule* find_rule(int kind, int name) {
  for (const AttributeRule& rule : attribute_rules)
    if (rule.kind == kind && rule.name == name) return &rule;
  return nullptr;
}

size_t element_size(int tag) {
  switch (tag) {
    case t_boolean:
    case t_char: return 1;
    case t_int64:
    case t_handle:
    case t_void_pointer:
    case t_descriptor: return 8;
    default: return 4;
  }
}

constexpr int cross_correlation = 1;

bool is_channels_last(const Tensor& t) {
  const int64_t c = t.dims[1], h = t.dims[2], w = t.dims[3];
  return t.strides[0] == h * w * c && t.strides[1] == 1 && t.strides[2] == w * c && t.strides[3] == c;
}

}  // namespace

size_t bytes_of(int data_type) {
  return data_type == d_float ? 4 : data_type == d_half || data_type == d_bfloat16 ? 2 : 0;
}

host::ElementType host_type(int data_type) {
  return data_type == d_float ? host::ElementType::f32 : data_type == d_half ? host::ElementType::f16 : host::ElementType::bf16;
}

Tensor tensor_of(const Descriptor& d) {
  Tensor t;
  t.id = d.value<int64_t>(a_tensor_id);
  t.alignment = d.value<int64_t>(a_tensor_alignment);
  t.type = d.value<int>(a_tensor_type);
  t.in_memory = !(d.has(a_tensor_virtual) && d.value<bool>(a_tensor_virtual)) &&
            !(d.has(a_tensor_by_value) && d.value<bool>(a_tensor_by_value));
  for (int i = 0; i < 4; i++) {
    t.dims[i] = d.value<int64_t>(a_tensor_dims, i);
    t.strides[i] = d.value<int64_t>(a_tensor_strides, i);
  }
  return t;
}

Status Descriptor::set(int name, int tag, int64_t count, const void* from) {
  const std::string what = "attribute " + std::to_string(name);
  if (finalized) return fail(bad_param, what + ": the descriptor is finalised");
  const AttributeRule* rule = find_rule(kind, name);
  if (!rule) return fail(bad_param, what + " does not belong to descriptor type " + std::to_string(kind));
  if (rule->tag != tag) return fail(bad_type, what + ": wrong type tag " + std::to_string(tag));
  if (count < rule->min_count || count > rule->max_count)
    return fail(bad_param, what + ": wrong count " + std::to_string(count));
  if (!from) return fail(bad_null_pointer, what + ": null pointer");
  Attribute attribute;
  attribute.count = count;
  if (tag == t_descriptor) {
    for (int64_t i = 0; i < count; i++) {
      const DescriptorRef* child = static_cast<DescriptorRef* const*>(from)[i];
      if (!child) return fail(bad_null_pointer, what + ": null descriptor");
      attribute.children.push_back(*child);
    }
  } else {
    const char* bytes = static_cast<const char*>(from);
    attribute.bytes.assign(bytes, bytes + count * element_size(tag));
  }
  attributes[name] = attribute;
  return success;
}

Status Descriptor::finalize() {
  if (finalized) return fail(bad_param, "the descriptor is already finalised");
  for (const AttributeRule& rule : attribute_rules)
    if (rule.kind == kind && rule.required && !has(rule.name))
      return fail(kind == k_execution_plan ? bad_not_finalized : bad_param,
                  "attribute " + std::to_string(rule.name) + " is not set");
  for (const auto& [name, attribute] : attributes)
    for (const DescriptorRef& child : attribute.children)
      if (!child->finalized)
        return fail(bad_param, "the descriptor in attribute " + std::to_string(name) + " is not finalised");
  Status status = success;
  switch (kind) {
    case k_tensor: status = finalize_tensor(); break;
    case k_convolution:
      for (int name : {a_conv_pre_padding, a_conv_post_padding, a_conv_strides, a_conv_dilations})
        if (attributes[name].count != value<int64_t>(a_conv_spatial_dims))
          status = fail(bad_param, "attribute " + std::to_string(name) + ": one value per spatial axis is needed");
      break;
    case k_conv_forward:
    case k_conv_backward_data:
    case k_conv_backward_filter: status = finalize_operation(); break;
    case k_genstats:
      for (const auto& [name, attribute] : attributes)
        for (const DescriptorRef& child : attribute.children)
          if (child->kind != k_tensor)
            status = fail(bad_param, "attribute " + std::to_string(name) + ": wrong descriptor type");
      break;
    case k_operation_graph: status = finalize_graph(); break;
    case k_engine_heur:
      if (child(a_heur_graph)->kind != k_operation_graph)
        status = fail(bad_param, "the heuristics' descriptor is not an operation graph");
      conv_graph = child(a_heur_graph)->conv_graph;
      break;
    case k_execution_plan:
      if (has(a_plan_json)) {
        const std::vector<char>& json = attributes[a_plan_json].bytes;
        conv_graph = std::make_shared<ConvGraph>();
        engine = std::make_shared<Engine>();
        if (!read_plan_json(std::string(json.begin(), json.end()), *conv_graph, *engine))
          return fail(bad_param, "the plan's JSON representation cannot be read");
      } else {
        if (!has(a_plan_config)) return fail(bad_not_finalized, "the plan has no engine configuration");
        if (child(a_plan_config)->kind != k_engine_config)
          return fail(bad_param, "the plan's descriptor is not an engine configuration");
        conv_graph = child(a_plan_config)->conv_graph;
        engine = child(a_plan_config)->engine;
      }
      if (!engine->plan_builds || planted_behaviour(*engine).fault == PlantedFault::build_fails)
        status = fail(plan_failed, "engine " + std::to_string(engine->index) + " does not compile");
      if (status == success && engine->runtime_compiled && !has(a_plan_json)) status = compile(*engine);
      break;
    case k_variant_pack:
      if (attributes[a_pack_ids].count != attributes[a_pack_pointers].count)
        status = fail(bad_param, "the variant pack has different numbers of ids and pointers");
      break;
    case k_engine:
    case k_engine_config: status = fail(not_supported, "the emulated cuDNN selects engines by heuristics only"); break;
  }
  finalized = status == success;
  return status;
}

Status Descriptor::finalize_tensor() {
  const Tensor t = tensor_of(*this);
  for (int i = 0; i < 4; i++)
    if (t.dims[i] < 0 || t.strides[i] < 0)
      return fail(bad_param, "a dimension or stride of a tensor is negative");
  const int64_t bytes = int64_t(bytes_of(t.type));
  if (t.alignment <= 0 || (bytes && t.alignment % bytes))
    return fail(bad_param, "a tensor's alignment is not a multiple of its element size");
  return success;
}

// Checks the operation's shapes, and sets the convolution graph if the stand-in can compute it.
Status Descriptor::finalize_operation() {
  const bool is_forward = kind == k_conv_forward, is_data = kind == k_conv_backward_data;
  auto name = [&](int forward, int data, int filter) {
    return is_forward ? forward : is_data ? data : filter;
  };
  const DescriptorRef tensors[] = {child(name(a_forward_x, a_data_dx, a_filter_x)),
                         child(name(a_forward_w, a_data_w, a_filter_dw)),
                         child(name(a_forward_y, a_data_dy, a_filter_dy))};
  const DescriptorRef conv = child(name(a_forward_conv, a_data_conv, a_filter_conv));
  for (const DescriptorRef& tensor : tensors)
    if (tensor->kind != k_tensor) return fail(bad_param, "an operand is not a tensor");
  if (conv->kind != k_convolution) return fail(bad_param, "the operation's convolution descriptor has another type");
  const Tensor x = tensor_of(*tensors[0]), w = tensor_of(*tensors[1]), y = tensor_of(*tensors[2]);
  if (conv->value<int64_t>(a_conv_spatial_dims) != 2 || !w.dims[1])
    return fail(not_supported, "the emulated cuDNN computes only 2D convolutions");
  Geometry g;
  g.kind = is_forward ? ConvKind::forward : is_data ? ConvKind::data_gradient : ConvKind::weight_gradient;
  g.n = x.dims[0], g.c = x.dims[1], g.h = x.dims[2], g.w = x.dims[3];
  g.k = w.dims[0], g.r = w.dims[2], g.s = w.dims[3];
  g.out_h = y.dims[2], g.out_w = y.dims[3];
  if (g.c % w.dims[1]) return fail(bad_param, "the image's channels are not a multiple of the weight's");
  g.groups = g.c / w.dims[1];
  if (g.k % g.groups) return fail(bad_param, "the output's channels are not a multiple of the groups");
  bool symmetric = true;
  for (int i = 0; i < 2; i++) {
    g.pad[i] = conv->value<int64_t>(a_conv_pre_padding, i);
    g.stride[i] = conv->value<int64_t>(a_conv_strides, i);
    g.dilation[i] = conv->value<int64_t>(a_conv_dilations, i);
    if (g.pad[i] < 0 || g.stride[i] <= 0 || g.dilation[i] <= 0)
      return fail(bad_param, "stride, padding or dilation out of range");
    symmetric &= g.pad[i] == conv->value<int64_t>(a_conv_post_padding, i);
    const int64_t extent = g.dilation[i] * (w.dims[2 + i] - 1) + 1;
    if (symmetric && (x.dims[2 + i] + 2 * g.pad[i] - extent) / g.stride[i] + 1 != y.dims[2 + i])
      return fail(bad_param, "the output's height or width does not match the convolution");
  }
  if (y.dims[0] != g.n || y.dims[1] != g.k)
    return fail(bad_param, "the output's batch size or channels do not match the convolution");
  if (x.id == w.id || x.id == y.id || w.id == y.id) return fail(bad_param, "two tensors have the same unique id");
  const float beta = value<float>(name(a_forward_beta, a_data_beta, a_filter_beta));
  const bool computable = symmetric && x.elements() && w.elements() && y.elements() &&
                          conv->value<int>(a_conv_compute_type) == d_float &&
                          conv->value<int>(a_conv_mode) == cross_correlation && y.type == w.type &&
                          x.type == y.type && x.in_memory && bytes_of(y.type) && is_channels_last(x) &&
                          is_channels_last(w) && is_channels_last(y) && w.in_memory && y.in_memory &&
                          value<float>(name(a_forward_alpha, a_data_alpha, a_filter_alpha)) == 1 &&
                          (beta == 0 || (is_data && beta == 1));
  if (computable) {
    g.type = host_type(y.type);
    conv_graph = std::make_shared<ConvGraph>();
    conv_graph->geometry = g, conv_graph->image = x, conv_graph->weight = w, conv_graph->output = y;
    conv_graph->accumulates = beta == 1;
  }
  return success;
}

// Finalises any graph of operations; the heuristics have engines for few of them.
Status Descriptor::finalize_graph() {
  const std::vector<DescriptorRef>& operations = attributes[a_graph_operations].children;
  for (const DescriptorRef& operation : operations)
    if (operation->kind < k_conv_forward || operation->kind > k_genstats)
      return fail(bad_param, "the graph contains a descriptor that is not an operation");
  conv_graph = match_conv_graph(operations);
  return success;
}

}  // namespace dnn
