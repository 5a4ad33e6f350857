// The part of the DLPack 1.x C ABI that is used here: a tensor's memory described in place, without a reference taken
// (https://dmlc.github.io/dlpack/latest/c_api.html; the exchange table is new in DLPack 1.3).
#pragma once
#include <cstddef>
#include <cstdint>

namespace gaudi3_rt::dlpack {

constexpr std::int32_t kCpu = 1;
constexpr std::uint8_t kInt = 0;
constexpr std::uint8_t kUInt = 1;
constexpr std::uint8_t kFloat = 2;
constexpr std::uint8_t kBfloat = 4;
constexpr std::uint8_t kE4m3fn = 10;
constexpr std::uint8_t kE5m2 = 12;

struct Device {
  std::int32_t type;
  std::int32_t index;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;    // elements
  std::int64_t* strides;  // elements
  std::uint64_t byte_offset;
};

// Found as a capsule of this name in an attribute of the tensor type.
constexpr char kExchangeAttribute[] = "__dlpack_c_exchange_api__";
constexpr char kExchangeCapsule[] = "dlpack_exchange_api";
constexpr std::uint32_t kMajorVersion = 1;

struct ExchangeTable {
  std::uint32_t major_version;
  std::uint32_t minor_version;
  ExchangeTable* previous;
  void (*unused[3])();  // allocate, export with ownership, import
  int (*describe)(void* py_object, Tensor* out);
  void (*current_stream)();
};
static_assert(sizeof(Tensor) == 48 && offsetof(ExchangeTable, describe) == 40, "DLPack's ABI on a 64-bit machine");

}  // namespace gaudi3_rt::dlpack
