"""FusedMuon takes the update of torch.optim.Muon: the same momentum to float rounding, the same products bit by bit."""

import copy
import gc
import math
import pickle

import pytest
import torch
from _problems import run_python
from torch.optim._muon import _zeropower_via_newtonschulz

from gaudi3_rt.optim import FusedAdamW, FusedMuon
from gaudi3_rt.optim._batch import Batch, Rule

STEPS = 30
SHAPES = [(33, 17), (16, 48), (8, 8), (1, 5), (40, 1)]
UNIT = 2.0**-24

OPTIONS = {
    "defaults": {},
    "no nesterov": {"nesterov": False},
    "no momentum": {"momentum": 0.0},
    "little momentum": {"momentum": 0.3, "nesterov": False},
    "no weight decay": {"weight_decay": 0.0},
    "large weight decay": {"weight_decay": 5.0},
    "match_rms_adamw": {"adjust_lr_fn": "match_rms_adamw"},
    "original": {"adjust_lr_fn": "original"},
    "three iterations": {"ns_steps": 3},
    "no iteration": {"ns_steps": 0},
    "coefficients": {"ns_coefficients": (2.0, -1.5, 0.5)},
    "large eps": {"eps": 30.0},
    "tensor lr": {"lr": torch.tensor(3e-2)},
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Torch's threads do not speed up products of small matrices, and wait long for each other on a busy machine."""
    torch.set_num_threads(1)


def parameters(seed=0, dtype=torch.float32, shapes=SHAPES):
    """Equal parameters at each call."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def set_grads(seed, *lists, scale=1.0):
    """The same random gradients for each list of parameters."""
    for params in lists:
        generator = torch.Generator().manual_seed(seed)
        for p in params:
            p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.dtype)


def buffers(optimizer):
    """The momentum of every parameter, in order."""
    return [optimizer.state[p]["momentum_buffer"] for group in optimizer.param_groups for p in group["params"]]


def largest(*lists):
    """Largest absolute difference over two lists of tensors."""
    return max(float((a.detach().double() - b.detach().double()).abs().max()) for a, b in zip(*lists, strict=True))


def total(*lists):
    """L2 norm of the difference of two lists of tensors."""
    return math.sqrt(
        sum(float((a.detach().double() - b.detach().double()).square().sum()) for a, b in zip(*lists, strict=True))
    )


def ratio(name, shape):
    """How torch's two rules adjust lr to a shape."""
    rows, columns = shape
    return 0.2 * math.sqrt(max(rows, columns)) if name == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def exact_newton_schulz(matrix, group):
    """The iteration in double: what bfloat16 approximates."""
    a, b, c = group["ns_coefficients"]
    x = matrix / max(float(matrix.norm()), group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


# The update


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_step_is_the_definition_around_torchs_own_products(options):
    """Momentum by the kernel, Newton-Schulz by torch's function, the update in double: equal to one rounding."""
    params = parameters()
    optimizer = FusedMuon(params, **{"lr": 0.02, **options})
    (group,) = optimizer.param_groups
    lr, mu = float(group["lr"]), group["momentum"]
    kernel = "muon_momentum_nesterov" if group["nesterov"] else "muon_momentum"
    average = [torch.zeros_like(p) for p in params]
    for step in range(STEPS):
        set_grads(step, params)
        before = [p.detach().double() for p in params]
        updates = [torch.empty(p.shape, dtype=torch.bfloat16) for p in params]
        batch = Batch()
        operands = [updates, [p.grad for p in params], average]
        counters = [torch.zeros(()) for _ in params]
        batch.add(Rule(kernel, [mu]), ["momentum_buffer"], operands, counters, range(len(params)))
        batch.step(grad_factor=1.0, max_norm=None, skip_nonfinite=False)
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(buffers(optimizer), average, strict=True))
        for p, q, u in zip(params, before, updates, strict=True):
            o = _zeropower_via_newtonschulz(u, group["ns_coefficients"], group["ns_steps"], group["eps"]).double()
            decay, move = lr * group["weight_decay"] * q, lr * ratio(group["adjust_lr_fn"], p.shape) * o
            want = q - decay - move
            # One rounding of the result, and a few of what is subtracted.
            allowed = UNIT * want.abs() + 4 * UNIT * (decay.abs() + move.abs())
            assert ((p.detach() - want).abs() <= allowed).all()
            assert largest([want], [q]) > 1e-3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_same_update_as_torch_for_every_option(options):
    """After 30 steps the momentum is torch's to float rounding, and the parameters are as bfloat16 products allow.

    A step rounds an average by up to two units of it, which the next steps forget like all else: 1 / (1 - mu) such
    errors add up; and each gradient, or its difference to the average, by up to four. Where that moves an element of u
    to the next bfloat16 number, the products differ, but by far less than they do from the same iteration in double;
    and ours are not farther from that than torch's.
    """
    options = {"lr": 0.02, **options}
    ours, theirs = parameters(), parameters()
    start, exact = parameters(), [p.detach().double() for p in parameters()]
    a, b = FusedMuon(ours, **options), torch.optim.Muon(theirs, **copy.deepcopy(options))
    (group,) = a.param_groups
    lr, mu = float(group["lr"]), group["momentum"]
    average = [torch.zeros_like(p) for p in exact]
    for step in range(STEPS):
        set_grads(step, ours, theirs)
        a.step()
        b.step()
        for p, q, m in zip(ours, exact, average, strict=True):
            m.mul_(mu).add_((1 - mu) * p.grad.double())
            u = mu * m + (1 - mu) * p.grad.double() if group["nesterov"] else m
            o = exact_newton_schulz(u, group)
            q.sub_(lr * group["weight_decay"] * q + lr * ratio(group["adjust_lr_fn"], q.shape) * o)
    rounding = UNIT * (2 * max(float(m.abs().max()) for m in average) / (1 - mu) + 4 * 5)  # 5 > any gradient
    assert largest(buffers(a), buffers(b)) < rounding
    assert largest(buffers(a), average) < rounding
    of_bfloat16 = total(theirs, exact)
    assert total(ours, theirs) < 0.2 * of_bfloat16
    assert total(ours, exact) < 1.05 * of_bfloat16
    assert total(ours, start) > 50 * of_bfloat16


def test_a_small_weight_decay_is_not_lost():
    """A decay of 0.45 * 2^-24 is one in the mean; in torch 1 minus it rounds to 1.

    The updates of Muon do not depend on parameters, so that a run without decay shows what the decay did.
    """
    lr, decay, steps = 1e-3, 0.45 * UNIT, 200

    def mean_decay(cls):
        runs = []
        for weight_decay in (decay / lr, 0.0):
            p = torch.nn.Parameter(1 + torch.rand(32, 32, generator=torch.Generator().manual_seed(0)))
            start = p.detach().double()
            train([p], cls([p], lr=lr, weight_decay=weight_decay), steps)
            runs.append(p.detach().double())
        return float((runs[1] - runs[0]).mean() / start.mean()) / steps

    assert mean_decay(FusedMuon) == pytest.approx(decay, rel=0.03)
    assert mean_decay(torch.optim.Muon) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_are_rounded_once(dtype):
    """Parameter and momentum are those of float arithmetic on what is stored, rounded to nearest."""
    params = parameters(dtype=dtype)
    optimizer = FusedMuon(params, lr=0.02)
    for step in range(5):
        set_grads(step, params)
        wide = [torch.nn.Parameter(p.detach().float()) for p in params]
        reference = FusedMuon(wide, lr=0.02)
        set_grads(step, params)
        for p, w in zip(params, wide, strict=True):
            w.grad = p.grad.float()
            if p in optimizer.state:
                reference.state[w]["momentum_buffer"] = optimizer.state[p]["momentum_buffer"].float()
        optimizer.step()
        reference.step()
        assert all(torch.equal(p, w.to(dtype)) for p, w in zip(params, wide, strict=True))
        for m, w in zip(buffers(optimizer), buffers(reference), strict=True):
            assert m.dtype == dtype
            assert torch.equal(m, w.to(dtype))


def test_float64_parameters_are_stepped_in_float64():
    """By torch operations: momentum and update have the precision of double, the products that of bfloat16."""
    ours, theirs = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    a, b = FusedMuon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02)
    for step in range(5):
        set_grads(step, ours, theirs)
        a.step()
        b.step()
    assert largest(buffers(a), buffers(b)) < 1e-14
    # No element of u is so near to the middle of two bfloat16 numbers that double would tell it wrong.
    assert largest(ours, theirs) < 1e-14
    assert largest(ours, parameters(dtype=torch.float64)) > 1e-2


