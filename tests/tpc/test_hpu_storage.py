"""bfloat16 parameters and moments on an "hpu" device: nearest, stochastic, with a master copy; shards of parameters."""

import logging
import threading

import pytest
import torch
from _hpu import parameters
from _tpc_kernels import KERNELS, assert_same_bits, flushing

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdagrad, FusedAdam, FusedAdamW, FusedLAMB, FusedLARS, FusedLion, FusedSGD, _hpu

pytestmark = pytest.mark.usefixtures("calls")

CASES = {
    "adamw": (FusedAdamW, {}),
    "adamw_amsgrad": (FusedAdamW, {"amsgrad": True}),
    "adam": (FusedAdam, {}),
    "sgd": (FusedSGD, {}),
    "sgd_momentum": (FusedSGD, {"momentum": 0.9}),
    "lion": (FusedLion, {}),
    "adagrad": (FusedAdagrad, {}),
}
STORAGE = {
    "nearest": {},
    "stochastic": {"rounding": "stochastic", "seed": 5},
    "master": {"master": "float32"},
    "float32 moments": {"moments_dtype": torch.float32},
    "stochastic, float32 moments": {"rounding": "stochastic", "moments_dtype": torch.float32},
    "bfloat16 moments": {"moments_dtype": torch.bfloat16},
}
# Two norms of 9 roundings each and their quotient are in a ratio, and what follows it in a step.
RATIO_BOUND = 24 * 2.0**-24
PAIRS = [(name, how) for name in CASES for how in STORAGE if name in {"adamw", "sgd_momentum"} or how == "stochastic"]


def transposed(device, dtype):
    """Parameters of several shapes, the last one with its rows along columns."""
    params = parameters(device, [(700,), (), (5, 30)], dtype)
    last = torch.nn.Parameter(params[-1].detach().t())
    last.grad = params[-1].grad.t()
    return [*params[:-1], last]


def assert_equal(optimizers, params):
    """Bit by bit: parameters, and all state that is a tensor of elements."""
    for p, q in zip(*params, strict=True):
        assert_same_bits(p.detach().cpu(), q.detach(), "parameter")
        states = [optimizer.state[x] for optimizer, x in zip(optimizers, (p, q), strict=True)]
        assert list(states[0]) == list(states[1])
        for key, value in states[1].items():
            assert states[0][key].stride() == value.stride()
            assert_same_bits(states[0][key].cpu(), value, key)


@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_bfloat16_parameters(name, how, calls, caplog):
    """Three steps have the CPU's bits, also those that are drawn; each parameter by its kernel; nothing is said."""
    optimizer_type, options = CASES[name]
    params = [transposed(device, torch.bfloat16) for device in ("hpu", "cpu")]
    optimizers = [optimizer_type(ps, lr=1e-2, **options, **STORAGE[how]) for ps in params]
    with caplog.at_level(logging.WARNING, logger="gaudi3_rt"), flushing():
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.step()
    assert not caplog.records
    assert [called for called, _ in calls].count(f"{name}_bf16") == 3 * len(params[0])
    assert_equal(optimizers, params)


@pytest.mark.parametrize("how", ["bfloat16 moments", "nearest"])
def test_float32_parameters_with_bfloat16_moments(how):
    """Moments are drawn as on the CPU while the parameter is exact."""
    params = [transposed(device, torch.float32) for device in ("hpu", "cpu")]
    optimizers = [FusedAdamW(ps, lr=1e-2, **STORAGE[how]) for ps in params]
    with flushing():
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.step()
    assert_equal(optimizers, params)


def test_groups_draw_by_their_numbers():
    """A parameter's random bits are of its number in the optimizer, and of the step."""
    params = [parameters(device, [(300,), (300,)], torch.bfloat16) for device in ("hpu", "cpu")]
    optimizers = []
    for first, second in params:
        groups = [{"params": [first]}, {"params": [second], "lr": 1e-3}]
        optimizers.append(FusedSGD(groups, lr=1e-2, rounding="stochastic"))
    for _ in range(2):
        for optimizer in optimizers:
            optimizer.step()
    assert_equal(optimizers, params)


def test_a_parameter_written_from_outside_wins_over_its_master():
    """As on the CPU: elsewhere the master copy holds what bfloat16 has lost."""
    params = [parameters(device, [(700,)], torch.bfloat16) for device in ("hpu", "cpu")]
    optimizers = [FusedSGD(ps, lr=1e-3, master="float32") for ps in params]
    for _ in range(2):
        for (p,), optimizer in zip(params, optimizers, strict=True):
            optimizer.step()
            with torch.no_grad():
                p[:9] = 0.5
    assert_equal(optimizers, params)
    p = params[1][0]
    assert not torch.equal(optimizers[1].state[p]["param_master"], p.detach().float())


