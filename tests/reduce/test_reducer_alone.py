"""GradientReducer in one process without torch.distributed, its arguments, and how it lays buckets out."""

import gc
import itertools
import weakref

import pytest
import torch
from _reducing import GradientReducer, digest, loss_of, network
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.checkpoint import checkpoint

from gaudi3_rt import _core
from gaudi3_rt.errors import OptimizerError, ParameterValidationError
from gaudi3_rt.grads import clip_grad_norm_
from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.reduce import reduce_shards, sum_squares
from gaudi3_rt.reduce._exchange import Exchange
from gaudi3_rt.reduce._layout import ALIGNMENT, plan
from gaudi3_rt.reduce._membership import Membership


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_is_the_tree_over_its_shards(n, dtype):
    """Gradients are what reduce_shards makes of those of the shards, to the bit; a shard that lacks one gives zero."""
    model = network(dtype)
    params = list(model.parameters())
    shards = [torch.autograd.grad(loss_of(model, k, 0, spare=k == 1), params, allow_unused=True) for k in range(n)]
    with GradientReducer(model, algorithm="tree", logical_shards=n, bucket_bytes=200_000) as reducer:
        for _ in range(3):
            model.zero_grad()
            for shard in reducer.shards:
                loss_of(model, shard, 0, spare=shard == 1).backward()
            reducer.wait()
            for p, *grads in zip(params, *shards, strict=True):
                if all(grad is None for grad in grads):
                    assert p.grad is None
                    continue
                whole = [(torch.zeros_like(p) if grad is None else grad).contiguous() for grad in grads]
                want = reduce_shards(whole, op="mean") if n > 1 else whole[0]
                assert torch.equal(p.grad, want)
            assert reducer.sum_squares() == sum_squares([p.grad for p in params if p.grad is not None])


def test_no_memory_is_taken_anew():
    """From the second step on, a gradient is the same view of the same buffer."""
    model = network()
    with GradientReducer(model, algorithm="tree", logical_shards=2) as reducer:
        seen = []
        for step in range(4):
            model.zero_grad()
            for shard in reducer.shards:
                loss_of(model, shard, step, spare=True).backward()
            reducer.wait()
            seen.append([p.grad for p in model.parameters()])
        assert all(a is b for a, b in zip(seen[1], seen[3], strict=True))
        assert all(grad._base is not None for grad in seen[3])


def test_shards_are_counted():
    """Too few or too many backward passes are an error that says how many there were; nothing is stepped."""
    model = network()
    optimizer = FusedAdamW(model.parameters())
    before = digest(model.parameters())
    reducer = GradientReducer(model, algorithm="tree", logical_shards=3)
    loss_of(model, 0, 0).backward()
    with pytest.raises(OptimizerError, match="1 of this rank's 3 logical shards"):
        optimizer.step()
    with reducer.no_sync():
        loss_of(model, 1, 0).backward()
    loss_of(model, 1, 0).backward()
    loss_of(model, 2, 0).backward()
    with pytest.raises(OptimizerError, match="all 3 logical shards"):
        loss_of(model, 3, 0).backward()
    assert digest(model.parameters()) == before
    reducer.close()