# Clipping, AMP, closures, groups


@pytest.mark.parametrize("max_norm", [1e-2, 1.0, 1e6])
def test_clipping_is_clip_grad_norm_and_step(max_norm):
    """The momentum is that of clipped gradients, over all groups; gradients themselves stay."""
    ours, theirs = parameters(), parameters()
    a = FusedMuon([{"params": ours[:2]}, {"params": ours[2:], "nesterov": False}], lr=0.02, max_grad_norm=max_norm)
    b = torch.optim.Muon([{"params": theirs[:2]}, {"params": theirs[2:], "nesterov": False}], lr=0.02)
    for step in range(20):
        set_grads(step, ours, theirs)
        kept = [p.grad.clone() for p in ours]
        a.step()
        norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
        b.step()
        torch.testing.assert_close(a.last_grad_norm, norm, rtol=2e-6, atol=0)
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, kept, strict=True))
    scale = max(float(m.abs().max()) for m in buffers(b))
    assert largest(buffers(a), buffers(b)) < 1e-5 * scale
    assert total(ours, theirs) < 1e-2 * total(ours, parameters())


def test_amp_unscales_and_a_skipped_step_leaves_every_byte():
    """GradScaler's two attributes: momentum of unscaled gradients; no state from a first step that is skipped."""
    ours, plain = parameters(), parameters()
    a, b = FusedMuon(ours, lr=0.02, max_grad_norm=1.0), FusedMuon(plain, lr=0.02, max_grad_norm=1.0)
    a.grad_scale, a.found_inf = torch.tensor(64.0), torch.tensor(1.0)
    set_grads(0, ours, scale=64.0)
    a.step()
    assert a.last_step_skipped
    assert not a.state
    for step in range(4):
        set_grads(step, ours, scale=64.0)
        set_grads(step, plain)
        if step == 2:
            ours[3].grad[0, 1] = math.inf
        before = [t.clone() for t in (*ours, *(buffers(a) if a.state else ()))]
        a.found_inf = torch.tensor(0.0)
        a.step()
        assert a.last_step_skipped == (float(a.found_inf) == 1) == (step == 2)
        if step == 2:
            assert all(torch.equal(x, y) for x, y in zip(before, (*ours, *buffers(a)), strict=True))
        else:
            b.step()
        assert all(torch.equal(p, q) for p, q in zip((*ours, *buffers(a)), (*plain, *buffers(b)), strict=True))


