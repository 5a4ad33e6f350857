"""The kernel library answers Gaudi's graph compiler by the table of kernels, and refuses what it cannot run."""

import ctypes
import itertools

import pytest
from _cases import for_all
from _graph_compiler import (
    DATA_TYPE,
    DATA_TYPES,
    DYNAMIC_SHAPE,
    FAILED,
    GAUDI,
    GAUDI2,
    GAUDI3,
    HUGE_TENSOR,
    INPUT_COUNT,
    INPUT_SIZE,
    INVALID_SHAPE_FUNCTION,
    NODE_NOT_FOUND,
    NULL_POINTER,
    OUTPUT_COUNT,
    OUTPUT_SIZE,
    SUCCESS,
    AccessPattern,
    Call,
    GuidInfo,
    ShapeOutput,
    ShapeParams,
    TensorShape,
    geometry,
    guids,
    infer,
    open_library,
)
from _operands import members, shapes
from _tpc_kernels import BLOCK, KERNELS, MEMBER

from gaudi3_rt import _core, tpc

CUT = {"elements", "rows"}
MAX_ELEMENTS = 2**31 - 1 - MEMBER
MAX_SHARDS = _core.TPC_MAX_SHARDS
# Without a TPC compiler there is no program to hand over; all the rest of the answer is there.
GRANTED = SUCCESS if tpc.has_compiled_kernels() else FAILED


@pytest.fixture(scope="module")
def library():
    """The installed kernel library."""
    return open_library()


@pytest.fixture(params=KERNELS.values(), ids=KERNELS)
def kernel(request):
    """A kernel of the table."""
    return request.param


def call(kernel, n, **options):
    """A correct call for n elements."""
    return Call(f"g3rt_{kernel['name']}", *shapes(kernel, n), **options)


def cut_kernels():
    """Kernels whose members have parts of the tensors."""
    return [kernel for kernel in KERNELS.values() if not kernel["single_member"]]


# Names


@pytest.mark.parametrize("device", [GAUDI2, GAUDI3])
def test_guids_are_those_of_the_table(library, device):
    """Every kernel is named once, by a hash of its own whose upper byte is free."""
    found = guids(library, device)
    assert [guid.name.decode() for guid in found] == [f"g3rt_{name}" for name in KERNELS]
    assert len({guid.hash for guid in found}) == len(found)
    assert all(0 < guid.hash < 2**56 and guid.properties == 0 for guid in found)


@pytest.mark.parametrize("device", [0, GAUDI, 2, 5])
def test_other_devices_have_no_kernels(library, device):
    """Nothing is offered to a Gaudi 1, a Greco or what does not exist, and nothing can be instantiated on them."""
    assert guids(library, device) == []
    assert call(KERNELS["adamw_f32"], 8, device=device).run(library) == NODE_NOT_FOUND


def test_guids_fill_no_more_than_there_is_room_for(library):
    """A short array gets the first names; what lies behind it is left alone."""
    found = (GuidInfo * 3)()
    found[2].name = b"mine"
    count = ctypes.c_uint32(2)
    assert library.GetKernelGuids(GAUDI3, count, found) == SUCCESS
    assert count.value == 2
    assert [guid.name for guid in found] == [*[f"g3rt_{name}".encode() for name in list(KERNELS)[:2]], b"mine"]


def test_unknown_guids_are_not_found(library):
    """The whole name counts, and a name without an end does no harm."""
    for name in ("", "adamw_f32", "g3rt_adamw_f3", "g3rt_adamw_f322", "g3rt_", "g3rt_adamw_f32" + "x" * 50):
        one = call(KERNELS["adamw_f32"], 8)
        one.params.guid.name = name.encode()
        assert one.run(library) == NODE_NOT_FOUND, name


# Geometry and patterns


