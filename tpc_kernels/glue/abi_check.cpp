// Whether abi.h says what the vendor's header says: compiled only where that header is found, run once it is built.
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "abi.h"
#include "tpc_kernel_lib_interface.h"

namespace ours = gaudi3_rt::tpc::abi;
namespace vendors = tpc_lib_api;

#define SAME_SIZE(mine, theirs) static_assert(sizeof(ours::mine) == sizeof(vendors::theirs), #mine)
#define SAME_PLACE(mine, field, theirs, their_field)                                                         \
  static_assert(offsetof(ours::mine, field) == offsetof(vendors::theirs, their_field) &&                     \
                    sizeof(ours::mine::field) == sizeof(vendors::theirs::their_field) &&                     \
                    alignof(decltype(ours::mine::field)) == alignof(decltype(vendors::theirs::their_field)), \
                #mine "::" #field)
#define SAME_VALUE(mine, theirs) static_assert(static_cast<int>(ours::mine) == static_cast<int>(vendors::theirs), #mine)

SAME_VALUE(kNameBytes, MAX_NODE_NAME);
SAME_VALUE(kScalars, MAX_SCALAR_PARAMS);
SAME_VALUE(kIndexDims, MAX_INDEX_SPACE_DIM_SIZE);
SAME_VALUE(kTensorDims, MAX_TENSOR_DIM);

SAME_SIZE(Device, DeviceId);
SAME_VALUE(Device::gaudi2, DEVICE_ID_GAUDI2);
SAME_VALUE(Device::gaudi3, DEVICE_ID_GAUDI3);

SAME_SIZE(Status, GlueCodeReturn);
SAME_VALUE(Status::success, GLUE_SUCCESS);
SAME_VALUE(Status::unknown_kernel, GLUE_NODE_NOT_FOUND);
SAME_VALUE(Status::input_count, GLUE_INCOMPATIBLE_INPUT_COUNT);
SAME_VALUE(Status::input_size, GLUE_INCOMPATIBLE_INPUT_SIZE);
SAME_VALUE(Status::output_count, GLUE_INCOMPATIBLE_OUTPUT_COUNT);
SAME_VALUE(Status::output_size, GLUE_INCOMPATIBLE_OUTPUT_SIZE);
SAME_VALUE(Status::data_type, GLUE_INCOMPATIBLE_DATA_TYPE);
SAME_VALUE(Status::unknown_shape_function, GLUE_INVALID_SHAPE_INFERENCE_ID);
SAME_VALUE(Status::elf_buffer_too_small, GLUE_INSUFFICIENT_ELF_BUFFER);
SAME_VALUE(Status::null_pointer, GLUE_SIF_NULL_PTR);
SAME_VALUE(Status::dynamic_shape, GLUE_UNSUPPORTED_DYNAMIC_SHAPE);
SAME_VALUE(Status::huge_tensor, GLUE_UNSUPPORTED_HUGE_TENSORS);
SAME_VALUE(Status::failed, GLUE_FAILED);

SAME_SIZE(DataType, TensorDataType);
SAME_VALUE(DataType::i8, DATA_I8);
SAME_VALUE(DataType::u8, DATA_U8);
SAME_VALUE(DataType::bf16, DATA_BF16);
SAME_VALUE(DataType::i32, DATA_I32);
SAME_VALUE(DataType::f32, DATA_F32);

SAME_SIZE(Guid, GuidInfo);
SAME_PLACE(Guid, name, GuidInfo, name);
SAME_PLACE(Guid, hash, GuidInfo, nameHash);

SAME_SIZE(UserParams, UserParams);
SAME_PLACE(UserParams, data, UserParams, nodeParams);
SAME_PLACE(UserParams, bytes, UserParams, nodeParamsSize);

SAME_SIZE(Geometry, TensorGeometry);
SAME_PLACE(Geometry, rank, TensorGeometry, dims);
SAME_PLACE(Geometry, sizes, TensorGeometry, maxSizes);
SAME_PLACE(Geometry, minimum_sizes, TensorGeometry, minSizes);
SAME_PLACE(Geometry, dtype, TensorGeometry, dataType);

SAME_SIZE(Tensor, Tensor);
SAME_PLACE(Tensor, geometry, Tensor, geometry);
SAME_PLACE(Tensor, scale, Tensor, quantizationParam.scale);
SAME_PLACE(Tensor, layout, Tensor, layout);
SAME_PLACE(Tensor, data, Tensor, pData);
SAME_PLACE(Tensor, permutation, Tensor, permutation);
SAME_PLACE(Tensor, reserved, Tensor, reserved);

SAME_SIZE(Range, DimIndexSpaceMapping);
SAME_PLACE(Range, index_dim, DimIndexSpaceMapping, indexSpaceDim);
SAME_PLACE(Range, a, DimIndexSpaceMapping, a);
SAME_PLACE(Range, start, DimIndexSpaceMapping, start_b);
SAME_PLACE(Range, end, DimIndexSpaceMapping, end_b);
SAME_PLACE(Range, whole, DimIndexSpaceMapping, allRequired);
static_assert(std::is_same_v<decltype(vendors::DimIndexSpaceMapping::a), float>, "constants are exact up to 2^24");

SAME_SIZE(Pattern, TensorAccessPattern);
SAME_PLACE(Pattern, ranges, TensorAccessPattern, mapping);
SAME_PLACE(Pattern, memset_value, TensorAccessPattern, memsetValue);
SAME_PLACE(Pattern, reserved, TensorAccessPattern, reserved);

SAME_SIZE(Request, HabanaKernelParams);
SAME_PLACE(Request, version, HabanaKernelParams, apiVersion);
SAME_PLACE(Request, device, HabanaKernelParams, deviceId);
SAME_PLACE(Request, guid, HabanaKernelParams, guid);
SAME_PLACE(Request, params, HabanaKernelParams, nodeParams);
SAME_PLACE(Request, inputs, HabanaKernelParams, inputTensors);
SAME_PLACE(Request, n_inputs, HabanaKernelParams, inputTensorNr);
SAME_PLACE(Request, outputs, HabanaKernelParams, outputTensors);
SAME_PLACE(Request, n_outputs, HabanaKernelParams, outputTensorNr);
SAME_PLACE(Request, n_tpcs, HabanaKernelParams, maxAvailableTpc);
SAME_PLACE(Request, deterministic, HabanaKernelParams, useDeterministic);
SAME_PLACE(Request, node, HabanaKernelParams, uniqueNodeId);
SAME_PLACE(Request, debug, HabanaKernelParams, debugFlags);
SAME_PLACE(Request, valid_inputs, HabanaKernelParams, validInputTensors);
SAME_PLACE(Request, valid_outputs, HabanaKernelParams, validOutputTensors);
SAME_PLACE(Request, reserved, HabanaKernelParams, reserved);

SAME_SIZE(Program, DeviceKernel);
SAME_PLACE(Program, elf, DeviceKernel, kernelElf);
SAME_PLACE(Program, elf_bytes, DeviceKernel, elfSize);
SAME_PLACE(Program, scalars, DeviceKernel, scalarParams);
SAME_PLACE(Program, n_scalars, DeviceKernel, paramsNr);

SAME_SIZE(Instance, HabanaKernelInstantiation);
SAME_PLACE(Instance, rank, HabanaKernelInstantiation, indexSpaceRank);
SAME_PLACE(Instance, members, HabanaKernelInstantiation, indexSpaceGeometry);
SAME_PLACE(Instance, inputs, HabanaKernelInstantiation, inputTensorAccessPattern);
SAME_PLACE(Instance, outputs, HabanaKernelInstantiation, outputTensorAccessPattern);
SAME_PLACE(Instance, auxiliary, HabanaKernelInstantiation, auxiliaryTensors);
SAME_PLACE(Instance, n_auxiliary, HabanaKernelInstantiation, auxiliaryTensorNr);
SAME_PLACE(Instance, program, HabanaKernelInstantiation, kernel);
SAME_PLACE(Instance, split_dim, HabanaKernelInstantiation, preferredSplitDim);
SAME_PLACE(Instance, reserved, HabanaKernelInstantiation, reserved);

SAME_SIZE(TensorShape, TensorShapeInfo);
SAME_PLACE(TensorShape, geometry, TensorShapeInfo, geometry);
SAME_PLACE(TensorShape, host, TensorShapeInfo, hostAddress);
SAME_PLACE(TensorShape, reserved, TensorShapeInfo, reserved);

SAME_SIZE(ShapeRequest, ShapeInferenceParams);
SAME_PLACE(ShapeRequest, version, ShapeInferenceParams, apiVersion);
SAME_PLACE(ShapeRequest, node, ShapeInferenceParams, uniqueNodeId);
SAME_PLACE(ShapeRequest, guid, ShapeInferenceParams, guid);
SAME_PLACE(ShapeRequest, inputs, ShapeInferenceParams, inputTensors);
SAME_PLACE(ShapeRequest, n_inputs, ShapeInferenceParams, inputTensorsNr);
SAME_PLACE(ShapeRequest, params, ShapeInferenceParams, nodeParams);
SAME_PLACE(ShapeRequest, n_outputs, ShapeInferenceParams, outputTensorsNr);
SAME_PLACE(ShapeRequest, input_permutations, ShapeInferenceParams, inputPermutations);
SAME_PLACE(ShapeRequest, output_permutations, ShapeInferenceParams, outputPermutations);
SAME_PLACE(ShapeRequest, guid_pointer, ShapeInferenceParams, pGuid);
SAME_PLACE(ShapeRequest, n_tpcs, ShapeInferenceParams, maxAvailableTpc);
SAME_PLACE(ShapeRequest, reserved, ShapeInferenceParams, reserved);

SAME_SIZE(Shapes, ShapeInferenceOutput);
SAME_PLACE(Shapes, outputs, ShapeInferenceOutput, outputTensors);
SAME_PLACE(Shapes, invalid, ShapeInferenceOutput, invalidMask);
SAME_PLACE(Shapes, reserved, ShapeInferenceOutput, reserved);

namespace {

// Single bits have no offset that a compiler would tell, so each is set in both and the memory is compared.
template <class Ours, class Theirs, class SetOurs, class SetTheirs>
bool same_bits(const char* name, SetOurs set_ours, SetTheirs set_theirs) {
  Ours mine;
  Theirs its;
  std::memset(static_cast<void*>(&mine), 0, sizeof(mine));
  std::memset(static_cast<void*>(&its), 0, sizeof(its));
  set_ours(mine);
  set_theirs(its);
  const bool same = std::memcmp(&mine, &its, sizeof(mine)) == 0;
  if (!same) std::fprintf(stderr, "abi.h: %s is elsewhere in the vendor's header\n", name);
  return same;
}

// One less than 0 in an unsigned field is all its bits.
#define SAME_BITS(mine, field, theirs, their_field) \
  same_bits<ours::mine, vendors::theirs>(           \
      #mine "::" #field, [](ours::mine& x) { --x.field; }, [](vendors::theirs& x) { --x.their_field; })

}  // namespace

int main() {
  const bool same[] = {
      SAME_BITS(Guid, dynamic_shapes, GuidInfo, supportsDynamicShapes),
      SAME_BITS(Guid, sizes_of_64_bits, GuidInfo, supports64bit),
      SAME_BITS(Tensor, zero_point, Tensor, quantizationParam.zeroPointU8),
      SAME_BITS(Tensor, flags.reducible, Tensor, Reducible),
      SAME_BITS(Tensor, flags.absent, Tensor, Null),
      SAME_BITS(Pattern, whole, TensorAccessPattern, allRequired),
      SAME_BITS(Pattern, memset_first, TensorAccessPattern, memsetBeforeExecution),
      SAME_BITS(Pattern, may_take_memory_of, TensorAccessPattern, inputsReusability),
      SAME_BITS(Pattern, must_take_memory, TensorAccessPattern, inputReusabilityBinding),
      SAME_BITS(Pattern, sparse, TensorAccessPattern, sparseAccess),
      SAME_BITS(Pattern, no_atomics, TensorAccessPattern, noRmwAccess),
      SAME_BITS(Pattern, read_or_written_once, TensorAccessPattern, fullyAccessedOnce),
      SAME_BITS(Pattern, fully_written, TensorAccessPattern, fullyWritten),
  };
  for (const bool one : same) {
    if (!one) return 1;
  }
  return 0;
}
