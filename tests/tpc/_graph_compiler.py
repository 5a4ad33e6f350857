"""Plays Gaudi's graph compiler towards the kernel library: its structures, its calls, and what it makes of answers.

The structures are written down a second time, from the interface and not from abi.h, so that the two check each other.
"""

import ctypes
from ctypes import POINTER, c_bool, c_char, c_float, c_int, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

from gaudi3_rt import tpc

GAUDI, GAUDI2, GAUDI3 = 1, 3, 4
SUCCESS, NODE_NOT_FOUND = 0, 1
INPUT_COUNT, INPUT_SIZE, OUTPUT_COUNT, OUTPUT_SIZE, DATA_TYPE = 3, 4, 5, 6, 7
INVALID_SHAPE_FUNCTION, SMALL_ELF_BUFFER, NULL_POINTER, DYNAMIC_SHAPE, HUGE_TENSOR, FAILED = 15, 18, 22, 23, 24, 400
DATA_TYPES = {"i8": 1 << 2, "u8": 1 << 3, "bf16": 1 << 8, "i32": 1 << 10, "f32": 1 << 12}
MAX_DIMS = 25
MAX_TENSORS = 16


class GuidInfo(ctypes.Structure):
    _fields_ = [("name", c_char * 64), ("hash", c_uint64), ("properties", c_uint32)]


class UserParams(ctypes.Structure):
    _fields_ = [("params", c_void_p), ("size", c_uint32)]


class TensorGeometry(ctypes.Structure):
    _fields_ = [
        ("dims", c_uint32),
        ("max_sizes", c_uint64 * MAX_DIMS),
        ("min_sizes", c_uint64 * MAX_DIMS),
        ("data_type", c_uint32),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("geometry", TensorGeometry),
        ("zero_point", c_uint8),
        ("scale", ctypes.c_double),
        ("layout", c_char * MAX_DIMS),
        ("flags", c_uint32),
        ("data", c_void_p),
        ("permutation", c_uint32 * MAX_DIMS),
        ("reserved", c_uint32 * 6),
    ]


class DimMapping(ctypes.Structure):
    _fields_ = [("dim", c_uint32), ("a", c_float), ("start_b", c_float), ("end_b", c_float), ("all_required", c_bool)]


class AccessPattern(ctypes.Structure):
    _fields_ = [
        ("flags", c_uint32),
        ("mapping", DimMapping * MAX_DIMS),
        ("memset_value", c_uint64),
        ("reserved", c_uint32 * 6),
    ]

    ALL_REQUIRED = 1 << 0
    FULLY_WRITTEN = 1 << 22


class KernelParams(ctypes.Structure):
    _fields_ = [
        ("api_version", c_int),
        ("device", c_uint32),
        ("guid", GuidInfo),
        ("node_params", UserParams),
        ("inputs", POINTER(Tensor)),
        ("n_inputs", c_uint32),
        ("outputs", POINTER(Tensor)),
        ("n_outputs", c_uint32),
        ("max_tpc", c_uint32),
        ("deterministic", c_uint32),
        ("node_id", c_uint64),
        ("debug_flags", c_uint32),
        ("valid_inputs", c_uint16),
        ("valid_outputs", c_uint16),
        ("reserved", c_uint32 * 24),
    ]


class DeviceKernel(ctypes.Structure):
    _fields_ = [("elf", c_void_p), ("elf_size", c_uint32), ("scalars", c_uint32 * 32), ("n_scalars", c_uint32)]


class KernelInstantiation(ctypes.Structure):
    _fields_ = [
        ("rank", c_uint32),
        ("geometry", c_uint64 * 5),
        ("inputs", POINTER(AccessPattern)),
        ("outputs", POINTER(AccessPattern)),
        ("auxiliary", c_void_p),
        ("n_auxiliary", c_uint32),
        ("kernel", DeviceKernel),
        ("preferred_split", c_uint32),
        ("reserved", c_uint32 * 15),
    ]


class TensorShape(ctypes.Structure):
    _fields_ = [("geometry", TensorGeometry), ("host", c_void_p), ("reserved", c_uint32 * 8)]


class ShapeParams(ctypes.Structure):
    _fields_ = [
        ("api_version", c_int),
        ("node_id", c_uint64),
        ("guid", GuidInfo),
        ("inputs", POINTER(POINTER(TensorShape))),
        ("n_inputs", c_uint32),
        ("node_params", UserParams),
        ("n_outputs", c_uint32),
        ("input_permutations", c_void_p),
        ("output_permutations", c_void_p),
        ("guid_pointer", POINTER(GuidInfo)),
        ("max_tpc", c_uint32),
        ("reserved", c_uint32 * 3),
    ]


class ShapeOutput(ctypes.Structure):
    _fields_ = [("outputs", POINTER(POINTER(TensorShape))), ("invalid", POINTER(c_uint32)), ("reserved", c_uint32 * 6)]


