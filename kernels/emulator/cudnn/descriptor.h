// Backend descriptors of the cuDNN stand-in: their attributes, and the convolution graph of a finalised descriptor.
#pragma once
#include "convolution.h"
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace cudnn {

// Values of cudnn_graph.h's and cudnn_backend.h's enums.
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

enum DescriptorType {
  k_convolution = 1,
  k_engine = 2,
  k_engine_config = 3,
  k_engine_heur = 4,
  k_execution_plan = 5,
  k_conv_forward = 10,
  k_conv_backward_filter = 11,
  k_conv_backward_data = 12,
  k_genstats = 14,
  k_operation_graph = 15,
  k_variant_pack = 16,
  k_tensor = 17,
};

enum AttributeType {
  t_handle = 0,
  t_data_type = 1,
  t_boolean = 2,
  t_int64 = 3,
  t_float = 4,
  t_void_pointer = 6,
  t_convolution_mode = 7,
  t_heuristic_mode = 8,
  t_numerical_note = 11,
  t_descriptor = 15,
  t_genstats_mode = 16,
  t_char = 24,
};

enum AttributeName {
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
  a_plan_json = 405,
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
  a_genstats_mode = 770,
  a_genstats_math = 771,
  a_genstats_x = 772,
  a_genstats_sum = 773,
  a_genstats_sqsum = 774,
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

enum NumericalNote { n_tensor_core = 0, n_down_convert = 1, n_reduced_precision_reduction = 2, n_nondeterministic = 4 };

// Configuration of an engine for a convolution. Engines differ in precision, so that tests notice a wrong choice.
struct Engine {
  int64_t index;
  std::vector<NumericalNote> notes;
  Precision precision;
  int64_t workspace;
  bool plan_builds;  // false: finalising a plan fails, as for some configurations of the real heuristics
  bool accumulates_sums = false;  // genstats: adds to the sums, which must be zero
  bool runtime_compiled = false;  // NVRTC compiles it when a plan is built, unless the plan is read from JSON
  int64_t knob = 0;               // number of the configuration among those of its engine
};

// Fault that a test plants in an engine.
enum class PlantedFault { none, build_fails, unsupported_at_execution, execution_fails, illegal_address };

// Emulated time of an engine's runs, and its fault.
struct PlantedBehaviour {
  double milliseconds = 0.25;
  PlantedFault fault = PlantedFault::none;
};
PlantedBehaviour planted_behaviour(const Engine& engine);

struct Tensor {
  int64_t id, alignment, dims[4], strides[4];
  int type;
  int in_memory;  // not virtual and not passed by value

  int64_t elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
};

// Graph that the stand-in can compute: a convolution, with optional statistics of its output.
struct ConvGraph {
  Geometry geometry;
  Tensor image, weight, output;
  // The data gradient is added to the contents of the image's gradient (beta = 1).
  int64_t accumulates = false;
  // Genstats of a forward convolution: sums and sums of squares of the output by channel.
  int64_t has_genstats = false;
  Tensor sum{}, sqsum{};
};

// cudnnDataType_t values, and bytes of an element; 0 for types that the engine does not store.
constexpr int d_float = 0, d_half = 2, d_bfloat16 = 9;
size_t bytes_of(int data_type);
host::ElementType host_type(int data_type);
Tensor tensor_of(const struct Descriptor& d);

struct Descriptor;
using DescriptorRef = std::shared_ptr<Descriptor>;

struct Attribute {
  int64_t count = 0;
  std::vector<char> bytes;
  std::vector<DescriptorRef> children;
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

  const DescriptorRef& child(int name, int64_t index = 0) const { return attributes.at(name).children[index]; }

  int kind;
  bool finalized = false;
  std::map<int, Attribute> attributes;

  // Set by finalisation of an operation graph that the stand-in can compute, and passed on to heuristics, configurations and
  // plans.
  std::shared_ptr<ConvGraph> conv_graph;
  std::shared_ptr<Engine> engine;

 private:
  Status finalize_tensor();
  Status finalize_operation();
  Status finalize_graph();
};

// Sets the message for cudnnGetLastErrorString and returns the status.
Status fail(Status status, const std::string& why);

// Convolution graph of these operations; null if the stand-in cannot compute it.
std::shared_ptr<ConvGraph> match_conv_graph(const std::vector<DescriptorRef>& operations);

// Engines that the heuristics return for a graph: the main list or the fallback list.
std::vector<Engine> find_engines(const ConvGraph& graph, bool fallback);

// Compiles the kernel of a run-time-compiled engine: takes emulated compile time, and needs the builtins of NVRTC.
Status compile(const Engine& engine);

// JSON representation of a plan.
std::string plan_json(const ConvGraph& graph, const Engine& engine);

// Reads a plan's JSON representation; false if it is damaged or names an engine that does not exist.
bool read_plan_json(const std::string& text, ConvGraph& graph, Engine& engine);

}  // namespace dnn
