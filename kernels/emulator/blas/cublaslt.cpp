// libcublasLt.so.13 of the emulated device: matmul with the epilogues that the engine uses, checked as
// cuBLASLt checks it, computed on the host when its stream gets there.
#include "multiply.h"
#include "runtime.h"
#include <map>
#include <string>

namespace blas {
namespace {

// Numbers of cublasLt.h.
enum Status { success = 0, invalid_value = 7, execution_failed = 13, not_supported = 15 };
enum ComputeType { compute_32f = 68, compute_32f_tf32 = 77 };
enum DataType { r_32f = 0, r_16f = 2, r_16bf = 14 };
enum MatmulName {
  matmul_transpose_a = 3,
  matmul_transpose_b = 4,
  matmul_epilogue = 7,
  matmul_bias = 8,
  matmul_aux = 11,
  matmul_aux_ld = 12
};
enum LayoutName { layout_batch = 5, layout_step = 6 };
enum PreferenceName {
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

// A descriptor of any of the three kinds: the sizes of its attributes, and what was set.
struct Object {
  std::map<int, size_t> sizes;
  std::map<int, std::string> attributes;
  int compute = 0, type = 0;
  int64_t rows = 0, cols = 0, leading = 0;

  template <class T>
  T get(int name, T otherwise) const {
    auto found = attributes.find(name);
    if (found != attributes.end()) memcpy(&otherwise, found->second.data(), sizeof otherwise);
    return otherwise;
  }
};

int set(void* raw, int name, const void* from, size_t size) {
  if (!raw || !from) return invalid_value;
  Object& object = *static_cast<Object*>(raw);
  auto expected = object.sizes.find(name);
  if (expected == object.sizes.end() || expected->second != size) return invalid_value;
  object.attributes[name] = std::string(static_cast<const char*>(from), size);
  return success;
}

int destroy(void* raw) {
  delete static_cast<Object*>(raw);
  return success;
}

// The opaque choice of an algorithm: what it was handed out for.
struct Choice {
  uint64_t product;
  uint32_t alignments[4];
  uint64_t unused[5];
};
static_assert(sizeof(Choice) == 64);

struct Result {
  Choice choice;
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};

constexpr size_t workspace_bytes = 4096;

// A matmul with everything read from its descriptors; `status` where they do not fit.
struct Matmul {
  Product product{};
  char *vector = nullptr, *beside = nullptr;
  int status = success;

  Matmul(const Object& matmul, const Object& a, const Object& b, const Object& c, const Object& d);

