// Which graphs the stand-in computes, and the engines that it hands out for them: those that cuDNN 9.19 was seen
// to have on a device of compute capability 9.0.
#include "descriptor.h"

namespace dnn {

namespace {

constexpr int pointwise_add = 0, pointwise_multiply = 1, relu_forward = 100;

bool is_pointwise(const Descriptor& d, int mode, bool wants_operand) {
  return d.kind == k_pointwise_operation && d.has(a_pointwise_b) == wants_operand &&
         d.child(a_pointwise_descriptor)->value<int>(a_pointwise_mode) == mode;
}

bool is_vector(const Tensor& t, int64_t channels) {
  return t.plain && t.dims[0] == 1 && t.dims[1] == channels && t.dims[2] == 1 && t.dims[3] == 1;
}

bool is_virtual_like(const Tensor& t, const Tensor& image, int type) {
  bool same = !t.plain && t.type == type;
  for (int i = 0; i < 4; i++) same &= t.dims[i] == image.dims[i] && t.strides[i] == image.strides[i];
  return same;
}

// Notes the three steps that normalise the image; false where they are others.
bool take_normalization(Problem& p, const std::vector<Ref>& operations, const Ref& conv_image) {
  const Descriptor &multiply = *operations[0], &add = *operations[1], &relu = *operations[2];
  if (!is_pointwise(multiply, pointwise_multiply, true) || !is_pointwise(add, pointwise_add, true) ||
      !is_pointwise(relu, relu_forward, false))
    return false;
  // Tensors are joined by the descriptor's identity.
  if (multiply.child(a_pointwise_y) != add.child(a_pointwise_x) ||
      add.child(a_pointwise_y) != relu.child(a_pointwise_x) || relu.child(a_pointwise_y) != conv_image)
    return false;
  const Tensor image = tensor_of(*multiply.child(a_pointwise_x));
  p.normalizes = true;
  p.between = p.image.type;
  for (const Descriptor* step : {&multiply, &add, &relu})
    if (!is_virtual_like(tensor_of(*step->child(a_pointwise_y)), image, p.between)) return false;
  p.scale = tensor_of(*multiply.child(a_pointwise_b)), p.shift = tensor_of(*add.child(a_pointwise_b));
  p.image = image;
  return image.plain && image.type == p.output.type && is_vector(p.scale, p.geometry.c) &&
         is_vector(p.shift, p.geometry.c) && p.scale.type == p.shift.type && bytes_of(p.scale.type);
}

bool take_statistics(Problem& p, const Descriptor& operation, const Ref& conv_output) {
  if (operation.kind != k_statistics || operation.child(a_statistics_x) != conv_output) return false;
  p.sums = true;
  p.sum = tensor_of(*operation.child(a_statistics_sum));
  p.squares = tensor_of(*operation.child(a_statistics_squares));
  return is_vector(p.sum, p.geometry.k) && is_vector(p.squares, p.geometry.k) && p.sum.type == d_float &&
         p.squares.type == d_float;
}

// Whether cuDNN has an engine for what is fused, and whether it is one that it brings compiled.
enum class Fusion { none, precompiled, compiled, refused };

Fusion fusion_of(const Problem& p) {
  const Geometry& g = p.geometry;
  if (!p.normalizes && !p.sums) return Fusion::none;
  const bool whole = g.c % 8 == 0 && g.k % 8 == 0 && g.groups == 1;
  if (!p.normalizes) return g.type == host::Type::f16 && whole ? Fusion::precompiled : Fusion::compiled;
  const bool is_f16 = g.type == host::Type::f16, in_storage_type = host_type(p.between) == g.type;
  const bool half_affine = p.scale.type == d_half;
  if (g.kind == ConvKind::weight_gradient || (p.sums && is_f16))
    return is_f16 && half_affine && whole ? Fusion::precompiled : Fusion::refused;
  if (g.type == host::Type::f32 || g.groups > 1 || !in_storage_type) return Fusion::refused;
  return p.scale.type == d_float || p.scale.type == p.output.type ? Fusion::compiled : Fusion::refused;
}

}  // namespace

std::shared_ptr<Problem> problem_of(const std::vector<Ref>& operations) {
  size_t at = 0;
  while (at < operations.size() && !operations[at]->problem) at++;
  if (at == operations.size()) return nullptr;
  const Descriptor& conv = *operations[at];
  auto p = std::make_shared<Problem>(*conv.problem);
  const bool forward = conv.kind == k_forward, filter = conv.kind == k_backward_filter;
  if (at == 3 && (forward || filter)) {
    if (!take_normalization(*p, operations, conv.child(forward ? a_forward_x : a_filter_x))) return nullptr;
  } else if (at || !p->image.plain) {
    return nullptr;
  }
  if (at + 2 == operations.size() && forward) {
    if (!take_statistics(*p, *operations[at + 1], conv.child(a_forward_y))) return nullptr;
  } else if (at + 1 != operations.size()) {
    return nullptr;
  }
  return p;
}

std::vector<Engine> engines_for(const Problem& problem, bool fallback) {
  const Geometry& g = problem.geometry;
  const bool half = g.type != host::Type::f32, aligned = problem.image.alignment >= 16 &&
                                                         problem.weight.alignment >= 16 &&
                                                         problem.output.alignment >= 16;
  const int64_t sums = g.kind == ConvKind::weight_gradient ? 4 * g.weight_elements() : 512;
  switch (fusion_of(problem)) {
    case Fusion::refused: return {};
    case Fusion::precompiled:
      if (fallback) return {};
      return {{40, {n_tensor_core}, {}, sums, true}};
    // These say nothing of how they compute, and the first of the list may fail to compile.
    case Fusion::compiled:
      if (fallback != (g.groups > 1)) return {};
      return {{52, {}, {!half, false}, 0, false}, {53, {}, {!half, false}, 512, true}};
    case Fusion::none: break;
  }
  const Engine plain = {0, {}, {}, sums, true};
  if (fallback) {
    if (g.kind == ConvKind::forward) return {plain};
    std::vector<Note> notes = {n_nondeterministic};
    if (half) notes.push_back(n_reduced_sums);
    return {{25, notes, {false, half}, 0, true}, plain};
  }
  std::vector<Engine> engines;
  if (g.dilation[0] > 1 || g.dilation[1] > 1) engines.push_back({7, {}, {}, 0, false});
  if (half && g.kind == ConvKind::weight_gradient)
    engines.push_back({47, {n_tensor_core, n_reduced_sums}, {false, true}, 0, true});
  if (aligned) engines.push_back({63, {n_tensor_core}, {!half, false}, 0, true});
  engines.push_back(plain);
  return engines;
}

}  // namespace dnn
