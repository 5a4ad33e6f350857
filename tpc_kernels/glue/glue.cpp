// What Habana's graph compiler asks of a kernel library: which kernels it has, and for tensors of given sizes the index
// space, the elements that each member of it touches, and the program. Everything is derived from ../registry.h.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "abi.h"
#include "elfs.h"

namespace gaudi3_rt::tpc {
namespace {

using abi::DataType;
using abi::Status;

constexpr std::string_view kPrefix = "g3rt_";

constexpr bool names_fit() {
  for (const Kernel& kernel : kKernels) {
    if (kPrefix.size() + std::string_view(kernel.name).size() >= abi::kNameBytes) return false;
  }
  return true;
}
static_assert(names_fit(), "a GUID is too long for the interface");

// Constants of a pattern are floats: exact up to here. Of those of a pattern that moves with the member none is larger
// than kMemberElements, and the graph compiler multiplies them by the member's number in double.
constexpr std::uint64_t kMaxConstant = std::uint64_t{1} << 24;

constexpr DataType data_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16:
      return DataType::bf16;
    case Dtype::i8:
      return DataType::i8;
    case Dtype::u8:
      return DataType::u8;
    case Dtype::i32:
      return DataType::i32;
    default:
      return DataType::f32;
  }
}

// FNV-1a, without the byte that belongs to the graph compiler.
std::uint64_t hash(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h >> 8;
}

void write_name(const Kernel& kernel, char (&name)[abi::kNameBytes]) {
  std::memset(name, 0, sizeof(name));
  std::memcpy(name, kPrefix.data(), kPrefix.size());
  std::memcpy(name + kPrefix.size(), kernel.name, std::strlen(kernel.name));
}

// The kernel of a GUID, null if there is none; a GUID without a name is known by its hash.
const Kernel* find(const abi::Guid& guid) {
  const std::string_view wanted(guid.name, strnlen(guid.name, sizeof(guid.name)));
  for (const Kernel& kernel : kKernels) {
    char name[abi::kNameBytes];
    write_name(kernel, name);
    const bool same = wanted.empty() ? guid.hash << 8 == hash(name) << 8 : wanted == name;
    if (same) return &kernel;
  }
  return nullptr;
}

// The place of a device in kArchitectures; none for devices whose kernels are not here.
std::optional<int> architecture(abi::Device device) {
  switch (device) {
    case abi::Device::gaudi2:
      return 0;
    case abi::Device::gaudi3:
      return 1;
  }
  return std::nullopt;
}

Cut cut_of(const Kernel& kernel, const abi::Request& request) {
  return cut(kernel, [&](std::uint32_t i) { return request.inputs[i].geometry.sizes[0]; });
}

// Whether the tensor has that size in dimension 0, and no more dimensions and rows than its access allows; else writes
// it so.
bool check_size(Access access, std::uint64_t wanted, abi::Geometry& geometry) {
  const std::uint32_t rank = access == Access::rows ? 2 : 1;
  const bool has_rank = geometry.rank >= 1 && geometry.rank <= abi::kTensorDims &&
                        std::all_of(geometry.sizes + std::min(rank, geometry.rank), geometry.sizes + geometry.rank,
                                    [](std::uint64_t size) { return size == 1; });
  const bool has_rows = access == Access::rows && geometry.rank >= 2;
  const bool rows_fit = !has_rows || can_add_up(geometry.sizes[1]);
  if (has_rank && rows_fit && geometry.sizes[0] == wanted) return true;
  geometry.rank = has_rank ? std::min(rank, geometry.rank) : rank;
  geometry.sizes[0] = geometry.minimum_sizes[0] = wanted;
  if (!rows_fit) {
    geometry.sizes[1] = geometry.minimum_sizes[1] = std::clamp<std::uint64_t>(geometry.sizes[1], 1, kMaxShards);
  }
  return false;
}

bool is_static(const abi::Geometry& geometry) {
  const std::uint32_t rank = std::min<std::uint32_t>(geometry.rank, abi::kTensorDims);
  return std::equal(geometry.sizes, geometry.sizes + rank, geometry.minimum_sizes);
}

// Looks at all tensors of one side, so that what is written back is complete.
template <class Check>
bool check_all(const Operands& operands, abi::Tensor* tensors, const Check& check) {
  bool good = true;
  for (std::uint32_t i = 0; i < operands.size(); ++i) good &= check(operands[i], tensors[i].geometry);
  return good;
}

