// Graphs that the stand-in computes, and the engines that cuDNN 9.19 returns for compute capability 9.0.
#include "descriptor.h"

namespace cudnn {

namespace {

bool is_vector(const Tensor& t, int64_t channels) {
  return t.in_memory && t.dims[0] == 1 && t.dims[1] == channels && t.dims[2] == 1 && t.dims[3] == 1;
}

bool match_genstats(ConvGraph& p, const Descriptor& operation, const DescriptorRef& conv_output) {
  if (operation.kind != k_genstats || operation.child(a_genstats_x) != conv_output) return false;
  p.has_genstats = true;
  p.sum = tensor_of(*operation.child(a_genstats_sum));
  p.sqsum = tensor_of(*operation.child(a_genstats_sqsum));
  return is_vector(p.sum, p.geometry.k) && is_vector(p.sqsum, p.geometry.k) && p.sum.type == d_float &&
         p.sqsum.type == d_float;
}

// Engine that cuDNN has for the statistics: precompiled in its libraries, or compiled at run time.
enum class Fusion { none, precompiled, runtime_compiled };

Fusion fusion_of(const ConvGraph& p) {
  const Geometry& g = p.geometry;
  if (!p.has_genstats) return Fusion::none;
  const bool is_tensor_core_shape = g.c % 8 == 0 && g.k % 8 == 0 && g.groups == 1;
  return g.type == host::ElementType::f16 && is_tensor_core_shape ? Fusion::precompiled : Fusion::runtime_compiled;
}

std::vector<Engine> configurations(const Engine& engine, int64_t count) {
  std::vector<Engine> all(count, engine);
  for (int64_t knob = 0; knob < count; knob++) all[knob].knob = knob;
  return all;
}

void add(std::vector<Engine>& engines, const std::vector<Engine>& more) {
  engines.insert(engines.end(), more.begin(), more.end());
}

}  // namespace

std::shared_ptr<ConvGraph> match_conv_graph(const std::vector<DescriptorRef>& operations) {
  if (operations.empty() || !operations[0]->conv_graph) return nullptr;
  const Descriptor& conv = *operations[0];
  auto p = std::make_shared<ConvGraph>(*conv.conv_graph);
  if (operations.size() == 2 && conv.kind == k_conv_forward) {
    if (!match_genstats(*p, *operations[1], conv.child(a_forward_y))) return nullptr;
  } else if (operations.size() != 1) {
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
    // The run-time-compiled engine comes last, with three configurations.
    case Fusion::precompiled: {
      if (fallback) return {};
      std::vector<Engine> engines = configurations({2, {}, {}, workspace, true}, 10);
      add(engines, configurations({3, {}, {}, 0, true, true, true}, 3));
      return engines;
    }
    // The plan of the first configuration fails to build, and the last one adds to the sums.
    case Fusion::runtime_compiled: {
      if (fallback != (g.groups > 1)) return {};
      std::vector<Engine> engines = configurations({3, {}, {!half, false}, 512, true, false, true}, 3);
      engines[0].plan_builds = false;
      engines[2].accumulates_sums = true;
      return engines;
    }
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
  // The first 8 to 20 of the real list are one engine.
  if (aligned) add(engines, configurations({63, {n_tensor_core}, {!half, false}, 0, true}, 10));
  add(engines, configurations(generic, 10));
  engines.push_back({1, {}, {false, false, true}, workspace, true});
  return engines;
}

}  // namespace dnn
