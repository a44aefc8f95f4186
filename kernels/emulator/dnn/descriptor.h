// Descriptors of the cuDNN stand-in: what may be set on which, and what a finalised convolution graph means.
#pragma once
#include "convolution.h"
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace dnn {

// Numbers of cudnn_graph.h and cudnn_backend.h.
enum Status {
  success = 0,
  not_initialized = 1001,
  bad_param = 2000,
  bad_null_pointer = 2002,
  bad_not_finalized = 2004,
  bad_type = 2010,
  not_supported = 3000,
  internal_error = 4000,
  unknown_descriptor = 4003,
  plan_failed = 4001,
  execution_failed = 5000,
};

enum Kind {
  k_pointwise = 0,
  k_convolution = 1,
  k_engine = 2,
  k_configuration = 3,
  k_heuristics = 4,
  k_plan = 5,
  k_forward = 10,
  k_backward_filter = 11,
  k_backward_data = 12,
  k_pointwise_operation = 13,
  k_statistics = 14,
  k_graph = 15,
  k_pack = 16,
  k_tensor = 17,
};

enum Tag {
  t_handle = 0,
  t_data_type = 1,
  t_boolean = 2,
  t_int64 = 3,
  t_float = 4,
  t_void_pointer = 6,
  t_convolution_mode = 7,
  t_heuristic_mode = 8,
  t_numerical_note = 11,
  t_pointwise_mode = 14,
  t_descriptor = 15,
  t_statistics_mode = 16,
};

enum Name {
  a_pointwise_mode = 0,
  a_pointwise_math = 1,
  a_conv_compute_type = 100,
  a_conv_mode = 101,
  a_conv_dilations = 102,
  a_conv_strides = 103,
  a_conv_post_padding = 104,
  a_conv_pre_padding = 105,
  a_conv_spatial_dims = 106,
  a_heur_mode = 200,
  a_heur_graph = 201,
  a_heur_results = 202,
  a_config_engine = 300,
  a_config_workspace = 303,
  a_plan_handle = 400,
  a_plan_config = 401,
  a_plan_workspace = 402,
  a_forward_alpha = 700,
  a_forward_beta = 701,
  a_forward_conv = 702,
  a_forward_w = 703,
  a_forward_x = 704,
  a_forward_y = 705,
  a_data_alpha = 706,
  a_data_beta = 707,
  a_data_conv = 708,
  a_data_w = 709,
  a_data_dx = 710,
  a_data_dy = 711,
  a_filter_alpha = 712,
  a_filter_beta = 713,
  a_filter_conv = 714,
  a_filter_dw = 715,
  a_filter_x = 716,
  a_filter_dy = 717,
  a_pointwise_descriptor = 750,
  a_pointwise_x = 751,
  a_pointwise_b = 752,
  a_pointwise_y = 753,
  a_statistics_mode = 770,
  a_statistics_math = 771,
  a_statistics_x = 772,
  a_statistics_sum = 773,
  a_statistics_squares = 774,
  a_graph_handle = 800,
  a_graph_operations = 801,
  a_tensor_alignment = 900,
  a_tensor_type = 901,
  a_tensor_dims = 902,
  a_tensor_strides = 903,
  a_tensor_id = 906,
  a_tensor_virtual = 907,
  a_tensor_by_value = 908,
  a_pack_ids = 1000,
  a_pack_pointers = 1001,
  a_pack_workspace = 1003,
  a_engine_index = 1301,
  a_engine_notes = 1303,
};

enum Note { n_tensor_core = 0, n_down_convert = 1, n_reduced_sums = 2, n_nondeterministic = 4 };

// One way to compute a convolution; the stand-in's are made so that a wrong choice shows.
struct Engine {
  int64_t index;
  std::vector<Note> notes;
  Precision precision;
  int64_t workspace;
  bool builds;  // or its plan is refused, as happens with configurations that cuDNN hands out
};

struct Tensor {
  int64_t id, alignment, dims[4], strides[4];
  int type;
  bool plain;  // neither virtual nor by value

  int64_t elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
};

// A graph of one convolution that the stand-in can compute, with what is fused before and after it.
struct Problem {
  Geometry geometry;
  Tensor image, weight, output;
  // The image is read as max(image * scale + shift, 0), whose steps lie in tensors of the type `between`.
  bool normalizes = false;
  Tensor scale{}, shift{};
  int between = 0;
  // Forward, the sums of the output's channels and of their squares are wanted too.
  bool sums = false;
  Tensor sum{}, squares{};
};

// The numbers of cuDNN's types, and their elements' bytes; 0 for what the engine never stores.
constexpr int d_float = 0, d_half = 2, d_bfloat16 = 9;
size_t bytes_of(int data_type);
host::Type host_type(int data_type);
Tensor tensor_of(const struct Descriptor& d);

struct Descriptor;
using Ref = std::shared_ptr<Descriptor>;

struct Attribute {
  int64_t count = 0;
  std::vector<char> bytes;
  std::vector<Ref> children;
};

struct Descriptor {
  explicit Descriptor(int kind) : kind(kind) {}

  Status set(int name, int tag, int64_t count, const void* from);
  Status finalize();

  bool has(int name) const { return attributes.count(name) != 0; }

  template <class T>
  T value(int name, int64_t index = 0) const {
    T value;
    memcpy(&value, &attributes.at(name).bytes[index * sizeof(T)], sizeof(T));
    return value;
  }

  const Ref& child(int name, int64_t index = 0) const { return attributes.at(name).children[index]; }

  int kind;
  bool finalized = false;
  std::map<int, Attribute> attributes;

  // What a finalised graph computes, if the stand-in can; what a configuration and a plan hold.
  std::shared_ptr<Problem> problem;
  std::shared_ptr<Engine> engine;

 private:
  Status finalize_tensor();
  Status finalize_operation();
  Status finalize_graph();
};

// Remembers `why` for cudnnGetLastErrorString, and returns the status.
Status fail(Status status, const std::string& why);

// What a graph of these operations computes, where it is one that the stand-in knows; else nothing.
std::shared_ptr<Problem> problem_of(const std::vector<Ref>& operations);

// The engines that the heuristics hand out for a problem: the main list, or the fallback list.
std::vector<Engine> engines_for(const Problem& problem, bool fallback);

}  // namespace dnn