Status check(const Kernel& kernel, abi::Request& request) {
  const Operands inputs(kernel.inputs), outputs(kernel.outputs);
  const auto present = [](const Operands& wanted, const abi::Tensor* tensors, std::uint32_t n) {
    return n == wanted.size() && std::none_of(tensors, tensors + n, [](const auto& t) { return t.flags.absent; });
  };
  if (!present(inputs, request.inputs, request.n_inputs)) {
    request.n_inputs = inputs.size();
    return Status::input_count;
  }
  if (!present(outputs, request.outputs, request.n_outputs)) {
    request.n_outputs = outputs.size();
    return Status::output_count;
  }

  const auto check_dtype = [](const Operand& operand, abi::Geometry& geometry) {
    const bool same = geometry.dtype == data_type(operand.dtype);
    geometry.dtype = data_type(operand.dtype);
    return same;
  };
  const bool dtypes[] = {check_all(inputs, request.inputs, check_dtype),
                         check_all(outputs, request.outputs, check_dtype)};
  if (!dtypes[0] || !dtypes[1]) return Status::data_type;

  const auto check_static = [](const Operand&, const abi::Geometry& geometry) { return is_static(geometry); };
  if (!check_all(inputs, request.inputs, check_static)) return Status::dynamic_shape;

  const Cut its = cut_of(kernel, request);
  const auto check_input = [&](const Operand& operand, abi::Geometry& geometry) {
    return check_size(operand.access, its.size(operand).value_or(geometry.sizes[0]), geometry);
  };
  const auto check_output = [&](const Operand& operand, abi::Geometry& geometry) {
    return check_size(operand.access, *its.size(operand), geometry);
  };
  if (!check_all(inputs, request.inputs, check_input)) return Status::input_size;
  if (!check_all(outputs, request.outputs, check_output)) return Status::output_size;

  const auto check_huge = [](const Operand& operand, const abi::Geometry& geometry) {
    return geometry.sizes[0] <= (operand.access == Access::whole ? kMaxConstant : kMaxElements);
  };
  const bool fits = check_all(inputs, request.inputs, check_huge) && check_all(outputs, request.outputs, check_huge);
  return fits ? Status::success : Status::huge_tensor;
}

abi::Range range(const Operand& operand, const abi::Geometry& geometry) {
  const auto steps = [](std::uint64_t elements) {
    return abi::Range{0, static_cast<float>(elements), 0, static_cast<float>(elements - 1), false};
  };
  switch (operand.access) {
    case Access::elements:
    case Access::rows:
      return steps(kMemberElements);
    case Access::partial:
      return steps(1);
    case Access::scales:
      return steps(kMemberElements / kBlockElements);
    case Access::whole:
      break;
  }
  return {0, 0, 0, static_cast<float>(std::max<std::uint64_t>(geometry.sizes[0], 1) - 1), true};
}

void write_patterns(const Operands& operands, const abi::Tensor* tensors, bool written, abi::Pattern* patterns) {
  for (std::uint32_t i = 0; i < operands.size(); ++i) {
    abi::Pattern pattern{};
    pattern.whole = operands[i].access == Access::whole;
    pattern.fully_written = written;
    pattern.ranges[0] = range(operands[i], tensors[i].geometry);
    for (int d = 1; d < abi::kIndexDims; ++d) pattern.ranges[d].whole = true;
    patterns[i] = pattern;
  }
}

// Copies the program to the graph compiler's memory; says how much of that is needed.
Status write_program(const Elf& elf, abi::Program& program) {
  const auto bytes = static_cast<std::uint32_t>(elf.end - elf.begin);
  const bool fits = program.elf != nullptr && program.elf_bytes >= bytes;
  program.n_scalars = 0;
  program.elf_bytes = bytes;
  if (bytes == 0) return Status::failed;
  if (!fits) return Status::elf_buffer_too_small;
  std::memcpy(program.elf, elf.begin, bytes);
  return Status::success;
}

}  // namespace
}  // namespace gaudi3_rt::tpc

namespace tpc = gaudi3_rt::tpc;
namespace abi = gaudi3_rt::tpc::abi;

#define GAUDI3_RT_EXPORT extern "C" __attribute__((visibility("default")))

