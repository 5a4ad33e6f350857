// The C interface between a TPC kernel library and Habana's graph compiler: the part that this library fills or reads.
// Names are ours; order, widths and values are the interface's. abi_check.cpp compares them with the vendor's header.
#pragma once
#include <cstdint>

namespace gaudi3_rt::tpc::abi {

constexpr int kNameBytes = 64;
constexpr int kScalars = 32;
constexpr int kIndexDims = 5;
constexpr int kTensorDims = 25;

enum class Device : std::uint32_t { gaudi2 = 3, gaudi3 = 4 };

enum class Status : std::uint32_t {
  success = 0,
  unknown_kernel = 1,
  input_count = 3,
  input_size = 4,
  output_count = 5,
  output_size = 6,
  data_type = 7,
  unknown_shape_function = 15,
  elf_buffer_too_small = 18,
  null_pointer = 22,
  dynamic_shape = 23,
  huge_tensor = 24,
  failed = 400,
};

enum class DataType : std::uint32_t { i8 = 1 << 2, u8 = 1 << 3, bf16 = 1 << 8, i32 = 1 << 10, f32 = 1 << 12 };

struct Guid {
  char name[kNameBytes];
  std::uint64_t hash;  // the upper byte belongs to the graph compiler
  std::uint32_t dynamic_shapes : 1;
  std::uint32_t sizes_of_64_bits : 1;
  std::uint32_t : 30;
};

struct UserParams {
  const void* data;
  std::uint32_t bytes;
};

struct Geometry {
  std::uint32_t rank;
  std::uint64_t sizes[kTensorDims];          // dimension 0 is the one whose elements are neighbours in memory
  std::uint64_t minimum_sizes[kTensorDims];  // equal to sizes unless the shape is dynamic
  DataType dtype;
};

struct Tensor {
  Geometry geometry;
  std::uint8_t zero_point;
  double scale;
  char layout[kTensorDims];
  struct Flags {
    std::uint32_t reducible : 1;
    std::uint32_t absent : 1;
    std::uint32_t : 30;
  } flags;
  const void* data;
  std::uint32_t permutation[kTensorDims];
  std::uint32_t reserved[6];
};

// Elements a * i + start ... a * i + end (inclusive) of one dimension of a tensor belong to member i of a dimension of
// the index space.
struct Range {
  std::uint32_t index_dim;
  float a, start, end;
  bool whole;
};

struct Pattern {
  std::uint32_t whole : 1;
  std::uint32_t memset_first : 1;
  std::uint32_t may_take_memory_of : 16;
  std::uint32_t must_take_memory : 1;
  std::uint32_t sparse : 1;
  std::uint32_t no_atomics : 1;
  std::uint32_t read_or_written_once : 1;  // all of the tensor, each element once
  std::uint32_t fully_written : 1;
  std::uint32_t : 9;
  Range ranges[kTensorDims];
  std::uint64_t memset_value;
  std::uint32_t reserved[6];
};

struct Request {
  std::int32_t version;
  Device device;
  Guid guid;
  UserParams params;
  Tensor* inputs;
  std::uint32_t n_inputs;
  Tensor* outputs;
  std::uint32_t n_outputs;
  std::uint32_t n_tpcs;
  std::uint32_t deterministic;
  std::uint64_t node;
  std::uint32_t debug;
  std::uint16_t valid_inputs;
  std::uint16_t valid_outputs;
  std::uint32_t reserved[24];
};

struct Program {
  void* elf;                // the graph compiler's memory
  std::uint32_t elf_bytes;  // its size when called, the size that is needed afterwards
  std::uint32_t scalars[kScalars];
  std::uint32_t n_scalars;
};

struct Instance {
  std::uint32_t rank;
  std::uint64_t members[kIndexDims];
  Pattern* inputs;
  Pattern* outputs;
  void* auxiliary;
  std::uint32_t n_auxiliary;  // the room for them when called, their number afterwards
  Program program;
  std::uint32_t split_dim;
  std::uint32_t reserved[15];
};

struct TensorShape {
  Geometry geometry;
  std::uint32_t* host;
  std::uint32_t reserved[8];
};

struct ShapeRequest {
  std::int32_t version;
  std::uint64_t node;
  Guid guid;
  TensorShape** inputs;
  std::uint32_t n_inputs;
  UserParams params;
  std::uint32_t n_outputs;
  void* input_permutations;
  void* output_permutations;
  Guid* guid_pointer;  // the same; the interface means to keep only the pointer
  std::uint32_t n_tpcs;
  std::uint32_t reserved[3];
};

struct Shapes {
  TensorShape** outputs;
  std::uint32_t* invalid;
  std::uint32_t reserved[6];
};

}  // namespace gaudi3_rt::tpc::abi
