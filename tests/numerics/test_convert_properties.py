"""Whatever the shapes, dtypes, names, groups and ranks: there and back gives the same bits."""

import hypothesis.strategies as st
import pytest
import torch
from _convert_layouts import LAYOUTS, assert_same, moments, torch_state
from hypothesis import given, settings

from gaudi3_rt.errors import DataValidationError
from gaudi3_rt.numerics.convert import convert_state

SHAPE = st.lists(st.integers(0, 5), max_size=3).map(tuple)
SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@st.composite
def states(draw, *, one_count=False, dtype=torch.float32, shape=SHAPE):
    """A state of torch.optim.AdamW: groups of some parameters."""
    sizes = draw(SIZES)
    count = sum(sizes)
    shapes = draw(st.lists(shape, min_size=count, max_size=count))
    step = st.integers(1, 10**6)
    steps = [draw(step)] * count if one_count else draw(st.lists(step, min_size=count, max_size=count))
    names = [f"layer.{i}" for i in range(count)] if draw(st.booleans()) else None
    return torch_state(
        moments(shapes, dtype, seed=draw(st.integers(0, 99))),
        steps,
        sizes,
        names,
        lr=draw(st.sampled_from([0.5, 2.0**-12])),
        weight_decay=draw(st.sampled_from([0.0, 0.125])),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_there_and_back(layout, data):
    """With every dtype that the layout keeps, and with the counts that it keeps."""
    dtype = data.draw(st.sampled_from([torch.float32] if layout == "bitsandbytes" else [torch.float32, torch.bfloat16]))
    sd = data.draw(states(one_count=layout in {"hpex", "apex"}, dtype=dtype))
    there = convert_state(sd, target=layout, allow_lossy=True, steps=1)  # formulas differ, those of hpex and torchao
    assert there.certificate.state_equal
    assert not there.certificate.lost
    back = convert_state(there.state_dict, source=layout, optimizer="AdamW", allow_lossy=True, steps=1)
    assert_same(back.state_dict, sd)


@given(data=st.data(), ranks=st.integers(1, 7), again=st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_rows_of_ranks(data, ranks, again):
    """N shards to M shards to one; uneven and empty ones are those of torch.chunk."""
    sd = data.draw(states())
    cut = convert_state(sd, shards=ranks, steps=1).state_dicts
    assert len(cut) == ranks
    for key, own in sd["state"].items():
        if own["exp_avg"].dim():
            chunks = list(torch.chunk(own["exp_avg"], ranks))
            chunks += [own["exp_avg"][:0]] * (ranks - len(chunks))
            for rank, chunk in enumerate(chunks):
                assert_same(cut[rank]["state"][key]["exp_avg"], chunk)
    other = convert_state(cut, shards=again, steps=1).state_dicts
    assert_same(convert_state(other, steps=1).state_dict, sd)


@given(data=st.data(), ranks=st.integers(1, 7), again=st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_elements_of_ranks(data, ranks, again):
    """Flat shards: one parameter for a group; names and shapes come from params."""
    sizes = data.draw(SIZES)
    shapes = data.draw(st.lists(SHAPE, min_size=sum(sizes), max_size=sum(sizes)))
    sd = torch_state(moments(shapes), [9] * len(shapes), sizes, names=[f"p{i}" for i in range(len(shapes))])
    rest = iter(zip((f"p{i}" for i in range(len(shapes))), shapes, strict=True))
    params = [{"params": [next(rest) for _ in range(size)]} for size in sizes]
    cut = convert_state(sd, shards=ranks, sharding="flat", steps=1).state_dicts
    flat = torch.cat([own["exp_avg"].flatten() for key, own in sd["state"].items() if key < sizes[0]])
    assert_same(torch.cat([one["state"][0]["exp_avg"] for one in cut]), flat)
    assert (
        len({one["state"][0]["exp_avg"].numel() for one in cut[: flat.numel() // -(-flat.numel() // ranks or 1)]}) <= 1
    )
    if ranks == 1:
        return
    other = convert_state(cut, sharding="flat", params=params, shards=again, steps=1).state_dicts
    if again > 1:
        assert_same(convert_state(other, sharding="flat", params=params, steps=1).state_dict, sd)
    with pytest.raises(DataValidationError, match="say nothing of the shapes"):
        convert_state(cut, sharding="flat")


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_order_of_params(data):
    """By name in any order; by order with their shapes checked."""
    count = data.draw(st.integers(2, 5))
    names = [f"p{i}" for i in range(count)]
    sd = torch_state(moments([(i + 1,) for i in range(count)]), range(1, count + 1), names=names)
    order = data.draw(st.permutations(range(count)))
    params = [(names[i], (i + 1,)) for i in order]
    moved = convert_state(sd, target="gaudi3_rt", params=params, steps=1)
    assert moved.certificate.reproduces
    assert moved.state_dict["param_groups"][0]["param_names"] == [names[i] for i in order]
    for position, i in enumerate(order):
        assert_same(moved.state_dict["state"][position], sd["state"][i])
    unnamed = torch_state(moments([(i + 1,) for i in range(count)]), range(1, count + 1))
    named = convert_state(unnamed, params=[(name, (i + 1,)) for i, name in enumerate(names)], steps=1)
    assert_same(named.state_dict, sd)
    if list(order) != sorted(order):
        with pytest.raises(DataValidationError, match="has shape"):
            convert_state(unnamed, params=params)


def test_names_that_do_not_fit():
    """Which are missing and which are left over."""
    sd = torch_state(moments([(1,), (2,)]), [1, 1], names=["a", "b"])
    with pytest.raises(DataValidationError, match=r"'c' of params are not .* 'b' of the state_dict are not"):
        convert_state(sd, params=["a", "c"])
    with pytest.raises(DataValidationError, match="has 2 parameters, params has 3"):
        convert_state(sd, params=["a", "b", "c"], match="order")
    with pytest.raises(DataValidationError, match="params has no names"):
        convert_state(sd, params=[torch.ones(1), torch.ones(2)], match="name")


def test_names_as_keys():
    """As torch.distributed.checkpoint saves them."""
    sd = torch_state(moments([(1,), (2,)]), [1, 2], names=["a", "b"])
    by_name = {
        "state": {name: sd["state"][i] for i, name in enumerate("ab")},
        "param_groups": [{**sd["param_groups"][0], "params": ["a", "b"]}],
    }
    del by_name["param_groups"][0]["param_names"]
    assert_same(convert_state(by_name, params=["b", "a"], steps=1).state_dict["state"][0], sd["state"][1])
    assert_same(convert_state(by_name, steps=1).state_dict, sd)


def test_ranks_that_do_not_belong_together():
    """One of another checkpoint."""
    cut = convert_state(torch_state(moments([(4, 2)]), [3]), shards=2, steps=1).state_dicts
    cut[1]["state"][0]["step"] += 1
    with pytest.raises(DataValidationError, match="has seen 3 updates on rank 0 and 4 on rank 1"):
        convert_state(cut)
    cut[1]["state"][0]["step"] -= 1
    cut[1]["param_groups"][0]["lr"] = 1.0
    with pytest.raises(DataValidationError, match="lr of group 0"):
        convert_state(cut)


class Address:
    """A fragment, as DeepSpeed has it."""

    def __init__(self, numel, start):
        self.numel, self.start = numel, start


def ranks_of_zero(shapes, ranks):
    """What ZeRO 1 saves: equal parts of the group, padded, and where in them each parameter is."""
    flat = [torch.cat([pair[kind].flatten() for pair in moments(shapes)]) for kind in (0, 1)]
    part = -(-flat[0].numel() // ranks)
    padded = [torch.nn.functional.pad(values, (0, part * ranks - values.numel())) for values in flat]
    saved = []
    for rank in range(ranks):
        fragments, at = {}, 0
        for number, shape in enumerate(shapes):
            low, high = max(at, rank * part), min(at + shape.numel(), (rank + 1) * part)
            if low < high:
                fragments[f"p{number}"] = Address(high - low, low - rank * part)
            at += shape.numel()
        own = slice(rank * part, (rank + 1) * part)
        group = {"lr": 1e-3, "bias_correction": True, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
        state = {0: {"step": 12, "exp_avg": padded[0][own], "exp_avg_sq": padded[1][own]}}
        saved.append(
            {
                "base_optimizer_state": {"state": state, "param_groups": [{**group, "params": [0]}]},
                "param_slice_mappings": [fragments],
                "partition_count": [ranks],
                "group_paddings": [part * ranks - flat[0].numel() if rank == ranks - 1 else 0],
                "zero_stage": 1,
            }
        )
    return saved


@given(
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3).map(torch.Size), min_size=1, max_size=4),
    ranks=st.integers(1, 5),
)
@settings(max_examples=15, deadline=None)
def test_parts_of_zero(shapes, ranks):
    """Joined by what DeepSpeed says of where each parameter is."""
    names = [f"p{i}" for i in range(len(shapes))]
    params = dict(zip(names, shapes, strict=True))
    saved = ranks_of_zero(shapes, ranks)
    converted = convert_state(saved, params={**params, "a.buffer": (3,)}, steps=1)
    assert converted.certificate.source == "deepspeed"
    assert_same(converted.state_dict, torch_state(moments(shapes), [12] * len(shapes), names=names))
    with pytest.raises(DataValidationError, match="does not save shapes"):
        convert_state(saved)
    if ranks > 1:
        with pytest.raises(DataValidationError, match=rf"{ranks - 1} parts .* cut into \[{ranks}\]"):
            convert_state(saved[1:], params=params)
