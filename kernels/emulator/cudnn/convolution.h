// Convolution and its gradients on the host: plain loops over channels-last tensors.
#pragma once
#include "host_math.h"

namespace cudnn {

enum class ConvKind { forward, data_gradient, weight_gradient };

// Image [n, h, w, c], weight [k, r, s, c / groups], output [n, out_h, out_w, k]. Pairs are (vertical, horizontal).
struct Geometry {
  ConvKind kind;
  host::ElementType type;
  int64_t n, h, w, c, k, r, s, out_h, out_w, groups;
  int64_t stride[2], pad[2], dilation[2];

  int64_t image_elements() const { return n * h * w * c; }
  int64_t weight_elements() const { return k * r * s * (c / groups); }
  int64_t output_elements() const { return n * out_h * out_w * k; }
};

// Precision of an engine: TF32 operands, partial sums in the storage type, or sums in descending order, which differ in the last bits.
struct Precision {
  bool tf32 = false;
  bool reduced_precision_reduction = false;
  bool descending = false;
};

// Computes the output, the image's gradient or the weight's gradient, as `g.kind` selects, from the other two tensors.
// With `accumulates`, a data gradient is added to the contents of `image`.
void convolve(const Geometry& g, Precision precision, bool accumulates, void* image, void* weight, void* output);

// Sums and sums of squares of the output by channel, added to `sum` and `sqsum` if `accumulates`, else written. Each row of pixels is
// summed in f32, like a GPU's tiles.
void channel_sums(const Geometry& g, const void* output, bool accumulates, float* sum, float* sqsum);

}  // namespace dnn
