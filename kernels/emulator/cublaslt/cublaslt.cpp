// libcublasLt.so.13 of the emulated device: matmul with the epilogues that the engine uses, with cuBLASLt's argument checks,
// computed on the host when its stream runs.
#include "matmul.h"
#include "runtime.h"
#include <algorithm>
#include <map>
#include <mutex>
#include <string>

namespace cublaslt {
namespace {

// Values of cublasLt.h's enums.
enum Status { success = 0, invalid_value = 7, execution_failed = 13, not_supported = 15 };
enum ComputeType { compute_32f = 68, compute_32f_tf32 = 77 };
enum DataType { r_32f = 0, r_16f = 2, r_16bf = 14 };
enum MatmulAttribute {
  matmul_transpose_a = 3,
  matmul_transpose_b = 4,
  matmul_epilogue = 7,
  matmul_bias = 8,
  matmul_aux = 11,
  matmul_aux_ld = 12
};
enum LayoutAttribute { layout_batch = 5, layout_batch_stride = 6 };
enum PreferenceAttribute {
  preference_workspace = 1,
  preference_reduction = 3,
  preference_align_a = 5,
  preference_align_b,
  preference_align_c,
  preference_align_d
};
enum Epilogue {
  e_default = 1,
  e_relu = 2,
  e_bias = 4,
  e_relu_bias = 6,
  e_gelu = 32,
  e_gelu_bias = 36,
  e_relu_aux_bias = 134,
  e_drelu_bgrad = 152,
  e_gelu_aux_bias = 164,
  e_dgelu_bgrad = 208,
  e_bgrada = 256,
  e_bgradb = 512
};

struct Handle {
  int device;
};

// Matmul descriptor, matrix layout or preference: sizes of the known attributes, and values of the attributes that are set.
struct Descriptor {
  std::map<int, size_t> sizes;
  std::map<int, std::string> attributes;
  int compute = 0, type = 0;
  int64_t rows = 0, cols = 0, leading_dimension = 0;

  template <class T>
  T get(int name, T fallback) const {
    auto found = attributes.find(name);
    if (found != attributes.end()) memcpy(&fallback, found->second.data(), sizeof fallback);
    return fallback;
  }
};

int set(void* raw, int name, const void* from, size_t size) {
  if (!raw || !from) return invalid_value;
  Descriptor& descriptor = *static_cast<Descriptor*>(raw);
  auto expected = descriptor.sizes.find(name);
  if (expected == descriptor.sizes.end() || expected->second != size) return invalid_value;
  descriptor.attributes[name] = std::string(static_cast<const char*>(from), size);
  return success;
}

int destroy(void* raw) {
  delete static_cast<Descriptor*>(raw);
  return success;
}

// cublasLtMatmulAlgo_t: the matmul and alignments for which the heuristics returned it.
struct Algorithm {
  uint64_t gemm_hash;
  uint32_t alignments[4];
  int64_t rank;  // in the heuristics' list
  uint64_t unused[4];
};
static_assert(sizeof(Algorithm) == 64);

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};

constexpr size_t workspace_bytes = 4096;

// Matmul read from its descriptors; `status` is an error if they do not match.
struct MatmulCall {
  Gemm gemm{};
  char *bias = nullptr, *aux = nullptr;
  int status = success;

  MatmulCall(const Descriptor& matmul, const Descriptor& a, const Descriptor& b, const Descriptor& c,
             const Descriptor& d);

