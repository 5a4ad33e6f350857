"""What a reducer carries from step to step: a resumed training has the bits of one that went on, on four ranks."""

import io
import re

import pytest
import torch
from _ranks import run_on_ranks
from _reducing import GradientReducer, digest, gathered, loss_of, network, train
from torch import nn

from gaudi3_rt.errors import OptimizerError, ParameterValidationError
from gaudi3_rt.optim import FusedAdamW
from gaudi3_rt.reduce import compress

WORLD = 4
STEPS, SAVED = 5, 2
SETTINGS = [
    ("all_reduce", {}),
    ("ring", {}),
    ("reduce_scatter", {"wire": "int8"}),
    ("hierarchical", {"group_size": 2, "wire": "int8"}),
    ("hierarchical", {"group_size": 2, "wire": "bfloat16", "error_feedback": True}),
    ("parameter_server", {"wire": "int8"}),
    ("tree", {"wire": "bfloat16", "error_feedback": True}),
    ("tree", {"wire": "int8", "logical_shards": 7}),
]


def made(algorithm, options):
    """A model, and what trains it."""
    model = network()
    optimizer = FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=0.5)
    return model, optimizer, GradientReducer(model, algorithm=algorithm, bucket_bytes=300_000, **options)


def through_a_file(state):
    """As it comes out of a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumes(_):
    """With every algorithm and wire; and where something was lost, not without it."""
    for algorithm, options in SETTINGS:
        model, optimizer, reducer = made(algorithm, options)
        train(model, optimizer, reducer, SAVED)
        saved = through_a_file([model.state_dict(), optimizer.state_dict(), reducer.state_dict()])
        train(model, optimizer, reducer, STEPS - SAVED, first=SAVED)
        reducer.close()
        want = digest(model.parameters())
        for loaded in (True, False):
            model, optimizer, reducer = made(algorithm, options)
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            if loaded:
                reducer.load_state_dict(saved[2])
                assert reducer.steps == SAVED
            train(model, optimizer, reducer, STEPS - SAVED, first=SAVED)
            reducer.close()
            assert loaded is (digest(model.parameters()) == want) or not options.get("wire"), (algorithm, options)


def outlives_new_buckets(rank):
    """After the first step buckets are filled in another order; what each parameter has lost goes with it."""
    for dtype in (torch.float32, torch.bfloat16):
        model = network(dtype)
        params = list(model.parameters())[::-1]  # the order of backward, of which the reducer expects the reverse
        with GradientReducer(params, algorithm="tree", wire="int8", bucket_bytes=300_000) as reducer:
            assert not any(rows.any() for rows in reducer.state_dict()["residuals"]["contributions"].values())
            loss_of(model, rank, 0, spare=True).backward()
            local = [p.grad for p in params]
            before = [bucket.params for bucket in reducer._pipeline.layout.buckets]
            reducer.wait()
            assert before != [bucket.params for bucket in reducer._pipeline.layout.buckets]
            lost = reducer.state_dict()["residuals"]["contributions"]
            assert len(lost) == len(params)
            for i, (grad, p) in enumerate(zip(local, params, strict=True)):
                in_memory = grad.t() if p is model.turned else grad
                want = torch.zeros(in_memory.shape)
                compress(in_memory, "int8", residual=want)
                assert torch.equal(lost[str(i)][0], want.t() if p is model.turned else want)
                assert want.any() == (p is not model.spare and p is not model.scale)


def any_buckets(_):
    """What is lost of a mean goes to the rank that forms it in other buckets: the bits do not depend on these."""
    for options in ({"wire": "int8"}, {"wire": "bfloat16", "error_feedback": True}):
        digests = set()
        for bucket_bytes in (1, 300_000, 2**25):
            model = network()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            params = list(model.parameters())[::-1]
            with GradientReducer(params, algorithm="tree", bucket_bytes=bucket_bytes, **options) as reducer:
                train(model, optimizer, reducer, 3)
                means = reducer.state_dict()["residuals"]["means"]
                assert any(gathered(any(bool(rows.any()) for rows in means.values())))
            digests.add(digest(model.parameters()))
        assert len(digests) == 1
        assert len(set(gathered(digests.pop()))) == 1


def without_elements(_):
    """Their gradients stay in buffers that are filled anew in each step; they are not taken for changed."""
    for wire in (None, "int8"):
        model = nn.ParameterList(torch.ones(0 if i in (0, 6) else 3) for i in range(7))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        with GradientReducer(model, algorithm="reduce_scatter", bucket_bytes=1, wire=wire) as reducer:
            for _ in range(3):
                optimizer.zero_grad(set_to_none=False)
                sum(p.sum() for p in model).backward()  # the first and the last have arrived before the join
                optimizer.step()
            assert reducer.steps == 3
            reducer.load_state_dict(through_a_file(reducer.state_dict()))
        assert torch.equal(model[1], torch.full((3,), -0.5))


def refuses(rank):
    """A state of another rank, of other arguments or parameters, or that ranks do not have of the same step."""
    model, optimizer, reducer = made("tree", {"wire": "int8"})
    early = reducer.state_dict()
    train(model, optimizer, reducer, 1)
    state = reducer.state_dict()
    loss_of(model, rank, 1).backward()
    with pytest.raises(OptimizerError, match=r"was not joined: save the state after wait\(\) or the optimizer's step"):
        reducer.state_dict()
    reducer.wait()
    for changed, words in (
        ({"settings": {**state["settings"], "rank": rank + 1}}, f"saved with rank={rank + 1}, and here rank={rank}:"),
        ({"settings": {**state["settings"], "wire": None}}, "saved with wire=None, and here wire='int8':"),
        ({"order": state["order"][1:]}, "the state is of 4 parameters, here there are 5; in one only: "),
        (
            {"residuals": {"contributions": {}, "means": {"wide": torch.zeros(1, 2, 2)}}},
            r"'wide' had shape \(2, 2\) when .* has \(300, 500\) here",
        ),
    ):
        with pytest.raises(ParameterValidationError, match=words):
            reducer.load_state_dict({**state, **changed})
    with pytest.raises(ParameterValidationError, match="no state of a GradientReducer: it has no order, residuals"):
        reducer.load_state_dict({"settings": {}, "steps": 0})
    assert reducer.steps == 2
    with pytest.raises(ParameterValidationError, match=r"rank 2 .* than rank 0: steps is 0 instead of 1") as error:
        reducer.load_state_dict(early if rank == 2 else state)
    assert error.value.context["ranks"] == [2]
    with pytest.raises(ParameterValidationError, match=re.escape(error.value.message)):
        loss_of(model, rank, 1).backward()
    reducer.close()


def two_reducers(rank):
    """Buckets of two that are sent in another order on rank 1: what has tags is right, the rest is an error."""
    for algorithm in ("tree", "all_reduce"):
        torch.manual_seed(0)
        models = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        reducers = [GradientReducer(model, algorithm=algorithm) for model in models]
        (last, only_others), firsts = models
        hidden = sum(layer(torch.full((2, 8), rank + 1.0)) for layer in firsts)
        (last(hidden) + (0 if rank == 1 else only_others(hidden))).sum().backward()
        local = [0 * p if p.grad is None else p.grad for model in models for p in model.parameters()]
        of_ranks = zip(*gathered(local), strict=True)
        if algorithm == "all_reduce":
            with pytest.raises(OptimizerError, match=r"several GradientReducers .* each reducer a group of its own"):
                reducers[0].wait()
        else:
            for reducer in reducers:
                reducer.wait()
            for p, grads in zip((p for model in models for p in model.parameters()), of_ranks, strict=True):
                torch.testing.assert_close(p.grad, sum(grads) / WORLD)
        for reducer in reducers:
            reducer.close()


def test_on_four_ranks(tmp_path):
    """Every scenario above; the last one leaves the group in disorder."""
    run_on_ranks([resumes, outlives_new_buckets, any_buckets, without_elements, refuses, two_reducers], tmp_path, WORLD)
