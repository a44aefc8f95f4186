// A convolution's three computations on the host: plain loops over channels-last tensors.
#pragma once
#include "host_math.h"

namespace dnn {

enum class ConvKind { forward, data_gradient, weight_gradient };

// Image [n, h, w, c], weight [k, r, s, c / groups], output [n, out_h, out_w, k]. Pairs are vertical,
// horizontal.
struct Geometry {
  ConvKind kind;
  host::Type type;
  int64_t n, h, w, c, k, r, s, out_h, out_w, groups;
  int64_t stride[2], pad[2], dilation[2];

  int64_t image_elements() const { return n * h * w * c; }
  int64_t weight_elements() const { return k * r * s * (c / groups); }
  int64_t output_elements() const { return n * out_h * out_w * k; }
};

// How exactly an engine computes: from TF32 operands, or with partial sums in the storage type.
struct Precision {
  bool tf32 = false;
  bool reduced_sums = false;
};

// Computes the tensor that the kind names from the other two.
void convolve(const Geometry& g, Precision precision, void* image, void* weight, void* output);

// max(image * scale + shift, 0) by channel, each step rounded to the type `between`, the last to the image's.
std::vector<char> normalized(const Geometry& g, const void* image, const void* scale, const void* shift,
                             host::Type of_affine, host::Type between);

// The sums over the output's channels and of their squares: each row of pixels in f32, as a device's tiles.
void sum_channels(const Geometry& g, const void* output, float* sum, float* squares);

}  // namespace dnn