  uint64_t hash() const;
};

MatmulCall::MatmulCall(const Descriptor& matmul, const Descriptor& a, const Descriptor& b, const Descriptor& c,
                       const Descriptor& d) {
  Gemm& g = gemm;
  g.transpose_a = matmul.get<int>(matmul_transpose_a, 0) == 1;
  g.transpose_b = matmul.get<int>(matmul_transpose_b, 0) == 1;
  g.m = d.rows, g.n = d.cols, g.k = g.transpose_a ? a.rows : a.cols;
  const bool fits = (g.transpose_a ? a.cols : a.rows) == g.m && (g.transpose_b ? b.rows : b.cols) == g.n &&
                    (g.transpose_b ? b.cols : b.rows) == g.k && c.rows == g.m && c.cols == g.n;
  g.batch = d.get<int>(layout_batch, 1);
  for (const Descriptor* o : {&a, &b, &c, &d})
    if (!fits || g.batch < 1 || o->get<int>(layout_batch, 1) != g.batch) status = invalid_value;
  g.lda = a.leading_dimension, g.ldb = b.leading_dimension, g.ldc = c.leading_dimension, g.ldd = d.leading_dimension;
  auto batch_stride = [](const Descriptor& o) { return o.get<int64_t>(layout_batch_stride, 0); };
  g.stride_a = batch_stride(a), g.stride_b = batch_stride(b), g.stride_c = batch_stride(c), g.stride_d = batch_stride(d);
  g.tf32 = matmul.compute == compute_32f_tf32;
  g.type = a.type == r_32f ? host::ElementType::f32 : a.type == r_16f ? host::ElementType::f16 : host::ElementType::bf16;
  const unsigned epilogue = matmul.get<unsigned>(matmul_epilogue, e_default);
  g.aux = epilogue == e_relu_aux_bias   ? Aux::relu_mask_out
          : epilogue == e_gelu_aux_bias ? Aux::gelu_input_out
          : epilogue == e_drelu_bgrad   ? Aux::relu_mask_in
          : epilogue == e_dgelu_bgrad   ? Aux::gelu_input_in
                                        : Aux::none;
  const bool is_relu = epilogue == e_relu || epilogue == e_relu_bias || epilogue == e_relu_aux_bias;
  const bool is_gelu = epilogue == e_gelu || epilogue == e_gelu_bias || epilogue == e_gelu_aux_bias;
  g.bias = epilogue == e_bias || epilogue == e_relu_bias || epilogue == e_gelu_bias ||
           epilogue == e_relu_aux_bias || epilogue == e_gelu_aux_bias;
  g.bias_gradient = epilogue == e_bgrada                                     ? BiasGradient::a
                    : epilogue == e_bgradb                                   ? BiasGradient::b
                    : epilogue == e_drelu_bgrad || epilogue == e_dgelu_bgrad ? BiasGradient::d
                                                                             : BiasGradient::none;
  g.activation = is_relu ? Activation::relu : is_gelu ? Activation::gelu_tanh : Activation::none;
  aux = matmul.get<char*>(matmul_aux, nullptr);
  g.ld_aux = matmul.get<int64_t>(matmul_aux_ld, 0);
  if (g.aux != Aux::none) {
    const bool is_mask = g.aux == Aux::relu_mask_out || g.aux == Aux::relu_mask_in;
    if (!aux || g.ld_aux < g.m || g.ld_aux % (is_mask ? 128 : 8)) status = invalid_value;
  }
  bias = matmul.get<char*>(matmul_bias, nullptr);
  const bool has_bias_pointer = g.bias || g.bias_gradient != BiasGradient::none;
  if (status == success && has_bias_pointer && !bias) status = invalid_value;
  const bool known = has_bias_pointer || epilogue == e_default || epilogue == e_relu || epilogue == e_gelu;
  const bool one_type = a.type == b.type && a.type == c.type && a.type == d.type;
  const bool is_unbatched = g.bias_gradient != BiasGradient::none || g.aux != Aux::none;
  if (status == success && (!known || !one_type || (is_unbatched && g.batch > 1))) status = not_supported;
  if (status == success && g.tf32 && g.type != host::ElementType::f32) status = not_supported;
}

uint64_t MatmulCall::hash() const {
  const Gemm& g = gemm;
  uint64_t hash = 14695981039346656037ull;
  for (int64_t value :
       {int64_t(g.type), g.m, g.n, g.k, g.batch, int64_t(g.transpose_a), int64_t(g.transpose_b),
        int64_t(g.tf32), g.lda, g.ldb, g.ldc, g.ldd, int64_t(g.bias), int64_t(g.activation), int64_t(g.bias_gradient),
        int64_t(g.aux), g.ld_aux})
    hash = (hash ^ uint64_t(value)) * 1099511628211ull;
  return hash;
}

// Statuses that tests plant in cublasLtMatmul, by epilogue and rank of the algorithm.
std::mutex planted_mutex;
std::map<std::pair<unsigned, int64_t>, int> planted;

int planted_status(unsigned epilogue, int64_t rank) {
  std::lock_guard<std::mutex> guard(planted_mutex);
  const auto found = planted.find({epilogue, rank});
  return found == planted.end() ? int(success) : found->second;
}

bool is_aligned(const void* pointer, uint32_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

// Bytes from the first to the last element of a batch of matrices.
int64_t matrix_bytes_of(const Descriptor& layout, const Gemm& g) {
  const int64_t matrix = (layout.cols - 1) * layout.leading_dimension + layout.rows;
  return int64_t(host::size_of(g.type)) * ((g.batch - 1) * layout.get<int64_t>(layout_batch_stride, 0) + matrix);
}

// Bytes of the bias or its gradient.
int64_t bias_bytes_of(const Gemm& g) {
  if (!g.bias && g.bias_gradient == BiasGradient::none) return 0;
  return int64_t(host::size_of(g.type)) * (g.bias_gradient == BiasGradient::b ? g.n : g.m);
}

// Bytes of the aux buffer.
int64_t aux_bytes_of(const Gemm& g) {
  const bool is_mask = g.aux == Aux::relu_mask_out || g.aux == Aux::relu_mask_in;
  if (g.aux == Aux::none) return 0;
  return is_mask ? g.ld_aux / 8 * g.n : int64_t(host::size_of(g.type)) * g.ld_aux * g.n;
}

const Descriptor& descriptor(const void* raw) { return *static_cast<const Descriptor*>(raw); }

}  // namespace
}  // namespace blas