def test_closures_groups_schedulers_and_the_rest_in_adamw():
    """A network of matrices and vectors under both classes of optimizer learns as it does under torch's two."""

    def train(matrices, others):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))
        hidden = [p for p in model.parameters() if p.ndim == 2]
        muon = matrices(hidden[:1], lr=0.02)
        muon.add_param_group({"params": hidden[1:], "momentum": 0.5, "adjust_lr_fn": "match_rms_adamw"})
        adamw = others([p for p in model.parameters() if p.ndim != 2], lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(muon, 40)
        x, y = torch.randn(64, 16), torch.randn(64, 8)

        def closure():
            model.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        losses = []
        for _ in range(40):
            losses.append(float(muon.step(closure).detach()))
            adamw.step()
            scheduler.step()
        return losses

    ours, theirs = train(FusedMuon, FusedAdamW), train(torch.optim.Muon, torch.optim.AdamW)
    assert ours[-1] < 0.7 * ours[0]
    assert ours == pytest.approx(theirs, rel=5e-3)


# State


def train(params, optimizer, steps, first=0):
    """Steps with random gradients that depend only on the step's number."""
    for step in range(first, first + steps):
        set_grads(step, params)
        optimizer.step()


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


# Tensors


LAYOUTS = {
    "transposed": lambda: torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).t(),
    "block of a matrix": lambda: torch.randn(9, 9, generator=torch.Generator().manual_seed(0))[2:6, 1:8],
    "every second column": lambda: torch.randn(6, 8, generator=torch.Generator().manual_seed(0))[:, ::2],
    "no rows": lambda: torch.zeros(0, 4),
    "no columns": lambda: torch.zeros(4, 0),
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_is_stepped_in_place(make):
    """The numbers of a contiguous parameter, with the strides that the tensor had, whatever those of the gradient."""
    p, q = torch.nn.Parameter(make()), torch.nn.Parameter(make().contiguous())
    for step in range(3):
        grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        p.grad, q.grad = grad.t().contiguous().t(), grad
        strides = p.stride()
        optimizers = [FusedMuon([x], lr=0.02, max_grad_norm=1.0) for x in (p, q)]
        for optimizer in optimizers:
            optimizer.step()
        assert p.stride() == strides
        assert torch.equal(p, q)
    assert p.numel() == 0 or not torch.equal(p, make())


def test_parameters_without_gradient_are_left_alone():
    """No update and no state; errors still number the others by their place in the group."""
    params = parameters()
    optimizer = FusedMuon(params)
    set_grads(0, params)
    params[0].grad = params[2].grad = None
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert [torch.equal(p, b) for p, b in zip(params, before, strict=True)] == [True, False, True, False, False]
    assert set(optimizer.state) == {params[1], params[3], params[4]}
    optimizer.state[params[3]]["momentum_buffer"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"momentum_buffer of parameter 3 of group 0 has shape \(2, 2\)"):
        optimizer.step()


def test_a_step_keeps_nothing():
    """The updates, as large as all parameters, are gone after it; also after one that is refused."""

    def count():
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())  # isinstance would wake lazy modules

    params = parameters()
    optimizer = FusedMuon(params)
    train(params, optimizer, 1)
    before = count()
    train(params, optimizer, 3)
    assert count() == before
    optimizer.add_param_group({"params": shared()})
    for p in optimizer.param_groups[1]["params"]:
        p.grad = torch.ones_like(p)
    before = count()
    with pytest.raises(ValueError, match="overlap in memory"):
        optimizer.step()
    assert count() == before