  uint64_t hash() const;
};

Matmul::Matmul(const Object& matmul, const Object& a, const Object& b, const Object& c, const Object& d) {
  Product& p = product;
  p.transpose_a = matmul.get<int>(matmul_transpose_a, 0) == 1;
  p.transpose_b = matmul.get<int>(matmul_transpose_b, 0) == 1;
  p.m = d.rows, p.n = d.cols, p.k = p.transpose_a ? a.rows : a.cols;
  const bool fits = (p.transpose_a ? a.cols : a.rows) == p.m && (p.transpose_b ? b.rows : b.cols) == p.n &&
                    (p.transpose_b ? b.cols : b.rows) == p.k && c.rows == p.m && c.cols == p.n;
  p.batch = d.get<int>(layout_batch, 1);
  for (const Object* o : {&a, &b, &c, &d})
    if (!fits || p.batch < 1 || o->get<int>(layout_batch, 1) != p.batch) status = invalid_value;
  p.lda = a.leading, p.ldb = b.leading, p.ldc = c.leading, p.ldd = d.leading;
  auto step = [](const Object& o) { return o.get<int64_t>(layout_step, 0); };
  p.step_a = step(a), p.step_b = step(b), p.step_c = step(c), p.step_d = step(d);
  p.tf32 = matmul.compute == compute_32f_tf32;
  p.type = a.type == r_32f ? host::Type::f32 : a.type == r_16f ? host::Type::f16 : host::Type::bf16;
  const unsigned epilogue = matmul.get<unsigned>(matmul_epilogue, e_default);
  p.beside = epilogue == e_relu_aux_bias   ? Beside::mask_out
             : epilogue == e_gelu_aux_bias ? Beside::input_out
             : epilogue == e_drelu_bgrad   ? Beside::mask_in
             : epilogue == e_dgelu_bgrad   ? Beside::input_in
                                           : Beside::none;
  const bool is_relu = epilogue == e_relu || epilogue == e_relu_bias || epilogue == e_relu_aux_bias;
  const bool is_gelu = epilogue == e_gelu || epilogue == e_gelu_bias || epilogue == e_gelu_aux_bias;
  p.bias = epilogue == e_bias || epilogue == e_relu_bias || epilogue == e_gelu_bias ||
           epilogue == e_relu_aux_bias || epilogue == e_gelu_aux_bias;
  p.sum = epilogue == e_bgrada                                  ? Sum::a
          : epilogue == e_bgradb                                ? Sum::b
          : epilogue == e_drelu_bgrad || epilogue == e_dgelu_bgrad ? Sum::d
                                                                : Sum::none;
  p.activation = is_relu ? Activation::relu : is_gelu ? Activation::gelu_tanh : Activation::none;
  beside = matmul.get<char*>(matmul_aux, nullptr);
  p.ld_beside = matmul.get<int64_t>(matmul_aux_ld, 0);
  if (p.beside != Beside::none) {
    const bool is_mask = p.beside == Beside::mask_out || p.beside == Beside::mask_in;
    if (!beside || p.ld_beside < p.m || p.ld_beside % (is_mask ? 128 : 8)) status = invalid_value;
  }
  vector = matmul.get<char*>(matmul_bias, nullptr);
  const bool wants_vector = p.bias || p.sum != Sum::none;
  if (status == success && wants_vector && !vector) status = invalid_value;
  const bool known = wants_vector || epilogue == e_default || epilogue == e_relu || epilogue == e_gelu;
  const bool one_type = a.type == b.type && a.type == c.type && a.type == d.type;
  if (status == success && (!known || !one_type || ((p.sum != Sum::none || p.beside != Beside::none) && p.batch > 1)))
    status = not_supported;
  if (status == success && p.tf32 && p.type != host::Type::f32) status = not_supported;
}

uint64_t Matmul::hash() const {
  const Product& p = product;
  uint64_t hash = 14695981039346656037ull;
  for (int64_t value :
       {int64_t(p.type), p.m, p.n, p.k, p.batch, int64_t(p.transpose_a), int64_t(p.transpose_b),
        int64_t(p.tf32), p.lda, p.ldb, p.ldc, p.ldd, int64_t(p.bias), int64_t(p.activation), int64_t(p.sum),
        int64_t(p.beside), p.ld_beside})
    hash = (hash ^ uint64_t(value)) * 1099511628211ull;
  return hash;
}

bool is_aligned(const void* pointer, uint32_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

// Bytes from the first to the last element of a batch of columns.
int64_t extent(const Object& layout, const Product& p) {
  const int64_t matrix = (layout.cols - 1) * layout.leading + layout.rows;
  return int64_t(host::size_of(p.type)) * ((p.batch - 1) * layout.get<int64_t>(layout_step, 0) + matrix);
}

// Bytes of the bias, or of where the sums go.
int64_t vector_extent(const Product& p) {
  if (!p.bias && p.sum == Sum::none) return 0;
  return int64_t(host::size_of(p.type)) * (p.bias || p.sum == Sum::a || p.sum == Sum::d ? p.m : p.n);
}

// Bytes of what lies beside D.
int64_t beside_extent(const Product& p) {
  const bool is_mask = p.beside == Beside::mask_out || p.beside == Beside::mask_in;
  if (p.beside == Beside::none) return 0;
  return is_mask ? p.ld_beside / 8 * p.n : int64_t(host::size_of(p.type)) * p.ld_beside * p.n;
}

const Object& object(const void* raw) { return *static_cast<const Object*>(raw); }

}  // namespace
}  // namespace blas

using namespace blas;

extern "C" {

FORNAX_API size_t cublasLtGetVersion() { return 130002; }

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
  Object* object = new Object{
      {{matmul_transpose_a, 4}, {matmul_transpose_b, 4}, {matmul_epilogue, 4}, {matmul_bias, 8},
       {matmul_aux, 8}, {matmul_aux_ld, 8}}, {}};
  object->compute = compute;
  *to = object;
  return success;
}

FORNAX_API int cublasLtMatmulDescSetAttribute(void* raw, int name, const void* from, size_t size) {
  return set(raw, name, from, size);
}
FORNAX_API int cublasLtMatmulDescDestroy(void* raw) { return destroy(raw); }

FORNAX_API int cublasLtMatrixLayoutCreate(void** to, int type, uint64_t rows, uint64_t cols,
                                          int64_t leading) {
  if (!to || !rows || !cols || leading < int64_t(rows)) return invalid_value;
  if (type != r_32f && type != r_16f && type != r_16bf) return not_supported;
  Object* object = new Object{{{layout_batch, 4}, {layout_step, 8}}, {}};
  object->type = type, object->rows = int64_t(rows), object->cols = int64_t(cols), object->leading = leading;
  *to = object;
  return success;
}

FORNAX_API int cublasLtMatrixLayoutSetAttribute(void* raw, int name, const void* from, size_t size) {
  return set(raw, name, from, size);
}
FORNAX_API int cublasLtMatrixLayoutDestroy(void* raw) { return destroy(raw); }

FORNAX_API int cublasLtMatmulPreferenceCreate(void** to) {
  if (!to) return invalid_value;
  *to = new Object{{{preference_workspace, 8},
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
                                              void* preference, int wanted, Result* results, int* count) {
  if (!handle || !matmul || !a || !b || !c || !d || !preference || wanted < 1 || !results || !count)
    return invalid_value;
  *count = 0;
  const Matmul m(object(matmul), object(a), object(b), object(c), object(d));
  if (m.status != success) return m.status;
  const Object& p = object(preference);
  Result result{};
  result.choice.product = m.hash();
  for (int i = 0; i < 4; i++) result.choice.alignments[i] = p.get<uint32_t>(preference_align_a + i, 256);
  result.workspace = p.get<uint64_t>(preference_workspace, 0) >= workspace_bytes ? workspace_bytes : 0;
  result.status = success;
  results[0] = result;
  *count = 1;
  return success;
}

FORNAX_API int cublasLtMatmul(void* handle, void* matmul, const void* alpha, const void* A, void* a,
                              const void* B, void* b, const void* beta, const void* C, void* c, void* D,
                              void* d, const Choice* choice, void* workspace, size_t size, CUstream stream) {
  if (!handle || !matmul || !alpha || !beta || !a || !b || !c || !d || !A || !B || !D) return invalid_value;
  const Matmul m(object(matmul), object(a), object(b), object(c), object(d));
  if (m.status != success) return m.status;
  Product p = m.product;
  p.alpha = *static_cast<const float*>(alpha), p.beta = *static_cast<const float*>(beta);
  // Without a choice the library asks its heuristics itself; a choice for another product is refused.
  if (choice && choice->product != m.hash()) return invalid_value;
  const void* pointers[] = {A, B, C ? C : D, D};
  for (int i = 0; i < 4; i++)
    if (!is_aligned(pointers[i], choice ? choice->alignments[i] : 16)) return invalid_value;
  if (m.vector && !is_aligned(m.vector, 16)) return invalid_value;
  if (m.product.beside != Beside::none && !is_aligned(m.beside, 16)) return invalid_value;
  if (size && (!workspace || !is_aligned(workspace, 16))) return invalid_value;
  if (stream && fornax::device_of(stream) != static_cast<Handle*>(handle)->device) return invalid_value;
  const int64_t a_bytes = extent(object(a), p), b_bytes = extent(object(b), p),
                c_bytes = p.beta != 0 ? extent(object(c), p) : 0;
  const int64_t d_bytes = extent(object(d), p), vector_bytes = vector_extent(p), beside_bytes = beside_extent(p);
  char *vector = m.vector, *beside = m.beside;
  const bool queued = fornax::enqueue(stream, "a cuBLASLt matmul", [=] {
    using fornax::Access;
    auto memory = [](const void* at, int64_t bytes, Access access) {
      return static_cast<char*>(bytes ? fornax::device_range(at, size_t(bytes), access) : nullptr);
    };
    char *from_a = memory(A, a_bytes, Access::Read), *from_b = memory(B, b_bytes, Access::Read);
    char *from_c = memory(C, c_bytes, Access::Read), *to_d = memory(D, d_bytes, Access::Write);
    char* of_vector = memory(vector, vector_bytes, p.bias ? Access::Read : Access::Write);
    const bool reads = p.beside == Beside::mask_in || p.beside == Beside::input_in;
    char* of_beside = memory(beside, beside_bytes, reads ? Access::Read : Access::Write);
    // What lay in the workspace is lost, as on a device.
    if (size) memset(memory(workspace, int64_t(size), Access::Write), 0xa5, size);
    multiply(p, from_a, from_b, from_c, to_d, of_vector, of_beside);
  });
  return queued ? success : execution_failed;
}

}  // extern "C"