using namespace cublaslt;

extern "C" {

// Makes cublasLtMatmul return a status for the algorithm of that rank in the heuristics' list, with an epilogue, from now on.
FORNAX_API void fornax_emulator_plant_matmul(unsigned epilogue, int64_t rank, int status) {
  std::lock_guard<std::mutex> guard(planted_mutex);
  planted[{epilogue, rank}] = status;
}

FORNAX_API size_t cublasLtGetVersion() { return size_t(fornax::library_cuda_version()) * 10 + 2; }

FORNAX_API int cublasLtCreate(void** handle) {
  if (!handle) return invalid_value;
  *handle = new Handle{fornax::current_device()};
  return success;
}

FORNAX_API int cublasLtDestroy(void* handle) {
  delete static_cast<Handle*>(handle);
  return success;
}

FORNAX_API int cublasLtMatmulDescCreate(void** to, int compute, int scale) {
  if (!to) return invalid_value;
  if ((compute != compute_32f && compute != compute_32f_tf32) || scale != r_32f) return not_supported;
  Descriptor* descriptor = new Descriptor{
      {{matmul_transpose_a, 4}, {matmul_transpose_b, 4}, {matmul_epilogue, 4}, {matmul_bias, 8},
       {matmul_aux, 8}, {matmul_aux_ld, 8}}, {}};
  descriptor->compute = compute;
  *to = descriptor;
  return success;
}

FORNAX_API int cublasLtMatmulDescSetAttribute(void* raw, int name, const void* from, size_t size) {
  return set(raw, name, from, size);
}
FORNAX_API int cublasLtMatmulDescDestroy(void* raw) { return destroy(raw); }

FORNAX_API int cublasLtMatrixLayoutCreate(void** to, int type, uint64_t rows, uint64_t cols,
                                          int64_t leading_dimension) {
  if (!to || !rows || !cols || leading_dimension < int64_t(rows)) return invalid_value;
  if (type != r_32f && type != r_16f && type != r_16bf) return not_supported;
  Descriptor* descriptor = new Descriptor{{{layout_batch, 4}, {layout_batch_stride, 8}}, {}};
  descriptor->type = type, descriptor->rows = int64_t(rows), descriptor->cols = int64_t(cols);
  descriptor->leading_dimension = leading_dimension;
  *to = descriptor;
  return success;
}

FORNAX_API int cublasLtMatrixLayoutSetAttribute(void* raw, int name, const void* from, size_t size) {
  return set(raw, name, from, size);
}
FORNAX_API int cublasLtMatrixLayoutDestroy(void* raw) { return destroy(raw); }

FORNAX_API int cublasLtMatmulPreferenceCreate(void** to) {
  if (!to) return invalid_value;
  *to = new Descriptor{{{preference_workspace, 8},
                    {preference_reduction, 4},
                    {preference_align_a, 4},
                    {preference_align_b, 4},
                    {preference_align_c, 4},
                    {preference_align_d, 4}},
                   {}};
  return success;
}

FORNAX_API int cublasLtMatmulPreferenceSetAttribute(void* raw, int name, const void* from, size_t size) {
  return set(raw, name, from, size);
}
FORNAX_API int cublasLtMatmulPreferenceDestroy(void* raw) { return destroy(raw); }

FORNAX_API int cublasLtMatmulAlgoGetHeuristic(void* handle, void* matmul, void* a, void* b, void* c, void* d,
                                              void* preference, int capacity, HeuristicResult* results, int* count) {
  if (!handle || !matmul || !a || !b || !c || !d || !preference || capacity < 1 || !results || !count)
    return invalid_value;
  *count = 0;
  const MatmulCall m(descriptor(matmul), descriptor(a), descriptor(b), descriptor(c), descriptor(d));
  if (m.status != success) return m.status;
  const Descriptor& limits = descriptor(preference);
  HeuristicResult result{};
  result.algorithm.gemm_hash = m.hash();
  for (int i = 0; i < 4; i++) result.algorithm.alignments[i] = limits.get<uint32_t>(preference_align_a + i, 256);
  result.workspace = limits.get<uint64_t>(preference_workspace, 0) >= workspace_bytes ? workspace_bytes : 0;
  result.status = success;
  *count = std::min(capacity, 2);
  for (int i = 0; i < *count; i++) {
    result.algorithm.rank = i;
    results[i] = result;
  }
  return success;
}

FORNAX_API int cublasLtMatmul(void* handle, void* matmul, const void* alpha, const void* A, void* a,
                              const void* B, void* b, const void* beta, const void* C, void* c, void* D,
                              void* d, const Algorithm* algorithm, void* workspace, size_t size, CUstream stream) {
  if (!handle || !matmul || !alpha || !beta || !a || !b || !c || !d || !A || !B || !D) return invalid_value;
  const MatmulCall m(descriptor(matmul), descriptor(a), descriptor(b), descriptor(c), descriptor(d));
  if (m.status != success) return m.status;
  Gemm g = m.gemm;
  g.alpha = *static_cast<const float*>(alpha), g.beta = *static_cast<const float*>(beta);
  // Without an algorithm the library calls its heuristics itself; an algorithm for another matmul is an error.
  if (algorithm && algorithm->gemm_hash != m.hash()) return invalid_value;
  const unsigned epilogue = descriptor(matmul).get<unsigned>(matmul_epilogue, e_default);
  if (int status = planted_status(epilogue, algorithm ? algorithm->rank : 0)) return status;
  const void* pointers[] = {A, B, C ? C : D, D};
  for (int i = 0; i < 4; i++)
    if (!is_aligned(pointers[i], algorithm ? algorithm->alignments[i] : 16)) return invalid_value;
  if (m.bias && !is_aligned(m.bias, 16)) return invalid_value;
  if (m.gemm.aux != Aux::none && !is_aligned(m.aux, 16)) return invalid_value;
  if (size && (!workspace || !is_aligned(workspace, 16))) return invalid_value;
  if (stream && fornax::device_of(stream) != static_cast<Handle*>(handle)->device) return invalid_value;
  const int64_t a_bytes = matrix_bytes_of(descriptor(a), g), b_bytes = matrix_bytes_of(descriptor(b), g),
                c_bytes = g.beta != 0 ? matrix_bytes_of(descriptor(c), g) : 0;
  const int64_t d_bytes = matrix_bytes_of(descriptor(d), g), bias_bytes = bias_bytes_of(g), aux_bytes = aux_bytes_of(g);
  char *bias = m.bias, *aux = m.aux;
  const bool queued = fornax::enqueue(stream, "a cuBLASLt matmul", [=] {
    using fornax::Access;
    auto device_memory = [](const void* at, int64_t bytes, Access access) {
      return static_cast<char*>(bytes ? fornax::device_range(at, size_t(bytes), access) : nullptr);
    };
    char *from_a = device_memory(A, a_bytes, Access::Read), *from_b = device_memory(B, b_bytes, Access::Read);
    char *from_c = device_memory(C, c_bytes, Access::Read), *to_d = device_memory(D, d_bytes, Access::Write);
    char* bias_memory = device_memory(bias, bias_bytes, g.bias ? Access::Read : Access::Write);
    const bool reads = g.aux == Aux::relu_mask_in || g.aux == Aux::gelu_input_in;
    char* aux_memory = device_memory(aux, aux_bytes, reads ? Access::Read : Access::Write);
    // A matmul overwrites its workspace, as on a GPU.
    if (size) memset(device_memory(workspace, int64_t(size), Access::Scratch), 0xa5, size);
    compute_matmul(g, from_a, from_b, from_c, to_d, bias_memory, aux_memory);
  });
  return queued ? success : execution_failed;
}

}  // extern "C"
