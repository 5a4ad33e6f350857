"""Muon's state, copies and checkpoints, and its step in a compiled function."""

import copy
import pickle

import pytest
import torch
from _muon import buffers, parameters, set_grads, total, train
from _problems import run_python

from gaudi3_rt.optim import FusedMuon

pytestmark = pytest.mark.usefixtures("one_thread")


# State


def test_schema_is_that_of_torch():
    """Same keys, types, dtypes and shapes in groups and state: the momentum alone, in memory too."""
    described = []
    for cls in (FusedMuon, torch.optim.Muon):
        params = parameters()
        optimizer = cls([{"params": params[:1]}, {"params": params[1:], "lr": 1e-2}], nesterov=False)
        empty = optimizer.state_dict()["state"]
        train(params, optimizer, 2)
        described += [
            [[(k, v.dtype, v.shape, v.stride()) for k, v in entry.items()] for entry in state]
            for state in (optimizer.state_dict()["state"].values(), optimizer.state.values())
        ]
        groups = optimizer.state_dict()["param_groups"]
        described.append((empty, [[(key, type(value), value) for key, value in group.items()] for group in groups]))
    assert described[:3] == described[3:]


@pytest.mark.parametrize(("source", "target"), [(FusedMuon, torch.optim.Muon), (torch.optim.Muon, FusedMuon)])
def test_training_goes_on_after_loading_into_the_other_class(source, target):
    """Options and momentum arrive; the next step is that of the class that saved."""
    params = parameters()
    optimizer = source(params, lr=0.02, momentum=0.8, nesterov=False, adjust_lr_fn="match_rms_adamw")
    train(params, optimizer, 10)
    copied = copy.deepcopy(params)
    resumed = target(copied, lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(torch.equal(x, y) for x, y in zip(buffers(optimizer), buffers(resumed), strict=True))
    train(params, optimizer, 10, first=10)
    train(copied, resumed, 10, first=10)
    assert total(params, copied) < 1e-2 * total(params, parameters())


def test_copies_and_pickles_go_on_alike():
    """A copy has its own state, and the options that torch does not know."""
    params = parameters()
    optimizer = FusedMuon(params, lr=0.02, max_grad_norm=0.5)
    train(params, optimizer, 3)
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]  # noqa: S301 (our own bytes)
    train(params, optimizer, 3, first=3)
    for copied in copies:
        own = copied.param_groups[0]["params"]
        train(own, copied, 3, first=3)
        assert all(
            torch.equal(p, q) for p, q in zip((*params, *buffers(optimizer)), (*own, *buffers(copied)), strict=True)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda sd: sd["state"][1].update(momentum_buffer=torch.zeros(3)),
            r"momentum_buffer of parameter 1 has shape \(3,\)",
        ),
        (lambda sd: sd["state"][1].update(exp_avg=sd["state"][1].pop("momentum_buffer")), "another class of optimizer"),
        (lambda sd: sd["param_groups"][0].pop("ns_steps"), r"no \['ns_steps'\]"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    """One sentence, and the optimizer goes on as before."""
    params = parameters()
    optimizer = FusedMuon(params)
    train(params, optimizer, 1)
    before = [m.clone() for m in buffers(optimizer)]
    broken = copy.deepcopy(optimizer.state_dict())
    change(broken)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(broken)
    assert all(torch.equal(x, y) for x, y in zip(before, buffers(optimizer), strict=True))


# torch.compile, older torch


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.1, "nesterov": False}], ids=["plain", "clipping"])
def test_a_compiled_step_has_the_bits_of_an_eager_one(backend, options):
    """No graph break, one compilation, also when a scheduler changes lr."""
    from torch._dynamo.testing import CompileCounterWithBackend  # noqa: PLC0415 (imports the compiler)

    torch._dynamo.reset()
    lists = [parameters(), parameters()]
    optimizers = [FusedMuon([{"params": ps[:2]}, {"params": ps[2:], "lr": 0.1}], lr=0.02, **options) for ps in lists]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(optimizers[0].step, backend=counter, fullgraph=True)
    for step in range(10):
        for params, take, scheduler in zip(lists, (compiled, optimizers[1].step), schedulers, strict=True):
            set_grads(step, params)
            take()
            scheduler.step()
    assert counter.frame_count == 1
    assert all(
        torch.equal(x, y)
        for x, y in zip(lists[0] + buffers(optimizers[0]), lists[1] + buffers(optimizers[1]), strict=True)
    )
    assert optimizers[0].last_grad_norm == optimizers[1].last_grad_norm
    torch._dynamo.reset()


def test_opcheck_of_the_operator():
    """Schema, fake kernel, autograd registration and AOT dispatch are what torch expects of an operator."""
    optimizer = FusedMuon(parameters())
    grads, momentum = ([torch.rand_like(p).detach() for p in parameters()] for _ in range(2))
    hyper = torch.tensor([0.95, 1.0], dtype=torch.float64)
    arguments = ([p.detach() for p in parameters()], grads, momentum, hyper, optimizer._name, 0)
    torch.library.opcheck(torch.ops.gaudi3_rt.muon_step_, arguments)


OLD_TORCH = """
import torch
del torch.optim.Muon
import gaudi3_rt
from gaudi3_rt.optim import *
FusedAdamW([torch.nn.Parameter(torch.ones(1))])
assert not hasattr(gaudi3_rt.optim, "other")
gaudi3_rt.optim.FusedMuon
"""


def test_without_torchs_class_the_rest_works_and_an_error_says_why():
    """PyTorch 2.6 to 2.8 have no Muon."""
    done = run_python(OLD_TORCH)
    assert (
        f"FusedMuon needs PyTorch 2.9 or newer, which has torch.optim.Muon; this is {torch.__version__}" in done.stderr
    )
    assert done.stderr.strip().count("\n  File ") == 2, "only the last line of the script fails"
