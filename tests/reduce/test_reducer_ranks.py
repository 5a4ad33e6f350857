"""GradientReducer on up to 8 processes: every algorithm, what it leaves in ``grad``, and the tree on any number."""

import contextlib
import functools
import gc
import math
import random
import time
import weakref

import pytest
import torch
import torch.distributed as dist
from _ranks import run_on_ranks
from _reducing import N_SHARDS, GradientReducer, digest, gathered, loss_of, mean_gradients, network, train

import gaudi3_rt
from gaudi3_rt.errors import DataValidationError, OptimizerError, ParameterValidationError
from gaudi3_rt.optim import FusedAdamW, FusedSGD
from gaudi3_rt.reduce import sum_squares

WORLD = 8
ALGORITHMS = ["all_reduce", "ring", "reduce_scatter", "hierarchical", "parameter_server", "tree"]
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
ROUNDING = {F32: 2**-22, BF16: 2**-8, F16: 2**-10, None: 0, "bfloat16": 2**-7, "int8": 2**-5}

groups = {}


def on_group(n):
    """A scenario for the first n ranks, which are a group; it gets that group."""

    def wrap(scenario):
        @functools.wraps(scenario)
        def on_ranks(rank):
            if n not in groups:
                groups[n] = dist.new_group(list(range(n)))
            if rank < n:
                scenario(rank, groups[n])

        return on_ranks

    return wrap


def settings(world):
    """Every algorithm with what it allows: exact, on each wire, and with sums along the tree."""
    for algorithm in ALGORITHMS:
        size = {"group_size": 2 if world % 2 == 0 else 1} if algorithm == "hierarchical" else {}
        yield algorithm, size
        if algorithm != "ring":
            yield algorithm, {"wire": "bfloat16", **size}
            yield algorithm, {"wire": "int8", "error_feedback": False, **size}
            yield algorithm, {"deterministic": True, **size}


def check_means(group, dtype):
    """The mean is that of float64 to within its rounding, with the same bits on all ranks."""
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    want = mean_gradients(network(dtype), range(world), 0, spare=True)
    deterministic = set()
    for algorithm, options in settings(world):
        model = network(dtype)
        with GradientReducer(model, group, algorithm, bucket_bytes=200_000, **options) as reducer:
            for _ in range(2):  # the second time in the order of backward
                model.zero_grad()
                loss_of(model, rank, 0, spare=True).backward()
                reducer.wait()
            grads = [p.grad for p in model.parameters()]
            allowed = max(ROUNDING[dtype], ROUNDING[options.get("wire")])
            for (name, p), grad in zip(model.named_parameters(), want, strict=True):
                assert (p.grad.dtype, p.grad.stride()) == (dtype, p.stride())
                error = math.sqrt(float((p.grad.double() - grad).square().mean() / grad.square().mean()))
                assert error <= allowed, (algorithm, options, name, error)
            bits = digest(grads)
            assert len(set(gathered(bits, group))) == 1, (algorithm, options)
            for _ in range(2):
                assert reducer.sum_squares() == sum_squares(grads), (algorithm, options)
            if "deterministic" in options or (algorithm == "tree" and not options):
                deterministic.add(bits)
    assert len(deterministic) == 1


@on_group(4)
def means_of_four(_, group):
    """Every algorithm on four ranks."""
    check_means(group, F32)
    check_means(group, BF16)


@on_group(3)
def means_of_three(_, group):
    """Every algorithm on three, where slices are uneven."""
    check_means(group, F16)


OPTIMIZERS = {
    "ours": lambda params: FusedAdamW(params, lr=1e-2, max_grad_norm=0.05),
    "torch's": lambda params: torch.optim.AdamW(params, lr=1e-2, foreach=True),
    "torch's loop": lambda params: torch.optim.SGD(params, lr=0.3, momentum=0.9, foreach=False),
    "our SGD": lambda params: FusedSGD(params, lr=0.3, momentum=0.9, max_grad_norm=0.5),
}


def trained(group, optimizer, *, dtype=F32, bucket_bytes=300_000, **options):
    """Digest of the weights after three steps of the tree over eight shards, with delays that differ between ranks."""
    chance = random.Random(dist.get_rank())
    model = network(dtype)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    with GradientReducer(
        model, group, "tree", bucket_bytes=bucket_bytes, logical_shards=N_SHARDS, **options
    ) as reducer:
        train(model, optimizer, reducer, 3, before_backward=lambda *_: time.sleep(chance.random() / 100))
    return digest([*model.parameters(), *(s[k] for s in optimizer.state.values() for k in sorted(s) if k != "step")])


def check_tree(group):
    """What ``trained`` gives for every optimizer; buckets, threads and overlap change nothing."""
    digests = {name: trained(group, name) for name in OPTIMIZERS}
    digests["bfloat16"] = trained(group, "ours", dtype=BF16)
    assert trained(group, "ours", bucket_bytes=1, overlap=False) == digests["ours"]
    torch.set_num_threads(3)
    assert trained(group, "torch's", bucket_bytes=2**25) == digests["torch's"]
    torch.set_num_threads(1)
    return digests


