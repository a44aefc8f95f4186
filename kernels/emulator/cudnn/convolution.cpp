// Sums over one tap in f32; taps and pixels are accumulated in double: more accurate than any GPU.
#include "convolution.h"
#include "runtime.h"

namespace cudnn {

using fornax::parallel;
using host::load_f32;

namespace {

// Adds the sums of one tap to the totals.
void accumulate(const Geometry& g, Precision precision, const std::vector<float>& partial,
            std::vector<double>& total) {
  for (size_t i = 0; i < partial.size(); i++) {
    total[i] += partial[i];
    if (precision.reduced_precision_reduction) total[i] = host::round_to(g.type, float(total[i]));
  }
}

void write(const Geometry& g, void* to, int64_t at, const std::vector<double>& total) {
  for (size_t i = 0; i < total.size(); i++) host::store(to, g.type, at + int64_t(i), float(total[i]));
}

void forward(const Geometry& g, Precision precision, const void* image, const void* weight, void* output) {
  const int64_t cg = g.c / g.groups, kg = g.k / g.groups, taps = g.r * g.s;
  const std::vector<float> x = load_f32(image, g.type, g.image_elements(), precision.tf32);
  const std::vector<float> w = load_f32(weight, g.type, g.weight_elements(), precision.tf32);
  // [group, tap, input channel, output channel], so that the innermost loop runs over output channels.
  std::vector<float> transposed(w.size());
  for (int64_t k = 0; k < g.k; k++)
    for (int64_t tap = 0; tap < taps; tap++)
      for (int64_t c = 0; c < cg; c++)
        transposed[((k / kg * taps + tap) * cg + c) * kg + k % kg] = w[(k * taps + tap) * cg + c];
  parallel(g.n * g.out_h, [&](int64_t row) {
    const int64_t n = row / g.out_h, oh = row % g.out_h;
    std::vector<float> partial(kg);
    std::vector<double> total(kg);
    for (int64_t ow = 0; ow < g.out_w; ow++)
      for (int64_t group = 0; group < g.groups; group++) {
        total.assign(kg, 0);
        for (int64_t tap = 0; tap < taps; tap++) {
          const int64_t ih = oh * g.stride[0] - g.pad[0] + tap / g.s * g.dilation[0];
          const int64_t iw = ow * g.stride[1] - g.pad[1] + tap % g.s * g.dilation[1];
          if (ih < 0 || ih >= g.h || iw < 0 || iw >= g.w) continue;
          const float* pixel = &x[((n * g.h + ih) * g.w + iw) * g.c + group * cg];
          const float* line = &transposed[(group * taps + tap) * cg * kg];
          partial.assign(kg, 0);
          float* sum = partial.data();
          for (int64_t i = 0; i < cg; i++) {
            const int64_t c = precision.descending ? cg - 1 - i : i;
            const float value = pixel[c];
            for (int64_t k = 0; k < kg; k++) sum[k] += value * line[c * kg + k];
          }
          accumulate(g, precision, partial, total);
        }
        write(g, output, (row * g.out_w + ow) * g.k + group * kg, total);
      }
  });
}

// Output row (or column) whose window has this tap on input row `at`; -1 if there is none.
int64_t output_index(const Geometry& g, int axis, int64_t at, int64_t tap, int64_t size) {
  const int64_t from = at + g.pad[axis] - tap * g.dilation[axis];
  if (from < 0 || from % g.stride[axis] || from / g.stride[axis] >= size) return -1;
  return from / g.stride[axis];
}

void data_gradient(const Geometry& g, Precision precision, bool accumulates, void* image, const void* weight,
                   const void* output) {
  const int64_t cg = g.c / g.groups, kg = g.k / g.groups, taps = g.r * g.s;
  const std::vector<float> w = load_f32(weight, g.type, g.weight_elements(), precision.tf32);
  const std::vector<float> dy = load_f32(output, g.type, g.output_elements(), precision.tf32);
  parallel(g.n * g.h, [&](int64_t row) {
    const int64_t n = row / g.h, ih = row % g.h;
    std::vector<float> partial(cg);
    std::vector<double> total(cg);
    for (int64_t iw = 0; iw < g.w; iw++)
      for (int64_t group = 0; group < g.groups; group++) {
        total.assign(cg, 0);
        for (int64_t tap = 0; tap < taps; tap++) {
          const int64_t oh = output_index(g, 0, ih, tap / g.s, g.out_h), ow = output_index(g, 1, iw, tap % g.s, g.out_w);
          if (oh < 0 || ow < 0) continue;
          const float* pixel = &dy[((n * g.out_h + oh) * g.out_w + ow) * g.k + group * kg];
          partial.assign(cg, 0);
          float* sum = partial.data();
          for (int64_t i = 0; i < kg; i++) {
            const int64_t k = precision.descending ? kg - 1 - i : i;
            const float value = pixel[k];
            const float* line = &w[((group * kg + k) * taps + tap) * cg];
            for (int64_t c = 0; c < cg; c++) sum[c] += value * line[c];
          }
          accumulate(g, precision, partial, total);
        }
        const int64_t at = (row * g.w + iw) * g.c + group * cg;
        if (accumulates)
          for (int64_t c = 0; c < cg; c++) total[c] += host::load(image, g.type, at + c);
        write(g, image, at, total);
      }
  });
}

void weight_gradient(const Geometry& g, Precision precision, const void* image, void* weight,
                     const void* output) {
  const int64_t cg = g.c / g.groups, kg = g.k / g.groups, taps = g.r * g.s;
  const std::vector<float> x = load_f32(image, g.type, g.image_elements(), precision.tf32);
  const std::vector<float> dy = load_f32(output, g.type, g.output_elements(), precision.tf32);
  parallel(g.k * taps, [&](int64_t item) {
    const int64_t k = item / taps, tap = item % taps, group = k / kg;
    std::vector<float> partial(cg);
    std::vector<double> total(cg, 0);
    for (int64_t row = 0; row < g.n * g.out_h; row++) {
      const int64_t ih = row % g.out_h * g.stride[0] - g.pad[0] + tap / g.s * g.dilation[0];
      if (ih < 0 || ih >= g.h) continue;
      const float* line = &x[(row / g.out_h * g.h + ih) * g.w * g.c + group * cg];
      partial.assign(cg, 0);
      float* sum = partial.data();
      for (int64_t i = 0; i < g.out_w; i++) {
        const int64_t ow = precision.descending ? g.out_w - 1 - i : i;
        const int64_t iw = ow * g.stride[1] - g.pad[1] + tap % g.s * g.dilation[1];
        if (iw < 0 || iw >= g.w) continue;
        const float value = dy[(row * g.out_w + ow) * g.k + k];
        const float* pixel = line + iw * g.c;
        for (int64_t c = 0; c < cg; c++) sum[c] += value * pixel[c];
      }
      accumulate(g, precision, partial, total);
    }
    write(g, weight, item * cg, total);
  });
}

}  // namespace

void convolve(const Geometry& g, Precision precision, bool accumulates, void* image, void* weight, void* output) {
  switch (g.kind) {
    case ConvKind::forward: return forward(g, precision, image, weight, output);
    case ConvKind::data_gradient: return data_gradient(g, precision, accumulates, image, weight, output);
    case ConvKind::weight_gradient: return weight_gradient(g, precision, image, weight, output);
  }
}

void channel_sums(const Geometry& g, const void* output, bool accumulates, float* sum, float* sqsum) {
  std::vector<double> totals(2 * g.k, 0);
  for (int64_t row = 0; row < g.n * g.out_h; row++) {
    std::vector<float> partial(2 * g.k, 0);
    for (int64_t i = row * g.out_w * g.k; i < (row + 1) * g.out_w * g.k; i++) {
      const float value = host::load(output, g.type, i);
      partial[i % g.k] += value;
      partial[g.k + i % g.k] += value * value;
    }
    for (int64_t k = 0; k < 2 * g.k; k++) totals[k] += partial[k];
  }
  for (int64_t k = 0; k < g.k; k++) {
    sum[k] = (accumulates ? sum[k] : 0) + float(totals[k]);
    sqsum[k] = (accumulates ? sqsum[k] : 0) + float(totals[g.k + k]);
  }
}

}  // namespace dnn