@pytest.mark.parametrize("bucket_bytes", [1, 2**20])
@pytest.mark.parametrize("n", [1, 3])
def test_a_broken_backward_is_forgotten(n, bucket_bytes):
    """After an exception in backward nothing can be stepped; the next pass, of fewer parameters, begins the step."""
    model = network()
    want = [torch.autograd.grad(loss_of(model, k, 0), [model.wide, model.bias]) for k in range(n)]
    with GradientReducer(model, algorithm="tree", logical_shards=n, bucket_bytes=bucket_bytes) as reducer:
        for step in range(2):
            for k in reducer.shards[:-1]:
                loss_of(model, k, 1).backward()
            failing = model.wide.register_hook(lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                loss_of(model, n - 1, 1, spare=True).backward()
            failing.remove()
            with pytest.raises(OptimizerError, match=r"backward has not ended: .* begin the step anew"):
                reducer.wait()
            with pytest.raises(OptimizerError, match="backward has not ended"):
                clip_grad_norm_(model.parameters(), 1.0)
            model.zero_grad()
            for k in reducer.shards:
                loss_of(model, k, 0).backward()
            assert reducer.is_pending
            reducer.wait()
            assert reducer.steps == step + 1
            for param, shards in zip([model.wide, model.bias], zip(*want, strict=True), strict=True):
                assert torch.equal(param.grad, reduce_shards(shards, op="mean") if n > 1 else shards[0])


def test_an_interrupt_while_it_waits():
    """Ctrl-C leaves buckets half way: nobody gets gradients of these, however often they are asked for."""
    model = network()
    reducer = GradientReducer(model)

    def interrupted(*_):
        yield []
        raise KeyboardInterrupt

    reducer._pipeline.stations[0].algorithm.run = interrupted
    loss_of(model, 0, 0).backward()
    before = [p.grad for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        reducer.wait()
    for _ in range(2):
        with pytest.raises(OptimizerError, match="was interrupted by KeyboardInterrupt"):
            reducer.wait()
    assert all(p.grad is grad for p, grad in zip(model.parameters(), before, strict=True))
    reducer.close()


def test_an_interrupt_as_it_is_made(monkeypatch):
    """While it waits for the others: its hooks are gone."""

    def interrupted(*_):
        raise KeyboardInterrupt

    model = network()
    with monkeypatch.context() as patch:
        patch.setattr(Membership, "agree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            GradientReducer(model)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_no_step_inside_of_backward():
    """A step in a hook of backward would step with gradients of this rank alone: it is refused."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = digest(model.parameters())
    with GradientReducer(model) as reducer:
        hook = model.wide.register_post_accumulate_grad_hook(lambda _: optimizer.step())
        with pytest.raises(OptimizerError, match="backward has not ended"):
            loss_of(model, 0, 0).backward()
        hook.remove()
        assert digest(model.parameters()) == before
        assert not reducer.is_pending


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(use_reentrant):
    """Gradients that come in backward passes inside of backward are all in the mean."""
    layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(4))

    def loss():
        x = torch.ones(2, 4, requires_grad=True)
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=use_reentrant)
        return x.square().sum()

    loss().backward()
    want = [p.grad for p in layers.parameters()]
    with GradientReducer(layers, bucket_bytes=1) as reducer:
        for step in range(3):
            layers.zero_grad()
            loss().backward()
            reducer.wait()
            assert reducer.steps == step + 1
            assert all(torch.equal(p.grad, grad) for p, grad in zip(layers.parameters(), want, strict=True))
            assert all(p.grad._base is not None for p in layers.parameters())


@pytest.mark.parametrize("bucket_bytes", [1, 2**20])
def test_a_gradient_that_comes_twice_in_one_pass(bucket_bytes):
    """A layer that is checkpointed twice: all of its gradient is in the mean, or, with shards, there is an error."""
    layer, other, last = layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))

    def loss():
        x = torch.ones(2, 4, requires_grad=True)
        for one in (layer, other, layer):
            x = checkpoint(one, x, use_reentrant=True)
        return last(x).square().sum()

    loss().backward()
    want = [p.grad for p in layers.parameters()]
    layers.zero_grad()
    with GradientReducer(layers, bucket_bytes=bucket_bytes) as reducer:
        for _ in range(3):
            layers.zero_grad()
            loss().backward()
            reducer.wait()
            assert all(torch.equal(p.grad, grad) for p, grad in zip(layers.parameters(), want, strict=True))
    layers.zero_grad()
    reducer = GradientReducer(layers, algorithm="tree", logical_shards=2, bucket_bytes=bucket_bytes)

    def shards():
        for _ in reducer.shards:
            loss().backward()

    with pytest.raises(OptimizerError, match="came twice in one backward pass"):
        shards()
    reducer.close()


def test_ends_with_its_owner():
    """A reducer that is closed, or that nobody holds any more, leaves gradients alone."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    n_hooks = len(_global_optimizer_pre_hooks)
    reducer = GradientReducer(model, algorithm="tree", logical_shards=2)
    gone = weakref.ref(reducer)
    del reducer
    gc.collect()
    assert gone() is None
    assert not model.wide._post_accumulate_grad_hooks
    assert len(_global_optimizer_pre_hooks) == n_hooks
    with GradientReducer(model, algorithm="tree", logical_shards=2):
        pass
    loss_of(model, 0, 0).backward()
    grad = model.bias.grad
    optimizer.step()
    assert model.bias.grad is grad


def test_strides_of_parameters_are_kept():
    """The gradient of a parameter in channels_last is in channels_last, with the right values."""
    conv = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 9, 9)
    want = torch.autograd.grad(conv(x).square().sum(), [conv.weight])[0]
    for algorithm, n in (("all_reduce", None), ("tree", 1), ("tree", 2)):
        conv.zero_grad()
        with GradientReducer(conv, algorithm=algorithm, logical_shards=n) as reducer:
            for _ in reducer.shards:
                conv(x).square().sum().backward()
            reducer.wait()
        assert conv.weight.grad.stride() == conv.weight.stride()
        torch.testing.assert_close(conv.weight.grad, want)


def test_a_parameter_that_thaws():
    """It was frozen when the reducer was made: its gradient would be that of one rank alone."""
    model = network()
    model.spare.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = digest(model.parameters())
    with GradientReducer(model):
        model.spare.requires_grad_(True)
        loss_of(model, 0, 0, spare=True).backward()
        with pytest.raises(OptimizerError, match=r"'spare' needs a gradient now, and needed none .* make a new one"):
            optimizer.step()
    assert digest(model.parameters()) == before
    with GradientReducer(model):
        optimizer.step()


def test_one_reducer_a_parameter():
    """A second one would reduce what the first has reduced; after close() there may be another."""
    model = network()
    first = GradientReducer(model)
    with pytest.raises(ParameterValidationError, match=r"'0' is reduced by another GradientReducer .* close\(\)"):
        GradientReducer([model.wide])
    first.close()
    GradientReducer([model.wide]).close()


def test_sparse_gradients():
    """They are refused by name, before anything is sent."""
    model = torch.nn.Sequential(torch.nn.Embedding(5, 2, sparse=True), torch.nn.Linear(2, 2))
    reducer = GradientReducer(model, bucket_bytes=1)
    with pytest.raises(ParameterValidationError, match=r"gradient of '0.weight' is torch.sparse_coo: .* sparse=False"):
        model(torch.tensor([1])).sum().backward()
    reducer.close()


def test_an_interrupt(monkeypatch):
    """Ctrl-C in the middle of a bucket: it is never handed out, and the other ranks are told."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reducer = GradientReducer(model)
    told = []
    monkeypatch.setattr(reducer._members, "give_up", lambda *args: told.append(type(args[-1])))
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "_operands", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            loss_of(model, 0, 0).backward()
    for use in (reducer.wait, optimizer.step, lambda: loss_of(model, 0, 0).backward()):
        with pytest.raises(OptimizerError, match="was interrupted by KeyboardInterrupt; make a new one"):
            use()
    assert told == [KeyboardInterrupt]
    reducer.close()


@pytest.mark.parametrize("when", ["finish", "launch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_all_shards_outlive_a_failure(monkeypatch, dtype, when):
    """They are what the same backward passes leave without a reducer: the sum over this rank's shards."""
    model, alone = network(dtype), network(dtype)
    for k in range(3):
        loss_of(alone, k, 0, spare=k == 0).backward()
    reducer = GradientReducer(model, algorithm="tree", logical_shards=3, bucket_bytes=200_000)
    for k in reducer.shards[:-1]:
        loss_of(model, k, 0, spare=k == 0).backward()
    monkeypatch.setattr(reducer._pipeline, when, raise_broken)
    with pytest.raises(BrokenPipeError):
        finish_step(model, reducer)
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        if when == "finish" or p is not model.wide:  # backward has not come that far
            torch.testing.assert_close(p.grad, q.grad, rtol=0.02, atol=0.002 * q.grad.abs().max().item())
        assert (p.grad.dtype, p.grad.stride()) == (p.dtype, p.stride())
    reducer.close()


def finish_step(model, reducer):
    """The last shard, and the join."""
    loss_of(model, reducer.shards[-1], 0).backward()
    reducer.wait()


def raise_broken(*_):
    """As a reduction that fails."""
    raise BrokenPipeError


def raise_interrupt(*_):
    """As the handler of SIGINT does."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "butterfly"}, "algorithm='butterfly': has to be one of all_reduce, ring"),
        ({"wire": "int4"}, "wire='int4': has to be None, 'bfloat16' or 'int8'"),
        ({"algorithm": "ring", "wire": "int8"}, "algorithm='ring' adds up at every hop"),
        ({"algorithm": "ring", "deterministic": True}, "algorithm='ring' adds up at every hop"),
        ({"logical_shards": 4}, "logical_shards=4 is for algorithm='tree', not 'all_reduce'"),
        ({"algorithm": "tree", "logical_shards": 0}, "logical_shards=0 on 1 ranks"),
        ({"group_size": 2}, "group_size=2 is for algorithm='hierarchical'"),
        ({"algorithm": "hierarchical", "group_size": 2}, "groups of 2 ranks do not divide 1 ranks"),
        ({"error_feedback": True}, "error_feedback=True is for a wire"),
        ({"bucket_bytes": 0}, "bucket_bytes=0: has to be 1 or more"),
    ],
)
def test_refuses(options, message):
    """What is not allowed is named, with what is."""
    with pytest.raises(ParameterValidationError, match=message):
        GradientReducer(network(), **options)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "no parameter that needs a gradient"),
        ([torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))], "parameter '0' is torch.float64"),
        ([torch.nn.Parameter(torch.zeros(2)) * 2], "parameter '0' is torch.float32, not a leaf"),
    ],
)
def test_refuses_parameters(params, message):
    """What cannot be reduced is named."""
    with pytest.raises(ParameterValidationError, match=message):
        GradientReducer(params)


@given(
    lengths=st.lists(st.sampled_from([0, 1, 255, 256, 257, 5000, _core.CHUNK, 3 * _core.CHUNK + 1]), max_size=12),
    bucket_bytes=st.sampled_from([1, 10_000, 500_000, 2**25]),
    world=st.integers(1, 9),
    seed=st.randoms(use_true_random=False),
)
def test_layout(lengths, bucket_bytes, world, seed):
    """Every element is in one bucket and in one slice of it; slices are cut where chunks of a parameter begin."""
    params = [torch.empty(n, dtype=seed.choice([torch.float32, torch.bfloat16]), device="meta") for n in lengths]
    order = seed.sample(range(len(params)), len(params))
    layout = plan(params, order, bucket_bytes)
    assert sorted(i for bucket in layout.buckets for i in bucket.params) == list(range(len(params)))
    chunks = 0
    for bucket in layout.buckets:
        assert {params[i].dtype for i in bucket.params} == {bucket.dtype}
        assert len(bucket.params) == 1 or bucket.numel * bucket.dtype.itemsize <= bucket_bytes
        assert all(begin % ALIGNMENT == 0 for begin in bucket.begins)
        place = {
            i: (begin, begin + n) for i, begin, n in zip(bucket.params, bucket.begins, bucket.lengths, strict=True)
        }
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(place.values()))
        slices = bucket.cut(world)
        assert [piece.begin for piece in slices] == [0, *(piece.end for piece in slices[:-1])]
        assert slices[-1].end == bucket.numel
        for piece in slices:
            assert piece.first_chunk == chunks
            chunks += piece.n_chunks
        covered = [segment for piece in slices for segment in piece.segments]
        assert sum(segment.end - segment.begin for segment in covered) == sum(bucket.lengths)
        for segment in covered:
            begin, end = place[segment.param]
            assert begin <= segment.begin < segment.end <= end
            assert (segment.begin - begin) % _core.CHUNK == 0
        longest = max(piece.end - piece.begin for piece in slices)
        assert longest <= bucket.numel / world + _core.CHUNK + ALIGNMENT
    assert chunks == layout.n_chunks == sum(-(-n // _core.CHUNK) for n in lengths)


def test_order_of_backward():
    """After the first step, buckets are filled in the order in which backward makes gradients."""
    layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
    with GradientReducer(layers, bucket_bytes=1) as reducer:
        for _ in range(2):
            layers[0](layers[2](layers[1](torch.ones(2, 4)))).sum().backward()
            reducer.wait()
        names = [reducer._names[i] for bucket in reducer._pipeline.layout.buckets for i in bucket.params]
    assert [name[0] for name in names] == ["0", "0", "2", "2", "1", "1"]
