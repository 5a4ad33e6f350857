"""A step on stored operands reads them all, steps in float32, and stores each with its own random bits."""

import numpy as np
import pytest
import torch
from _problems import hyper_of, operand_names, problem
from _stored import Engine, Stored

from gaudi3_rt import _core
from gaudi3_rt.optim._rule import Rule
from gaudi3_rt.optim._storage import Storage

SIZES = [1300, 256, 5]
SEED, FIRST, T = 11, 5, 3  # of the random bits; number of the first parameter; steps taken before
DTYPES = {
    "f32": torch.float32,
    "bf16_stochastic": torch.bfloat16,
    "bf16_split": torch.bfloat16,
    "bf16_master": torch.bfloat16,
    "int8_block": torch.int8,
    "int8_block_positive": torch.uint8,
    **{f"e4m3_block{p}": torch.float8_e4m3fn for p in ("", "_positive")},
    **{f"e5m2_block{p}": torch.float8_e5m2 for p in ("", "_positive")},
}
# Codec of the parameter and dtype of the moments, with the options that ask for them.
STORAGES = {
    "int8": ("f32", {"moments_dtype": torch.int8}),
    "e4m3fn": ("f32", {"moments_dtype": torch.float8_e4m3fn}),
    "e5m2": ("f32", {"moments_dtype": torch.float8_e5m2}),
    "bfloat16": ("f32", {"moments_dtype": torch.bfloat16}),
    "stochastic": ("bf16_stochastic", {"rounding": "stochastic", "moments_dtype": torch.bfloat16}),
    "stochastic, int8": ("bf16_stochastic", {"rounding": "stochastic", "moments_dtype": torch.int8}),
    "split": ("bf16_split", {"master": "split"}),
    "split, e4m3fn": ("bf16_split", {"master": "split", "moments_dtype": torch.float8_e4m3fn}),
    "master, bfloat16 and int8": ("bf16_master", {"master": "float32", "moments_dtype": (torch.bfloat16, torch.int8)}),
}


def codec_of_state(storage, *, positive):
    """The codec that a moment is to be stored with."""
    dtype = storage.moment(positive=positive)
    stem = {torch.int8: "int8", torch.float8_e4m3fn: "e4m3", torch.float8_e5m2: "e5m2"}.get(dtype)
    if stem is None:
        return "bf16_stochastic" if dtype is torch.bfloat16 else "f32"
    return f"{stem}_block_positive" if positive else f"{stem}_block"


def stored_again(engine, stored, values, operand, t):
    """Values stored where a step number t stores them, with the numbers of the parameters."""
    return [
        engine.store(s.codec, x, seed=SEED, t=float(t), number=FIRST + i, operand=operand)
        for i, (s, x) in enumerate(zip(stored, values, strict=True))
    ]


def seen_by_torch(kernel, storage, stored):
    """What the kernels are given for stored operands: keys of state, and lists of tensors, first of the parameters."""
    tensors = {j: [s.data.view(DTYPES[s.codec]) for s in operand] for j, operand in stored.items()}
    keys, lists = [], [tensors[0]]
    for j, state in enumerate(_core.describe_kernel(kernel)["state"], 2):
        if stored[j][0].second is None:
            keys.append(state)
            lists.append(tensors[j])
        else:
            keys += [f"{state}_codes", f"{state}_scales"]
            lists += [tensors[j], [s.second for s in stored[j]]]
    if storage.beside_param:
        keys.append(storage.beside_param)
        lists.append([s.second for s in stored[0]])
    return keys, lists


def lerp(average, param, weight):
    """Average + weight (param - average) with one rounding of the difference and one of the rest."""
    wide = average.double() + float(np.float32(weight)) * (param - average).double()
    return wide.float()


def first_pass(engine, floats, plain, stored):
    """Takes the first pass of two on floats; if it makes new states, the second has to read them as they are stored.

    Returns:
        Those states as they are stored, by operand.
    """
    before = [x.clone() for operand in plain.operands for x in operand]
    floats.measure(1)
    after = [x for operand in plain.operands for x in operand]
    if all(torch.equal(x, y) for x, y in zip(before, after, strict=True)):
        return {}
    expected = {}
    for j, operand in enumerate(plain.operands[2:], 2):
        expected[j] = stored_again(engine, stored[j], operand, j, T + 1)
        for s, x in zip(expected[j], operand, strict=True):
            x.copy_(engine.load(s))
    return expected


@pytest.mark.parametrize("name", STORAGES)
def test_a_step_is_read_step_store(kernel, isa, name):
    """Every kernel with every codec: bit by bit, also in the average, on every build."""
    param_codec, options = STORAGES[name]
    storage = Storage(seed=SEED, ema_decay=0.9, **options)
    engine = Engine("scalar")
    described = _core.describe_kernel(kernel)
    codecs = [codec_of_state(storage, positive=positive) for positive in described["positive"]]

    start = problem(kernel, SIZES, t=T)
    plain_codecs = [param_codec, "f32", *codecs]
    stored = {
        j: stored_again(engine, [Stored(codec, None, None)] * len(SIZES), start.operands[j], j, T)
        for j, codec in enumerate(plain_codecs)
        if j != 1
    }
    averages = [x + 0.1 for x in start.operands[0]]

    keys, lists = seen_by_torch(kernel, storage, stored)
    keys.append("ema")
    lists = [lists[0], start.operands[1], *lists[1:], [x.clone() for x in averages]]
    coded = _core.TensorList(isa, torch.Tensor)
    rule = Rule(kernel, hyper_of(kernel), first_number=FIRST, storage=storage)
    steps = [step.clone() for step in start.steps]
    assert coded.extend(rule, keys, lists, steps, range(len(SIZES))) == []

    plain = start.clone()
    for j, operand in stored.items():
        plain.operands[j] = [engine.load(s).reshape(x.shape) for s, x in zip(operand, start.operands[j], strict=True)]
    floats = _core.TensorList("scalar", torch.Tensor)
    assert plain.extend(floats) == []

    expected, measured = {}, {}
    if described["two_passes"]:
        measured["measurement"] = coded.measure(2)
        expected = first_pass(engine, floats, plain, stored)
    coded.step(2, **measured)
    floats.step(1, **measured)

    for j, operand in stored.items():
        want = expected.get(j) or stored_again(engine, operand, plain.operands[j], j, T + 1)
        for i, (got, one) in enumerate(zip(operand, want, strict=True)):
            assert got.same(one), f"{operand_names(kernel)[j]} of tensor {i}"
    for got, before, s in zip(lists[-1], averages, stored[0], strict=True):
        assert torch.equal(got, lerp(before, engine.load(s), storage.average_weight))
    assert [float(step) for step in steps] == [T + 1] * len(SIZES)
