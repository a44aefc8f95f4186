// Graphs that the stand-in computes, and the engines that cuDNN 9.19 returns for compute capability 9.0.
#include "descriptor.h"

namespace cudnn {

namespace {

constexpr int pointwise_add = 0, pointwise_multiply = 1, relu_forward = 100;

bool is_pointwise(const Descriptor& d, int mode, bool has_operand) {
  return d.kind == k_pointwise_operation && d.has(a_pointwise_b) == has_operand &&
         d.child(a_pointwise_descriptor)->value<int>(a_pointwise_mode) == mode;
}

bool is_vector(const Tensor& t, int64_t channels) {
  return t.in_memory && t.dims[0] == 1 && t.dims[1] == channels && t.dims[2] == 1 && t.dims[3] == 1;
}

bool is_virtual_like(const Tensor& t, const Tensor& image, int type) {
  bool same = !t.in_memory && t.type == type;
  for (int i = 0; i < 4; i++) same &= t.dims[i] == image.dims[i] && t.strides[i] == image.strides[i];
  return same;
}

// Matches the operations before the convolution as scale, shift and ReLU, and sets their tensors; false for other operations.
bool match_scale_shift_relu(ConvGraph& p, const std::vector<DescriptorRef>& operations,
                            const DescriptorRef& conv_image) {
  const Descriptor &multiply = *operations[0], &add = *operations[1], &relu = *operations[2];
  if (!is_pointwise(multiply, pointwise_multiply, true) || !is_pointwise(add, pointwise_add, true) ||
      !is_pointwise(relu, relu_forward, false))
    return false;
  // Two operations share a tensor if they share its descriptor.
  if (multiply.child(a_pointwise_y) != add.child(a_pointwise_x) ||
      add.child(a_pointwise_y) != relu.child(a_pointwise_x) || relu.child(a_pointwise_y) != conv_image)
    return false;
  const Tensor image = tensor_of(*multiply.child(a_pointwise_x));
  p.has_scale_shift_relu = true;
  p.intermediate_type = p.image.type;
  for (const Descriptor* step : {&multiply, &add, &relu})
    if (!is_virtual_like(tensor_of(*step->child(a_pointwise_y)), image, p.intermediate_type)) return false;
  p.scale = tensor_of(*multiply.child(a_pointwise_b)), p.shift = tensor_of(*add.child(a_pointwise_b));
  p.image = image;
  return image.in_memory && image.type == p.output.type && is_vector(p.scale, p.geometry.c) &&
         is_vector(p.shift, p.geometry.c) && p.scale.type == p.shift.type && bytes_of(p.scale.type);
}

bool match_genstats(ConvGraph& p, const Descriptor& operation, const DescriptorRef& conv_output) {
  if (operation.kind != k_genstats || operation.child(a_genstats_x) != conv_output) return false;
  p.has_genstats = true;
  p.sum = tensor_of(*operation.child(a_genstats_sum));
  p.sqsum = tensor_of(*operation.child(a_genstats_sqsum));
  return is_vector(p.sum, p.geometry.k) && is_vector(p.sqsum, p.geometry.k) && p.sum.type == d_float &&
         p.sqsum.type == d_float;
}

// Engine that cuDNN has for the fused operations: precompiled in its libraries, compiled at run time, or none.
enum class Fusion { none, precompiled, runtime_compiled, unsupported };

Fusion fusion_of(const ConvGraph& p) {
  const Geometry& g = p.geometry;
  if (!p.has_scale_shift_relu && !p.has_genstats) return Fusion::none;
  const bool is_tensor_core_shape = g.c % 8 == 0 && g.k % 8 == 0 && g.groups == 1;
  const bool is_f16 = g.type == host::ElementType::f16, in_storage_type = host_type(p.intermediate_type) == g.type;
  if (!p.has_scale_shift_relu) return is_f16 && is_tensor_core_shape ? Fusion::precompiled : Fusion::runtime_compiled;
  const bool half_affine = p.scale.type == d_half;
  if (g.kind == ConvKind::weight_gradient || (p.has_genstats && is_f16))
    return is_f16 && half_affine && is_tensor_core_shape ? Fusion::precompiled : Fusion::unsupported;
  if (g.type == host::ElementType::f32 || g.groups > 1 || !in_storage_type) return Fusion::unsupported;
  return p.scale.type == d_float || p.scale.type == p.output.type ? Fusion::runtime_compiled : Fusion::unsupported;
}

}  // namespace

std::shared_ptr<ConvGraph> match_conv_graph(const std::vector<DescriptorRef>& operations) {
  size_t at = 0;
  while (at < operations.size() && !operations[at]->conv_graph) at++;
  if (at == operations.size()) return nullptr;
  const Descriptor& conv = *operations[at];
  auto p = std::make_shared<ConvGraph>(*conv.conv_graph);
  const bool forward = conv.kind == k_conv_forward, filter = conv.kind == k_conv_backward_filter;
  if (at == 3 && (forward || filter)) {
    if (!match_scale_shift_relu(*p, operations, conv.child(forward ? a_forward_x : a_filter_x))) return nullptr;
  } else if (at || !p->image.in_memory) {
    return nullptr;
  }
  if (at + 2 == operations.size() && forward) {
    if (!match_genstats(*p, *operations[at + 1], conv.child(a_forward_y))) return nullptr;
  } else if (at + 1 != operations.size()) {
    return nullptr;
  }
  return p;
}

std::vector<Engine> find_engines(const ConvGraph& conv_graph, bool fallback) {
  const Geometry& g = conv_graph.geometry;
  const bool half = g.type != host::ElementType::f32, aligned = conv_graph.image.alignment >= 16 &&
                                                         conv_graph.weight.alignment >= 16 &&
                                                         conv_graph.output.alignment >= 16;
  const int64_t workspace = g.kind == ConvKind::weight_gradient ? 4 * g.weight_elements() : 512;
  switch (fusion_of(conv_graph)) {
    case Fusion::unsupported: return {};
    case Fusion::precompiled:
      if (fallback) return {};
      return {{40, {n_tensor_core}, {}, workspace, true}, {41, {n_tensor_core}, {}, workspace, true, true}};
    // These engines have no numerical notes, and the plan of the first one fails to build.
    case Fusion::runtime_compiled:
      if (fallback != (g.groups > 1)) return {};
      return {{52, {}, {!half, false}, 0, false}, {53, {}, {!half, false}, 512, true}, {54, {}, {!half, false}, 0, true, true}};
    case Fusion::none: break;
  }
  const Engine generic = {0, {}, {}, workspace, true};
  if (fallback) {
    if (g.kind == ConvKind::forward) return {generic};
    std::vector<NumericalNote> notes = {n_nondeterministic};
    if (half) notes.push_back(n_reduced_precision_reduction);
    return {{25, notes, {false, half}, 0, true}, generic};
  }
  std::vector<Engine> engines;
  if (g.dilation[0] > 1 || g.dilation[1] > 1) engines.push_back({7, {}, {}, 0, false});
  if (half && g.kind == ConvKind::weight_gradient)
    engines.push_back({47, {n_tensor_core, n_reduced_precision_reduction}, {false, true}, 0, true});
  if (aligned) engines.push_back({63, {n_tensor_core}, {!half, false}, 0, true});
  engines.push_back(generic);
  engines.push_back({1, {}, {false, false, true}, workspace, true});
  return engines;
}

}  // namespace dnn