@pytest.mark.parametrize("options", [{"master": "split"}, {"moments_dtype": torch.int8}])
def test_storage_without_operators_is_refused(options, calls):
    """It has no composite either; the state is as before."""
    (p,) = parameters("hpu", [(5000,)], torch.bfloat16)
    optimizer = FusedAdamW([p], **options)
    with pytest.raises(
        TypeError, match=r"parameter 0 of group 0 is torch\.bfloat16 on device 'hpu', which has no kernel"
    ):
        optimizer.step()
    assert not optimizer.state
    assert not calls


def test_stochastic_rounding_without_operators_says_how_to_load_them(monkeypatch):
    """There is no composite for it."""
    monkeypatch.setattr(_hpu, "_loaded", False)
    (p,) = parameters("hpu", [(5,)], torch.bfloat16)
    with pytest.raises(TypeError, match=r"stochastic rounding are not to be had .*gaudi3_rt\.hpu\.load\(\)"):
        FusedAdamW([p], rounding="stochastic").step()


# Shards


class Meeting:
    """Adds up what several ranks, which are threads here, have of each sum."""

    def __init__(self, ranks):
        self._barrier = threading.Barrier(ranks, timeout=60)
        self._lock = threading.Lock()
        self._sum = 0.0

    def complete_(self, total):
        """In place, as a collective call."""
        with self._lock:
            self._sum = self._sum + total.cpu()
        self._barrier.wait()
        total.copy_(self._sum)
        if self._barrier.wait() == 0:
            self._sum = 0.0
        self._barrier.wait()


@pytest.mark.parametrize(
    ("kernel", "optimizer_type", "options"),
    [("lamb", FusedLAMB, {"max_grad_norm": None}), ("lars", FusedLARS, {"momentum": 0.9})],
)
@pytest.mark.parametrize("cuts", [[600, 100], [1, 699], [700, 0]])
def test_shards_have_the_norms_of_the_parameter(kernel, optimizer_type, options, cuts):
    """Two ranks with parts of a parameter, also an empty one, step as one that has the whole."""
    (whole,) = parameters("cpu", [(700,)])
    optimizer = optimizer_type([whole], lr=0.1, weight_decay=0.1, **options)
    hyper = optimizer._rule(0).hyper
    names = ["param", "grad", *_core.describe_kernel(kernel)["state"]]
    pieces = [torch.split(x, cuts) for x in (whole.detach().clone(), whole.grad)]
    ranks = []
    for param, grad in zip(*pieces, strict=True):
        tensors = [param.to("hpu"), grad.to("hpu")]
        tensors += [torch.zeros_like(tensors[0]) for _ in names[2:]]
        ranks.append(dict(zip(names, tensors, strict=True)))
    meeting = Meeting(len(ranks))

    def step(tensors):
        operators = _hpu.find(kernel, names[2:], list(tensors.values()))
        assert len(operators) == 3
        for t in (1.0, 2.0):
            scalars = _hpu.Scalars()(kernel, hyper, t, tensors["param"].device)
            _hpu.step(operators, tensors, scalars, t, _hpu.Draw(), meeting.complete_)

    threads = [threading.Thread(target=step, args=(tensors,)) for tensors in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(2):
        optimizer.step()
    together = torch.cat([tensors["param"].cpu() for tensors in ranks])
    moved = float((whole.detach() - torch.cat(pieces[0])).abs().max())
    torch.testing.assert_close(together, whole.detach(), rtol=2.0**-22, atol=RATIO_BOUND * moved)


def test_every_rank_makes_the_same_sums():
    """What ranks wait for one another for is the same for an empty shard as for any other."""
    for name in ("lamb", "lars"):
        operators = _hpu._chain(name, "f32")
        partials = [
            operand
            for one in operators
            for operand in KERNELS[one["name"]]["outputs"]
            if operand["access"] == "partial"
        ]
        assert len(partials) == 2
        met = []
        empty = torch.empty(0).to("hpu")
        _hpu.step(operators, {"param": empty}, empty, 1.0, _hpu.Draw(), met.append)
        assert [total.tolist() for total in met] == [[0.0], [0.0]]