def open_library(path=None):
    """The kernel library, with the types of its entry points."""
    library = ctypes.CDLL(str(path or tpc.kernel_library()))
    library.GetKernelGuids.argtypes = [c_uint32, POINTER(c_uint32), POINTER(GuidInfo)]
    library.InstantiateTpcKernel.argtypes = [POINTER(KernelParams), POINTER(KernelInstantiation)]
    library.GetShapeInference.argtypes = [c_uint32, POINTER(ShapeParams), POINTER(ShapeOutput)]
    for function in (library.GetKernelGuids, library.InstantiateTpcKernel, library.GetShapeInference):
        function.restype = c_uint32
    library.GetLibVersion.argtypes = []
    library.GetLibVersion.restype = c_uint64
    return library


def guids(library, device):
    """What the library says that it has for a device: counts first, then asks for as many."""
    count = c_uint32(0)
    assert library.GetKernelGuids(device, count, None) == SUCCESS
    found = (GuidInfo * max(count.value, 1))()
    assert library.GetKernelGuids(device, count, found) == SUCCESS
    return list(found[: count.value])


def geometry(shape, dtype):
    """Of a tensor whose last axis is dimension 0; axes that are not there have size 1, as the graph compiler has it."""
    sizes = [*reversed(shape), *[1] * (MAX_DIMS - len(shape))]
    return TensorGeometry(len(shape), (c_uint64 * MAX_DIMS)(*sizes), (c_uint64 * MAX_DIMS)(*sizes), DATA_TYPES[dtype])


class Call:
    """One instantiation of a kernel: change ``params`` and ``instance``, then call ``run``.

    Args:
        guid: a name.
        inputs, outputs: (shape, dtype) of each tensor.
        device: id of the device.
        elf_bytes: size of the buffer for the program.
    """

    GARBAGE = 0xA5

    def __init__(self, guid, inputs, outputs, device=GAUDI3, elf_bytes=1 << 20):
        self.inputs = (Tensor * MAX_TENSORS)(*[Tensor(geometry(*one)) for one in inputs])
        self.outputs = (Tensor * MAX_TENSORS)(*[Tensor(geometry(*one)) for one in outputs])
        self.params = KernelParams(
            device=device,
            guid=GuidInfo(guid.encode()),
            inputs=self.inputs,
            n_inputs=len(inputs),
            outputs=self.outputs,
            n_outputs=len(outputs),
            max_tpc=64,
        )
        self.elf = (c_char * max(elf_bytes, 1))()
        self.input_patterns = (AccessPattern * MAX_TENSORS)()
        self.output_patterns = (AccessPattern * MAX_TENSORS)()
        self.instance = KernelInstantiation()
        # What the library leaves unwritten must not look like an answer.
        for memory in (self.input_patterns, self.output_patterns, self.instance):
            ctypes.memset(ctypes.byref(memory), self.GARBAGE, ctypes.sizeof(memory))
        self.instance.inputs = self.input_patterns
        self.instance.outputs = self.output_patterns
        self.instance.n_auxiliary = MAX_TENSORS
        self.instance.kernel.elf = ctypes.cast(self.elf, c_void_p)
        self.instance.kernel.elf_size = elf_bytes

    def run(self, library):
        """The library's return code."""
        return library.InstantiateTpcKernel(self.params, self.instance)


def patterns_of(call):
    """An answer as the emulator takes it: the index space, and what a member may touch of each tensor."""
    space = tuple(call.instance.geometry[: call.instance.rank])
    sides = [
        (call.input_patterns, call.inputs, call.params.n_inputs),
        (call.output_patterns, call.outputs, call.params.n_outputs),
    ]
    access = [_access_of(patterns[i], tensors[i].geometry.dims) for patterns, tensors, n in sides for i in range(n)]
    return space, access


def _access_of(pattern, rank):
    if pattern.flags & AccessPattern.ALL_REQUIRED:
        return None
    return tuple(tpc.Access(dim.dim, dim.a, dim.start_b, dim.end_b, dim.all_required) for dim in pattern.mapping[:rank])


def infer(library, guid, inputs, n_outputs=None, device=GAUDI3):
    """What the library says of the outputs: its return code, and their geometries.

    Args:
        library: the kernel library.
        guid: a name.
        inputs: (shape, dtype) of each.
        n_outputs: how many there are; ``None``: as many as the library wants.
        device: id of the device.
    """
    if n_outputs is None:
        tried = (infer(library, guid, inputs, n, device) for n in range(1, MAX_TENSORS))
        return next(result for result in tried if result[0] != OUTPUT_COUNT)
    given = [TensorShape(geometry(*one)) for one in inputs]
    found = [TensorShape() for _ in range(n_outputs)]
    pointer = POINTER(TensorShape)
    params = ShapeParams(
        inputs=(pointer * len(given))(*[ctypes.pointer(one) for one in given]),
        n_inputs=len(given),
        n_outputs=n_outputs,
        guid_pointer=ctypes.pointer(GuidInfo(guid.encode())),
    )
    output = ShapeOutput((pointer * n_outputs)(*[ctypes.pointer(one) for one in found]))
    return library.GetShapeInference(device, params, output), [one.geometry for one in found]