def test_a_backward_through_an_old_value_is_an_error():
    """The kernels write behind autograd's back, but autograd is told."""
    p = torch.nn.Parameter(torch.ones(3, 3))
    result = (p * p).sum()
    p.grad = torch.ones(3, 3)
    FusedMuon([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_shapes_and_arguments_that_torch_refuses_are_refused():
    """1-D parameters and numbers out of range, with torch's type of error."""
    vector, matrix = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, 3))
    for cls in (torch.optim.Muon, FusedMuon):
        with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
            cls([matrix, vector])
        for bad, message in (
            ({"lr": -1.0}, "Learning rate should be >= 0"),
            ({"momentum": -0.1}, "momentum should be >= 0"),
            ({"weight_decay": -1.0}, "weight decay should be >= 0"),
            ({"adjust_lr_fn": "other"}, "other is not supported"),
        ):
            with pytest.raises(ValueError, match=message):
                cls([matrix], **bad)
    with pytest.raises(ValueError, match="max_grad_norm=-1: must be a number >= 0"):
        FusedMuon([matrix], max_grad_norm=-1)


def shared():
    """Two parameters over the same memory."""
    buffer = torch.ones(4, 3)
    return [torch.nn.Parameter(buffer[:3]), torch.nn.Parameter(buffer[1:])]


BAD = {
    "vector": ({}, lambda: [torch.nn.Parameter(torch.ones(4))], ValueError, r"supports 2D .* parameter 0 .* \(4,\)"),
    "complex": ({}, lambda: [torch.nn.Parameter(torch.ones(2, 2) * 1j)], TypeError, "dtype torch.complex64"),
    "overlapping": ({}, shared, ValueError, "parameter 0 of group 1 and parameter 1 of group 1 .* overlap in memory"),
    "expanded": ({}, lambda: [torch.nn.Parameter(torch.ones(1, 1).expand(3, 3))], ValueError, "share memory"),
    "iterations": ({"ns_steps": 100}, list, ValueError, "ns_steps=100: must be from 0 to 99"),
    "coefficients": ({"ns_coefficients": (1.0, 2.0)}, list, ValueError, r"\(1.0, 2.0\): must be three numbers"),
    "adjustment": ({"adjust_lr_fn": "other"}, list, ValueError, "adjust_lr_fn='other': must be one of"),
}


@pytest.mark.parametrize(("options", "make", "error", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("warm", [False, True])
def test_what_cannot_be_stepped_is_refused_and_nothing_changes(options, make, error, message, warm):
    """A bad second group: the first, which could be stepped, keeps parameters and momentum, or gets none."""
    good = parameters()
    optimizer = FusedMuon(good)
    if warm:
        train(good, optimizer, 1)
    set_grads(1, good)
    bad = make()
    for p in bad:
        p.grad = torch.ones_like(p)
    optimizer.add_param_group({"params": bad, **options})
    before = [t.detach().clone() for t in (*good, *[s["momentum_buffer"] for s in optimizer.state.values()])]
    with pytest.raises(error, match=message):
        optimizer.step()
    after = [*good, *[s["momentum_buffer"] for s in optimizer.state.values()]]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


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