// Without room for names it says how many there are.
GAUDI3_RT_EXPORT abi::Status GetKernelGuids(abi::Device device, std::uint32_t* count, abi::Guid* guids) {
  if (count == nullptr) return abi::Status::failed;
  const std::uint32_t kernels = tpc::architecture(device) ? tpc::kKernelCount : 0;
  const bool asks = guids == nullptr || *count == 0;
  *count = asks ? kernels : std::min(*count, kernels);
  for (std::uint32_t i = 0; !asks && i < *count; ++i) {
    guids[i] = {};
    tpc::write_name(tpc::kKernels[i], guids[i].name);
    guids[i].hash = tpc::hash(guids[i].name);
  }
  return abi::Status::success;
}

// What is wrong with a request is corrected in it, as the graph compiler expects: it may then insert casts. A library
// that was built without a TPC compiler gives index space and patterns, an ELF size of 0 and Status::failed.
GAUDI3_RT_EXPORT abi::Status InstantiateTpcKernel(abi::Request* request, abi::Instance* instance) {
  if (request == nullptr || instance == nullptr) return abi::Status::failed;
  const std::optional<int> architecture = tpc::architecture(request->device);
  const tpc::Kernel* const kernel = architecture ? tpc::find(request->guid) : nullptr;
  if (kernel == nullptr) return abi::Status::unknown_kernel;
  const bool tensors = (request->inputs != nullptr || request->n_inputs == 0) &&
                       (request->outputs != nullptr || request->n_outputs == 0);
  if (!tensors || instance->inputs == nullptr || instance->outputs == nullptr) return abi::Status::failed;

  const abi::Status status = tpc::check(*kernel, *request);
  if (status != abi::Status::success) return status;

  instance->rank = 1;
  std::fill(std::begin(instance->members), std::end(instance->members), 1);
  instance->members[0] = tpc::cut_of(*kernel, *request).members;
  tpc::write_patterns(tpc::Operands(kernel->inputs), request->inputs, false, instance->inputs);
  tpc::write_patterns(tpc::Operands(kernel->outputs), request->outputs, true, instance->outputs);
  instance->n_auxiliary = 0;
  instance->split_dim = 0;
  return tpc::write_program(tpc::kElfs[kernel - tpc::kKernels][*architecture], instance->program);
}

// The sizes of the outputs. The graph compiler needs it for dynamic shapes, which no kernel here claims to support, but
// refuses a library without it.
GAUDI3_RT_EXPORT abi::Status GetShapeInference(abi::Device device, const abi::ShapeRequest* request,
                                               abi::Shapes* shapes) {
  if (request == nullptr || shapes == nullptr || shapes->outputs == nullptr) return abi::Status::null_pointer;
  const abi::Guid& guid = request->guid_pointer != nullptr ? *request->guid_pointer : request->guid;
  const tpc::Kernel* const kernel = tpc::architecture(device) ? tpc::find(guid) : nullptr;
  if (kernel == nullptr) return abi::Status::unknown_shape_function;
  const tpc::Operands inputs(kernel->inputs), outputs(kernel->outputs);
  if (request->n_inputs != inputs.size()) return abi::Status::input_count;
  if (request->n_outputs != outputs.size()) return abi::Status::output_count;
  const auto is_null = [](const abi::TensorShape* shape) { return shape == nullptr; };
  if ((request->inputs == nullptr) || std::any_of(request->inputs, request->inputs + inputs.size(), is_null) ||
      std::any_of(shapes->outputs, shapes->outputs + outputs.size(), is_null)) {
    return abi::Status::null_pointer;
  }
  const auto given = [&](std::uint32_t i) { return request->inputs[i]->geometry.sizes[0]; };
  const tpc::Cut cut = tpc::cut(*kernel, given);
  for (std::uint32_t i = 0; i < inputs.size(); ++i) {
    if (given(i) != cut.size(inputs[i]).value_or(given(i))) return abi::Status::input_size;
  }
  for (std::uint32_t i = 0; i < outputs.size(); ++i) {
    abi::Geometry& geometry = shapes->outputs[i]->geometry;
    geometry.rank = 1;
    geometry.sizes[0] = geometry.minimum_sizes[0] = *cut.size(outputs[i]);
    geometry.dtype = tpc::data_type(outputs[i].dtype);
  }
  return abi::Status::success;
}

GAUDI3_RT_EXPORT std::uint64_t GetLibVersion() { return GAUDI3_RT_LIBRARY_VERSION; }