def tree(rank):
    """On 1 to 8 ranks, with 8 shards: the same weights and the same state of the optimizer."""
    parts = [(0,), (1, 2), (3, 4, 5, 6, 7)], [(0, 1, 2, 3), (4, 5, 6)], [(0, 1, 2, 3, 4, 5)], [tuple(range(WORLD))]
    digests = []
    for division in parts:
        made = [(ranks, dist.new_group(list(ranks))) for ranks in division]
        digests += [check_tree(group) for ranks, group in made if rank in ranks]
    seen = [one for of_rank in gathered(digests) for one in of_rank]
    assert len(seen) >= 2 * WORLD
    assert all(one == seen[0] for one in seen)
    assert len(set(seen[0].values())) == len(OPTIMIZERS) + 1


@on_group(2)
def wires_of_the_tree(_, group):
    """On a wire of bfloat16 or int8 the tree gives the same bits on all ranks, with any buckets, for one world size."""
    for wire in ("bfloat16", "int8"):
        digests = {trained(group, "ours", wire=wire, bucket_bytes=size) for size in (1, 300_000, 2**25)}
        assert len(digests) == 1
        assert len(set(gathered(digests.pop(), group))) == 1


@on_group(2)
def error_feedback(rank, group):
    """What int8 loses in one step comes in the next ones: the mean over steps is nearer than that of one step."""
    want = mean_gradients(network(), [0, 1], 0)
    errors = {}
    for feedback in (False, True):
        model = network()
        with GradientReducer(model, group, wire="int8", error_feedback=feedback) as reducer:
            total = torch.zeros_like(model.wide)
            for _ in range(16):
                model.zero_grad()
                loss_of(model, rank, 0).backward()
                reducer.wait()
                total += model.wide.grad / 16
        errors[feedback] = float((total - want[0]).square().mean())
    assert errors[True] < errors[False] / 100  # of squares: nearly 16 times nearer


@on_group(2)
def unused_parameters(rank, group):
    """What one rank does not use counts as zero there; what none uses keeps no gradient; both may change every step."""
    for algorithm in ("all_reduce", "tree"):
        model = network()
        reducer = GradientReducer(model, group, algorithm, bucket_bytes=300_000)
        for step, users in enumerate([(), (0, 1), (1,), (), (0,)]):
            model.zero_grad()
            loss_of(model, rank, step, spare=rank in users).backward()
            reducer.wait()
            if not users:
                assert model.spare.grad is None
            else:
                assert torch.equal(model.spare.grad, torch.full((3, 5), sum(r + 1 for r in users) / 2))
            assert torch.equal(model.bias.grad, gathered(model.bias.grad, group)[0])
        reducer.close()


@on_group(2)
def accumulation(rank, group):
    """Under no_sync gradients add up locally; a second backward before the join counts, and one after it is added."""
    want = [g.float() for g in mean_gradients(network(), [0, 1], 0, spare=True)]
    more = [g.float() for g in mean_gradients(network(), [0, 1], 1, spare=True)]
    for zero in (True, False):
        model = network()
        reducer = GradientReducer(model, group, "tree", bucket_bytes=300_000)

        def close_to(expected, model=model):
            for p, grad in zip(model.parameters(), expected, strict=True):
                torch.testing.assert_close(p.grad, grad, rtol=1e-5, atol=1e-6)

        with reducer.no_sync():
            loss_of(model, rank, 0, spare=True).backward()
        assert not reducer.is_pending
        loss_of(model, rank, 1, spare=True).backward()
        assert reducer.is_pending
        local = [p.grad.clone() for p in model.parameters()]
        reducer.wait()
        assert not torch.equal(local[0], model.wide.grad)
        close_to([a + b for a, b in zip(want, more, strict=True)])
        for _ in range(3):  # the second and third time, gradients live in a buffer of the reducer
            model.zero_grad(set_to_none=zero)
            loss_of(model, rank, 0, spare=True).backward()
            loss_of(model, rank, 1, spare=True).backward()  # before the join
            reducer.wait()
            close_to([a + b for a, b in zip(want, more, strict=True)])
            loss_of(model, rank, 0, spare=True).backward()  # after it
            reducer.wait()
            close_to([2 * a + b for a, b in zip(want, more, strict=True)])
        reducer.close()


def count(counted, grads):
    """Stands in for the pass over a gradient."""
    counted += grads
    return 0.0