def expected_range(access, whole_size):
    """(a, start, end, all) of an operand, by the words of the table."""
    step = {"elements": MEMBER, "rows": MEMBER, "partial": 1, "scales": MEMBER // BLOCK}.get(access)
    return (0, 0, whole_size - 1, True) if step is None else (step, 0, step - 1, False)


@for_all(n=[1, 63, MEMBER - 1, MEMBER, MEMBER + 1, 10 * MEMBER + 7, 1_000_003])
def test_geometry_and_patterns(library, kernel, n):
    """One dimension of as many members as cover n; every tensor and dimension has a pattern; nothing else is asked."""
    one = call(kernel, n)
    assert one.run(library) == GRANTED
    instance = one.instance
    assert instance.rank == 1
    assert list(instance.geometry) == [members(kernel, n), 1, 1, 1, 1]
    assert (instance.n_auxiliary, instance.preferred_split, instance.kernel.n_scalars) == (0, 0, 0)
    sides = [(kernel["inputs"], one.inputs, one.input_patterns), (kernel["outputs"], one.outputs, one.output_patterns)]
    for side, (operands, given, patterns) in enumerate(sides):
        for operand, tensor, pattern in zip(operands, given, patterns, strict=False):
            access = operand["access"]
            flags = AccessPattern.ALL_REQUIRED * (access == "whole") | AccessPattern.FULLY_WRITTEN * side
            assert pattern.flags == flags
            dim = pattern.mapping[0]
            wanted = expected_range(access, tensor.geometry.max_sizes[0])
            assert (dim.dim, dim.a, dim.start_b, dim.end_b, dim.all_required) == (0, *wanted)
            for other in pattern.mapping[1:5]:
                assert (other.dim, other.a, other.start_b, other.end_b, other.all_required) == (0, 0, 0, 0, True)


def test_members_cover_the_tensor_and_not_more(library, kernel):
    """The first member begins at element 0, the last has the last element, and no element has two members."""
    n = 5 * MEMBER + 3
    one = call(kernel, n)
    assert one.run(library) == GRANTED
    last = one.instance.geometry[0] - 1
    for patterns, given, count in (
        (one.input_patterns, one.inputs, one.params.n_inputs),
        (one.output_patterns, one.outputs, one.params.n_outputs),
    ):
        for pattern, tensor in itertools.islice(zip(patterns, given, strict=True), count):
            dim, size = pattern.mapping[0], tensor.geometry.max_sizes[0]
            assert dim.a * last + dim.start_b <= size - 1 <= dim.a * last + dim.end_b
            assert dim.all_required or dim.end_b + 1 == dim.a


@pytest.mark.parametrize("n", [0])
def test_empty_tensors_have_no_members(library, n):
    """An index space without members, for kernels that have parts of the tensors; a finish still has its one."""
    for kernel in KERNELS.values():
        one = call(kernel, n)
        assert one.run(library) == GRANTED, kernel["name"]
        assert one.instance.geometry[0] == (1 if kernel["single_member"] else 0)


def test_axes_of_size_1_do_not_matter(library):
    """A row with more axes is still a row."""
    inputs, outputs = shapes(KERNELS["adamw_f32"], MEMBER + 1)
    inputs[0] = ((1, 1, MEMBER + 1), "f32")
    one = Call("g3rt_adamw_f32", inputs, outputs)
    assert one.run(library) == GRANTED
    assert one.instance.geometry[0] == 2


@pytest.mark.parametrize(
    ("n", "answer"),
    [(2**24 + 1, GRANTED), (MAX_ELEMENTS, GRANTED), (MAX_ELEMENTS + 1, HUGE_TENSOR), (2**40, HUGE_TENSOR)],
)
def test_huge_tensors(library, n, answer):
    """Coordinates are 32-bit: the loop over the last member ends below 2^31. Constants stay exact in float."""
    for kernel in cut_kernels():
        one = call(kernel, n)
        assert one.run(library) == answer, kernel["name"]
        if answer == GRANTED:
            dim, last = one.input_patterns[0].mapping[0], one.instance.geometry[0] - 1
            assert int(dim.a) * last < n <= int(dim.a) * (last + 1) < 2**31


def test_huge_tensors_that_all_members_read(library):
    """The end of such a tensor is a constant of its pattern, and floats are exact up to 2^24."""
    for size, answer in ((2**24, GRANTED), (2**24 + 1, HUGE_TENSOR)):
        one = Call("g3rt_sum_finish_f32", [((size,), "f32")], [((1,), "f32")])
        assert one.run(library) == answer
        if answer == GRANTED:
            assert one.input_patterns[0].mapping[0].end_b == size - 1


# Refusals


def test_wrong_numbers_of_tensors(library, kernel):
    """One more or one less is refused, and the right number is written back."""
    for side, code in (("n_inputs", INPUT_COUNT), ("n_outputs", OUTPUT_COUNT)):
        for difference in (-1, 1):
            one = call(kernel, 700)
            right = getattr(one.params, side)
            setattr(one.params, side, right + difference)
            assert one.run(library) == code
            assert getattr(one.params, side) == right


def test_tensors_that_are_left_out(library):
    """No tensor is optional."""
    one = call(KERNELS["adamw_f32"], 700)
    one.inputs[3].flags = 2
    assert one.run(library) == INPUT_COUNT
    one = call(KERNELS["adamw_f32"], 700)
    one.outputs[2].flags = 2
    assert one.run(library) == OUTPUT_COUNT


def test_wrong_dtypes(library, kernel):
    """Each tensor's dtype is looked at; all right ones are written back at once, so that casts can be put in."""
    reference = call(kernel, 700)
    for which in ("inputs", "outputs"):
        count = getattr(reference.params, f"n_{which}")
        for i in range(count):
            one = call(kernel, 700)
            tensors = getattr(one, which)
            right = [tensor.geometry.data_type for tensor in tensors[:count]]
            for j in (i, count - 1):
                tensors[j].geometry.data_type = next(d for d in DATA_TYPES.values() if d != right[j])
            assert one.run(library) == DATA_TYPE
            assert [tensor.geometry.data_type for tensor in tensors[:count]] == right
            assert one.run(library) == GRANTED


def test_wrong_sizes(library, kernel):
    """A tensor has the size that follows from the first that is cut, or the table's; the right one is written back."""
    for which, code in (("inputs", INPUT_SIZE), ("outputs", OUTPUT_SIZE)):
        fixed = [i for i, operand in enumerate(kernel[which]) if operand["access"] != "whole" or operand["size"] > 0]
        first_cut = next((i for i, operand in enumerate(kernel["inputs"]) if operand["access"] in CUT), None)
        for i, difference in itertools.product(fixed, (-1, 1)):
            if which == "inputs" and i == first_cut:
                continue  # the one that the others follow
            one = call(kernel, 700)
            sizes = getattr(one, which)[i].geometry
            right = sizes.max_sizes[0]
            sizes.max_sizes[0] = sizes.min_sizes[0] = right + difference
            assert one.run(library) == code
            assert (sizes.dims, sizes.max_sizes[0]) == (1 + (kernel[which][i]["access"] == "rows"), right)
            assert one.run(library) == GRANTED


def test_tensors_that_are_not_rows(library, kernel):
    """Kernels see one row, so a second axis is refused; of shards, a third."""
    for which, code in (("inputs", INPUT_SIZE), ("outputs", OUTPUT_SIZE)):
        for i in range(len(kernel[which])):
            one = call(kernel, 700)
            sizes = getattr(one, which)[i].geometry
            axis = 2 if kernel[which][i]["access"] == "rows" else 1
            sizes.dims, sizes.max_sizes[axis], sizes.min_sizes[axis] = axis + 1, 3, 3
            assert one.run(library) == code


@pytest.mark.parametrize("n_shards", [0, 1, MAX_SHARDS, MAX_SHARDS + 1])
def test_numbers_of_shards(library, n_shards):
    """The tree is for 1 to 64 rows; of more there would be a wrong sum. The nearest number is written back."""
    for name in ("reduce_shards_f32", "reduce_shards_bf16"):
        one = call(KERNELS[name], 700)
        sizes = one.inputs[0].geometry
        sizes.max_sizes[1] = sizes.min_sizes[1] = n_shards
        nearest = min(max(n_shards, 1), MAX_SHARDS)
        assert one.run(library) == (GRANTED if n_shards == nearest else INPUT_SIZE)
        assert (sizes.dims, sizes.max_sizes[1], sizes.min_sizes[1]) == (2, nearest, nearest)
        assert one.run(library) == GRANTED


def test_dynamic_shapes(library):
    """A size that is not known is refused."""
    one = call(KERNELS["scale_f32"], 700)
    one.inputs[0].geometry.min_sizes[0] = 1
    assert one.run(library) == DYNAMIC_SHAPE


def test_a_rank_that_is_no_rank(library):
    """Neither a tensor without dimensions nor one with more than the interface has."""
    for rank in (0, 26, 2**32 - 1):
        one = call(KERNELS["scale_f32"], 700)
        one.inputs[0].geometry.dims = rank
        assert one.run(library) == INPUT_SIZE


def test_null_pointers(library):
    """A missing structure is an error and not a crash."""
    assert library.GetKernelGuids(GAUDI3, None, None) == FAILED
    kernel = KERNELS["adamw_f32"]
    assert library.InstantiateTpcKernel(None, call(kernel, 8).instance) == FAILED
    assert library.InstantiateTpcKernel(call(kernel, 8).params, None) == FAILED
    for structure, field in (
        ("params", "inputs"),
        ("params", "outputs"),
        ("instance", "inputs"),
        ("instance", "outputs"),
    ):
        one = call(kernel, 8)
        before = bytes(one.instance)
        pointer = getattr(getattr(one, structure), field)
        setattr(getattr(one, structure), field, type(pointer)())
        changed = bytes(one.instance)
        assert one.run(library) == FAILED
        assert bytes(one.instance) == changed
        assert (before == changed) == (structure == "params")


@pytest.mark.skipif(tpc.has_compiled_kernels(), reason="the library has programs")
def test_without_a_compiler_there_is_no_program(library, kernel):
    """The library does not pretend: it fails, needs 0 bytes, and writes none."""
    one = call(kernel, 700, elf_bytes=64)
    one.elf.value = b"untouched"
    assert one.run(library) == FAILED
    assert one.instance.kernel.elf_size == 0
    assert one.elf.value == b"untouched"


# Shape inference


def test_shape_inference(library, kernel):
    """The outputs' sizes follow from the inputs', and are those that an instantiation takes."""
    for n in (0, 1, MEMBER, 3 * MEMBER + 1):
        inputs, outputs = shapes(kernel, n)
        status, found = infer(library, f"g3rt_{kernel['name']}", inputs, len(outputs))
        assert status == SUCCESS
        for one, (shape, dtype) in zip(found, outputs, strict=True):
            assert (one.dims, one.max_sizes[0], one.min_sizes[0]) == (1, *shape, *shape)
            assert one.data_type == DATA_TYPES[dtype]


def test_shape_inference_by_hash(library):
    """The graph compiler may hand back the hash without the name."""
    hashes = {guid.name: guid.hash for guid in guids(library, GAUDI3)}
    given, found = TensorShape(geometry((600,), "f32")), TensorShape()
    pointer = ctypes.POINTER(TensorShape)
    params = ShapeParams(inputs=(pointer * 1)(ctypes.pointer(given)), n_inputs=1, n_outputs=1)
    for upper_byte in (0, 5):
        params.guid.hash = hashes[b"g3rt_cast_bf16_to_f32"] | upper_byte << 56
        assert library.GetShapeInference(GAUDI3, params, ShapeOutput((pointer * 1)(ctypes.pointer(found)))) == SUCCESS
        assert found.geometry.max_sizes[0] == 600
    params.guid.hash += 1
    output = ShapeOutput((pointer * 1)(ctypes.pointer(found)))
    assert library.GetShapeInference(GAUDI3, params, output) == INVALID_SHAPE_FUNCTION


def test_shape_inference_knows_sizes(library, kernel):
    """Inputs that no instantiation takes have no outputs."""
    inputs, outputs = shapes(kernel, 700)
    first_cut = next((i for i, operand in enumerate(kernel["inputs"]) if operand["access"] in CUT), None)
    for i, operand in enumerate(kernel["inputs"]):
        if i == first_cut or (operand["access"] == "whole" and operand["size"] == 0):
            continue
        for difference in (-1, 1):
            (*rows, n), dtype = inputs[i]
            wrong = [*inputs[:i], ((*rows, n + difference), dtype), *inputs[i + 1 :]]
            assert infer(library, f"g3rt_{kernel['name']}", wrong, len(outputs))[0] == INPUT_SIZE


def test_shape_inference_refuses(library):
    """Unknown kernels and devices, wrong numbers of tensors, and missing structures."""
    kernel = KERNELS["adamw_f32"]
    guid = "g3rt_adamw_f32"
    inputs, outputs = shapes(kernel, 8)
    assert infer(library, "g3rt_none", inputs, 3)[0] == INVALID_SHAPE_FUNCTION
    assert infer(library, guid, inputs, 3, device=GAUDI)[0] == INVALID_SHAPE_FUNCTION
    assert infer(library, guid, inputs[:-1], 3)[0] == INPUT_COUNT
    assert infer(library, guid, inputs, len(outputs) + 1)[0] == OUTPUT_COUNT
    assert library.GetShapeInference(GAUDI3, None, ShapeOutput()) == NULL_POINTER
    assert library.GetShapeInference(GAUDI3, ShapeParams(), None) == NULL_POINTER
    assert library.GetShapeInference(GAUDI3, ShapeParams(), ShapeOutput()) == NULL_POINTER


def test_version(library):
    """The version of the package, 16 bits a part."""
    from importlib.metadata import version  # noqa: PLC0415

    major, minor, patch = (int(part) for part in version("gaudi3_rt").split(".")[:3])
    assert library.GetLibVersion() == major << 32 | minor << 16 | patch