@on_group(2)
def norms(rank, group):
    """max_grad_norm reads no gradient again, and finds the norm of one process to the bit, in every algorithm."""
    read = []
    step = gaudi3_rt.optim._batch.Batch.step

    def spy(self, **options):
        read.append(options["sum_squares"])
        return step(self, **options)

    for algorithm in ("tree", "ring", "all_reduce", "reduce_scatter"):
        model = network()
        optimizer = FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=0.05)
        with GradientReducer(model, group, algorithm) as reducer, pytest.MonkeyPatch.context() as patch:
            patch.setattr(gaudi3_rt.optim._batch.Batch, "step", spy)
            for number in range(2):
                optimizer.zero_grad()
                loss_of(model, rank, number).backward()
                optimizer.step()
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                assert read.pop() == sum_squares(grads)
                assert float(optimizer.last_grad_norm) == pytest.approx(math.sqrt(sum_squares(grads)))
            counted = []
            patch.setattr(gaudi3_rt.reduce._pipeline, "sum_squares", functools.partial(count, counted))
            reducer.sum_squares()
            assert not counted
            model.bias.grad.mul_(2)  # its bucket is read again
            reducer.sum_squares()
            assert any(grad is model.bias.grad for grad in counted)


@on_group(2)
def overflows(rank, group):
    """A NaN on one rank alone is known to all: all skip the step, and all choose the same next scale."""
    for algorithm in ("all_reduce", "tree"):
        for make in (FusedAdamW, torch.optim.AdamW):
            model = network()
            before = digest(model.parameters())
            optimizer = make(model.parameters(), lr=1e-2)
            scaler = gaudi3_rt.amp.GradScaler("cpu", init_scale=64.0)
            with GradientReducer(model, group, algorithm) as reducer:
                scaler.scale(loss_of(model, rank, 0)).backward()
                if rank == 1:
                    model.zero_grad()
                    scaler.scale(loss_of(model, rank, 0) * math.nan).backward()
                else:
                    loss_of(model, rank, 0).backward()
                scaler.step(optimizer)
                scaler.update()
                assert scaler.get_scale() == 32.0
                assert digest(model.parameters()) == before
                assert not math.isfinite(reducer.sum_squares())


@on_group(2)
def traps(rank, group):
    """Who reads or changes gradients before the join is told so, and nothing is stepped."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = digest(model.parameters())
    reducer = GradientReducer(model, group)
    loss_of(model, rank, 0).backward()
    model.bias.grad.mul_(0.5)
    with pytest.raises(OptimizerError, match=r"gradient of 'bias' was changed .* call wait\(\)"):
        optimizer.step()
    model.zero_grad()
    loss_of(model, rank, 0).backward()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    with pytest.raises(OptimizerError, match="GradScaler has looked for overflows"):
        scaler.step(optimizer)
    assert digest(model.parameters()) == before
    reducer.wait()
    want = model.bias.grad.clone()

    def closure():
        model.zero_grad()
        loss = loss_of(model, rank, 0)
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
    assert torch.equal(model.bias.grad, want)  # also what the closure's backward made was joined
    gaudi3_rt.grads.clip_grad_norm_(model.parameters(), 1e9)
    reducer.close()
    optimizer.zero_grad()
    loss_of(model, rank, 0).backward()
    assert not torch.equal(model.bias.grad, want)


def groups_end(rank):
    """A reducer does not keep its group alive."""
    group = dist.new_group([0, 1])
    if rank < 2:
        GradientReducer(network(), group).close()
        alive = weakref.ref(group)
        dist.destroy_process_group(group)
        del group
        gc.collect()
        assert alive() is None


def disagreements(rank):
    """What differs between ranks is found at construction, by all of them, in the same words."""
    groups.setdefault(3, None)
    group = groups[3] = groups[3] or dist.new_group([0, 1, 2])
    if rank >= 3:
        return
    rest = [network().bias, network().turned]
    cases = [
        (
            ParameterValidationError,
            network(F32 if rank != 1 else BF16),
            {},
            "parameter 0, in bucket 0, is 'wide', bfloat16 ",
            [1],
            0,
        ),
        (ParameterValidationError, rest if rank != 2 else rest[::-1], {}, "parameter 0, in bucket 0, is '0'", [2], 0),
        (ParameterValidationError, network(), {"bucket_bytes": 100 + rank // 2}, "bucket_bytes is 101", [2], None),
        (DataValidationError, network(seed=int(rank == 1)), {}, r"'wide' on rank 1, .* and 2 more", [1], None),
    ]
    for kind, params, options, message, ranks, bucket in cases:
        with pytest.raises(kind, match=message) as error:
            GradientReducer(params, group, **options)
        assert error.value.context["ranks"] == ranks
        if kind is ParameterValidationError:
            assert error.value.context["bucket"] == bucket
        assert len(set(gathered(str(error.value), group))) == 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(ParameterValidationError, match=r"2 on 3 ranks: .* at least as many"))
        GradientReducer(network(), group, "tree", logical_shards=2)


def test_on_ranks(tmp_path):
    """Every scenario above."""
    scenarios = [means_of_four, means_of_three, tree, wires_of_the_tree, error_feedback]
    run_on_ranks(
        [*scenarios, unused_parameters, accumulation, norms, overflows, traps, disagreements, groups_end],
        tmp_path,
        WORLD,
    )
